"""A race: copies of a question that run at once, none of which outlives the race.

Invariants
- Each copy is a task of its own. However a race ends (answer, failure, timeout, cancellation, early
  exit of an iterator), its copies are cancelled *and awaited*, for at most `GRACE` seconds. A copy
  that has not ended by then is named in a warning and left behind.
- The done-callback of a copy retrieves its exception, so asyncio reports none as never retrieved.
- With a `dispose`, each success that the race does not return is disposed of, however late it
  comes.
- A cancellation from outside is never swallowed. If it arrives while the copies are being joined,
  it is raised after they have ended. A timeout resumes the waiting task by a timer, not by
  `Task.cancel`: nobody takes it for a cancellation, and none is left pending.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType, FunctionType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from tailrace.gather.backends import label
from tailrace.usercode import add_note, log_error

__all__ = ["GRACE", "Dispose", "Race", "add_origin", "asking", "close"]

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

Dispose: TypeAlias = Callable[[R], object]

_log = logging.getLogger(__name__)

GRACE: Final = 1.0  # seconds that a cancelled copy gets to clean up


class Race(Generic[R]):
    """Copies that run at once until `over`; `run` is its whole life.

    With a `dispose`, one success is the winner, and `dispose` is called with every other.

    The task that runs a race awaits the race itself: it has just enough of a future for any task.
    The callback of a copy's end resumes that task at once, where a future of asyncio's would take
    one more turn of the loop (figures: docs/architecture.md, "Backends").
    """

    # On the class, since most races end with most of these as they are.
    running = 0  # copies, and disposals, whose end has not been heard of
    ending = False  # the copies have been cancelled
    winner: asyncio.Task[R] | None = None  # the first success, if the race has a `dispose`
    crash: BaseException | None = None  # KeyboardInterrupt or the like, from a copy or `dispose`
    decided = False
    timed_out = False
    _abandoned = False  # the coroutine that runs this race is being closed: it cannot await
    _asyncio_future_blocking = False
    _wakeup: Callable[[Any], object] | None = None  # of the task that awaits this race
    _watchers: tuple[tuple[Callable[[Any], object], Context], ...] = ()  # further callbacks

    def __init__(self, caller: str, dispose: Dispose[R] | None = None) -> None:
        self.caller = caller  # for names of tasks, notes and logs
        self.loop = self._loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.tasks: list[asyncio.Task[R]] = []
        self._dispose = dispose

    # --- the life of a race

    def start(self) -> None:
        """Start the first copies."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        raise NotImplementedError

    async def run(self) -> None:
        """Start the copies, wait until it is over, and end the copies that still run.

        Raises `crash`, if there is one. In that case, and when cancelled, the winner's answer is
        disposed of, not returned.
        """
        try:
            self.start()
            while not self.decided:
                await self
            if self.crash is not None:
                raise self.crash
        except BaseException:
            self.dispose_winner()
            raise
        finally:
            if self.stop():
                await self.join()

    def check(self) -> None:
        """Resume the waiting task if the race is over. The task runs inside this call."""
        if self.decided or self.over():
            self.decided = True
            self._resume()

    def expire(self) -> None:
        """Time is up."""
        self.timed_out = True
        self.check()

    def stop(self) -> bool:
        """Cancel the copies that still run. Returns whether to `join` them."""
        self.ending = self.decided = True
        if not self.running or self.loop.is_closed():
            return False
        for task in self.tasks:
            task.cancel()
        return not self._abandoned

    async def join(self) -> None:
        """Wait until the cancelled copies have ended, for at most `GRACE` seconds.

        Cancelled: it waits on, and raises the cancellation afterwards.
        """
        interruption: asyncio.CancelledError | None = None
        self.timed_out = False
        timer = self.loop.call_later(GRACE, self.expire)
        try:
            while self.running and not self.timed_out:
                try:
                    await self
                except asyncio.CancelledError as error:
                    interruption = error
                    self.dispose_winner()
            for task in self.tasks:
                if not task.done():
                    _leave_behind(task)
            if interruption is not None:
                raise interruption
        finally:
            timer.cancel()
            del interruption  # its traceback refers to this frame

    # --- copies

    def launch(
        self,
        call: Callable[[A], Awaitable[R]],
        argument: A,
        name: str,
        ended: Callable[[asyncio.Task[R]], object],
        context: Context,
    ) -> asyncio.Task[R]:
        """Start a copy: a task of ``call(argument)``, whose end calls ``ended(task)``.

        If `call` itself raises, the copy fails with that error. The caller appends the task to
        `tasks`.
        """
        try:
            answering: Any = call(argument)
        except (Exception, asyncio.CancelledError) as error:
            answering = _failing(error)
        coroutine: Coroutine[Any, Any, R] = (
            answering if answering.__class__ is CoroutineType else _awaiting(answering)
        )
        task = asyncio.Task(coroutine, loop=self.loop, name=name)
        task.add_done_callback(ended, context=context)
        self.running += 1
        return task

    def take(self, task: asyncio.Task[R]) -> bool:
        """A copy has answered: it is the winner (True), or its answer is disposed of."""
        if self.winner is None and not self.ending:
            self.winner = task
            return True
        self.dispose(task.result())
        return False

    def dispose_winner(self) -> None:
        """Dispose of the winner's answer, which nobody will take."""
        if self.winner is not None:
            result = self.winner.result()
            self.winner = None
            self.dispose(result)

    def dispose(self, result: R) -> None:
        """Dispose of an answer that is not returned, unless the winner answered the same object."""
        if self._dispose is None or (self.winner is not None and self.winner.result() is result):
            return
        try:
            disposing = self._dispose(result)
            if not inspect.isawaitable(disposing):
                return
        except (Exception, asyncio.CancelledError) as error:
            log_error(_log, "%s: a result could not be disposed of", self.caller, error=error)
            return
        task = asyncio.Task(_awaiting(disposing), loop=self.loop, name=f"{self.caller}: dispose")
        _left_behind.add(task)
        self.running += 1
        task.add_done_callback(self._disposed)

    def _disposed(self, task: asyncio.Task[Any]) -> None:
        _left_behind.discard(task)
        self.running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log_error(_log, "%s: a result could not be disposed of", self.caller, error=error)
        self.check()

    # --- what a task asks of a future, beside `_loop`

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
        """Add a callback: the first is the awaiting task's.

        Later ones only observe: they are called when that task is resumed.
        """
        if self._wakeup is not None:
            self._watchers = (*self._watchers, (callback, context or copy_context()))
            return
        self._wakeup = callback
        self._context = context or copy_context()

    def result(self) -> None:
        """Nothing: the resumed task reads the race."""

    def cancel(self, msg: object = None) -> bool:
        """Resume the task. Returns False: so the task itself raises the cancellation then."""
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
    """Dispose of a result as its class says: by ``aclose()``, else ``close()``, if it has one."""
    for name in ("aclose", "close"):
        closing = getattr(result, name, None)
        if callable(closing):
            return closing()
    return None


