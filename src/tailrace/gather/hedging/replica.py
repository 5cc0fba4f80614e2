"""One backend of a `Hedged`: its load, its health, its line; and which of several to ask."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from tailrace.gather.backends import label

__all__ = ["BALANCERS", "Balance", "Eject", "Health", "InLine", "Replica"]

HEALTH_MEMORY: Final = 0.05  # weight of the newest query in the success rate
FINE: Final = 0.999
ENOUGH: Final = 20  # queries before the success rate means anything


@dataclass(frozen=True, slots=True)
class Eject:
    """Leave a backend alone after `failures` in a row, or when less than `success_rate` succeed.

    For `seconds` at first, twice as long each time it fails again when it is tried, at most
    `longest`. It is tried by one query at a time. Never more than half of the backends are left
    alone at once. A failure that is `fatal` says nothing against the backend.
    """

    failures: int = 5
    success_rate: float = 0.0
    seconds: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"Eject: failures={self.failures} is less than 1")
        if not 0 <= self.success_rate < 1:
            raise ValueError(f"Eject: success_rate={self.success_rate} is not in [0, 1)")
        if not 0 < self.seconds <= self.longest:
            raise ValueError(
                f"Eject: seconds={self.seconds} is not above 0 and at most longest={self.longest}"
            )


class Health:
    """What one backend's answers and failures say. Who asks decides whether to eject it."""

    __slots__ = ("_rate", "_rule", "_seen", "_streak", "_times", "blemished", "out_until", "trying")

    def __init__(self, rule: Eject) -> None:
        self._rule = rule
        self.out_until = -math.inf
        self._clear()

    def _clear(self) -> None:
        self.blemished = False  # whether an answer would mend anything
        self.trying = False  # a query is finding out whether it is back
        self._streak = 0  # failures in a row
        self._rate = 1.0  # of success, of late
        self._seen = 0  # since it was last without blemish
        self._times = 0  # ejected without having answered since

    @property
    def suspect(self) -> bool:
        """Whether it has not answered since it was ejected."""
        return self._times > 0

    def good(self) -> None:
        """It has answered."""
        self._streak = 0
        self._seen += 1
        self._rate += HEALTH_MEMORY * (1 - self._rate)
        if self.suspect or self._rate > FINE:
            self._clear()

    def bad(self) -> bool:
        """It has failed; whether it should be ejected."""
        self.blemished = True
        self.trying = False
        self._streak += 1
        self._seen += 1
        self._rate -= HEALTH_MEMORY * self._rate
        return (
            self.suspect
            or self._streak >= self._rule.failures
            or (self._seen >= ENOUGH and self._rate < self._rule.success_rate)
        )

    def eject(self, now: float) -> None:
        """Leave it alone from now on, for longer than the last time."""
        rule = self._rule
        self.out_until = now + min(rule.longest, rule.seconds * 2.0 ** min(self._times, 60))
        self._times += 1

    def usable(self, now: float) -> bool:
        """Whether it may be asked: not while it is left alone, nor while another tries it."""
        return now >= self.out_until and not (self._times and self.trying)


_exp = math.exp
MEMORY: Final = 10.0  # seconds after which a latency counts 1/e
BRIEF: Final = 0.1  # in which it does not fade


class InLine(Protocol):
    """A copy that waits for its turn."""

    withdrawn: bool

    def begin(self) -> None:
        """It has got a slot."""


class Replica:
    """A backend, how busy and how quick it is, and whether it is in good health.

    `cost` is a mean of its latencies, the older the less. (Finagle's follows a peak at once. But a
    straggler is no sign of a slow backend, and one that is slow has more pending before long.)
    """

    __slots__ = (
        "ask",
        "backend",
        "busy",
        "cost",
        "failures",
        "health",
        "limit",
        "line",
        "name",
        "pending",
        "position",
        "queries",
        "stamp",
        "task_name",
    )

    def __init__(self, backend: Any, position: int, limit: int | None, eject: Eject | None) -> None:
        self.backend = backend
        self.ask = backend.query
        self.position = position
        self.name = label(backend)
        self.task_name = f"Hedged: {self.name}"
        self.health = None if eject is None else Health(eject)
        self.queries = 0
        self.failures = 0
        self.limit = math.inf if limit is None else limit
        self.line: deque[InLine] = deque()
        self.reset()

    def reset(self) -> None:
        """It begins on another event loop: what was asked of it has gone with the last."""
        self.pending = 0  # copies asked or in line
        self.busy = 0  # copies asked
        self.cost = 0.0  # seconds
        self.stamp = 0.0  # when `cost` was last seen to
        self.line.clear()

    def load(self, now: float) -> float:
        """What one more query here would cost."""
        if not self.cost:
            return math.inf if self.pending else 0.0  # it is being found out
        age = now - self.stamp
        cost = self.cost if age < BRIEF else self.cost * _exp(-age / MEMORY)
        return cost * (self.pending + 1)

    def answered(self, seconds: float, now: float) -> None:
        """An answer has taken so long."""
        weight = _exp((self.stamp - now) / MEMORY) if self.cost else 0.0
        self.cost = weight * self.cost + (1 - weight) * seconds
        self.stamp = now
        if self.health is not None and self.health.blemished:
            self.health.good()

    def gave_up(self, seconds: float, now: float) -> None:
        """It was cancelled after so long, and would have taken longer."""
        if seconds > self.cost:
            weight = _exp((self.stamp - now) / MEMORY) if self.cost else 0.0
            self.cost = weight * self.cost + (1 - weight) * seconds
            self.stamp = now
        self.spared()

    def spared(self) -> None:
        """Nothing can be said of its health."""
        if self.health is not None:
            self.health.trying = False

    def advance(self) -> None:
        """A copy has ended: the next in line gets its slot."""
        while self.line and self.busy < self.limit:
            copy = self.line.popleft()
            if not copy.withdrawn:
                copy.begin()


Balance: TypeAlias = Literal["p2c", "random", "in_order"]


def _p2c(replicas: Sequence[Replica], now: float, dice: random.Random) -> Replica:
    """The less loaded of two at random, the one that was listed first if they are equal.

    To compare all would send every client to the same one; two choices are nearly as good.
    """
    last = len(replicas) - 1
    if last == 0:
        return replicas[0]
    one, other = 0, 1
    if last > 1:
        one, other = int(dice.random() * (last + 1)), int(dice.random() * last)
        if other >= one:
            other += 1
        else:
            one, other = other, one
    first, second = replicas[one], replicas[other]
    return second if second.load(now) < first.load(now) else first


def _random(replicas: Sequence[Replica], now: float, dice: random.Random) -> Replica:
    return replicas[int(dice.random() * len(replicas))]


def _in_order(replicas: Sequence[Replica], now: float, dice: random.Random) -> Replica:
    return replicas[0]


BALANCERS: Final[Mapping[Balance, Callable[[Sequence[Replica], float, random.Random], Replica]]] = {
    "p2c": _p2c,
    "random": _random,
    "in_order": _in_order,
}
