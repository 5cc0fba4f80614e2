"""A stage: the actors of one `go` call, and the channel ends that they share.

A stage holds its ends from before its first actor starts until its last actor has ended. Then it
lets go of all of them, once. A channel that closes by this carries end-of-stream to other stages,
or the failure of an actor, as the cause.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import logging
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from tailrace._core import End, Hold, enclosing, let_go, take_hold
from tailrace.errors import Closed
from tailrace.group.actor import Actor, TaskActor, ThreadActor, start_on_loop
from tailrace.group.checks import check_actors, check_open
from tailrace.group.inhand import DRAINING, ENDED, drop_in_hand
from tailrace.group.nest import Nest
from tailrace.group.restart import Restart, Restarts
from tailrace.group.wiring import Wiring
from tailrace.ledger import Ledger, counting, surrounding
from tailrace.usercode import is_a, is_async, log_error, unwrapped

_log = logging.getLogger("tailrace")

MANY: Final = 1000
"""From how many actors of a stage on the garbage collector is put off while they start."""


class Owner(Protocol):
    """What a stage needs of its group."""

    _draining: bool
    _ledger: Ledger

    def _actor_failed(self, stage: Stage, actor: Actor, error: BaseException) -> None: ...
    def _actor_ended(self) -> None: ...
    def _stage_lets_go(self, stage: Stage) -> None: ...
    def _stage_ended(self, stage: Stage) -> None: ...


class Stage:
    """Starts actors, learns of the end of each, and tells its owner when the last has ended."""

    def __init__(
        self,
        owner: Owner,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        wiring: Wiring,
        ordinal: int,
        source: bool | None,
        background: bool,
        restart: Restart | None,
    ) -> None:
        self.name = name
        self.wiring = wiring
        self.ordinal = ordinal  # 2: the second stage of this name in the group
        self.background = background
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._threads: dict[ThreadActor, None] = {}
        self.started = 0
        self.stopping = False
        self.closed_by: object = None  # the channel whose clean end has ended the last such actor
        self.cause: BaseException | None = None
        self._cancelled = False
        self._drainer: asyncio.Task[None] | None = None
        self._finisher: asyncio.Task[None] | None = None
        self._nest = Nest()
        self._to_stop: dict[asyncio.Task[None] | ThreadActor, None] = {}
        self._owner = owner
        self._fn = fn
        self._args = args
        self._source = source
        self._on_loop = is_async(fn)
        self.restarts: Restarts | None = None
        if restart is not None:
            self.restarts = Restarts(name, restart, self._start_again, self._check_ended)
        self._context: Context | None = None  # in which actors are started again

    def __repr__(self) -> str:
        return f"<stage {self.name}: {self.live} of {self.started} actors live>"

    @property
    def live(self) -> int:
        """How many actors have not ended, or will be started again."""
        return len(self._tasks) + len(self._threads) + len(self.pausing)

    @property
    def pausing(self) -> dict[asyncio.Task[None], str]:
        """The tasks that start an actor again after a pause, each with the actor's name."""
        return {} if self.restarts is None else self.restarts.pausing

    @property
    def source(self) -> bool:
        """Whether a drain stops it. Unless it was given: if it receives from no channel."""
        if self._source is not None:
            return self._source
        return not self.wiring.channels("receive") and not self.wiring.unclear

    @property
    def actors(self) -> list[Actor]:
        """The actors that have not ended."""
        return [*map(TaskActor, self.tasks), *self._threads]

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The actors on the loop that have not ended, and the tasks of pauses, `drain()` and
        `finish()`."""
        if self._drainer is None and self._finisher is None and self.restarts is None:
            return [*self._tasks]
        return [*self._tasks, *self.pausing, *filter(None, (self._drainer, self._finisher))]

    @property
    def threads(self) -> list[ThreadActor]:
        """The actors in threads that have not ended."""
        return list(self._threads)

    @property
    def started_with(self) -> tuple[Any, ...]:
        """Its function and arguments. Empty once it has let go of its ends."""
        return (self._fn, self._args)

    def prepare(self, actors: int) -> list[Any]:
        """Make so many calls of the function, for `start`, and take hold of all ends.

        Raises what the function raises, and ValueError for an end that its owners have closed, and
        for more actors than the function may have. Then nothing is held.
        """
        check_actors(self.name, self._fn, actors)
        calls: list[Any] = []
        try:
            if self._on_loop:
                # `extend` keeps the coroutines made before a failure, so that they can be closed.
                calls.extend(itertools.starmap(self._fn, itertools.repeat(self._args, actors)))
            else:
                calls += [functools.partial(self._fn, *self._args)] * actors
            check_open(self.name, self.wiring.holds)
            take_hold(self.wiring.holds, self._owner._ledger)
        except BaseException:
            for call in calls:
                if inspect.iscoroutine(call):
                    call.close()
            raise
        return calls

    def start(self, calls: list[Any]) -> None:
        """Start an actor for each of the calls that `prepare` has made."""
        self.started = len(calls)
        first = 0 if self.started == 1 else 1
        ledger = self._owner._ledger
        outside = enclosing.set(self._nest)
        counted = counting.set(ledger if self.source else None)
        around = surrounding.set(ledger)
        if self.restarts is not None:
            self._context = copy_context()
        try:
            if self._on_loop:
                self._tasks = start_on_loop(calls, self.name, first, self._task_ended)
            else:
                for number, call in enumerate(calls, first):
                    name = f"{self.name}#{number}" if number else self.name
                    self._threads[ThreadActor(name, call, self._thread_ended)] = None
        finally:
            enclosing.reset(outside)
            counting.reset(counted)
            surrounding.reset(around)
        if self._cancelled:  # by one of the actors, where tasks start eagerly
            self._cancel_actors()

    def _start_again(self, actor: str) -> None:
        """Start an actor in place of the one of this name that has raised."""
        if self._cancelled or self.stopping or self._context is None:
            self._check_ended()
            return
        self._context.copy().run(self._start_one, actor)

    def _start_one(self, actor: str) -> None:
        if not self._on_loop:
            work = functools.partial(self._fn, *self._args)
            self._threads[ThreadActor(actor, work, self._thread_ended)] = None
            return
        try:
            call: Any = self._fn(*self._args)
        except Exception as error:  # of the function's object: as if the actor had raised it
            call = _raise(error)
        self._tasks.update(start_on_loop([call], actor, 0, self._task_ended))

    def cancel(self, cause: BaseException) -> None:
        """Cancel all actors, once. The channels will be closed with `cause`."""
        if self.cause is None:
            self.cause = cause
        if self._cancelled:
            return  # a second cancellation would interrupt their cleaning up
        self._cancelled = True
        for helper in (self._drainer, self._finisher, self.restarts):
            if helper is not None:
                helper.cancel()
        self._cancel_actors()

    def _cancel_actors(self) -> None:
        for task in list(self._tasks):
            try:
                task.cancel()
            except Exception as error:  # `cancel` of the awaited future may be user code
                log_error(_log, "%s could not be cancelled", task.get_name(), error=error)
        for thread in list(self._threads):
            thread.cancel()

    def stop(self) -> None:
        """Stop a source: no value that it has sent, or is sending, is lost."""
        if self.stopping or not self.live:
            return  # an eager task drains its group while it starts: `Group` stops it after that
        self.stopping = True
        if self.restarts is not None:
            self.restarts.cancel()
        drain = _method(self._fn, "drain")
        if drain is not None:
            self._drainer = asyncio.create_task(self._drain(drain), name=f"{self.name}.drain")
            self._drainer.add_done_callback(self._drained)
        else:
            self._to_stop = dict.fromkeys((*self._tasks, *self._threads))
            self._nest.stop(self._stop_actors)
            self._stop_actors()

    def _stop_actors(self) -> None:
        """Stop each actor once. An actor in a group of its own is stopped after that group.

        If a task that is no actor of this stage has entered a group, any actor may wait for it, so
        none is stopped before the end of that group.
        """
        busy = self._nest.tasks
        if self._cancelled or not busy.issubset(self._tasks):
            return
        for actor in [actor for actor in self._to_stop if actor not in busy]:
            del self._to_stop[actor]
            if isinstance(actor, ThreadActor):
                actor.stop()
            elif not self._nest.has_stopped(actor) and not actor.done():
                TaskActor(actor).stop()

    async def _drain(self, drain: Callable[[], Any]) -> None:
        try:
            await _call(drain)
        except (Exception, asyncio.CancelledError) as error:
            if not self._cancelled:  # else `cancel` has ended it
                log_error(_log, "%s: drain() failed; cancelling it", self.name, error=error)
                self._cancel_actors()

    def _drained(self, _: asyncio.Task[None]) -> None:
        """End the stage if all actors have ended. Not in `_drain`, which may never have begun."""
        self._drainer = None
        self._check_ended()

    def abandon_threads(self) -> list[ThreadActor]:
        """Count the actors in threads as ended, and return them."""
        left = list(self._threads)
        for actor in left:
            actor.abandon()
        return left

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        try:
            self._report(task)
        finally:
            self._check_ended()

    def _report(self, task: asyncio.Task[None]) -> None:
        """Tell the owner if a task has failed."""
        if task.cancelled():
            if self.stopping or not task.cancelling():
                self._actor_cancelled(TaskActor(task), _cancellation_of(task))
        elif (error := task.exception()) is not None:
            self._actor_raised(TaskActor(task), error)

    def _thread_ended(self, actor: ThreadActor, error: BaseException | None) -> None:
        self._threads.pop(actor, None)
        try:
            if is_a(error, asyncio.CancelledError):
                self._actor_cancelled(actor, error)
            elif error is not None:
                self._actor_raised(actor, error)
        finally:
            self._check_ended()

    def _actor_cancelled(self, actor: Actor, cancellation: asyncio.CancelledError) -> None:
        """A cancellation that the group has not asked for is a failure: values may be missing."""
        if self.stopping:
            drop_in_hand(cancellation, self.name, DRAINING)
        if self._cancelled or self.stopping:
            return
        error = RuntimeError(
            f"{actor.name} raised CancelledError, but nobody cancelled it: something that it "
            f"awaited was cancelled"
        )
        error.__cause__ = cancellation
        self._owner._actor_failed(self, actor, error)

    def _actor_raised(self, actor: Actor, error: BaseException) -> None:
        """An exception is a failure, except the clean end of a channel that the stage holds."""
        if is_a(error, Closed) and error.__cause__ is None:
            channel: object = getattr(error, "channel", None)  # a subclass may have none
            if self._holds(channel):
                self.closed_by = channel
                sends = self._holds(channel, "send")
                why = DRAINING if self._owner._draining else ENDED
                drop_in_hand(error, self.name, why if sends else "")
                return
        restarts = self.restarts
        if restarts is None or not self._may_restart(error):
            self._owner._actor_failed(self, actor, error)
            drop_in_hand(error, self.name)
            return
        try:
            if self.stopping:
                restarts.ended(actor.name, error)
            elif not restarts.again(actor.name, error):
                self._owner._actor_failed(self, actor, error)
        finally:  # however a logging handler keeps the error
            drop_in_hand(error, self.name)
            restarts.forget(error)

    def _may_restart(self, error: BaseException) -> bool:
        """Whether the actor may do better next time. A channel that was closed stays closed."""
        if self._cancelled or not is_a(error, Exception):
            return False
        return not (is_a(error, Closed) and self._holds(getattr(error, "channel", None)))

    def _holds(self, channel: object, which: End | None = None) -> bool:
        held = ((it, end) for it, end, _ in self.wiring.holds)
        return any(it is channel and which in (None, end) for it, end in held)

    def _check_ended(self) -> None:
        if self.live or self._drainer is not None:
            self._owner._actor_ended()
            return
        finish = None if self._cancelled else _method(self._fn, "finish")
        try:
            self._owner._stage_lets_go(self)
        finally:  # even if a logging handler raises
            if finish is None or self._cancelled:
                self._owner._stage_ended(self)
            else:
                name = f"{self.name}.finish"
                self._finisher = asyncio.create_task(_call(finish), name=name)
                self._finisher.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._finisher = None
        try:
            self._report(task)
        finally:
            self._owner._stage_ended(self)

    def let_go(self) -> list[Hold]:
        """Let go of all ends. Returns those that have closed their channels.

        The function and its arguments are dropped too: they may be large, or refer to messages.
        """
        self._fn, self._args = _nothing, ()
        self._nest.on_left, self._to_stop = None, {}
        if self.restarts is not None:
            self.restarts.rest()
            self.restarts = self._context = None  # they refer to this stage
        return let_go(self.wiring.holds, self.cause)


class nothing_to_collect:  # noqa: N801  # used as a statement
    """Put the garbage collector off, in a block that makes many actors and no garbage.

    With a hundred thousand actors it would take half the time, to look at the new ones again and
    again.
    """

    # Not contextlib's: that sets attributes on exceptions, and a user's exception may refuse them.

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            if not gc.get_freeze_count():  # move all objects to the oldest generation, unseen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _cancellation_of(task: asyncio.Task[None]) -> asyncio.CancelledError:
    try:
        task.result()
    except asyncio.CancelledError as cancellation:
        return cancellation
    raise AssertionError(f"{task!r} was not cancelled")


def _method(fn: Callable[..., Any], name: str) -> Callable[[], Any] | None:
    """The method `name` of an actor object, if it has one."""
    method = getattr(unwrapped(fn), name, None)
    return method if callable(method) else None


async def _call(method: Callable[[], Any]) -> None:
    result = method()
    if inspect.isawaitable(result):
        await result


async def _raise(error: Exception) -> None:
    raise error


def _nothing() -> None:
    """The function of an ended stage."""
