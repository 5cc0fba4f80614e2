"""The watch of a group: what its actors do, and warnings about actors that may never go on.

It looks after a second, and then less and less often. Each look is bounded. It warns, once each, of

- a stall (see `stall`) that has lasted `stall_after` seconds;
- an actor that has been parked for a second on a channel whose other end nobody holds or has held;
- an actor that has not ended a second after it was cancelled;
- an actor that is parked in a receive while one of its variables has the last reference to an
  unsettled message, so that no other code can settle it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from weakref import WeakSet

from tailrace import _core
from tailrace._core import End, Verb
from tailrace.channel import Channel
from tailrace.clockwork import timer_pending
from tailrace.group.activity import ActorState, ActorVerb, activity_of, look_later
from tailrace.group.actor import Actor, TaskActor
from tailrace.group.awaits import await_chain, frame_of, line_of, place_of
from tailrace.group.idle import Idleness
from tailrace.group.stage import Stage
from tailrace.group.stall import stalled
from tailrace.group.topology import Topology

_log = logging.getLogger("tailrace")

PATIENCE: Final = 1.0
"""For how many seconds an actor may be parked, or not end, before a warning."""
SHORTEST: Final = 1.01
LONGEST: Final = 8.0
"""Seconds between two looks. The pause doubles; a new stage makes it the shortest again, which is
just above `PATIENCE`."""
FRAMES: Final = 100
"""Of how many actors one look reads the variables."""


class Watch:
    """Looks at the actors of one group."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        live: Mapping[Stage, None],
        topology: Topology,
        stall_after: float | None,
        block_acts: Callable[[], bool],
    ) -> None:
        self.idleness = Idleness(loop, live)
        self._loop = loop
        self._live = live
        self._topology = topology
        self._stall_after = stall_after
        self._block_acts = block_acts  # whether the code of the group's block may use channels
        rare = LONGEST if stall_after is None else min(LONGEST, stall_after / 4)
        self._shortest = min(SHORTEST, rare)
        self._longest = max(self._shortest, rare)
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stubborn_timer: asyncio.TimerHandle | None = None
        self._stubborn: WeakSet[asyncio.Task[Any]] = WeakSet()  # named in a warning
        self._stall_logged = False
        self._one_sided: dict[Stage, None] = {}  # stages with an end that may have no other end
        self._used_unheld: WeakSet[Channel[Any]] = WeakSet()  # maybe, by stages that have ended
        self._named: set[str] = set()  # channels and stages in a warning about them
        self._next_frames = 0  # at which actor the next look begins to read variables

    def __repr__(self) -> str:
        return f"<Watch of {len(self._live)} stages, every {self._pause:g} s>"

    def actors(self) -> list[ActorState]:
        """As `Group.actors`."""
        now = self._loop.time()
        states: list[ActorState] = []
        for stage in self._live:
            pausing, restarts = stage.pausing, stage.restarts
            for actor in stage.actors:
                verb, channels, since, _, in_thread = actor.activity()
                seconds = None if since is None else now - since
                waits: tuple[tuple[Verb, str], ...] = tuple(
                    (each, self._called(what)) for each, what in channels
                )
                paused = pausing.get(actor.task) if isinstance(actor, TaskActor) else None
                name = paused or actor.name
                count = 0 if restarts is None else restarts.count(name)
                does: ActorVerb = "restart" if paused else verb
                state = ActorState(name, stage.name, does, waits, in_thread, seconds, count)
                states.append(state)
        return states

    def _called(self, what: Any) -> str:
        """The name of a channel, or of what `done` waits for."""
        if isinstance(what, asyncio.Task):
            return str(what.get_name())
        if isinstance(what, (asyncio.Future, asyncio.Event)):
            return f"{type(what).__name__} at {id(what):#x}"  # pyright: ignore[reportUnknownArgumentType]
        return self._topology.label_if_known(what)

    # When it looks.

    def started(self, stage: Stage) -> None:
        """`stage` has started: look soon."""
        if stage.wiring.holds and stage in self._live:  # an eager one may have ended
            self._one_sided[stage] = None
        if self._timer is None or self._pause > self._shortest:
            self._pause = self._shortest
            self._look_later()

    def ended(self, stage: Stage) -> None:
        """`stage` has ended: forget it."""
        self._one_sided.pop(stage, None)
        if stage.wiring.unheld:
            self._used_unheld.update(stage.wiring.unheld)
            for other in self._live:
                if any(channel in self._used_unheld for channel, _, _ in other.wiring.holds):
                    self.started(other)

    def stop(self) -> None:
        """Look no more, and let go of the group."""
        self._block_acts = lambda: False
        for timer in (self._timer, self._stubborn_timer):
            if timer is not None:
                timer.cancel()

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = look_later(self._loop, self._pause, self._look)

    def _look(self) -> None:
        self._pause = min(2 * self._pause, self._longest)
        self._look_later()
        now = self._loop.time()
        for stage in list(self._one_sided):
            if not self._may_miss_an_end(stage, now):
                del self._one_sided[stage]
        self._look_for_unsettled(now)
        if self._stall_after is not None and not self._stall_logged:
            self._look_for_stall(now - self._stall_after)

    # Actors that do not end.

    def cancelled(self) -> None:
        """Some actors have been cancelled: look after a second for any that has not ended."""
        if self._stubborn_timer is not None:
            self._stubborn_timer.cancel()
        self._stubborn_timer = look_later(self._loop, PATIENCE, self._look_for_stubborn)

    def _look_for_stubborn(self) -> None:
        stubborn = [
            task
            for stage in self._live
            for task in stage.tasks
            if task.cancelling() and task not in self._stubborn
        ]
        self._stubborn.update(stubborn)
        if not stubborn:
            return
        few = [f"`{task.get_name()}`{place_of(task, before=', ')}" for task in stubborn[:3]]
        _log.warning(
            "cancelled %g s ago, and not ended yet: %s%s; waiting for that",
            PATIENCE,
            ", ".join(few),
            f", and {len(stubborn) - 3} more" if len(stubborn) > 3 else "",
        )

    # Stalls.

    def _look_for_stall(self, parked_before: float) -> None:
        stages = stalled(self._live, parked_before)
        if not stages:
            return
        self._stall_logged = True
        names = {stage.name for stage in stages}
        graph = "\n".join(f"  {state}" for state in self.actors() if state.stage in names)
        text = (
            "every actor waits for another"
            if len(stages) == len(self._live)
            else "these actors wait for each other, and no other can resume them"
        )
        _log.warning("%s:\n%s", text, graph)

    # Channels of which nobody holds the other end.

    def _may_miss_an_end(self, stage: Stage, now: float) -> bool:
        """Warn if an actor of `stage` waits for an end that nobody holds.

        Returns whether another look at the stage may find such an end.
        """
        missing = {
            (channel, end)
            for channel, end, _ in stage.wiring.holds
            if self._other_end_is_missing(channel, end)
        }
        for actor in stage.actors if missing else ():
            activity = actor.activity()
            if activity.since is None or now - activity.since < PATIENCE:
                continue
            for verb, channel in activity.channels:
                if verb != "done" and (channel, verb) in missing:
                    missing.discard((channel, verb))
                    self._warn_missing(actor, channel, verb)
        return bool(missing)

    def _other_end_is_missing(self, channel: Channel[Any], end: End) -> bool:
        """Whether nobody holds the other end, has ever held it, or may use it unheld."""
        other: End = "receive" if end == "send" else "send"
        if channel.closed or timer_pending(channel):
            return False
        if _core.holders_of(channel, other) or _core.was_let_go(channel, other):
            return False
        counts = channel.statistics()
        used = counts.sent if end == "receive" else counts.received
        if used and (channel not in self._used_unheld or self._block_acts()):
            return False
        return not any(channel in stage.wiring.unheld for stage in self._live)

    def _warn_missing(self, actor: Actor, channel: Channel[Any], end: End) -> None:
        name = self._topology.label(channel)
        if name in self._named:
            return
        self._named.add(name)
        _log.warning(
            "nobody %s `%s`, and `%s` is waiting for that: a stage is missing, or was given "
            "another channel. (A stage holds a channel that is passed to a parameter annotated "
            "`%s[...]`. Outside of a stage, hold that end: `with channel.%s():`)",
            "sends to" if end == "receive" else "receives from",
            name,
            actor.name,
            "Sender" if end == "receive" else "Receiver",
            "sending" if end == "receive" else "receiving",
        )

    # Messages that nobody can settle.

    def _look_for_unsettled(self, now: float) -> None:
        """Read the variables of the next few actors that are parked in a receive."""
        tasks = ((stage, task) for stage in self._live for task in stage.tasks)
        few = list(itertools.islice(tasks, self._next_frames, self._next_frames + FRAMES))
        self._next_frames = self._next_frames + FRAMES if len(few) == FRAMES else 0
        for stage, task in few:
            if stage.name in self._named:
                continue
            _, _, since, woken_by, _ = activity_of(task)
            if woken_by == "value" and since is not None and now - since >= PATIENCE:
                self._warn_unsettled(stage, task)

    def _warn_unsettled(self, stage: Stage, task: asyncio.Task[Any]) -> None:
        for step in await_chain(task):
            frame = frame_of(step)
            if frame is None:
                continue  # no line to name
            for held in gc.get_referents(step):
                unsettled: Any = getattr(cast(type[object], type(held)), "__unsettled__", None)
                if unsettled is None or sys.getrefcount(held) > _ALONE:
                    continue
                if called := unsettled(held):
                    self._named.add(stage.name)
                    _log.warning(
                        "`%s` waits for its next value, and one of its variables has the last "
                        "reference to %s, unsettled (%s): settle it, or send it on; its sender "
                        "waits until the variable is used again",
                        task.get_name(),
                        called,
                        line_of(frame),
                    )
                    return


def _references_of_one() -> int:
    """What `sys.getrefcount` returns, in a loop as above, for an object with one reference."""
    holder = [object()]
    (count,) = [sys.getrefcount(held) for held in gc.get_referents(holder)]
    return count


# Measured, as interpreters differ: from 3.14 on a call adds no reference for its argument.
_ALONE: Final = _references_of_one()