def add_origin(error: Exception, backend: object, position: int, of: int) -> None:
    """Note on a failure which backend it came from: once, as a backend may raise it many times."""
    add_note(error, f"backend {position} of {of}: {label(backend)}")


def asking(call: Callable[[A], Awaitable[R]]) -> Callable[[A], Awaitable[R]]:
    """`call`, if to call it runs no user code; else a coroutine function that calls it.

    What a plain function raises in `Race.launch` would have a traceback whose frames lead to the
    race: a reference cycle, which keeps the query and the actor's variables alive.
    """
    fn = getattr(call, "__func__", call)
    if type(fn) is FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return call
    return partial(_call, call)


async def _call(call: Callable[[A], Awaitable[R]], argument: A) -> R:
    return await call(argument)


async def _awaiting(awaitable: Awaitable[T]) -> T:
    """Wrap an awaitable that is not a coroutine."""
    return await awaitable


async def _failing(error: BaseException) -> Any:
    """The coroutine of a copy whose call raised."""
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


_left_behind: set[asyncio.Task[Any]] = set()  # the loop holds its tasks only weakly


def _leave_behind(task: asyncio.Task[Any]) -> None:
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    _log.warning(
        "%s has not ended within %g s of its cancellation; no longer waiting for it",
        task.get_name(),
        GRACE,
    )
