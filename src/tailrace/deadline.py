"""Layer 0: deadlines, and how much time is left until the nearest one.

A deadline is in a context variable, so tasks inherit it. It holds until the call that set it has
ended; a task that outlives that call is free of it. A nested deadline is never later than the one
around it. A deadline cancels nothing: the call that sets it enforces it.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

__all__ = ["Deadline", "current", "remaining", "within"]


class Deadline:
    """A moment of a loop's clock, which holds while it is `active`."""

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
    # A task that outlives a deadline still has it in its context.
    deadline = current.get()
    while deadline is not None and not deadline.active:
        deadline = deadline.enclosing
    return deadline


def remaining() -> float | None:
    """Seconds left until the nearest enclosing deadline, at least 0; None if there is none.

    A backend asked by ``query_all(…, timeout=0.1)`` can hand it to its client:
    ``await client.get(url, timeout=remaining())``. Calls nested in one another share the earliest
    deadline. Works in threads to which the context was copied (`asyncio.to_thread`), too.
    """
    deadline = _nearest()
    return None if deadline is None else max(0.0, deadline.left())


class within:  # noqa: N801  # used like a function
    """Let `remaining` return at most `seconds` inside the block. The caller enforces it."""

    # Not a generator: contextlib sets attributes of an exception that passes; some refuse that.
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
