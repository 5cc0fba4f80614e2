"""Nested groups: those that were entered inside a stage, or inside the main function of `run`.

They are drained with the stage. A context variable has the nest that the running code belongs to.
So tasks and threads that an actor starts belong to the nest of its stage, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol
from weakref import WeakSet

from tailrace import _core

LEEWAY: Final = 1.0
"""Seconds that a source gets after the end of its drained groups, to send a result or clean up."""


class Nested(Protocol):
    """What a nest needs of a group."""

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
    """The open groups of one stage, in the order in which they were entered.

    The code after a drained group is stopped `LEEWAY` seconds later, as a source: the block of the
    group around that one, or, if there is none, the stage, by the callback that it gives to `stop`.
    """

    def __init__(self) -> None:
        self._groups: dict[Nested, None] = {}
        self._stopped: WeakSet[asyncio.Task[Any]] | None = None  # tasks; None before `stop`
        self._loop: asyncio.AbstractEventLoop | None = None  # that `stop` was called on
        self.on_left: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Nest of {len(self._groups)} groups{', stopping' if self.stopping else ''}>"

    @property
    def stopping(self) -> bool:
        """Whether it has been stopped."""
        return self._stopped is not None

    @property
    def tasks(self) -> set[asyncio.Task[Any] | None]:
        """The tasks that have entered the groups."""
        return {group.parent for group in list(self._groups)}

    def add(self, group: Nested) -> None:
        """A group has been entered."""
        self._groups[group] = None

    def remove(self, group: Nested) -> None:
        """A group has ended."""
        self._groups.pop(group, None)
        if not self.stopping:
            return
        if around := self.around(group):
            group.loop.call_later(LEEWAY, around[-1]._stop_block)
        elif self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._loop.call_later, LEEWAY, self._left)

    def _left(self) -> None:
        if self.on_left is not None:
            self.on_left()

    def stop(self, on_left: Callable[[], object] | None = None) -> None:
        """Drain the groups and stop the code of their blocks.

        `on_left` is called, on this loop, when a task may have gone on after its last group.
        """
        self.on_left = on_left
        self._stopped = WeakSet()
        self._loop = asyncio.get_running_loop()
        inner: dict[asyncio.Task[Any] | None, Nested] = {}
        for group in list(self._groups):
            inner[group.parent] = group
            _on_loop_of(group, group.drain)
        for group in inner.values():
            _on_loop_of(group, group._stop_block)

    def around(self, group: Nested) -> list[Nested]:
        """The groups that the task of `group` has entered."""
        return [other for other in list(self._groups) if other.parent is group.parent]

    def has_stopped(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` was stopped in one of its groups. No task is stopped twice."""
        return self._stopped is not None and task in self._stopped

    def note_stopped(self, task: asyncio.Task[Any]) -> None:
        """Note that `task` is stopped in one of its groups."""
        if self._stopped is not None:
            self._stopped.add(task)


def nest_around() -> Nest | None:
    """The nest of the stage or main function that the running code belongs to."""
    around = _core.enclosing.get()
    return around if isinstance(around, Nest) else None


def _on_loop_of(group: Nested, call: Any) -> None:
    if group.loop is asyncio._get_running_loop():
        call()
        return
    with contextlib.suppress(RuntimeError):  # closed meanwhile
        group.loop.call_soon_threadsafe(call)
