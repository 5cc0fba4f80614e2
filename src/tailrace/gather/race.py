"""Copies of a question that run at once, none of which outlives the block that started them.

Invariants:
- Each copy is asked through a factory, in a task of its own. No path out of the block (answer,
  failure, timeout, cancellation, early exit of an iterator) leaves one behind: they are cancelled
  *and awaited*, for at most `GRACE` seconds, after which a stubborn one is named in a warning and
  no longer waited for.
- A copy's exception is caught in the copy, so none is ever left unretrieved.
- A cancellation from outside is never swallowed, not even one that arrives during the clean-up: it
  is raised when the copies have ended. A timeout is a timer that wakes the waiter, never a
  `Task.cancel` of it: it cannot be mistaken for one, nor leave one pending.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar

from tailrace.gather import deadline
from tailrace.gather.backends import Answer, Backend, check, label

__all__ = ["GRACE", "Ask", "Race", "factories"]

Q = TypeVar("Q")
R = TypeVar("R")

_log = logging.getLogger(__name__)

GRACE: Final = 1.0  # seconds that a cancelled copy gets to clean up

Ask: TypeAlias = tuple[object, Callable[[], Awaitable[R]]]  # whom, and how


def factories(who: str, query: Q, backends: Sequence[Backend[Q, R]]) -> list[Ask[R]]:
    """How to ask each of `backends`; TypeError or ValueError, as `who`, if they cannot be asked."""
    check(who, backends)
    return [(candidate, partial(candidate.query, query)) for candidate in backends]


class Race(Generic[R]):
    """``async with Race(who, asks, timeout) as race:`` all copies run; none outlives the block."""

    def __init__(self, who: str, asks: Sequence[Ask[R]], timeout: float | None = None) -> None:
        self._who = who
        self._asks = asks
        self._timeout = None if timeout == math.inf else timeout
        self._tasks: list[asyncio.Task[Answer[R]]] = []
        self._running = 0  # tasks whose end has not been noted
        self._arrived: deque[Answer[R]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._late = False
        self._ending = False
        self._abandoned = False  # our coroutine is being closed: it cannot await any more
        self._crash: BaseException | None = None  # KeyboardInterrupt and its like, of a copy
        self.answers: list[Answer[R] | None] = [None] * len(asks)

    async def __aenter__(self) -> Race[R]:
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._deadline = None if self._timeout is None else deadline.Deadline(self._timeout)
        before = deadline.current.get()
        if self._deadline is not None:
            deadline.current.set(self._deadline)  # for the copies, which inherit it
        try:
            for index in range(len(self._asks)):
                self._start(index)
        except BaseException:  # an eager task's first step
            await self._end()
            raise
        finally:
            if self._deadline is not None:
                deadline.current.set(before)
        self._timer = (
            None
            if self._timeout is None
            else self._loop.call_at(self._started + self._timeout, self._expire)
        )
        return self

    def _start(self, index: int) -> None:
        whom, ask = self._asks[index]
        place = (index + 1, len(self._asks))
        task = asyncio.create_task(_ask(whom, ask, place), name=f"{self._who}: {label(whom)}")
        self._tasks.append(task)
        self._running += 1
        task.add_done_callback(partial(self._finished, index))

    def _finished(self, index: int, task: asyncio.Task[Answer[R]]) -> None:
        self._running -= 1
        if task.cancelled():
            if not self._ending:
                whom = self._asks[index][0]
                error = RuntimeError(f"cancelled, and not by {self._who}")
                _sign(error, whom, (index + 1, len(self._asks)))
                self._came(index, Answer(whom, error=error, seconds=self._elapsed()))
        elif (crash := task.exception()) is not None:
            self._crash = crash
        else:
            self._came(index, task.result())
        self._notify()

    def _came(self, index: int, answer: Answer[R]) -> None:
        self.answers[index] = answer
        self._arrived.append(answer)

    def _expire(self) -> None:
        self._late = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _something_happens(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        except GeneratorExit:
            self._abandoned = True
            raise
        finally:
            self._wake = None

    async def arrival(self) -> Answer[R] | None:
        """The next answer or failure, in order of arrival; None when time or copies ran out."""
        while not self._arrived:
            if self._crash is not None:
                raise self._crash
            if self._late or not self._running:
                return None
            await self._something_happens()
        return self._arrived.popleft()

    def waited_for(self, why: str) -> list[Answer[R]]:
        """An answer for each backend, in order; those that have not come say `why`."""
        return [
            Answer(whom, error=TimeoutError(f"{label(whom)}: {why}"), seconds=self._elapsed())
            if answer is None
            else answer
            for (whom, _), answer in zip(self._asks, self.answers, strict=True)
        ]

    def missing(self) -> str:
        """The names of those that have not answered."""
        return ", ".join(
            label(whom)
            for (whom, _), answer in zip(self._asks, self.answers, strict=True)
            if answer is None
        )

    def errors(self) -> list[Exception]:
        """The failures so far, in the order of the backends."""
        return [a.error for a in self.answers if a is not None and a.error is not None]

    def _elapsed(self) -> float:
        return self._loop.time() - self._started

    async def __aexit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._end()

    async def _end(self) -> None:
        """Cancel what still runs and wait for it. A cancellation of ours waits with it."""
        self._ending = True
        if self._deadline is not None:
            self._deadline.active = False
        if self._loop.is_closed() or all(task.done() for task in self._tasks):
            return
        for task in self._tasks:
            task.cancel()
        if self._abandoned:
            return
        interruption: asyncio.CancelledError | None = None
        self._late = False
        timer = self._loop.call_later(GRACE, self._expire)
        try:
            while self._running and not self._late:
                try:
                    await self._something_happens()
                except asyncio.CancelledError as error:
                    interruption = error
            for (whom, _), task in zip(self._asks, self._tasks, strict=False):
                if not task.done():
                    _leave(task, f"{self._who}: {label(whom)}")
            if interruption is not None:
                raise interruption
        finally:
            timer.cancel()
            del interruption  # it refers to this frame


async def _ask(whom: object, ask: Callable[[], Awaitable[R]], place: tuple[int, int]) -> Answer[R]:
    # Outside of `Race`, since the traceback of an error that a race holds must not hold the race.
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        value = await ask()
    except Exception as error:
        _sign(error, whom, place)
        return Answer(whom, error=error, seconds=clock() - started)
    return Answer(whom, value, seconds=clock() - started)


def _sign(error: Exception, whom: object, place: tuple[int, int]) -> None:
    note = f"backend {place[0]} of {place[1]}: {label(whom)}"
    if note not in getattr(error, "__notes__", ()):  # some backends raise one object many times
        error.add_note(note)


_left_behind: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks but weakly


def _leave(task: asyncio.Task[Any], name: str) -> None:
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    _log.warning(
        "%s has not ended within %g s of its cancellation; no longer waiting for it", name, GRACE
    )
