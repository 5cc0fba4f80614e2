"""Group: actors with an owner. Nothing that it starts outlives its block.

Rules, in order of weight
1. The block ends when every actor has ended. The first failure cancels the others (structured
   concurrency: Sústrik's libdill, trio's nurseries, asyncio.TaskGroup).
2. Channels close by ownership: when the last stage that holds an end lets go of it. So a pipeline
   drains downwards and stops upwards with nothing written for it.
3. The group learns of an actor's end on the loop's thread, once; all of its state belongs there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, Never, NoReturn, TypeVarTuple

from tailrace.errors import Closed
from tailrace.group.activity import ActorState
from tailrace.group.actor import Actor, TaskActor
from tailrace.group.awaits import place_of, waits_for
from tailrace.group.checks import check_callable, stage_name
from tailrace.group.graph import Graph
from tailrace.group.idle import Idleness, joining
from tailrace.group.nest import Nest, enclosing
from tailrace.group.notices import Notices, log_hidden
from tailrace.group.parent import Parent
from tailrace.group.stage import MANY, Stage, nothing_to_collect
from tailrace.group.topology import Topology
from tailrace.group.watch import Watch
from tailrace.group.wiring import wire
from tailrace.usercode import add_note, is_a
from tailrace.worker import leave_behind

_log = logging.getLogger("tailrace")

Ts = TypeVarTuple("Ts")


class Group:
    """The owner of actors: ``async with Group() as go:``, then ``go(fn, *args)`` for each stage.

    Leaving the block waits until all actors have ended (`on_exit="wait"`), after telling the
    sources to stop (`"drain"`) or ending all (`"cancel"`). Failures are raised as an
    `ExceptionGroup`, each noted with its actor, stage and channels. When every actor has been
    parked on a channel for `stall_after` seconds (None: never), the wait-for graph is logged,
    once.

    Cancelled while it waits: all actors are cancelled and waited for, then the cancellation
    goes on.
    """

    def __init__(
        self,
        *,
        on_exit: Literal["wait", "drain", "cancel"] = "wait",
        stall_after: float | None = 30.0,
    ) -> None:
        if on_exit not in ("wait", "drain", "cancel"):
            raise ValueError(f"on_exit must be 'wait', 'drain' or 'cancel', not {on_exit!r}")
        if stall_after is not None and not stall_after > 0:
            raise ValueError(f"stall_after must be seconds above 0 or None, not {stall_after!r}")
        self._on_exit = on_exit
        self._stall_after = stall_after
        self._topology = Topology()
        self._live: dict[Stage, None] = {}  # in the order of their start
        self._failures: dict[int, BaseException] = {}  # each once, whoever else raised it
        self._state: Literal["new", "open", "leaving", "ended"] = "new"
        self._draining = False
        self._cause: BaseException | None = None  # why all are being cancelled
        self._parent: Parent | None = None  # from when the block is entered
        self._outer_cancel: asyncio.CancelledError | None = None  # by others, while we joined
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Future[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()  # of `wait`
        self._nest: Nest | None = None  # of the stage, or main, inside which it was entered
        self._main: Nest | None = None  # where the block's code is a source: under `run`
        self._patient: set[asyncio.Task[Any] | None] = set()  # that are in `wait` or `idle`
        self._spared = False  # by a drain that found it in `wait` or `idle`
        self._notices = Notices(self._topology)
        self._watch: Watch | None = None  # from when the block is entered
        self._idleness: Idleness | None = None
        self._abandon_after: float | None = None  # set by `run`

    def __repr__(self) -> str:
        stages = ", ".join(f"{s.name} ({s.live})" for s in self._live) or "no actors"
        return f"<Group {self._state}{', draining' if self._draining else ''}: {stages}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that its actors run on. RuntimeError before the block is entered."""
        if self._loop is None:
            raise RuntimeError("this group has no loop yet: enter its block first")
        return self._loop

    @property
    def parent(self) -> asyncio.Task[Any] | None:
        """The task that has entered its block, while it is there."""
        return None if self._parent is None else self._parent.task

    # Starting.

    def __call__(
        self,
        fn: Callable[[*Ts], Awaitable[None] | None],
        /,
        *args: *Ts,
        actors: int = 1,
        name: str | None = None,
        source: bool | None = None,
        background: bool = False,
        **unknown: Never,
    ) -> None:
        """Start a stage: that many `actors` running ``fn(*args)`` concurrently.

        A coroutine function, or an object whose `__call__` is one, runs on the loop; a plain
        function on a thread of its own (give it ``channel.sync``). The stage holds the end of
        each channel that the annotations of `fn` name, until all its actors have ended. `name`
        is `fn`'s unless given; `source` says whether `drain` stops it (by default, if it
        receives nothing); a `background` stage is cancelled once all others have ended.

        TypeError, before anything starts, when the arguments do not fit; ValueError for
        ``actors < 1`` or an end that its owners have closed; RuntimeError outside the block.
        """
        self._check_open()
        check_callable(fn)
        if unknown:
            name = stage_name(fn)
            given = ", ".join(f"{keyword}=..." for keyword in unknown)
            raise TypeError(
                f"go has no keyword {', '.join(map(repr, unknown))}; one of {name}'s own is given "
                f"by go(functools.partial({name}, {given}), ...)"
            )
        if not isinstance(actors, int) or isinstance(actors, bool) or actors < 1:
            raise ValueError(f"actors must be a whole number of at least 1, not {actors!r}")
        called = name or stage_name(fn)
        wiring = wire(called, fn, args)
        unique, ordinal = self._topology.name_for(called, given=name is not None)
        stage = Stage(self, unique, fn, args, wiring, ordinal, source, background)
        actors = self._actors_of(unique, actors)
        if actors < MANY:
            self._start(stage, actors, called)
        else:
            with nothing_to_collect():
                self._start(stage, actors, called)
        if self._draining:
            self._stop(stage)
        self._seen_by().started(stage)

    def _start(self, stage: Stage, actors: int, called: str) -> None:
        """All of it or, where its function or a channel refuses, nothing."""
        calls = stage.prepare(actors)
        self._topology.add(stage.name, called, stage.ordinal, stage.wiring.holds)
        self._live[stage] = None  # before it starts: an eager task may cancel them all
        stage.start(calls)

    def _actors_of(self, stage: str, actors: int) -> int:
        """How many actors a stage gets, for a group made by the command line to overrule."""
        return actors

    def _check_open(self) -> None:
        if self._state in ("new", "ended"):
            when = "before its block" if self._state == "new" else "after its block has ended"
            raise RuntimeError(f"go was called {when}; use it inside `async with Group() as go:`")
        if self._cause is not None:
            raise RuntimeError(
                f"go was called in a group that is being cancelled ({self._cause!r})"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("go was called from another event loop than its group's")

    # Ending.

    def drain(self) -> None:
        """Stop the sources; the rest ends as its inboxes close. Nothing accepted is lost.

        A source whose object has a `drain` method is asked by that; another one that is parked
        in a send finishes it, and is cancelled at its next other await. One that has entered
        groups of its own is left to them, and they are drained; if it goes on for a second after
        them, it is stopped like another source. Calling it again does nothing.

        The code of an async main function under `run` is such a source, unless it waits in
        `wait` or `idle`, or for a task that does.
        """
        first = not self._draining
        self._draining = True
        for stage in list(self._live):
            self._stop(stage)
        if first and self._main is not None:
            self._main.stop()
        if self._live:
            self._seen_by().cancelled()

    def _stop(self, stage: Stage) -> None:
        """Stop a source. A background actor that feeds nothing ends with the others anyway."""
        if stage.source and (not stage.background or stage.wiring.holds):
            stage.stop()

    def cancel(self) -> None:
        """Cancel every actor, and the block itself unless it is the one that calls."""
        self._cancel_all(asyncio.CancelledError("the group was cancelled"))
        if self._state == "open" and asyncio.current_task() is not self.parent:
            self._interrupt_block()

    def _cancel_all(self, cause: BaseException) -> None:
        if self._cause is not None or self._state == "ended":
            return  # once: ten thousand failures must not each go round ten thousand stages
        self._cause = cause
        if self._abandon_after is not None:
            self.loop.call_later(self._abandon_after, self.abandon_threads)
        for stage in list(self._live):
            stage.cancel(cause)
        self._seen_by().cancelled()

    def abandon_threads(self) -> None:
        """Stop waiting for actors in threads that cannot be made to end, and say so."""
        left = [actor.name for stage in list(self._live) for actor in stage.abandon_threads()]
        for name in (*left, *leave_behind(self.loop)):
            _log.warning(
                "%s is still running in its thread, which cannot be cancelled; not waiting "
                "for it any longer",
                name,
            )

    def threads(self) -> list[str]:
        """The names of the actors in threads that are not parked on a channel."""
        return [
            actor.name
            for stage in self._live
            for actor in stage.threads
            if actor.activity().since is None
        ]

    def _stop_block(self) -> None:
        """Stop the code of the block as a source, unless it waits for the actors."""
        parent = self.parent
        if self._state != "open" or parent is None or parent is asyncio.current_task():
            return
        nest = self._main or self._nest
        if nest is None or nest.has_stopped(parent):
            return
        around: Any = nest.around(self)
        for group in around:
            group._spared = group._spared or waits_for(parent, group._patient)
        if any(group._spared for group in around):
            return
        for group in around:  # its cancellation comes through all of them
            group._parent.stopped = True
        nest.note_stopped(parent)
        if self._main is not None and any(group._live for group in around):
            _log.info(
                "%s is cut off by the drain, as a source%s: to outlast its actors, it would wait "
                "for them, `await go.wait()`",
                parent.get_name(),
                place_of(parent, before=", "),
            )
        TaskActor(parent).stop()

    def _interrupt_block(self) -> None:
        if self._parent is not None:
            self._parent.interrupt()

    def _actor_failed(self, stage: Stage, actor: Actor, error: BaseException) -> None:
        if stage.cause is None:
            stage.cause = error
        if is_a(error, Closed) and error.__cause__ is not None and self._cause is not None:
            return  # the news of a failure that is known already, come down a channel
        self._failures[id(error)] = error
        try:
            self._cancel_all(error)
            if self._state == "open":
                self._interrupt_block()
        finally:  # last, as it asks objects of users for their names
            add_note(error, self._notices.note_on_failure(stage, actor.name))

    def _actor_ended(self) -> None:
        """An actor has ended, and its stage has others."""
        if self._waiters:
            self._wake_waiters()

    def _stage_ended(self, stage: Stage) -> None:
        del self._live[stage]
        self._seen_by().ended(stage)
        changed = self._changed
        if changed is not None and not changed.done() and self._none_is_waited_for():
            changed.set_result(None)
        if self._waiters:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self._others_have_ended():
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _others_have_ended(self) -> bool:
        """Whether the actors that live are in the background or wait for the others themselves."""
        return all(
            stage.background
            or (not stage.threads and all(waits_for(each, self._patient) for each in stage.tasks))
            for stage in self._live
        )

    def _stage_lets_go(self, stage: Stage) -> None:
        if self._cause is None and not self._draining:
            self._notices.let_go(stage)
        else:
            stage.let_go()
        # One of many, for each connection say, is not kept for ever.
        self._topology.ended(
            stage.name, stage.started, stage.wiring.holds, forget=stage.ordinal > 1
        )
        self._notices.forget(stage)

    # The block.

    async def __aenter__(self) -> Group:
        if self._state != "new":
            raise RuntimeError("a Group is entered once; make a new one")
        self._loop = asyncio.get_running_loop()
        self._parent = parent = Parent()
        self._state = "open"
        self._watch = Watch(
            self._loop, self._live, self._topology, self._stall_after, self._block_acts
        )
        self._idleness = Idleness(self._loop, self._live)
        nest = self._nest = enclosing.get()
        if nest is not None:
            nest.add(self)
            if nest.stopping and parent.task is not None and not parent.cancellations:
                nest.note_stopped(parent.task)
                parent.task.cancel()  # a source that was stopped begins nothing new
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # a plain bool would make checkers expect it to swallow exceptions
        assert self._parent is not None
        self._state = "leaving"
        cancelled = error if is_a(error, asyncio.CancelledError) else None
        if self._parent.interrupted:
            cancelled = await self._parent.absorb_interruption(error)
        if error is not None:
            if not is_a(error, asyncio.CancelledError) or not self._parent.take_stop():
                self._cancel_all(error)
        elif self._on_exit == "cancel":
            self.cancel()
        elif self._on_exit == "drain":
            self.drain()
        await self._join()
        cancelled, self._outer_cancel = self._outer_cancel or cancelled, None
        if is_a(error, Exception):
            self._failures = {id(error): error, **self._failures}
        failures, self._failures = list(self._failures.values()), {}
        self._end()
        try:  # a traceback that ends here must not keep what it belongs to alive
            if error is not None and not is_a(error, (Exception, asyncio.CancelledError)):
                log_hidden(failures)
                return False  # KeyboardInterrupt and the like pass as they are
            if failures:
                self._raise(failures, cancelled)
            if cancelled is None:
                return True
            if cancelled is error:
                return False
            raise cancelled
        finally:
            del error, traceback, cancelled, failures

    def _end(self) -> None:
        """Nothing runs any more: let go of everything that could form a reference cycle."""
        self._state = "ended"
        self._cause = None
        self._seen_by().stop()
        for nest in (self._nest, self._main):
            if nest is not None:
                nest.remove(self)

    def _raise(
        self, failures: list[BaseException], cancelled: asyncio.CancelledError | None
    ) -> NoReturn:
        if cancelled is not None and self._parent is not None:
            # Failures come first, as in asyncio.TaskGroup, but whoever handles them must not
            # thereby have swallowed the cancellation: it comes anew at a later await.
            self._parent.cancel_anew()
        for error in failures:
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                log_hidden([other for other in failures if other is not error])
                raise error  # as it is: the process is to end
        # From None: where the block has failed it is among them, with its own traceback.
        raise BaseExceptionGroup(f"{len(failures)} failed in the group", failures) from None

    async def _join(self) -> None:
        """Wait until all actors have ended, noting a cancellation that comes meanwhile."""
        while self._live:
            if self._none_is_waited_for():
                for stage in list(self._live):
                    stage.cancel(asyncio.CancelledError("all others have ended"))
                self._seen_by().cancelled()
            self._changed = asyncio.get_running_loop().create_future()
            try:
                with joining(self._idleness):
                    await self._changed
            except asyncio.CancelledError as error:
                self._outer_cancel = error
                if self._parent is None or not self._parent.take_stop():
                    self._cancel_all(error)
            finally:
                self._changed = None

    def _block_acts(self) -> bool:
        """Whether the code of the block does anything but wait for the actors."""
        parent = self.parent
        return self._state == "open" and (parent is None or not waits_for(parent, self._patient))

    def _none_is_waited_for(self) -> bool:
        return all(stage.background for stage in self._live)

    async def wait(self) -> None:
        """Return when all actors have ended, but those in the background.

        For a block that holds a client or a pool open for as long as its pipeline runs: a drain
        under `run` leaves alone what waits here, or for a task that does. An actor that waits
        here waits for the others. Cancelled: nothing has changed. RuntimeError outside the block.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("wait was called from another event loop than its group's")
        me = asyncio.current_task()
        self._patient.add(me)
        try:
            self._wake_waiters()  # those that have waited for nothing but this one
            while not self._others_have_ended():
                waiter: asyncio.Future[None] = self.loop.create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
        finally:
            self._patient.discard(me)

    # Watching.

    def actors(self) -> list[ActorState]:
        """What every live actor is doing and for how long: the wait-for graph.

        RuntimeError before the block is entered.
        """
        return self._seen_by().actors()

    async def idle(self) -> None:
        """Return when every other actor is parked in a receive and their inboxes are empty.

        A receive with a timeout, or in a select with `after`, a ticker or `done`, is none: it can
        end without a value. How a feedback loop, such as a crawler, knows that it is done.
        Background actors do not count, nor do those that wait here too. RuntimeError before the
        block is entered. Cancelled: nothing has changed.
        """
        self._seen_by()
        assert self._idleness is not None
        me = asyncio.current_task()
        self._patient.add(me)
        try:
            await self._idleness.wait()
        finally:
            self._patient.discard(me)

    def _seen_by(self) -> Watch:
        if self._watch is None:
            raise RuntimeError("this group has no actors yet: enter its block first")
        return self._watch

    def graph(self) -> Graph:
        """The topology known from the annotations: stages, channels, and who feeds whom."""
        return self._topology.graph({stage.name: stage.started for stage in self._live})
