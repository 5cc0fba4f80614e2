"""Group: the owner of actors. It starts them, and ends when all of them have ended.

Rules, in order of weight
1. The block ends when every actor has ended. The first failure cancels the others (structured
   concurrency: Sústrik's libdill, trio's nurseries, asyncio.TaskGroup).
2. A channel closes when the last stage that holds one of its ends lets go of that end. So
   end-of-stream flows down a pipeline and stop flows up, without shutdown code.
3. All state of a group belongs to the thread of its loop. There it learns of the end of each
   actor, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, Never, TypeVarTuple

from tailrace.account import Account
from tailrace.arguments import check_seconds
from tailrace.errors import Closed
from tailrace.group.activity import ActorState
from tailrace.group.actor import Actor, TaskActor
from tailrace.group.awaits import place_of, waits_for
from tailrace.group.checks import check_loop, check_options, is_posted, stage_name
from tailrace.group.graph import Graph
from tailrace.group.idle import joining
from tailrace.group.nest import Nest, nest_around
from tailrace.group.notices import Notices, log_hidden, raise_failures
from tailrace.group.parent import Parent
from tailrace.group.restart import Restart
from tailrace.group.stage import MANY, Stage, nothing_to_collect
from tailrace.group.topology import Topology
from tailrace.group.watch import Watch
from tailrace.group.wiring import wire
from tailrace.ledger import Ledger
from tailrace.usercode import add_note, is_a
from tailrace.worker import leave_behind

_log = logging.getLogger("tailrace")

Ts = TypeVarTuple("Ts")


class Group:
    """The owner of actors: ``async with Group() as go:``, then ``go(fn, *args)`` for each stage.

    Leaving the block waits until all actors have ended. Before that it stops the sources
    (`on_exit="drain"`), cancels all actors (`"cancel"`), or does neither (`"wait"`). Failures are
    raised as an `ExceptionGroup`; a note on each names its actor, stage and channels. If every
    actor has been parked on a channel for `stall_after` seconds (None: never), the wait-for graph
    is logged, once.

    Cancelled while it waits: the group cancels all actors, waits for their end, and then raises
    the CancelledError.
    """

    def __init__(
        self,
        *,
        on_exit: Literal["wait", "drain", "cancel"] = "wait",
        stall_after: float | None = 30.0,
    ) -> None:
        if on_exit not in ("wait", "drain", "cancel"):
            raise ValueError(f"on_exit must be 'wait', 'drain' or 'cancel', not {on_exit!r}")
        if stall_after is not None:
            check_seconds("stall_after", stall_after, positive=True, endless=True)
        self._on_exit = on_exit
        self._stall_after = stall_after
        self._topology = Topology()
        self._live: dict[Stage, None] = {}  # in the order of their start
        self._failures: dict[int, BaseException] = {}  # by `id`: two actors may raise one exception
        self._state: Literal["new", "open", "leaving", "ended"] = "new"
        self._draining = False
        self._cause: BaseException | None = None  # why all actors were cancelled
        self._parent: Parent | None = None  # from when the block is entered
        self._outer_cancel: asyncio.CancelledError | None = None  # came during `_join`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all_ended: asyncio.Future[None] | None = None  # what `_join` awaits
        self._wait_futures: set[asyncio.Future[None]] = set()  # what `wait` awaits
        # The tasks in `wait` or `idle`, and in which of the two.
        self._waiting: dict[asyncio.Task[Any] | None, Literal["wait", "idle"]] = {}
        # A drain has found the block's task in `wait` or `idle`, or waiting for a task that is: so
        # the drain does not cancel it.
        self._spared = False
        self._nest: Nest | None = None  # of the stage, or main function, that entered the block
        # Set by `run`: the nest of the main function, whose code counts as a source.
        self._main: Nest | None = None
        self._abandon_after: float | None = None  # set by `run`: see `abandon_threads`
        self._ledger = Ledger()
        self._notices = Notices(self._topology)
        self._watch: Watch | None = None  # from when the block is entered

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
        """The task that has entered the block."""
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
        restart: Restart | None = None,
        **unknown: Never,
    ) -> None:
        """Start a stage: as many `actors` as given, each of which runs ``fn(*args)``.

        If `fn` is a coroutine function, or an object whose `__call__` is one, the actors run on
        the loop. If it is a plain function, each runs on a thread of its own (pass it
        ``channel.sync``). The stage holds the channel ends that the annotations of `fn` name,
        until all its actors have ended. `name` is by default that of `fn`. `source` says whether
        `drain` stops the stage; by default, if the stage receives from no channel. A `background`
        stage is cancelled once all others have ended. With `restart`, an actor that raises an
        Exception is started again; the messages that it had in hand are lost.

        TypeError if the arguments do not fit; ValueError for ``actors < 1``, a `name` that is
        taken, or an end that its owners have closed; RuntimeError outside the block. Then nothing
        has been started.
        """
        self._check_open()
        check_options(fn, actors, restart, unknown)
        called = name or stage_name(fn)
        wiring = wire(called, fn, args)
        unique, ordinal = self._topology.name_for(called, given=name is not None)
        stage = Stage(self, unique, fn, args, wiring, ordinal, source, background, restart)
        actors = self._actors_of(unique, actors)
        if actors < MANY:
            self._start(stage, actors, called)
        else:
            with nothing_to_collect():
                self._start(stage, actors, called)
        if self._draining:
            self._stop(stage)
        self._watching.started(stage)

    def _start(self, stage: Stage, actors: int, called: str) -> None:
        """Start all actors of `stage`, or none if its function or a channel refuses."""
        calls = stage.prepare(actors)
        self._topology.add(stage.name, called, stage.ordinal, stage.wiring.holds)
        self._live[stage] = None  # first: an eager task may cancel all stages
        stage.start(calls)

    def _actors_of(self, stage: str, actors: int) -> int:
        """How many actors a stage gets. The group of the command line overrides this."""
        return actors

    def _check_open(self) -> None:
        if self._state in ("new", "ended"):
            when = "before its block" if self._state == "new" else "after its block has ended"
            raise RuntimeError(f"go was called {when}; use it inside `async with Group() as go:`")
        if self._cause is not None:
            raise RuntimeError(
                f"go was called in a group that is being cancelled ({self._cause!r})"
            )
        check_loop("go", self.loop)

    # Ending.

    def drain(self) -> None:
        """Stop the sources. The other stages end as their inboxes close; no value is lost.

        How a source is stopped: if its object has a `drain` method, that is called. If it has
        entered groups of its own, these are drained, and one second after they have ended the
        source is stopped, if it still runs. Otherwise it finishes the send that it is parked in,
        and is cancelled at its next other await. Any thread may call this.
        A second call does nothing.

        Under `run`, the code of an async main function is a source too, unless it waits in `wait`
        or `idle`, or for a task that does.
        """
        if self._loop is not None and is_posted(self._loop, self.drain):
            return
        first = not self._draining
        self._draining = True
        for stage in list(self._live):
            self._stop(stage)
            if stage.restarts is not None:
                stage.restarts.hurry()
        if first and self._main is not None:
            self._main.stop()
        if self._live:
            self._watching.cancelled()

    def _stop(self, stage: Stage) -> None:
        """Stop `stage` if it is a source.

        A background stage without channels is left alone: it is cancelled when all others have
        ended.
        """
        if stage.source and (not stage.background or stage.wiring.holds):
            stage.stop()

    def cancel(self) -> None:
        """Cancel every actor, and the code of the block unless that is the caller.

        Any thread may call this.
        """
        if self._loop is not None and is_posted(self._loop, self.cancel):
            return
        self._cancel_all(asyncio.CancelledError("the group was cancelled"))
        if asyncio.current_task() is not self.parent:
            self._interrupt_block()

    def _cancel_all(self, cause: BaseException) -> None:
        if self._cause is not None or self._state == "ended":
            return  # once: each of ten thousand failures would visit ten thousand stages
        self._cause = cause
        if self._abandon_after is not None:
            self.loop.call_later(self._abandon_after, self.abandon_threads)
        for stage in list(self._live):
            stage.cancel(cause)
        self._watching.cancelled()

    def abandon_threads(self) -> None:
        """Stop waiting for actors in threads, which cannot be forced to end. Logs each one."""
        left = [actor.name for stage in list(self._live) for actor in stage.abandon_threads()]
        for name in (*left, *leave_behind(self.loop)):
            _log.warning(
                "%s is still running in its thread, which cannot be cancelled; not waiting "
                "for it any longer",
                name,
            )

    def threads(self) -> list[str]:
        """The names of the actors in threads that are not parked on a channel.

        Nothing can cancel those.
        """
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
            group._spared = group._spared or group._waits(parent)
        if any(group._spared for group in around):
            return
        # One task entered them all, so each block sees this cancellation and must know that it is a
        # drain's.
        for group in around:
            group._parent.stopped = True
        nest.note_stopped(parent)
        if self._main is not None and any(group._live for group in around):
            _log.info(
                "the drain cancels %s%s, as it is a source: to outlast its actors, have it wait "
                "for them, `await go.wait()`",
                parent.get_name(),
                place_of(parent, before=", "),
            )
        TaskActor(parent).stop()

    def _interrupt_block(self) -> None:
        if self._state == "open" and self._parent is not None:
            self._parent.interrupt()

    def _actor_failed(self, stage: Stage, actor: Actor, error: BaseException) -> None:
        if stage.cause is None:
            stage.cause = error
        if is_a(error, Closed) and error.__cause__ is not None and self._cause is not None:
            return  # a failure that is known already, and has come down a channel
        self._failures[id(error)] = error
        try:
            self._cancel_all(error)
            self._interrupt_block()
        finally:  # last: the note asks users' objects for their names
            add_note(error, self._notices.note_on_failure(stage, actor.name))

    def _stage_ended(self, stage: Stage) -> None:
        del self._live[stage]
        self._watching.ended(stage)
        joined = self._all_ended
        if joined is not None and not joined.done() and self._only_background_left():
            joined.set_result(None)
        self._actor_ended()

    def _actor_ended(self) -> None:
        """Resume the tasks in `wait` if nobody is left to wait for."""
        if self._wait_futures and self._others_have_ended():
            for waiter in self._wait_futures:
                if not waiter.done():
                    waiter.set_result(None)

    def _others_have_ended(self) -> bool:
        """Whether each live actor is in the background, or waits in `wait` or `idle`."""
        return all(
            stage.background or (not stage.threads and all(map(self._waits, stage.tasks)))
            for stage in self._live
        )

    def _waits(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task is in `wait` or `idle`, or waits for one that is."""
        return waits_for(task, self._waiting)

    def _stage_lets_go(self, stage: Stage) -> None:
        if self._cause is None and not self._draining:
            self._notices.let_go(stage)
        else:
            stage.let_go()
        # A stage that is one of many (one for each connection, say) is forgotten.
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
        self._ledger.enter()  # the block's code may make messages, too
        nest = self._nest = nest_around()
        if nest is not None:
            nest.add(self)
            if nest.stopping and parent.task is not None and not parent.cancellations:
                nest.note_stopped(parent.task)
                parent.task.cancel()  # a stopped source starts no new group
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # with a plain bool, type checkers think that it swallows exceptions
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
        try:  # no local may keep the exceptions alive through a traceback
            if error is not None and not is_a(error, (Exception, asyncio.CancelledError)):
                log_hidden(failures)
                return False  # KeyboardInterrupt and the like pass as they are
            if failures:
                raise_failures(failures, cancelled, self._parent)
            if cancelled is None:
                return True
            if cancelled is error:
                return False
            raise cancelled
        finally:
            del error, traceback, cancelled, failures

    def _end(self) -> None:
        """Nothing runs any more: let go of what could form a reference cycle."""
        self._state = "ended"
        self._cause = None
        self._ledger.leave()
        self._watching.stop()
        for nest in (self._nest, self._main):
            if nest is not None:
                nest.remove(self)

    async def _join(self) -> None:
        """Wait until all actors have ended. Note a cancellation that comes meanwhile."""
        while self._live:
            if self._only_background_left():
                for stage in list(self._live):
                    stage.cancel(asyncio.CancelledError("all others have ended"))
                self._watching.cancelled()
            self._all_ended = asyncio.get_running_loop().create_future()
            try:
                with joining(self._watching.idleness):
                    await self._all_ended
            except asyncio.CancelledError as error:
                self._outer_cancel = error
                if self._parent is None or not self._parent.take_stop():
                    self._cancel_all(error)
            finally:
                self._all_ended = None

    def _block_acts(self) -> bool:
        """Whether the code of the block may still use channels: it does not wait for the actors."""
        parent = self.parent
        return self._state == "open" and (parent is None or not self._waits(parent))

    def _only_background_left(self) -> bool:
        return all(stage.background for stage in self._live)

    async def wait(self) -> None:
        """Return when all actors but those in the background have ended.

        Use it in a block that holds a client or a pool open while its pipeline runs. A drain under
        `run` does not cancel a main function that waits here, or waits for a task that does. An
        actor may wait here for all others. RuntimeError outside the block. Cancelled: nothing has
        changed.
        """
        check_loop("wait", self.loop)
        me = asyncio.current_task()
        self._waiting[me] = "wait"
        try:
            self._actor_ended()  # this task may be all that others have waited for
            while not self._others_have_ended():
                waiter: asyncio.Future[None] = self.loop.create_future()
                self._wait_futures.add(waiter)
                try:
                    await waiter
                finally:
                    self._wait_futures.discard(waiter)
        finally:
            self._waiting.pop(me, None)

    # Watching.

    def actors(self) -> list[ActorState]:
        """What each live actor is doing and for how long: the wait-for graph.

        RuntimeError before the block is entered.
        """
        return self._watching.actors()

    async def idle(self) -> None:
        """Return when every other actor is parked in a receive and all inboxes are empty.

        By this a feedback loop, such as a crawler, knows that it is done. A receive that can end
        without a value (one with a timeout, or in a select with `after`, `ticker` or `done`) does
        not count as idle. Background actors do not count, nor actors that wait here too.
        RuntimeError before the block is entered. Cancelled: nothing has changed.
        """
        idleness = self._watching.idleness
        check_loop("idle", self.loop)
        me = asyncio.current_task()
        self._waiting[me] = "idle"
        try:
            await idleness.wait()
        finally:
            self._waiting.pop(me, None)

    @property
    def _watching(self) -> Watch:
        if self._watch is None:
            raise RuntimeError("this group has no actors yet: enter its block first")
        return self._watch

    def account(self) -> Account:
        """How many messages the sources of this group have let in, and what became of them.

        Counted is each message that a source, the code of the block, or `submit` has made; not the
        parts and joins of messages, nor what a stage that receives makes. A message that is sent
        again counts again. Groups that were entered inside this one are included. May be called at
        any time, from any thread.
        """
        return self._ledger.account()

    def graph(self) -> Graph:
        """The stages and channels, and which feed which, as far as annotations say."""
        return self._topology.graph({stage.name: stage.started for stage in self._live})
