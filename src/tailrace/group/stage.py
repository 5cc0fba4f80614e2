"""One stage of a group: the actors of one `go` call, and the ends of channels they share.

A stage holds its ends from before its first actor starts until its last has ended, and lets go
of them once. What it lets go of, and with which cause, is how end-of-stream and failure travel.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import logging
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from tailrace.channel import Channel
from tailrace.errors import Closed
from tailrace.group.actor import Actor, LoopActor, ThreadedActor, start_on_loop
from tailrace.group.wiring import Wiring

_log = logging.getLogger("tailrace")

MANY: Final = 1000
"""Actors that are started at once, from which on it pays to put the garbage collector off."""


class Stage:
    """Starts actors, hears of their end, tells the group when the last has ended."""

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        wiring: Wiring,
        *,
        ordinal: int,
        source: bool | None,
        background: bool,
        failed: Callable[[Stage, Actor, BaseException], None],
        ended: Callable[[Stage], None],
    ) -> None:
        self.name = name
        self.wiring = wiring
        self.ordinal = ordinal  # the how-manieth of its function in the group
        self.background = background
        self.inboxes = wiring.channels("receive")
        self.outboxes = wiring.channels("send")
        self.source = not (self.inboxes or wiring.unclear) if source is None else source
        self._running: dict[Any, None] = {}  # tasks, or ThreadedActors
        self.started = 0
        self.stopping = False
        self.closed_by: object = None  # the channel whose clean end has ended an actor last
        self.cause: BaseException | None = None
        self._cancelled = False
        self._drainer: asyncio.Task[None] | None = None
        self._fn = fn
        self._args = args
        self._failed = failed
        self._ended = ended
        self._on_loop = _is_async(fn)
        self._works: list[Any] = []  # prepared, not started

    def __repr__(self) -> str:
        return f"<stage {self.name}: {self.live} of {self.started} actors live>"

    @property
    def live(self) -> int:
        """How many actors have not ended."""
        return len(self._running)

    @property
    def actors(self) -> list[Actor]:
        """The actors that have not ended."""
        return list(map(LoopActor, self._running) if self._on_loop else self._running)

    def prepare(self, actors: int) -> None:
        """Make ready that many actors and take hold of all ends, or do nothing at all.

        Raises what calling the function raises; ValueError for an end closed by its owners.
        """
        try:
            if self._on_loop and actors == 1:
                self._works.append(self._fn(*self._args))
            elif self._on_loop:
                # Extended: what was made before a failure stays, and is closed.
                calls = itertools.repeat(self._args, actors)
                self._works.extend(itertools.starmap(self._fn, calls))
            else:
                self._works += [functools.partial(self._fn, *self._args)] * actors
            self._hold()
        except BaseException:
            for work in self._works:
                if inspect.iscoroutine(work):
                    work.close()
            raise

    def _hold(self) -> None:
        held = 0
        try:
            for channel, end, _ in self.wiring.holds:
                channel._hold(end)
                held += 1
        except BaseException:
            for channel, end, _ in self.wiring.holds[:held]:
                channel._unhold(end)
            raise

    def start(self) -> None:
        """Start what was prepared."""
        works, self._works = self._works, []
        first = 0 if len(works) == 1 and not self.started else self.started + 1
        self.started += len(works)
        if self._on_loop:
            self._running |= start_on_loop(works, self.name, first, self._task_ended)
        else:
            for number, work in enumerate(works, first):
                name = f"{self.name}#{number}" if number else self.name
                self._running[ThreadedActor(name, work, self._thread_ended)] = None
        if self._cancelled:  # by an actor itself, where tasks start eagerly
            for actor in self.actors:
                actor.cancel()

    def cancel(self, cause: BaseException) -> None:
        """End all actors, once; `cause` is what the channels will be closed with."""
        if self.cause is None:
            self.cause = cause
        if self._cancelled:
            return  # a second cancellation would interrupt their cleaning up
        self._cancelled = True
        if self._drainer is not None:
            self._drainer.cancel()
        for actor in self.actors:
            actor.cancel()

    def stop(self) -> None:
        """End a source so that nothing it has sent, or is sending, is lost."""
        if self.stopping:
            return
        self.stopping = True
        drain = getattr(_target(self._fn), "drain", None)
        if drain is not None:
            self._drainer = asyncio.create_task(self._drain(drain), name=f"{self.name}.drain")
        else:
            for actor in self.actors:
                actor.stop()

    async def _drain(self, drain: Callable[[], Any]) -> None:
        try:
            await drain()
        except (Exception, asyncio.CancelledError) as error:
            if not self._cancelled:  # else it was told to stop, by `cancel`
                _log.error("%s: drain() failed; cancelling it", self.name, exc_info=error)
                for actor in self.actors:
                    actor.cancel()
        finally:
            self._drainer = None
            self._check_ended()

    def abandon_threads(self) -> list[ThreadedActor]:
        """Take the actors that run in threads for ended; returns them."""
        left = [] if self._on_loop else list(self._running)
        for actor in left:
            actor.abandon()
        return left

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._actor_raised(LoopActor(task), error)
        self._check_ended()

    def _thread_ended(self, actor: ThreadedActor, error: BaseException | None) -> None:
        self._running.pop(actor, None)
        if error is not None:
            self._actor_raised(actor, error)
        self._check_ended()

    def _actor_raised(self, actor: Actor, error: BaseException) -> None:
        if not self._ended_well(error):
            self._failed(self, actor, error)
        elif isinstance(error, Closed):
            self.closed_by = error.channel

    def _check_ended(self) -> None:
        if not self._running and self._drainer is None:
            self._ended(self)

    def _ended_well(self, error: BaseException) -> bool:
        """Cancellation is never a failure, nor is the clean end of a channel that it holds."""
        if isinstance(error, asyncio.CancelledError):
            return True
        if not isinstance(error, Closed) or error.__cause__ is not None:
            return False
        return any(hold.channel is error.channel for hold in self.wiring.holds)

    def let_go(self) -> list[Channel[Any]]:
        """Release all ends; returns the inboxes that this closed while their senders went on.

        What it was started with is let go of too: it may be large, and messages must not linger.
        """
        self._fn, self._args = _nothing, ()
        cut: list[Channel[Any]] = []
        for channel, end, _ in self.wiring.holds:
            if channel._release(end, self.cause) and end == "receive":
                cut.append(channel)
        return cut


@contextmanager
def nothing_to_collect() -> Generator[None]:
    """For a section that makes many actors and no garbage.

    Of a hundred thousand, half the time would go into looking for garbage among what was just
    made, again and again.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # all that there is goes to the oldest generation, unseen
            gc.freeze()
            gc.unfreeze()
        gc.enable()


def stage_name(fn: Callable[..., Any]) -> str:
    """What a stage is called by default: its function, or its object's own name."""
    target = _target(fn)
    for attribute in ("__name__", "name"):
        name = getattr(target, attribute, None)
        if isinstance(name, str) and name:
            return "lambda" if name == "<lambda>" else name
    return type(target).__name__


def _target(fn: Callable[..., Any]) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _is_async(fn: Callable[..., Any]) -> bool:
    """TypeError for a generator function, of which calling it would run nothing."""
    if type(fn) is types.FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    target = _target(fn)
    if not inspect.isroutine(target) and not inspect.iscoroutinefunction(target):
        target = type(target).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise TypeError(
            f"{stage_name(fn)} is a generator function (it has a `yield`), which go cannot run: "
            f"send its values to a channel, or use go(emit({stage_name(fn)}(...)), out)"
        )
    return inspect.iscoroutinefunction(target)


def _nothing() -> None:
    """What an ended stage runs."""
