"""How much time is left: deadlines, seen by everything that is asked under them.

A deadline travels in a context variable, so tasks inherit it. It counts until the call that set it
has ended: what was started under it and outlives it is not held to it. A nested one never lies
later than the one around it. A deadline only says so; whoever sets it enforces it.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

__all__ = ["Deadline", "current", "remaining", "within"]


class Deadline:
    """A moment of a loop's clock. It counts until the call that set it has ended."""

    __slots__ = ("active", "enclosing", "loop", "when")

    def __init__(self, seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.enclosing = _nearest()
        left = seconds if self.enclosing is None else min(seconds, self.enclosing.left())
        self.when = self.loop.time() + left
        self.active = True

    def left(self) -> float:
        """Seconds left, negative when it has passed."""
        return self.when - self.loop.time()


current: ContextVar[Deadline | None] = ContextVar("tailrace.deadline", default=None)


def _nearest() -> Deadline | None:
    # A task that was started under a deadline and outlives it still has it in its context.
    deadline = current.get()
    while deadline is not None and not deadline.active:
        deadline = deadline.enclosing
    return deadline


def remaining() -> float | None:
    """Seconds left (not below 0) of the nearest enclosing deadline, for passing on; else None.

    A backend asked by ``query_all(…, timeout=0.1)`` can hand it to its client:
    ``await client.get(url, timeout=remaining())``. Calls nested in one another share the earliest
    deadline. Works in threads to which the context was copied (`asyncio.to_thread`), too.
    """
    deadline = _nearest()
    return None if deadline is None else max(0.0, deadline.left())


class within:  # noqa: N801  # it is used as the function that it could be
    """Let `remaining` say at most `seconds` inside the block. To enforce it is the caller's job."""

    # No generator: contextlib writes to the exception that passes, and some refuse that.
    __slots__ = ("_before", "_deadline", "_seconds")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._deadline: Deadline | None = None
        self._before: Deadline | None = None

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._before = current.get()
            self._deadline = Deadline(self._seconds)
            current.set(self._deadline)

    def __exit__(self, *_: object) -> None:
        if self._deadline is not None:
            self._deadline.active = False
            current.set(self._before)
