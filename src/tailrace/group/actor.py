"""Actors: a task on the loop, or a plain function on a thread of its own.

Both kinds tell their stage when they have ended, once, on the loop's thread. Both can be cancelled,
stopped as a source, and asked for their activity.
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

# By task: how to stop it as a source, if a cancellation would lose a value.
_stops: WeakKeyDictionary[asyncio.Task[Any], Callable[[], None]] = WeakKeyDictionary()

_PLAIN = frozenset({CoroutineType})

Ended = Callable[["ThreadActor", BaseException | None], None]


class Actor(Protocol):
    """What a stage knows of each of its actors."""

    @property
    def name(self) -> str:
        """Its name, in logs and in the wait-for graph."""
        ...

    def stop(self) -> None:
        """Stop it as a source: if it is parked in a send, it ends after that send."""

    def activity(self) -> Activity:
        """What it does now."""
        ...


class TaskActor:
    """An actor on the event loop: a view of its task.

    Made anew when it is needed: a stage of a hundred thousand actors keeps nothing but the tasks.
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
        if not self.task.cancelling():  # a second cancellation would interrupt its clean-up
            self.task.cancel()

    def activity(self) -> Activity:
        """As `Actor.activity`."""
        return activity_of(self.task)


class Feed:
    """The state of `emit`, by which a drain stops it between two items and loses none.

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
        """Stop after the current item. If `emit` waits for the next item, interrupt that."""
        self.stopping = True
        if not self.drawing:
            return
        if asyncio.current_task() is self._task:  # the iterable drains the group: it may yield
            self._task.get_loop().call_soon(self._stop_drawing)
        else:
            self._task.cancel()

    def _stop_drawing(self) -> None:
        if self.drawing and not self._task.done() and not self._task.cancelling():
            self._task.cancel()

    async def end(self) -> None:
        """End the task by a cancellation, so that a caller of `emit` draws no more items."""
        self._task.cancel()
        await asyncio.sleep(0)


def start_on_loop(
    calls: list[Any], name: str, first: int, ended: Callable[[asyncio.Task[None]], None]
) -> dict[asyncio.Task[None], None]:
    """Start an actor for each of `calls`. `ended` is called with each task that has ended.

    The names are ``name#first`` and so on; with `first` 0 there is one actor, called `name`.
    """
    coroutines: list[Any] = calls
    # The exact type first: `isinstance` of the abstract type takes as long as to start an actor.
    if not _PLAIN.issuperset(map(type, calls)):
        coroutines = [each if isinstance(each, Coroutine) else _await(each) for each in calls]
    return _core.spawn(coroutines, name, first, ended)


async def _await(work: Awaitable[None]) -> None:
    await work


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    """Make all tasks of a loop as fast as actors: ``loop.set_task_factory(task_factory)``.

    With the native core, channel operations then take any task as little time as an actor. Such a
    task does all that a task does, but is no instance of `asyncio.Task`, and never starts eagerly.
    """
    task: asyncio.Task[T] = _core.task_factory(loop, coro, **options)
    return task


class ThreadActor:
    """An actor on a thread of its own. A daemon thread, as blocking code cannot be cancelled."""

    def __init__(self, name: str, work: Callable[[], object], ended: Ended) -> None:
        self.name = name
        self._work = work
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=name, daemon=True
        )
        self._handle = ThreadHandle(self._loop, self._thread)
        # In the next turn, so that a caller can start several stages before any actor runs.
        self._loop.call_soon(self._begin)

    def __repr__(self) -> str:
        return f"<actor {self.name}, in a thread>"

    def cancel(self) -> None:
        """Cancel it. It ends at its next channel operation."""
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
        """The channel operation in which the thread was parked last."""
        return self._handle.operation

    def done(self) -> bool:
        """Whether it has ended, as the loop knows."""
        return not self._handle.alive

    def when_parked(self, then: Callable[[], object]) -> None:
        """Call `then` on the loop, once, when the thread parks next, or ends.

        Look at the thread again after this call: it may have parked meanwhile.
        """
        self._handle.on_park.append(then)

    def _begin(self) -> None:
        if self._handle.cancelled:  # before it has begun: like a task, it never begins
            self._done(asyncio.CancelledError())
            return
        try:
            self._thread.start()
        except RuntimeError as error:  # the system allows no more threads
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
        with contextlib.suppress(RuntimeError):  # the loop was closed, and did not wait for it
            self._loop.call_soon_threadsafe(self._done, error)
        error = None  # its traceback refers to this frame

    def abandon(self) -> None:
        """Count it as ended, whatever its thread does."""
        self._done(asyncio.CancelledError())

    def _done(self, error: BaseException | None) -> None:
        if self._handle.alive:
            self._handle.alive = False
            self._ended(self, error)
            self._handle.notify()
