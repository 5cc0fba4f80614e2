"""One actor of a stage: a task on the loop, or a plain function on a thread of its own.

Either kind tells its stage when it has ended, on the loop's thread and exactly once, and can be
cancelled, stopped as a source, and asked what it is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from types import CoroutineType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from tailrace import _core
from tailrace._core import ThreadHandle
from tailrace.group.activity import IN_THREAD, Activity, activity_of, parked

T = TypeVar("T")

# By task: how to stop it as a source, where cancelling it would lose what it has in hand.
_stops: WeakKeyDictionary[asyncio.Task[Any], Callable[[], None]] = WeakKeyDictionary()

_PLAIN = frozenset({CoroutineType})

Ended = Callable[["ThreadActor", BaseException | None], None]


class Actor(Protocol):
    """What a stage knows of each of its actors."""

    @property
    def name(self) -> str:
        """What logs and the wait-for graph call it."""
        ...

    def stop(self) -> None:
        """End it as a source: a send that is parked happens first."""

    def activity(self) -> Activity:
        """What it does now."""
        ...


class TaskActor:
    """An actor on the event loop: a task, seen as an actor as long as somebody looks.

    Nothing is kept for it beside the task, of which there may be a hundred thousand.
    """

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task

    def __repr__(self) -> str:
        return f"<actor {self.name}, on the loop>"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.get_name()

    def stop(self) -> None:
        """As `Actor.stop`."""
        stop = _stops.get(self.task)
        if stop is not None:
            stop()
        elif not _core.when_sent(self.task, self._stop_after_send):
            self.task.cancel()

    def _stop_after_send(self) -> None:
        if not self.task.cancelling():  # a second time would interrupt its cleaning up
            self.task.cancel()

    def activity(self) -> Activity:
        """As `Actor.activity`."""
        return activity_of(self.task)


class Feed:
    """What `emit` is doing, so that a drain stops it between two items: none is drawn and lost.

    A context manager around the work of the current task.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self.stopping = False
        self.drawing = False  # waiting for the next item of an asynchronous iterable

    def __enter__(self) -> Feed:
        self._outer = _stops.get(self._task)
        _stops[self._task] = self.stop
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is None:
            del _stops[self._task]
        else:
            _stops[self._task] = self._outer

    def stop(self) -> None:
        """Have `stopping` seen after the item in hand; interrupt the wait for another one."""
        self.stopping = True
        if not self.drawing:
            return
        if asyncio.current_task() is self._task:  # the iterable itself drains: it may yield yet
            self._task.get_loop().call_soon(self._stop_drawing)
        else:
            self._task.cancel()

    def _stop_drawing(self) -> None:
        if self.drawing and not self._task.done() and not self._task.cancelling():
            self._task.cancel()

    async def end(self) -> None:
        """End the task as the cancelled source that it is, so that a caller draws nothing more."""
        self._task.cancel()
        await asyncio.sleep(0)


def start_on_loop(
    calls: list[Any], name: str, first: int, ended: Callable[[asyncio.Task[None]], None]
) -> dict[asyncio.Task[None], None]:
    """Start an actor for each of `calls`; `ended` hears of the end of each.

    They are called ``name#first`` and so on; with `first` 0 there is one, called `name`.
    """
    coroutines: list[Any] = calls
    # The exact type first: to ask the abstract one takes as long as to start an actor.
    if not _PLAIN.issuperset(map(type, calls)):
        coroutines = [each if isinstance(each, Coroutine) else _await(each) for each in calls]
    return _core.spawn(coroutines, name, first, ended)


async def _await(work: Awaitable[None]) -> None:
    await work


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    """Makes every task of a loop what an actor is: ``loop.set_task_factory(task_factory)``.

    With the native core a channel then costs any task what it costs an actor. Such a task is all
    that a task is but an instance of `asyncio.Task`; it is never started eagerly.
    """
    task: asyncio.Task[T] = _core.task_factory(loop, coro, **options)
    return task


class ThreadActor:
    """An actor on a thread, which is a daemon: blocking code cannot be made to end."""

    def __init__(self, name: str, work: Callable[[], object], ended: Ended) -> None:
        self.name = name
        self._work = work
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=name, daemon=True
        )
        self._handle = ThreadHandle(self._loop, self._thread)
        # At the next turn, so that whoever starts several actors has wired them all before.
        self._loop.call_soon(self._begin)

    def __repr__(self) -> str:
        return f"<actor {self.name}, in a thread>"

    def cancel(self) -> None:
        """End it as soon as it can be, if it uses channels."""
        self._handle.cancel()

    def stop(self) -> None:
        """As `Actor.stop`."""
        self._handle.cancel(finish_send=True)

    def activity(self) -> Activity:
        """As `Actor.activity`."""
        handle = self._handle
        operation = handle.operation
        if operation is None or not operation.parked:
            return IN_THREAD
        timed = handle.deadline is not None
        return parked(operation.waits, handle.since, timed=timed, in_thread=True)

    @property
    def operation(self) -> object:
        """The channel operation that the thread has parked in last."""
        return self._handle.operation

    def when_parked(self, then: Callable[[], object]) -> None:
        """Have `then` called on the loop, once, when the thread has parked next, or ended.

        It may have parked while this asks: look at it again.
        """
        self._handle.on_park.append(then)

    def _begin(self) -> None:
        if self._handle.cancelled:  # before it has begun: like a task, it never does
            self._done(asyncio.CancelledError())
            return
        try:
            self._thread.start()
        except RuntimeError as error:  # there can be no more threads
            self._done(error)

    def _run(self) -> None:
        self._handle.enter()
        error: BaseException | None = None
        try:
            result = self._work()
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(
                    f"{self.name} is a plain function, run in a thread, but returned an "
                    f"awaitable: define it with `async def` to run it on the loop"
                )
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has gone without waiting for us
            self._loop.call_soon_threadsafe(self._done, error)
        error = None  # its traceback holds this frame

    def abandon(self) -> None:
        """Take it for ended, whatever its thread does."""
        self._done(asyncio.CancelledError())

    def _done(self, error: BaseException | None) -> None:
        if self._handle.alive:
            self._handle.alive = False
            self._ended(self, error)
            self._handle.notify()
