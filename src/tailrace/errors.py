"""Layer 0: the errors of tailrace's own, one small tree.

For the rest it raises what Python does: `asyncio.CancelledError` for a cancellation, `TimeoutError`
after a timeout, `TypeError` and `ValueError` for wrong arguments, `RuntimeError` for a wrong order
of calls.
"""

from __future__ import annotations

__all__ = [
    "Abort",
    "Closed",
    "Deadlock",
    "Outage",
    "ProcessDied",
    "Reject",
    "StoreError",
    "TailraceError",
    "WouldBlock",
]


class TailraceError(Exception):
    """The base class of all errors of tailrace's own."""


class Closed(TailraceError):
    """A send on a closed channel, or a receive on a channel that is closed and empty.

    `channel` is the channel. `__cause__` is the exception that it was closed with; None if it was
    closed normally. An actor may raise the `Closed` of one of its own channels that was closed
    normally: that is no failure.
    """

    def __init__(self, channel: object) -> None:
        super().__init__(channel)
        self.channel = channel

    def __str__(self) -> str:
        # Made here and not before: a close may wake ten thousand receivers.
        name = getattr(self.channel, "name", "")
        return f"channel {name!r} is closed" if name else "the channel is closed"


class WouldBlock(TailraceError):
    """A `*_nowait` call could not complete at once. Await the operation instead."""


class Deadlock(TailraceError):
    """Every task waits for another and no timer is left, so nothing can ever happen again.

    Raised by the virtual-clock loop of `tailrace.testing`. The text is the wait-for graph.
    """


class Abort(TailraceError):
    """Raise it in a function for `each` to drop a message on purpose, without blaming its sender.

    An HTTP client gets 200 ``aborted: …``.
    """

    reason = "aborted"  # for a subclass that does not call `__init__`

    def __init__(self, reason: str = "aborted") -> None:
        Exception.__init__(self, reason)  # in half the time of `super()`, which counts here
        self.reason = reason


class ProcessDied(TailraceError):
    """A process of ``each(processes=n)`` ended while it had a message in hand.

    It crashed, was killed, or called `os._exit`; the text says which. The message fails, and the
    process is replaced. No other message is concerned. Try it again by ``Retry(also=ProcessDied)``.
    """


class Reject(TailraceError):
    """Raise it in a function for `each` if a message is invalid, which is its sender's fault.

    An HTTP client gets 422 ``rejected: …``.
    """

    reason = "rejected"  # for a subclass that does not call `__init__`

    def __init__(self, reason: str = "rejected") -> None:
        Exception.__init__(self, reason)  # in half the time of `super()`, which counts here
        self.reason = reason


class Outage(TailraceError):
    """A message needs something that is out of order for now, such as a database.

    Raise it in a function for `each`, or give it to `Message.fail`; a store fails messages with it.
    The message was not stored, and may be sent again later. An HTTP client gets 503 with
    ``Retry-After`` and the `reason`. `__cause__` is the error that shows the outage, if one does.
    """

    reason = "out of order"  # for a subclass that does not call `__init__`

    def __init__(self, reason: str = "out of order") -> None:
        super().__init__(reason)
        self.reason = reason


class StoreError(TailraceError):
    """A store cannot work: its database cannot be opened, or its table does not fit the type.

    If the type of the messages is known beforehand, the store raises this before it receives any.
    Otherwise the messages in hand fail with it. The text names the database, the table and the
    column.
    """
