"""Which of several backends to ask."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from tailrace.gather.replica import Replica

__all__ = ["BALANCERS", "Balance"]

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
