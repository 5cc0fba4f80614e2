"""How much time is left: deadlines, seen by everything that is asked under them.

A deadline travels in a context variable, so tasks inherit it. It counts until the call that set it
has ended: what was started under it and outlives it is not held to it. A nested one never lies
later than the one around it. A deadline only says so; whoever sets it enforces it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
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


@contextmanager
def within(seconds: float | None) -> Generator[None, None, None]:
    """Let `remaining` say at most `seconds` inside the block. To enforce it is the caller's job."""
    if seconds is None:
        yield
        return
    before = current.get()
    deadline = Deadline(seconds)
    current.set(deadline)
    try:
        yield
    finally:
        deadline.active = False
        current.set(before)
