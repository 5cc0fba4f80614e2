"""What can be known without a simulation: the two distributions, and the best that one more copy
can do (SingleR: Kaler, He, Elnikety 2017).

Milliseconds throughout.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

__all__ = [
    "MEAN",
    "TARGETS",
    "Optimum",
    "both_at_once",
    "quantile_of",
    "single_r",
    "straggling",
    "survival",
    "talk_mean",
    "talk_quantile",
    "talk_survival",
]

TARGETS = (0.99, 0.999)

Survival = Callable[[float], float]
"""The share of queries that takes longer than so many milliseconds."""

# --- The distribution of github.com/bhope/hedge: lognormal, and 5 % of stragglers, × 10 ---------

CENTRE, SPREAD = 5.0, 2.0  # mean and standard deviation of what does not straggle
STRAGGLERS, FACTOR = 0.05, 10.0
MEAN = CENTRE * (1 + STRAGGLERS * (FACTOR - 1))
_SIGMA = math.sqrt(math.log(1 + (SPREAD / CENTRE) ** 2))
_MU = math.log(CENTRE) - _SIGMA**2 / 2


def straggling(dice: random.Random) -> float:
    """How long one copy takes."""
    took = dice.lognormvariate(_MU, _SIGMA)
    return took * FACTOR if dice.random() < STRAGGLERS else took


def survival(t: float) -> float:
    """The share of copies that take longer."""
    return (1 - STRAGGLERS) * _lognormal(t) + STRAGGLERS * _lognormal(t / FACTOR)


def _lognormal(t: float) -> float:
    return 0.5 * math.erfc((math.log(t) - _MU) / (_SIGMA * math.sqrt(2))) if t > 0 else 1.0


# --- The optimum --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Optimum:
    """A second copy after `delay`, with `probability`, makes the quantile `value`."""

    value: float
    delay: float
    probability: float


def quantile_of(beyond: Survival, target: float, longest: float = 10_000.0) -> float:
    """Where so small a share is left, by bisection."""
    low, high = 0.0, longest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 1 - target else (low, middle)
    return high


def single_r(beyond: Survival, target: float, budget: float, steps: int = 1500) -> Optimum:
    """The best delay and probability, by trying `steps` delays up to the quantile of one copy."""
    alone = quantile_of(beyond, target)
    best = Optimum(alone, math.inf, 0.0)
    for step in range(steps):
        delay = alone * step / steps
        left = beyond(delay)
        probability = 1.0 if left <= budget else budget / left
        if _with_second(beyond, delay, probability, best.value) > 1 - target:
            continue  # does not beat it
        value = quantile_of(partial(_with_second, beyond, delay, probability), target, alone)
        best = Optimum(value, delay, probability)
    return best


def _with_second(beyond: Survival, delay: float, probability: float, t: float) -> float:
    second = 1 - beyond(t - delay) if t > delay else 0.0
    return beyond(t) * (1 - probability * second)


def both_at_once(beyond: Survival, target: float) -> float:
    """The quantile of the faster of two copies."""
    return quantile_of(lambda t: beyond(t) ** 2, target)


# --- The talk's: a whole number of milliseconds below 100, all alike -----------------------------


def talk_survival(*replicas: int) -> list[float]:
    """P(more than t ms), for t of 0 to 99, when the slowest of the fastest of each is awaited."""
    return [1 - math.prod(1 - ((99 - t) / 100) ** k for k in replicas) for t in range(100)]


def talk_mean(*replicas: int) -> float:
    return sum(talk_survival(*replicas))


def talk_quantile(target: float, beyond: Sequence[float]) -> int:
    return next(t for t, left in enumerate(beyond) if left <= 1 - target + 1e-12)


def sum_survival(summands: int) -> list[float]:
    """The same for one after the other."""
    chances = [1.0]
    for _ in range(summands):
        grown = [0.0] * (len(chances) + 99)
        for total, chance in enumerate(chances):
            for more in range(100):
                grown[total + more] += chance / 100
        chances = grown
    return [1 - below for below in accumulate(chances)]
