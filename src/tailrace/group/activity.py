"""What an actor does at one instant, as data. Watchers decide by it, and word it themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from tailrace import _core
from tailrace._core import WORDS, Verb, Wait
from tailrace.clockwork import timer_pending

WokenBy: TypeAlias = Literal["value", "channel", "anything"]


class Activity(NamedTuple):
    """What an actor does.

    `verb` is "run", "wait" (for something that is no channel) or "park"; `channels` are then the
    channel operations that it is parked in, `since` is the loop's time at which it parked.
    `woken_by` says what can end the wait: only a "value" that comes down one of the channels, only
    an operation at the other end of a "channel", or "anything" (a timer, a future).
    """

    verb: Literal["run", "wait", "park"]
    channels: tuple[Wait, ...] = ()
    since: float | None = None
    woken_by: WokenBy = "anything"
    in_thread: bool = False


RUNNING, WAITING, IN_THREAD = Activity("run"), Activity("wait"), Activity("run", in_thread=True)


def activity_of(task: asyncio.Task[Any]) -> Activity:
    """What a task does now."""
    operation = _core.parked_on(task)
    if operation is not None:
        return parked(operation.waits, operation.since, timed=operation.timed)
    return WAITING if _core.awaited_by(task) is not None else RUNNING


def parked(
    channels: tuple[Wait, ...], since: float, *, timed: bool, in_thread: bool = False
) -> Activity:
    """The activity of an actor that is parked; `timed` if it gives up after a timeout."""
    woken_by: WokenBy = "value"
    for verb, channel in channels:
        if verb == "done" or timer_pending(channel):
            timed = True
        elif verb == "send":
            woken_by = "channel"
    return Activity("park", channels, since, "anything" if timed else woken_by, in_thread)


ActorVerb: TypeAlias = Literal["run", "wait", "park", "restart"]


@dataclass(frozen=True, slots=True)
class ActorState:
    """What one actor is doing: a node of the wait-for graph, with its edges.

    `verb` is "run", "wait" (for something that is no channel), "park", or "restart" (it has raised,
    and pauses before it is started again). `waits` says what a
    parked actor waits for: pairs of "send", "receive" or "done" and the name of the channel,
    future or event. `state` says the same in words: "running", "waiting", "sending to X",
    "receiving from X" (or a select of those), "in thread". `seconds` is how long it has been
    parked; None for an actor that is not parked, as the beginning of that is not recorded.
    `restarts` is how often it has been started again.
    """

    name: str
    stage: str
    verb: ActorVerb
    waits: tuple[tuple[Verb, str], ...]
    in_thread: bool
    seconds: float | None
    restarts: int = 0

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


_VERBS = {"run": "running", "wait": "waiting", "restart": "pausing before a restart"}


def look_later(
    loop: asyncio.AbstractEventLoop, delay: float, look: Callable[[], object]
) -> asyncio.TimerHandle:
    """A timer for a watcher. A virtual clock neither stops for it nor takes it for an event."""
    call: Any = getattr(loop, "call_later_quietly", loop.call_later)
    handle: asyncio.TimerHandle = call(delay, look)
    return handle
