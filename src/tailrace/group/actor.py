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
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from tailrace import _core
from tailrace._core import WORDS, ThreadHandle, Verb, Wait
from tailrace.timers import _is_pending

T = TypeVar("T")

# By task: how to stop it as a source, where cancelling it would lose what it has in hand.
_stops: WeakKeyDictionary[asyncio.Task[Any], Callable[[], None]] = WeakKeyDictionary()

_PLAIN = frozenset({CoroutineType})

Ended = Callable[["ThreadedActor", BaseException | None], None]


class Doing(NamedTuple):
    """What an actor does at one instant, as data: words are made of it last, by `ActorState`.

    `since` is the loop's time at which it parked on channels, None if it is not parked there;
    `waits` then says on which, and `timed` whether a timeout of the operation ends the wait.
    """

    verb: Literal["run", "wait", "park"]
    in_thread: bool = False
    waits: tuple[Wait, ...] = ()
    timed: bool = False
    since: float | None = None

    @property
    def receives(self) -> bool:
        """Whether only a value that comes down a channel can end the wait."""
        return (
            self.verb == "park"
            and not self.timed
            and all(verb == "receive" and not _is_pending(channel) for verb, channel in self.waits)
        )


@dataclass(frozen=True, slots=True)
class ActorState:
    """What one actor is doing: a node of the wait-for graph, with its edges.

    `verb` is "run", "wait" (for anything that is not a channel) or "park"; `waits` are then what
    it waits for: pairs of "send", "receive" or "done" and the name of the channel, future or
    event. `state` says the same in words: "running", "waiting", "sending to X", "receiving from
    X" (or a select of those), "in thread". `seconds` is for how long it has been parked on the
    channels; None where it does something else, of which nobody notes the beginning.
    """

    name: str
    stage: str
    verb: Literal["run", "wait", "park"]
    waits: tuple[tuple[Verb, str], ...]
    in_thread: bool
    seconds: float | None

    @property
    def parked(self) -> bool:
        """Whether it is parked on channels."""
        return self.verb == "park"

    @property
    def receiving(self) -> bool:
        """Whether it is parked in a receive, or a select of nothing but receives."""
        return self.parked and all(verb == "receive" for verb, _ in self.waits)

    @property
    def state(self) -> str:
        """What it does, in words."""
        if self.verb != "park":
            return "in thread" if self.in_thread else _VERBS[self.verb]
        words = " or ".join(f"{WORDS[verb]} {name}" for verb, name in self.waits) or "waiting"
        return f"{words}, in thread" if self.in_thread else words

    def __str__(self) -> str:
        since = "" if self.seconds is None else f" for {self.seconds:.3g} s"
        return f"{self.name}: {self.state}{since}"


_VERBS = {"run": "running", "wait": "waiting"}


class Actor(Protocol):
    """What a stage knows of each of its actors."""

    @property
    def name(self) -> str:
        """What logs and the wait-for graph call it."""
        ...

    def stop(self) -> None:
        """End it as a source: a send that is parked happens first."""

    def doing(self) -> Doing:
        """What it does now."""
        ...


class LoopActor:
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

    def doing(self) -> Doing:
        """As `Actor.doing`."""
        return doing(self.task)


def doing(task: asyncio.Task[Any]) -> Doing:
    """What a task does now."""
    parked = _core.parked_on(task)
    if parked is not None:
        return Doing("park", False, parked.waits, parked.timed, parked.since)
    return _WAITING if _core.awaited_by(task) is not None else _RUNNING


_WAITING, _RUNNING = Doing("wait"), Doing("run")


_IN_THREAD = Doing("run", in_thread=True)


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
    works: list[Any], name: str, first: int, ended: Callable[[asyncio.Task[None]], None]
) -> dict[asyncio.Task[None], None]:
    """Start an actor for each of `works`; `ended` hears of the end of each.

    They are called ``name#first`` and so on; with `first` 0 there is one, called `name`.
    """
    coroutines: list[Any] = works
    # The exact type first: to ask the abstract one takes as long as to start an actor.
    if not _PLAIN.issuperset(map(type, works)):
        coroutines = [each if isinstance(each, Coroutine) else _await(each) for each in works]
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


class ThreadedActor:
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

    def doing(self) -> Doing:
        """As `Actor.doing`."""
        operation = self._handle.operation
        if operation is None or not operation.parked:
            return _IN_THREAD
        timed = self._handle.deadline is not None
        return Doing("park", True, operation.waits, timed, self._handle.since)

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
