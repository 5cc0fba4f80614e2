"""Copies of a question that run at once, none of which outlives the race that started them.

Invariants:
- Each copy is asked through a factory and is a task of its own. No path out of a race (answer,
  failure, timeout, cancellation, early exit of an iterator) leaves one behind: they are cancelled
  *and awaited*, for at most `GRACE` seconds, after which a stubborn one is named in a warning and
  no longer waited for.
- A copy's end is heard by a done-callback, which takes its exception, so none is left unretrieved.
- A success that nobody returns is disposed of, if the race has a `dispose`, however late it comes.
- A cancellation from outside is never swallowed, not even one that arrives during the clean-up: it
  is raised when the copies have ended. A timeout is a timer that wakes the waiter, never a
  `Task.cancel` of it: it cannot be mistaken for one, nor leave one pending.

A race is run so, where `stop` says whether there is anything to wait for, and mostly there is not::

    try:
        race.ask(…)
        await race.decided()
    finally:
        if race.stop():
            await race.gone()
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeAlias, TypeVar

from tailrace.gather.backends import label
from tailrace.usercode import add_note, log_error

__all__ = ["GRACE", "Dispose", "Race", "close", "sign"]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

Dispose: TypeAlias = Callable[[R], object]

_log = logging.getLogger(__name__)

GRACE: Final = 1.0  # seconds that a cancelled copy gets to clean up


class Race(Generic[R]):
    """Copies that run at once, until `over` says that there is nothing to wait for any more.

    With a `dispose` one success is the winner, and `dispose` is called with every other. A race is
    what its caller awaits: just enough of a future for any Task. A future of asyncio's own would
    cost a turn of the loop between the end of a copy, which is heard in a turn of its own, and
    whoever waits for it.
    """

    # What a race begins with; most end with it.
    running = 0  # tasks whose end has not been heard of
    ending = False
    winner: asyncio.Task[R] | None = None  # the first success, where only one is wanted
    crash: BaseException | None = None  # KeyboardInterrupt and its like, of a copy
    settled = False  # it is over
    late = False
    _abandoned = False  # our coroutine is being closed: it cannot await any more
    _asyncio_future_blocking = False
    _wakeup: Callable[[Any], object] | None = None  # of the task that waits
    _watchers: tuple[tuple[Callable[[Any], object], Context], ...] = ()  # who want to know it too

    def __init__(self, who: str, dispose: Dispose[R] | None = None) -> None:
        self.who = who
        self.loop = self._loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.tasks: list[asyncio.Task[R]] = []
        self._dispose = dispose

    # --- the copies

    def won(self, task: asyncio.Task[R]) -> None:
        """A copy has answered. Where one answer is wanted it is the winner, or disposed of."""
        if self._dispose is None:
            return
        if self.winner is None and not self.ending:
            self.winner = task
        else:
            self.dispose(task.result())

    def over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        raise NotImplementedError

    def look(self) -> None:
        """Something has happened. The last that a callback does: who waits goes on inside."""
        if self.settled or self.over():
            self.settled = True
            self._resume()

    def expire(self) -> None:
        """Time is up."""
        self.late = True
        self.look()

    # --- who waits for them

    async def decided(self) -> None:
        """Return when it is over."""
        try:
            while not self.settled:
                await self
            if self.crash is not None:
                raise self.crash
        except BaseException:
            self.forfeit()
            raise

    def stop(self) -> bool:
        """Cancel what still runs; whether there is anything to await (`gone`)."""
        self.ending = self.settled = True
        if not self.running or self.loop.is_closed():
            return False
        for task in self.tasks:
            task.cancel()
        return not self._abandoned

    async def gone(self) -> None:
        """Wait for what `stop` has cancelled. A cancellation of ours waits with it."""
        interruption: asyncio.CancelledError | None = None
        self.late = False
        timer = self.loop.call_later(GRACE, self.expire)
        try:
            while self.running and not self.late:
                try:
                    await self
                except asyncio.CancelledError as error:
                    interruption = error
                    self.forfeit()
            for task in self.tasks:
                if not task.done():
                    _leave(task)
            if interruption is not None:
                raise interruption
        finally:
            timer.cancel()
            del interruption  # it refers to this frame

    def forfeit(self) -> None:
        """Nobody will take the answer any more."""
        if self.winner is not None:
            result = self.winner.result()
            self.winner = None
            self.dispose(result)

    def dispose(self, result: R) -> None:
        """Dispose of a success that nobody returns, unless the winner's is the same object."""
        if self._dispose is None or (self.winner is not None and self.winner.result() is result):
            return
        try:
            disposing = self._dispose(result)
            if not inspect.isawaitable(disposing):
                return
        except (Exception, asyncio.CancelledError) as error:
            log_error(_log, "%s: a result could not be disposed of", self.who, error=error)
            return
        task = asyncio.Task(awaiting(disposing), loop=self.loop, name=f"{self.who}: dispose")
        _left_behind.add(task)
        self.running += 1
        task.add_done_callback(self._disposed)

    def _disposed(self, task: asyncio.Task[Any]) -> None:
        _left_behind.discard(task)
        self.running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log_error(_log, "%s: a result could not be disposed of", self.who, error=error)
        self.look()

    # --- what a Task asks of a future, beside `_loop`

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        try:
            yield self
        except GeneratorExit:
            self._abandoned = True
            raise
        finally:
            self._wakeup = None

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """A task waits, or somebody wants to know when it goes on."""
        if self._wakeup is not None:
            self._watchers = (*self._watchers, (callback, context or copy_context()))
            return
        self._wakeup = callback
        self._context = context or copy_context()

    def result(self) -> None:
        """Nothing: whoever is resumed looks for itself."""

    def cancel(self, msg: object = None) -> bool:
        """Resume the task, in which its cancellation is then raised: that is what False says."""
        self.loop.call_soon(self._resume)
        return False

    def _resume(self) -> None:
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            self._context.run(wakeup, self)
        if self._watchers:
            watchers, self._watchers = self._watchers, ()
            for watcher, context in watchers:
                self.loop.call_soon(watcher, self, context=context)


def close(result: Any) -> object:
    """Dispose of a result as its class says, if it does: ``aclose()``, else ``close()``."""
    for name in ("aclose", "close"):
        closing = getattr(result, name, None)
        if callable(closing):
            return closing()
    return None


async def awaiting(awaitable: Awaitable[T]) -> T:
    """The coroutine of a copy, of what is none."""
    return await awaitable


async def failing(error: BaseException) -> Any:
    """The coroutine of a copy that could not even be asked."""
    try:
        raise error
    finally:
        del error  # it refers to this frame


def sign(error: Exception, whom: object, position: int, of: int) -> None:
    """Note on a failure whose it is."""
    # Once: some backends raise one object many times.
    add_note(error, f"backend {position} of {of}: {label(whom)}")


_left_behind: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks but weakly


def _leave(task: asyncio.Task[Any]) -> None:
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    _log.warning(
        "%s has not ended within %g s of its cancellation; no longer waiting for it",
        task.get_name(),
        GRACE,
    )
