"""What the queries of one `Hedged` share: the backends, the budget, the plan and the counts."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from tailrace.gather.balance import BALANCERS, Balance
from tailrace.gather.budget import Budget
from tailrace.gather.eject import Eject
from tailrace.gather.replica import Replica
from tailrace.gather.schedule import Schedule
from tailrace.gather.sketch import Sketch
from tailrace.gather.tuning import NEVER, Plan, plan

__all__ = ["Pool"]

WINDOW: Final = 10_000  # latencies that are remembered
FEW: Final = 10.0  # latencies that must lie above the delay before one is chosen
AGAIN: Final = 1000  # latencies after which it is chosen anew
PRUDENT: Final = 0.97  # of the budget is planned for, or the bucket would often be empty


class Asked(Protocol):
    """A copy that was sent before."""

    replica: Replica


class Pool:
    """One for each `Hedged`. Of one event loop at a time."""

    __slots__ = (
        "_budget_rate",
        "_target",
        "balance",
        "budget",
        "copies",
        "delay",
        "dice",
        "dispose",
        "failovers",
        "fatal",
        "hedges",
        "latencies",
        "loop",
        "max_copies",
        "next_plan",
        "probability",
        "queries",
        "replicas",
        "schedule",
        "sketch",
        "suspected",
        "wins",
    )

    schedule: Schedule

    def __init__(
        self,
        backends: Sequence[Any],
        *,
        target: float,
        budget: float,
        max_copies: int,
        delay: float | None,
        balance: Balance,
        eject: Eject | None,
        limit: int | None,
        fatal: Callable[[Exception], bool] | None,
        dispose: Callable[[Any], object],
        dice: random.Random,
    ) -> None:
        self.replicas = [
            Replica(backend, position, limit, eject) for position, backend in enumerate(backends, 1)
        ]
        self.max_copies = max_copies
        self.fatal = fatal
        self.dispose = dispose
        self.dice = dice
        self._target = target
        self._budget_rate = budget
        self.balance = BALANCERS[balance]
        self.loop: asyncio.AbstractEventLoop | None = None
        self.budget = Budget(budget, full=delay is not None)
        self.sketch = Sketch(WINDOW)  # of copies, to choose the delay by
        self.latencies: deque[float] = deque(maxlen=WINDOW)  # of queries, for statistics
        never = delay is None or delay == math.inf or max_copies == 1
        self.delay, self.probability = NEVER if never else Plan(delay or 0.0, 1.0)
        learns = delay is None and budget > 0 and max_copies > 1
        self.next_plan = FEW / min(1.0, budget) if learns else math.inf
        self.queries = self.copies = self.hedges = self.failovers = 0
        self.suspected = False  # whether any was ever ejected
        self.wins = [0] * max_copies

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first query on `loop`."""
        self.loop = loop
        self.schedule = Schedule(loop)
        for replica in self.replicas:
            replica.reset()

    def choose(self, asked: Sequence[Asked], now: float) -> Replica:
        """Whom to ask: of those that were asked least in this race, who are well, if any are."""
        candidates = self.replicas
        if asked:
            before = [copy.replica for copy in asked]
            least = min(before.count(replica) for replica in candidates)
            candidates = [r for r in candidates if before.count(r) == least]
        if self.suspected and len(candidates) > 1:
            well = [r for r in candidates if r.health is None or r.health.usable(now)]
            candidates = well or candidates
        return self.balance(candidates, now, self.dice)

    def failed(self, replica: Replica, now: float) -> None:
        """A failure that speaks against a backend."""
        replica.failures += 1
        health = replica.health
        if health is not None and health.bad() and now >= health.out_until:
            out = sum(r.health is not None and now < r.health.out_until for r in self.replicas)
            if 2 * (out + 1) <= len(self.replicas):
                health.eject(now)
                self.suspected = True

    def learn(self) -> None:
        """Enough was learnt to choose the delay anew."""
        count = self.sketch.count
        self.next_plan = count + min(AGAIN, count)
        budget = PRUDENT * self._budget_rate * self.budget.paid_share() ** 2
        self.delay, self.probability = plan(self.sketch.curve(), self._target, budget)
