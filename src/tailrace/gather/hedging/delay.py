"""Choose when to hedge: SingleR (Kaler, He, Elnikety, SPAA 2017), from a sketch of the latencies.

A policy sends one more copy after d seconds, with probability q. The die is thrown at the start of
the race, and not again for a third copy. The policy costs ``q P(X > d)`` copies per query, at most
`budget`, and meets the target at the smallest t with
``P(X > t) (1 - q P(Y <= t - d)) <= 1 - target``. `plan` returns the policy with the smallest t.

A copy that is cancelled after c seconds would have taken longer than c: its latency is *censored*.
If such copies were left out, backends would look the faster the more is hedged; so P(X > t) is
the estimate of Kaplan and Meier, which counts them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["GROWTH", "NEVER", "Curve", "Plan", "Sketch", "plan"]

GROWTH: Final = 1.02  # the upper end of a bucket by its lower end
SHORTEST: Final = 1e-6  # seconds; a shorter latency counts as this
PARTS: Final = 10  # of the window
SHORTEST_HEDGED: Final = 0.001  # seconds; an event loop itself delays a shorter latency as much

_SCALE: Final = 1 / math.log(GROWTH)
_OFFSET: Final = -math.log(SHORTEST) * _SCALE
_log = math.log


class Sketch:
    """The last `window` latencies (nine tenths of them, or more), in buckets of two per cent."""

    __slots__ = ("_censored", "_left", "_past", "_recorded", "_size", "count")

    def __init__(self, window: int) -> None:
        self._size = max(1, window // PARTS)
        self._left = self._size  # samples until the window moves by a part
        self._recorded: dict[int, int] = {}  # bucket: latencies
        self._censored: dict[int, int] = {}
        self._past: deque[tuple[dict[int, int], dict[int, int]]] = deque(maxlen=PARTS - 1)
        self.count = 0  # latencies recorded, ever

    def record(self, seconds: float, *, censored: bool = False) -> int:
        """A copy took so long; if `censored`, it would have taken longer. Returns `count`."""
        if censored:
            buckets = self._censored
        else:
            buckets = self._recorded
            self.count += 1
        bucket = int(_log(seconds) * _SCALE + _OFFSET) if seconds > SHORTEST else 0
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self._left -= 1
        if not self._left:
            self._past.append((self._recorded, self._censored))
            self._recorded, self._censored = {}, {}
            self._left = self._size
        return self.count

    def curve(self) -> Curve:
        """The distribution of the latencies in the window."""
        recorded: dict[int, int] = dict(self._recorded)
        censored: dict[int, int] = dict(self._censored)
        for old_recorded, old_censored in self._past:
            for total, old in ((recorded, old_recorded), (censored, old_censored)):
                for bucket, n in old.items():
                    total[bucket] = total.get(bucket, 0) + n
        return _kaplan_meier(recorded, censored)


class Curve:
    """P(X > t) at the upper end of each bucket: of bucket `low`, `low` + 1, …"""

    __slots__ = ("low", "samples", "survival")

    def __init__(self, low: int, survival: Sequence[float], samples: int) -> None:
        self.low = low
        self.survival = survival
        self.samples = samples

    def seconds(self, index: int) -> float:
        """The upper end of a bucket."""
        return SHORTEST * GROWTH ** (self.low + index + 1)

    def index(self, seconds: float) -> int:
        """The bucket of a latency; below 0, or beyond the end, for one that was never seen."""
        if seconds <= SHORTEST:
            return -1
        return int(_log(seconds) * _SCALE + _OFFSET) - self.low

    def quantile(self, q: float) -> float:
        """The latency that a share `q` of all stays below; inf if the curve does not show it."""
        for index, survival in enumerate(self.survival):
            if survival <= 1 - q:
                return self.seconds(index) / math.sqrt(GROWTH)
        return math.inf


def _kaplan_meier(recorded: dict[int, int], censored: dict[int, int]) -> Curve:
    if not recorded:
        return Curve(0, [], 0)
    low, high = min(recorded), max(recorded)
    samples = sum(recorded.values())
    at_risk = samples + sum(n for bucket, n in censored.items() if bucket >= low)
    survival: list[float] = []
    alive = 1.0
    for bucket in range(low, high + 1):
        n = recorded.get(bucket, 0)
        if n:
            alive *= 1 - n / at_risk
        at_risk -= n + censored.get(bucket, 0)
        survival.append(alive)
    return Curve(low, survival, samples)


# --- the policy


class Plan(NamedTuple):
    """Another copy after `delay` seconds, with `probability`."""

    delay: float
    probability: float


NEVER: Final = Plan(math.inf, 0.0)


def plan(curve: Curve, target: float, budget: float) -> Plan:
    """The policy with the smallest t for this distribution; `NEVER` if none is worth it."""
    survival, miss = curve.survival, 1 - target
    alone = next((i for i, s in enumerate(survival) if s <= miss), len(survival) - 1)
    if alone < 0 or curve.seconds(alone) < SHORTEST_HEDGED:
        return NEVER
    best, found = alone, NEVER  # the bucket of t; a policy must save at least one bucket
    before = 2.0
    for d in range(-1, best):  # -1: at once
        alive = survival[d] if d >= 0 else 1.0
        if alive == before:
            continue  # no latency lies between the last d and this one: waiting longer is no gain
        before = alive
        q = min(1.0, budget / alive)
        if best > d + 1 and _holds(survival, best - 1, d, q, miss):
            best = _least(survival, d, q, miss, best - 1)
            found = Plan(curve.seconds(d) if d >= 0 else 0.0, q)
    return found


def _least(survival: Sequence[float], d: int, q: float, miss: float, high: int) -> int:
    """The smallest t at which a policy meets the target; at `high` it does."""
    low = d
    while high - low > 1:
        middle = (low + high) // 2
        if _holds(survival, middle, d, q, miss):
            high = middle
        else:
            low = middle
    return high


def _holds(survival: Sequence[float], t: int, d: int, q: float, miss: float) -> bool:
    """Whether at most `miss` of the queries take longer than t, with another copy after d."""
    since = t if d < 0 else t - _SHORTER[min(t - d, len(_SHORTER) - 1)]
    return survival[t] * (1 - q * (1 - survival[since] if since >= 0 else 0.0)) <= miss


# By how many buckets the bucket of t - d lies below that of t. Since buckets grow by a constant
# factor, this depends only on how many buckets d lies below t.
_SHORTER: Final = [10**9] + [
    math.ceil(-math.log(1 - GROWTH**-less) / math.log(GROWTH)) for less in range(1, 300)
]
