"""`Restart`: how often an actor that has raised is started again, and after which pauses.

Invariant: while an actor pauses it counts as live, so its stage keeps its ends. The pause is a task
of the stage, which a drain and a cancellation end.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Final

from tailrace.arguments import check_count, check_seconds
from tailrace.group.frames import clear, frames_of, once
from tailrace.usercode import add_note, log_error

__all__ = ["Restart", "Restarts"]

_log = logging.getLogger("tailrace")

LOG_EVERY: Final = 10.0
"""Seconds between two log lines of one stage; the restarts in between are counted."""
CLEAR_AGAIN: Final = 0.02
"""Seconds until frames that were suspended are looked at again: the loop closes an asynchronous
generator that was dropped in a turn of its own."""


@dataclass(frozen=True, slots=True)
class Restart:
    """How a stage starts an actor again that has raised: ``go(work, inbox, restart=Restart())``.

    An actor that has raised more than `max` times in `within` seconds fails its group. Before the
    n-th restart in that time the actor pauses for ``backoff * 2**(n-1)`` seconds, at most `cap`:
    without jitter, as the actors of one process are few. Times are those of the loop's clock.

    TypeError or ValueError for arguments that make no sense.
    """

    max: int = 5
    within: float = 60.0
    backoff: float = 0.1
    cap: float = 5.0

    def __post_init__(self) -> None:
        check_count("max", self.max)
        check_seconds("within", self.within, positive=True, endless=True)
        check_seconds("backoff", self.backoff)
        check_seconds("cap", self.cap)
        if self.cap < self.backoff:
            raise ValueError(
                f"cap must be at least backoff, which is {self.backoff!r}, not {self.cap!r}"
            )

    def pause(self, nth: int) -> float:
        """Seconds before the n-th restart."""
        return float(min(self.backoff * 2.0 ** min(nth - 1, 1000), self.cap))


class Restarts:
    """The restarts of one stage. All of it runs on the loop of the group."""

    def __init__(
        self,
        stage: str,
        policy: Restart,
        start: Callable[[str], object],
        ended: Callable[[], object],
    ) -> None:
        self._stage = stage
        self._policy = policy
        self._start = start  # an actor of this name
        self._ended = ended  # an actor is not started again
        self._recent: dict[str, deque[float]] = {}  # by actor, when it was started again
        self._counts: dict[str, int] = {}  # by actor
        self._pauses: dict[asyncio.Task[None], tuple[str, asyncio.Future[None]]] = {}
        self._logged = -math.inf
        self._unlogged = 0

    def __repr__(self) -> str:
        return f"<Restarts of {self._stage}: {sum(self._counts.values())}>"

    @property
    def pausing(self) -> dict[asyncio.Task[None], str]:
        """The tasks of the pauses, each with the name of its actor."""
        return {task: name for task, (name, _) in self._pauses.items()}

    def count(self, actor: str) -> int:
        """How often the actor has been started again."""
        return self._counts.get(actor, 0)

    def again(self, actor: str, error: BaseException) -> bool:
        """Start `actor` again after a pause. False if it has raised too often."""
        loop, policy = asyncio.get_running_loop(), self._policy
        now = loop.time()
        recent = self._recent.setdefault(actor, deque())
        while recent and now - recent[0] >= policy.within:
            recent.popleft()
        if len(recent) >= policy.max:
            times = "once" if policy.max == 1 else f"{policy.max} times"
            add_note(error, f"{actor} was started again {times} in the last {policy.within:g} s")
            return False
        recent.append(now)
        self._counts[actor] = self.count(actor) + 1
        pause = policy.pause(len(recent))
        what = f"is started again in {pause:g} s ({len(recent)} of {policy.max})"
        self._note(now, f"{actor} raised, and {what}", error)
        woken: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(pause, _wake, woken)
        task = asyncio.create_task(_wait(woken), name=f"{actor}.restart")
        self._pauses[task] = actor, woken
        task.add_done_callback(partial(self._over, timer))
        return True

    def ended(self, actor: str, error: BaseException) -> None:
        """`actor` has raised while it was being stopped: only log that."""
        now = asyncio.get_running_loop().time()
        self._note(now, f"{actor} raised while it was drained, and is not started again", error)

    def forget(self, error: BaseException) -> None:
        """Have all frames of `error` let go of their variables, whoever keeps the error."""
        left = clear(frames_of(error))
        if left:
            loop = asyncio.get_running_loop()
            loop.call_later(CLEAR_AGAIN, _clear, once(left))

    def _note(self, now: float, text: str, error: BaseException) -> None:
        if now < self._logged + LOG_EVERY:
            self._unlogged += 1
            return
        more = f" (and {self._unlogged} before it)" if self._unlogged else ""
        self._logged, self._unlogged = now, 0
        log_error(_log, "%s%s", text, more, error=error)

    def _over(self, timer: asyncio.TimerHandle, task: asyncio.Task[None]) -> None:
        timer.cancel()
        actor, _ = self._pauses.pop(task)
        if task.cancelled():
            self._ended()
        else:
            self._start(actor)

    def hurry(self) -> None:
        """End the pauses: what waits in the inbox is wanted."""
        for _, woken in self._pauses.values():
            _wake(woken)

    def cancel(self) -> None:
        """Start nothing again that pauses now."""
        for task in list(self._pauses):
            task.cancel()

    def rest(self) -> None:
        """The stage ends: log how many restarts were not logged."""
        if self._unlogged:
            _log.error("%s raised %d more times", self._stage, self._unlogged)
            self._unlogged = 0


async def _wait(woken: asyncio.Future[None]) -> None:
    await woken


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _clear(frames: list[FrameType]) -> None:
    clear(frames)
