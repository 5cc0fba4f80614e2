"""Stalls: stages whose actors can be resumed only by each other, so that none ever will be."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Set
from types import CodeType, ModuleType
from typing import Any, Final, TypeAlias

from tailrace import _core
from tailrace._core import End
from tailrace.channel import Channel
from tailrace.group.actor import TaskActor
from tailrace.group.awaits import await_chain, has_deadline
from tailrace.group.stage import Stage

Needs: TypeAlias = set[tuple[Channel[Any], End]]
"""The channel ends whose holders could resume a stage."""

MAX_ACTORS: Final = 100
"""If more actors than these are not stalled, they are not searched for channels."""
MAX_STEPS: Final = 4
MAX_OBJECTS: Final = 1000
"""How far from an actor a channel is searched: references in a row, objects at each step."""
_NO_WAY: Final = (type, ModuleType, str, bytes, int, float, CodeType)
"""Objects that are not searched: they have no references, or lead everywhere."""


def stalled(live: Mapping[Stage, None], parked_before: float) -> list[Stage]:
    """The stalled stages among the live ones; none if anything else might still resume them.

    A stage is stalled if all its actors have been parked since `parked_before`, on channels whose
    other ends only actors of stalled stages hold.
    """
    stuck = _stuck(live, parked_before)
    others = [stage for stage in live if stage not in stuck]
    if others and (_may_be_idle(stuck, others) or _may_use(others, stuck)):
        return []
    return list(stuck)


def _stuck(live: Mapping[Stage, None], parked_before: float) -> dict[Stage, Needs]:
    """The stages that have been parked so long and need only each other, with their needs."""
    stuck = {stage: needs for stage in live if (needs := _needs_of(stage, parked_before))}
    changed = bool(stuck)
    while changed:
        ours = Counter(hold[:2] for stage in stuck for hold in stage.wiring.holds)
        free = {
            stage
            for stage, needs in stuck.items()
            for channel, end in needs
            if not (holders := _core.holders_of(channel, end)) or holders > ours[channel, end]
        }
        changed = bool(free)
        for stage in free:
            del stuck[stage]
    return stuck


def _needs_of(stage: Stage, parked_before: float) -> Needs:
    """What the actors of a stage wait for; nothing if one of them can go on by itself."""
    needs: Needs = set()
    for actor in stage.actors:
        activity = actor.activity()
        since = activity.since
        if since is None or since > parked_before or activity.woken_by == "anything":
            return set()
        for verb, channel in activity.channels:
            needs.add((channel, "receive" if verb == "send" else "send"))
        if isinstance(actor, TaskActor) and has_deadline(actor.task):
            return set()
    return needs


def _may_be_idle(stuck: Mapping[Stage, Needs], others: list[Stage]) -> bool:
    """Whether it may be a feedback loop that has done its work, while other stages go on."""
    receive = all(end == "send" for needs in stuck.values() for _, end in needs)
    return receive and not all(stage.background for stage in others)


def _may_use(others: list[Stage], stuck: Mapping[Stage, Needs]) -> bool:
    """Whether another stage can reach a channel that a stuck stage needs."""
    channels = {channel for needs in stuck.values() for channel, _ in needs}
    if sum(stage.live for stage in others) > MAX_ACTORS:
        return True
    roots = [root for stage in others for root in (stage.wiring, *stage.started_with)]
    roots += [step for stage in others for task in stage.tasks for step in await_chain(task)]
    return any(_refers_to(root, channels) for root in roots)


def _refers_to(root: Any, channels: Set[Channel[Any]]) -> bool:
    """Whether `root` leads to one of these channels, or to an end of one, in a few steps."""
    near: list[Any] = [root]
    seen: set[int] = set()
    for _ in range(MAX_STEPS):
        found: list[Any] = []
        for each in gc.get_referents(*near):
            resolved = _core.resolve_end(each)
            if resolved is not None and resolved[0] in channels:
                return True
            if resolved is None and id(each) not in seen and not isinstance(each, _NO_WAY):
                seen.add(id(each))
                found.append(each)
        near = found[:MAX_OBJECTS]
    return False
