"""The groups that were entered inside a stage, or inside the main function of `run`.

They are drained with it. A context variable says inside what a group is entered, so that tasks
and threads which a stage starts belong to it too.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Protocol


class Nested(Protocol):
    """What is to be known of a group that is entered inside a stage."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs on."""
        ...

    @property
    def parent(self) -> asyncio.Task[Any] | None:
        """The task that has entered it."""
        ...

    def drain(self) -> None:
        """As `Group.drain`."""

    def _stop_block(self) -> None: ...


class Nest:
    """The groups of one stage that are open, in the order in which they were entered."""

    def __init__(self) -> None:
        self._groups: dict[Nested, None] = {}
        self.stopping = False

    def __repr__(self) -> str:
        return f"<Nest of {len(self._groups)} groups{', stopping' if self.stopping else ''}>"

    def add(self, group: Nested) -> None:
        """A group has been entered."""
        self._groups[group] = None

    def remove(self, group: Nested) -> None:
        """A group has ended."""
        self._groups.pop(group, None)

    def stop(self) -> set[asyncio.Task[Any] | None]:
        """Drain the groups and stop the code of their blocks; returns the tasks of that code."""
        self.stopping = True
        inner: dict[asyncio.Task[Any] | None, Nested] = {}
        for group in list(self._groups):
            inner[group.parent] = group
            _on_loop_of(group, group.drain)
        for group in inner.values():
            _on_loop_of(group, group._stop_block)
        return set(inner)

    def around(self, group: Nested) -> list[Nested]:
        """The groups that the task of `group` has entered."""
        return [other for other in self._groups if other.parent is group.parent]


enclosing: ContextVar[Nest | None] = ContextVar("tailrace.nest", default=None)
"""The nest of the stage, or of the main function, that the running code belongs to."""


def _on_loop_of(group: Nested, call: Any) -> None:
    if group.loop is asyncio._get_running_loop():
        call()
        return
    try:
        group.loop.call_soon_threadsafe(call)
    except RuntimeError:  # closed meanwhile
        pass
