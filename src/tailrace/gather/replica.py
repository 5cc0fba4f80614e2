"""One backend of a `Hedged`: what is known of it, and the line before it."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, Protocol

from tailrace.gather.backends import label
from tailrace.gather.eject import Eject, Health

__all__ = ["InLine", "Replica"]

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
