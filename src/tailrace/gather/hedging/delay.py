"""When to hedge: a sketch of the latencies, and the policy to choose by it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["GROWTH", "NEVER", "Curve", "Plan", "Sketch", "plan"]

GROWTH: Final = 1.02
SHORTEST: Final = 1e-6  # seconds: what is below counts as this
PARTS: Final = 10
_SCALE: Final = 1 / math.log(GROWTH)
_OFFSET: Final = -math.log(SHORTEST) * _SCALE
_log = math.log


class Sketch:
    """The last `window` latencies, at least nine tenths of them."""

    __slots__ = ("_censored", "_left", "_past", "_seen", "_size", "count")

    def __init__(self, window: int) -> None:
        self._size = max(1, window // PARTS)
        self._left = self._size
        self._seen: dict[int, int] = {}
        self._censored: dict[int, int] = {}
        self._past: deque[tuple[dict[int, int], dict[int, int]]] = deque(maxlen=PARTS - 1)
        self.count = 0  # latencies seen, ever

    def saw(self, seconds: float) -> int:
        """A query took so long; how many did, ever."""
        bucket = int(_log(seconds) * _SCALE + _OFFSET) if seconds > SHORTEST else 0
        seen = self._seen
        seen[bucket] = seen.get(bucket, 0) + 1
        self._left -= 1
        if not self._left:
            self._turn()
        self.count += 1
        return self.count

    def censored(self, seconds: float) -> None:
        """A query would have taken longer than this."""
        bucket = int(_log(seconds) * _SCALE + _OFFSET) if seconds > SHORTEST else 0
        self._censored[bucket] = self._censored.get(bucket, 0) + 1
        self._left -= 1
        if not self._left:
            self._turn()

    def _turn(self) -> None:
        self._past.append((self._seen, self._censored))
        self._seen, self._censored = {}, {}
        self._left = self._size

    def curve(self) -> Curve:
        """The distribution of what is in the window."""
        seen: dict[int, int] = dict(self._seen)
        censored: dict[int, int] = dict(self._censored)
        for old_seen, old_censored in self._past:
            for total, old in ((seen, old_seen), (censored, old_censored)):
                for bucket, n in old.items():
                    total[bucket] = total.get(bucket, 0) + n
        return _kaplan_meier(seen, censored)


class Curve:
    """P(X > t) at the upper end of each bucket of `low`, `low` + 1, …"""

    __slots__ = ("low", "samples", "survival")

    def __init__(self, low: int, survival: Sequence[float], samples: int) -> None:
        self.low = low
        self.survival = survival
        self.samples = samples

    def seconds(self, index: int) -> float:
        """The upper end of a bucket."""
        return SHORTEST * GROWTH ** (self.low + index + 1)

    def index(self, seconds: float) -> int:
        """The bucket of a latency; below 0 and beyond the end for what was never seen."""
        if seconds <= SHORTEST:
            return -1
        return int(_log(seconds) * _SCALE + _OFFSET) - self.low

    def quantile(self, q: float) -> float:
        """The latency that a part `q` of all stay below: inf if that is not known."""
        for index, survival in enumerate(self.survival):
            if survival <= 1 - q:
                return self.seconds(index) / math.sqrt(GROWTH)
        return math.inf


def _kaplan_meier(seen: dict[int, int], censored: dict[int, int]) -> Curve:
    if not seen:
        return Curve(0, [], 0)
    low, high = min(seen), max(seen)
    samples = sum(seen.values())
    at_risk = samples + sum(n for bucket, n in censored.items() if bucket >= low)
    survival: list[float] = []
    alive = 1.0
    for bucket in range(low, high + 1):
        n = seen.get(bucket, 0)
        if n:
            alive *= 1 - n / at_risk
        at_risk -= n + censored.get(bucket, 0)
        survival.append(alive)
    return Curve(low, survival, samples)


class Plan(NamedTuple):
    """Another copy after `delay` seconds, with `probability`."""

    delay: float
    probability: float


BRIEF: Final = 0.001  # seconds; what takes less is as long as an event loop's own delays
NEVER: Final = Plan(math.inf, 0.0)


def plan(curve: Curve, target: float, budget: float) -> Plan:
    """The best policy for a distribution, `NEVER` if none pays."""
    survival, miss = curve.survival, 1 - target
    alone = next((i for i, s in enumerate(survival) if s <= miss), len(survival) - 1)
    if alone < 0 or curve.seconds(alone) < BRIEF:
        return NEVER
    best, found = alone, NEVER  # the bucket of the quantile: a plan must save one
    before = 2.0
    for d in range(-1, best):  # -1: at once
        alive = survival[d] if d >= 0 else 1.0
        if alive == before:
            continue  # nobody has answered since the last: to wait for longer is no gain
        before = alive
        q = min(1.0, budget / alive)
        if best > d + 1 and _holds(survival, best - 1, d, q, miss):
            best = _least(survival, d, q, miss, best - 1)
            found = Plan(curve.seconds(d) if d >= 0 else 0.0, q)
    return found


def _least(survival: Sequence[float], d: int, q: float, miss: float, high: int) -> int:
    """The least t for which a policy holds; it does for `high`."""
    low = d
    while high - low > 1:
        middle = (low + high) // 2
        if _holds(survival, middle, d, q, miss):
            high = middle
        else:
            low = middle
    return high


def _holds(survival: Sequence[float], t: int, d: int, q: float, miss: float) -> bool:
    """Whether no more than `miss` take longer than t, if another copy is sent after d."""
    since = t if d < 0 else t - _SHORTER[min(t - d, len(_SHORTER) - 1)]
    return survival[t] * (1 - q * (1 - survival[since] if since >= 0 else 0.0)) <= miss


# By how many buckets t - d is less than t, if d is so many less: that depends on nothing else.
_SHORTER: Final = [10**9] + [
    math.ceil(-math.log(1 - GROWTH**-less) / math.log(GROWTH)) for less in range(1, 300)
]
