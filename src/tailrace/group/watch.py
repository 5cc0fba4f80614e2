"""What can be seen of a group from outside of its actors, and what is said of it unasked.

What an actor does is data (`Doing`): `actors` puts it into words, the watch decides by it. The
watch looks now and then, first after a second and then less and less often, and logs, each once:

- a stall: some actors, or all, have been parked for `stall_after` seconds on channels whose other
  ends only they hold, so that nobody can ever resume one;
- an actor that has been parked for a second on a channel whose other end nobody holds, or only a
  stage did, without saying so, that has ended;
- an actor that has not ended a second after it was cancelled;
- an actor that waits for its next value while a variable of it has the last reference to something
  unsettled, which so nobody can settle.

Each look is bounded: it ends at the first actor that can go on, and looks into few frames.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from types import CodeType, ModuleType
from typing import Any, Final, cast
from weakref import WeakSet

from tailrace import _core
from tailrace._core import End, Verb
from tailrace.channel import Channel
from tailrace.clockwork import timer_pending
from tailrace.group.activity import ActorState, activity_of, look_later
from tailrace.group.actor import Actor, TaskActor
from tailrace.group.awaits import await_chain, frame_of, has_deadline, line_of, place_of
from tailrace.group.stage import Stage
from tailrace.group.topology import Topology

_log = logging.getLogger("tailrace")

PATIENCE: Final = 1.0
"""Seconds for which an actor is parked before a missing other end is worth a word."""
FIRST: Final = 1.01
"""Seconds from the start of a stage until the first look: it may be parked by then for one."""
SELDOM: Final = 8.0
FRAMES: Final = 100
"""Of how many actors one look reads the frames."""
REACH: Final = 4
LOOKED_AT: Final = 1000
"""How many steps from an actor, and through how many objects, a channel is looked for."""
_NO_WAY: Final = (type, ModuleType, str, bytes, int, float, CodeType)


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
        self._loop = loop
        self._block_acts = block_acts  # whether the code of the group's block may use channels
        self._left: WeakSet[Channel[Any]] = WeakSet()  # by stages that used them, maybe, unheld
        self._live = live
        self._topology = topology
        self._stall_after = stall_after
        often = FIRST if stall_after is None else min(FIRST, stall_after / 4)
        self._shortest = often
        self._longest = SELDOM if stall_after is None else max(often, min(SELDOM, stall_after / 4))
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stubborn_timer: asyncio.TimerHandle | None = None
        self._stubborn: WeakSet[asyncio.Task[Any]] = WeakSet()  # that were told of
        self._stalled = False  # said
        self._one_sided: dict[
            Stage, None
        ] = {}  # stages that may wait for somebody who is not there
        self._said: set[str] = set()  # of which channels and stages something was said
        self._frames = 0  # of how many actors they were read in this round

    def __repr__(self) -> str:
        return f"<Watch of {len(self._live)} stages, every {self._pause:g} s>"

    def actors(self) -> list[ActorState]:
        """As `Group.actors`."""
        now = self._loop.time()
        states: list[ActorState] = []
        for stage, actor in self._actors():
            activity = actor.activity()
            seconds = None if activity.since is None else now - activity.since
            waits: tuple[tuple[Verb, str], ...] = tuple(
                (verb, self._called(what)) for verb, what in activity.channels
            )
            states.append(
                ActorState(
                    actor.name, stage.name, activity.verb, waits, activity.in_thread, seconds
                )
            )
        return states

    def _actors(self) -> Iterator[tuple[Stage, Actor]]:
        return ((stage, actor) for stage in self._live for actor in stage.actors)

    def _called(self, what: Any) -> str:
        if isinstance(what, asyncio.Task):
            return str(what.get_name())
        if isinstance(what, (asyncio.Future, asyncio.Event)):
            return f"{type(what).__name__} at {id(what):#x}"  # pyright: ignore[reportUnknownArgumentType]
        return self._topology.label_if_known(what)  # a channel

    # What is said unasked.

    def started(self, stage: Stage) -> None:
        """Look at `stage`, and at all, in a while."""
        if stage.wiring.holds and stage in self._live:  # an eager one may have ended
            self._one_sided[stage] = None
        if self._timer is None or self._pause > self._shortest:
            self._pause = self._shortest
            self._look_later()

    def ended(self, stage: Stage) -> None:
        """Forget `stage`."""
        self._one_sided.pop(stage, None)
        if stage.wiring.unheld:
            self._left.update(stage.wiring.unheld)
            for other in self._live:
                if any(channel in self._left for channel, _, _ in other.wiring.holds):
                    self.started(other)

    def stop(self) -> None:
        """Look no more, and let go of the group."""
        self._block_acts = _never
        for timer in (self._timer, self._stubborn_timer):
            if timer is not None:
                timer.cancel()

    def cancelled(self) -> None:
        """Some actors have been cancelled: look after a second for any that does not end."""
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

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = look_later(self._loop, self._pause, self._look)

    def _look(self) -> None:
        self._pause = min(2 * self._pause, self._longest)
        self._look_later()
        now = self._loop.time()
        for stage in list(self._one_sided):
            if not self._may_miss_somebody(stage, now):
                del self._one_sided[stage]
        self._look_for_unsettled(now)
        if self._stall_after is not None and not self._stalled:
            self._look_for_stall(now - self._stall_after)

    def _look_for_stall(self, parked_before: float) -> None:
        """Say so if some actors can only be resumed by each other."""
        stuck = self._stuck(parked_before)
        if not stuck:
            return
        others = [stage for stage in self._live if stage not in stuck]
        if others and (self._may_be_idle(stuck, others) or self._may_use(others, stuck)):
            return
        self._stalled = True
        stages = {stage.name for stage in stuck}
        graph = "\n".join(f"  {state}" for state in self.actors() if state.stage in stages)
        who = "these actors wait for each other, and no" if others else "every actor waits for"
        _log.warning("%s%s:\n%s", who, " other can resume them" if others else " another", graph)

    def _stuck(self, parked_before: float) -> dict[Stage, set[tuple[Channel[Any], End]]]:
        """The stages all of whose actors have been parked since then where only actors of these
        stages can resume them; with whom they need: the other ends of the channels."""
        needs: dict[Stage, set[tuple[Channel[Any], End]]] = {}
        for stage in self._live:
            needed = self._needed(stage, parked_before)
            if needed:
                needs[stage] = needed
        changed = bool(needs)
        while changed:
            ours = Counter(hold[:2] for stage in needs for hold in stage.wiring.holds)
            free = {
                stage
                for stage, needed in needs.items()
                for channel, end in needed
                if not (holders := _core.holders_of(channel, end)) or holders > ours[channel, end]
            }
            changed = bool(free)
            for stage in free:
                del needs[stage]
        return needs

    def _needed(self, stage: Stage, parked_before: float) -> set[tuple[Channel[Any], End]]:
        """Whom the actors of a stage wait for; nobody, if one can go on by itself."""
        needed: set[tuple[Channel[Any], End]] = set()
        for actor in stage.actors:
            activity = actor.activity()
            since = activity.since
            if since is None or since > parked_before or activity.woken_by == "anything":
                return set()
            for verb, channel in activity.channels:
                needed.add((channel, "receive" if verb == "send" else "send"))
            if isinstance(actor, TaskActor) and has_deadline(actor.task):
                return set()
        return needed

    def _may_be_idle(
        self, stuck: Mapping[Stage, set[tuple[Channel[Any], End]]], others: list[Stage]
    ) -> bool:
        """Whether it is a feedback loop that has done its work, while others have not yet."""
        receive = all(end == "send" for needed in stuck.values() for _, end in needed)
        return receive and not all(stage.background for stage in others)

    def _may_use(
        self, others: list[Stage], stuck: Mapping[Stage, set[tuple[Channel[Any], End]]]
    ) -> bool:
        """Whether one of the other stages has a channel of theirs of which it holds no such end."""
        channels = {channel for needed in stuck.values() for channel, _ in needed}
        if sum(stage.live for stage in others) > FRAMES:
            return True  # too many to look at
        return any(
            _refers_to(root, channels)
            for stage in others
            for root in (stage.wiring, *stage.started_with, *_steps_of(stage))
        )

    def _may_miss_somebody(self, stage: Stage, now: float) -> bool:
        """Say so if an actor of `stage` waits where nobody is. Whether that may come yet."""
        missing = {
            (channel, end)
            for channel, end, _ in stage.wiring.holds
            if self._other_end_is_unheld(channel, end)
        }
        for actor in stage.actors if missing else ():
            activity = actor.activity()
            if activity.since is None or now - activity.since < PATIENCE:
                continue
            for verb, channel in activity.channels:
                if verb != "done" and (channel, verb) in missing:
                    missing.discard((channel, verb))
                    self._say_missing(actor, channel, verb)
        return bool(missing)

    def _other_end_is_unheld(self, channel: Channel[Any], end: End) -> bool:
        """Nobody holds it, has ever done so, or has used it without."""
        other = _other(end)
        if channel.closed or timer_pending(channel):
            return False
        if _core.holders_of(channel, other) or _core.was_let_go(channel, other):
            return False
        counts = channel.statistics()
        used = counts.sent if end == "receive" else counts.received
        if used and (channel not in self._left or self._block_acts()):
            return False
        return not any(channel in stage.wiring.unheld for stage in self._live)

    def _say_missing(self, actor: Actor, channel: Channel[Any], end: End) -> None:
        name = self._topology.label(channel)
        if name in self._said:
            return
        self._said.add(name)
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

    def _look_for_unsettled(self, now: float) -> None:
        """Look into the frames of the next few actors."""
        tasks = ((stage, task) for stage in self._live for task in stage.tasks)
        few = list(itertools.islice(tasks, self._frames, self._frames + FRAMES))
        self._frames = self._frames + FRAMES if len(few) == FRAMES else 0
        for stage, task in few:
            if stage.name in self._said:
                continue
            activity = activity_of(task)
            since = activity.since
            if activity.woken_by == "value" and since is not None and now - since >= PATIENCE:
                self._say_unsettled(stage, task)

    def _say_unsettled(self, stage: Stage, task: asyncio.Task[Any]) -> None:
        for step in await_chain(task):
            frame = frame_of(step)
            if frame is None:
                continue  # no line to name
            for held in gc.get_referents(step):
                unsettled: Any = getattr(cast(type[object], type(held)), "__unsettled__", None)
                if unsettled is None or sys.getrefcount(held) > _ALONE:
                    continue
                if called := unsettled(held):
                    self._said.add(stage.name)
                    _log.warning(
                        "`%s` waits for its next value, and a variable of it still has %s, "
                        "unsettled, which nobody else has (%s): settle it, or send it on; "
                        "until the variable is used again, whoever sent it waits",
                        task.get_name(),
                        called,
                        line_of(frame),
                    )
                    return


def _references_of_one() -> int:
    """What `sys.getrefcount` says, in a loop like that above, of an object with one reference."""
    holder = [object()]
    (count,) = [sys.getrefcount(held) for held in gc.get_referents(holder)]
    return count


# Measured, as interpreters differ: from 3.14 on a call adds no reference for its argument.
_ALONE: Final = _references_of_one()


def _never() -> bool:
    return False


def _steps_of(stage: Stage) -> Iterator[Any]:
    for task in stage.tasks:
        yield from await_chain(task)


def _refers_to(root: Any, channels: Set[Channel[Any]]) -> bool:
    """Whether one of these channels, or an end of one, is to be had from `root` in a few steps."""
    near: list[Any] = [root]
    seen: set[int] = set()
    for _ in range(REACH):
        found: list[Any] = []
        for each in gc.get_referents(*near):
            resolved = _core.resolve_end(each)
            if resolved is not None and resolved[0] in channels:
                return True
            if resolved is None and id(each) not in seen and not isinstance(each, _NO_WAY):
                seen.add(id(each))
                found.append(each)
        near = found[:LOOKED_AT]
    return False


def _other(end: End) -> End:
    return "receive" if end == "send" else "send"
