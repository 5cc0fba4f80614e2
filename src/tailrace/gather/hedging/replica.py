"""One backend of a `Hedged`: its load, its health, its queue; and the choice among several."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from tailrace.arguments import check_count, check_number, check_seconds
from tailrace.gather.backends import label
from tailrace.gather.race import asking

__all__ = ["BALANCERS", "Balance", "Eject", "Health", "Queued", "Replica"]

COST_MEMORY: Final = 10.0  # seconds after which the weight of a latency has fallen to 1/e
COST_FADES_AFTER: Final = 0.1  # seconds; a cost that is younger than this is taken as it is
RATE_WEIGHT: Final = 0.05  # of the newest query in the success rate
HEALTHY_RATE: Final = 0.999  # a success rate above this clears the record
ENOUGH: Final = 20  # queries before the success rate means anything

_exp = math.exp


@dataclass(frozen=True, slots=True)
class Eject:
    """Leave a backend alone after `failures` in a row, or when less than `success_rate` succeed.

    For `seconds` at first, twice as long each time it fails again when it is tried, at most
    `longest`. One query at a time tries it. Never more than half of the backends are left alone
    at once. A failure that is `fatal` says nothing against the backend.
    """

    failures: int = 5
    success_rate: float = 0.0
    seconds: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        check_count("Eject: failures", self.failures)
        wanted = "a number of at least 0 and below 1"
        check_number("Eject: success_rate", self.success_rate, wanted, lambda x: 0 <= x < 1)
        check_seconds("Eject: seconds", self.seconds, positive=True, endless=True)
        check_seconds("Eject: longest", self.longest, positive=True, endless=True)
        if self.seconds > self.longest:
            raise ValueError(
                f"Eject: seconds must be at most longest={self.longest}, not {self.seconds}"
            )


class Health:
    """The record of one backend's answers and failures. The pool decides whether to eject it."""

    __slots__ = (
        "_ejections",
        "_rate",
        "_recorded",
        "_rule",
        "_streak",
        "ejected_until",
        "probing",
        "suspect",
    )

    def __init__(self, rule: Eject) -> None:
        self._rule = rule
        self.ejected_until = -math.inf
        self._clear()

    def _clear(self) -> None:
        self.suspect = False  # there is a failure on the record, so answers must be recorded
        self.probing = False  # a query is trying the backend after an ejection
        self._streak = 0  # failures in a row
        self._rate = 1.0  # of success, lately
        self._recorded = 0  # answers and failures since the record was last cleared
        self._ejections = 0  # since the last answer

    @property
    def on_probation(self) -> bool:
        """Whether the backend has not answered since it was ejected."""
        return self._ejections > 0

    def succeeded(self) -> None:
        """The backend has answered."""
        self._streak = 0
        self._recorded += 1
        self._rate += RATE_WEIGHT * (1 - self._rate)
        if self.on_probation or self._rate > HEALTHY_RATE:
            self._clear()

    def failed(self) -> bool:
        """The backend has failed. Returns whether the rule says to eject it."""
        self.suspect = True
        self.probing = False
        self._streak += 1
        self._recorded += 1
        self._rate -= RATE_WEIGHT * self._rate
        return (
            self.on_probation
            or self._streak >= self._rule.failures
            or (self._recorded >= ENOUGH and self._rate < self._rule.success_rate)
        )

    def eject(self, now: float) -> None:
        """Leave the backend alone from now on, twice as long as the last time."""
        rule = self._rule
        seconds = rule.seconds * 2.0 ** min(self._ejections, 60)
        self.ejected_until = now + min(rule.longest, seconds)
        self._ejections += 1

    def usable(self, now: float) -> bool:
        """Whether to ask it: not while it is ejected, nor while another query tries it."""
        return now >= self.ejected_until and not (self._ejections and self.probing)


class Queued(Protocol):
    """A copy that waits for a slot."""

    withdrawn: bool

    def begin(self) -> None:
        """It has got a slot."""


class Replica:
    """A backend with its load, its health, and the copies that wait for a slot.

    `cost` is a mean of its latencies, in which older ones count less. (Finagle's mean follows each
    peak at once. But one straggler does not show a slow backend, and a slow backend soon has more
    pending.)
    """

    __slots__ = (
        "ask",
        "backend",
        "busy",
        "cost",
        "failures",
        "health",
        "limit",
        "name",
        "pending",
        "position",
        "queries",
        "queue",
        "task_name",
        "updated",
    )

    def __init__(self, backend: Any, position: int, limit: int | None, eject: Eject | None) -> None:
        self.backend = backend
        self.ask = asking(backend.query)
        self.position = position
        self.name = label(backend)
        self.task_name = f"Hedged: {self.name}"
        self.health = None if eject is None else Health(eject)
        self.queries = 0
        self.failures = 0
        self.limit = math.inf if limit is None else limit
        self.queue: deque[Queued] = deque()
        self.reset()

    def reset(self) -> None:
        """Begin on another event loop: the queries of the last one are gone."""
        self.pending = 0  # copies running or queued
        self.busy = 0  # copies running
        self.cost = 0.0  # seconds; 0: not known
        self.updated = 0.0  # when `cost` was
        self.queue.clear()

    def load(self, now: float) -> float:
        """What one more query would cost here; to compare with other backends."""
        if not self.cost:
            return math.inf if self.pending else 0.0  # one query at a time finds out
        age = now - self.updated
        cost = self.cost if age < COST_FADES_AFTER else self.cost * _exp(-age / COST_MEMORY)
        return cost * (self.pending + 1)

    def record(self, seconds: float, now: float) -> None:
        """A copy took so long."""
        weight = _exp((self.updated - now) / COST_MEMORY) if self.cost else 0.0
        self.cost = weight * self.cost + (1 - weight) * seconds
        self.updated = now

    def censored(self, seconds: float, now: float) -> None:
        """A copy was cancelled after so many seconds, and would have taken longer."""
        if seconds > self.cost:
            self.record(seconds, now)
        self.probe_ended()

    def probe_ended(self) -> None:
        """A copy has ended without saying anything about the backend's health."""
        if self.health is not None:
            self.health.probing = False

    def advance(self) -> None:
        """A copy has ended: the first in the queue gets its slot."""
        while self.queue and self.busy < self.limit:
            copy = self.queue.popleft()
            if not copy.withdrawn:
                copy.begin()


# --- the choice among several

Balance: TypeAlias = Literal["p2c", "random", "in_order"]


def _p2c(replicas: Sequence[Replica], now: float, rng: random.Random) -> Replica:
    """The less loaded of two at random; if both are equally loaded, the one listed first.

    If all were compared, every client would choose the same one. Two choices are nearly as good.
    """
    last = len(replicas) - 1
    if last == 0:
        return replicas[0]
    one, other = 0, 1
    if last > 1:
        one, other = int(rng.random() * (last + 1)), int(rng.random() * last)
        if other >= one:
            other += 1
        else:
            one, other = other, one
    first, second = replicas[one], replicas[other]
    return second if second.load(now) < first.load(now) else first


def _random(replicas: Sequence[Replica], now: float, rng: random.Random) -> Replica:
    return replicas[int(rng.random() * len(replicas))]


def _in_order(replicas: Sequence[Replica], now: float, rng: random.Random) -> Replica:
    return replicas[0]


BALANCERS: Final[Mapping[Balance, Callable[[Sequence[Replica], float, random.Random], Replica]]] = {
    "p2c": _p2c,
    "random": _random,
    "in_order": _in_order,
}
