"""Every error that tailrace raises of its own: one small tree.

Cancellation is `asyncio.CancelledError` and a passed deadline is the builtin `TimeoutError`;
wrong arguments are `TypeError` and `ValueError`, wrong order of calls `RuntimeError`, as anywhere
in Python.
"""

from __future__ import annotations

__all__ = [
    "Abort",
    "Closed",
    "Deadlock",
    "Outage",
    "Reject",
    "StoreError",
    "TailraceError",
    "WouldBlock",
]


class TailraceError(Exception):
    """The root of the tree: `except TailraceError` catches whatever this library says."""


class Closed(TailraceError):
    """A send on a closed channel, or a receive on one that is closed and drained.

    `channel` is the channel; `__cause__` is what it was closed with (None: a clean end of
    stream). An actor that lets a causeless `Closed` of a channel it holds escape ends well.
    """

    def __init__(self, channel: object) -> None:
        super().__init__(channel)
        self.channel = channel

    def __str__(self) -> str:
        # Made when shown, not when raised: a close may wake ten thousand receivers.
        name = getattr(self.channel, "name", "")
        return f"channel {name!r} is closed" if name else "the channel is closed"


class WouldBlock(TailraceError):
    """A `*_nowait` call found nothing that it could do at once; await the operation instead."""


class Deadlock(TailraceError):
    """Every actor waits for another and no timer is left, so nothing can ever happen again.

    Raised by the virtual-clock loop of `tailrace.testing`; the text is the wait-for graph.
    """


class Abort(TailraceError):
    """Raised in a function given to `each`: drop this message on purpose, as not the sender's
    fault. The HTTP caller hears 200 ``aborted: …``."""

    reason = "aborted"  # of a subclass that does not call `__init__`

    def __init__(self, reason: str = "aborted") -> None:
        super().__init__(reason)
        self.reason = reason


class Reject(TailraceError):
    """Raised in a function given to `each`: this message is invalid, which is the sender's
    fault. The HTTP caller hears 422 ``rejected: …``."""

    reason = "rejected"  # of a subclass that does not call `__init__`

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason


class Outage(TailraceError):
    """What a message fails with when something that it needs is out of order (a store's database):
    it was not stored, and may be sent again later. `__cause__` is the error that shows the outage.

    The HTTP caller hears 503 with ``Retry-After``.
    """


class StoreError(TailraceError):
    """A store cannot work as it was set up: its database cannot be opened, or is none, or its
    table does not fit the type.

    Where the type is known beforehand it is raised before anything is received; else the messages
    in hand fail with it. The text names the database, the table and the column.
    """
