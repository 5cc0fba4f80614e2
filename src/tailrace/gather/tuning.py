"""When a second copy pays: SingleR of Kaler, He and Elnikety (SPAA 2017).

One more copy after `delay` seconds, with `probability`. Of all such policies that send at most
`budget` more copies for each query, the one after which the fewest seconds hold the `target`:
of the t with ``P(X > t) · (1 − q · P(Y ≤ t − d)) ≤ 1 − target`` the least, where
``q · P(X > d) ≤ budget``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from tailrace.gather.sketch import GROWTH, Curve

__all__ = ["NEVER", "Plan", "plan"]


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
