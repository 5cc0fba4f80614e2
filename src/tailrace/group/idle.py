"""Idleness: when every actor of a group waits for a value, and no value is on its way.

Nothing polls. While a task waits in `Idleness.wait`, one busy actor is the *witness*: as long as
the witness is busy, so is the group, and no other actor is looked at. The next look at the witness
comes when its wait has ended: its future is done, its channel operation has resumed it, its thread
has parked. If the witness is idle, the look goes on to the next busy actor. When a whole round
finds no busy actor, the group is idle.

Invariant: a round looks at tasks while none of them runs. Threads may run meanwhile, so a round
looks at each thread twice. If each is still parked in the same operation, there was an instant at
which all were parked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from tailrace import _core
from tailrace.group.activity import activity_of, look_later
from tailrace.group.actor import ThreadActor
from tailrace.group.awaits import has_deadline, waits_for
from tailrace.group.stage import Stage

Member: TypeAlias = "asyncio.Task[Any] | ThreadActor"

BUSY_LOOP: Final = 0.005
"""Seconds until the next look at the witness, in a loop that always has ready tasks."""
OUTSIDE: Final = 0.05
"""Seconds until the next look if all actors are parked but an inbox is not empty. Only code outside
the group can change that, and it tells nobody."""


class Idleness:
    """Wakes the tasks that wait until a group is idle."""

    def __init__(self, loop: asyncio.AbstractEventLoop, live: Iterable[Stage]) -> None:
        self._loop = loop
        self._live = live
        self._waiting: dict[asyncio.Task[Any] | None, asyncio.Future[None]] = {}
        self._round: Iterator[Member] = iter(())
        self._witness: Member | None = None
        self._parked: dict[ThreadActor, object] = {}  # in which operation, at the first look
        self._look = 0  # the number of the next look; requests for earlier looks are void
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Idleness: {len(self._waiting)} wait, witness {self._witness!r}>"

    async def wait(self) -> None:
        """As `Group.idle`."""
        me = asyncio.current_task()
        self._waiting[me] = future = self._loop.create_future()
        try:
            self._look_now()
            if not future.done():
                await future
        finally:
            del self._waiting[me]
            if not self._waiting:
                self._stop()

    def _stop(self) -> None:
        self._void_looks()
        self._witness, self._round, self._parked = None, iter(()), {}

    def _void_looks(self) -> None:
        self._look += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_now(self) -> None:
        """Look for a busy actor. If there is one, look again later; if not, wake the waiters."""
        self._void_looks()
        witness = self._find_busy()
        if witness is not None:
            self._witness = witness
            self._look_after(witness)
        elif (full := self._full_inbox()) is not None:
            for task in full.tasks:
                _core.when_resumed(task, partial(self._soon, self._look))
            self._timer = look_later(self._loop, OUTSIDE, partial(self._again, self._look))
        else:
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)

    def _again(self, look: int, *_: object) -> None:
        if look == self._look and any(not each.done() for each in self._waiting.values()):
            self._look_now()

    def _soon(self, look: int) -> None:
        """Look again in the loop's next turn, or when the scheduler has no more tasks to resume."""
        if look != self._look:
            return
        again = partial(self._again, look)
        if _core.when_quiet(self._loop, again):
            if self._timer is None:
                self._timer = look_later(self._loop, BUSY_LOOP, again)
        else:
            self._loop.call_soon(again)

    def _look_after(self, witness: Member) -> None:
        """Look again when the wait of the witness has ended."""
        look = self._look
        if isinstance(witness, ThreadActor):
            witness.when_parked(partial(self._again, look))
            if witness.activity().woken_by == "value":  # it has parked since the look
                self._loop.call_soon(self._again, look)
            return
        awaited = _core.awaited_by(witness)
        if awaited is not None:
            awaited.add_done_callback(partial(self._again, look))
        elif not _core.when_resumed(witness, partial(self._soon, look)):
            self._soon(look)

    def _find_busy(self) -> Member | None:
        """A busy actor: the witness if it still is, else the next one in this or a new round."""
        if self._witness is not None and self._is_busy(self._witness):
            return self._witness
        self._witness = None
        for member in self._round:
            if self._is_busy(member):
                return member
        self._round = iter(list(self._members()))
        for member in self._round:
            if self._is_busy(member):
                return member
        # The second look at threads: if one had sent to another, the other would have resumed.
        for thread in self._threads():
            if self._is_busy(thread) or thread.operation is not self._parked.get(thread):
                return thread
        return None

    def _stages(self) -> Generator[Stage]:
        """The stages that count: none in the background; also of groups whose end is awaited."""
        for stage in self._live:
            if not stage.background:
                yield stage
                for task in stage.tasks if _joined else ():
                    if task in _joined:
                        yield from _joined[task]._stages()

    def _members(self) -> Generator[Member]:
        for stage in self._stages():
            yield from stage.tasks
        self._parked = {}
        for thread in self._threads():
            self._parked[thread] = thread.operation
            yield thread

    def _threads(self) -> list[ThreadActor]:
        return [each for stage in self._stages() for each in stage.threads]

    def _is_busy(self, member: Member) -> bool:
        if isinstance(member, ThreadActor):
            return not member.done() and member.activity().woken_by != "value"
        if member.done():
            return False
        waiting = [task for task, future in self._waiting.items() if not future.done()]
        if waits_for(member, waiting):
            return False
        if member in _joined:  # as busy as the actors of that group, until they have ended
            awaited = _core.awaited_by(member)
            return awaited is None or awaited.done()
        return activity_of(member).woken_by != "value" or has_deadline(member)

    def _full_inbox(self) -> Stage | None:
        """A stage with a value in an inbox.

        A channel that no actor receives from is for code outside the group, and does not count.
        """
        for stage in self._stages():
            if any(map(len, stage.wiring.channels("receive"))):
                return stage
        return None


# By task: the group whose end it awaits.
_joined: WeakKeyDictionary[asyncio.Task[Any], Idleness] = WeakKeyDictionary()


@contextmanager
def joining(group: Idleness) -> Generator[None]:
    """In this block, the current task only waits for the end of the actors of `group`."""
    task = asyncio.current_task()
    if task is None:
        yield
        return
    outer = _joined.get(task)
    _joined[task] = group
    try:
        yield
    finally:
        _joined.pop(task, None)  # a block that is torn down with its task has no entry
        if outer is not None:
            _joined[task] = outer
