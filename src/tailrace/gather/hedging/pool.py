"""What the queries of one `Hedged` share: backends, budget, plan, counts and one timer."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from tailrace.gather.hedging.delay import NEVER, Plan, Sketch, plan
from tailrace.gather.hedging.replica import BALANCERS, Balance, Eject, Replica

__all__ = ["Budget", "Due", "Pool", "Schedule"]

BURST: Final = 50.0  # copies at once; with fewer, chance alone would often empty the bucket
ALMOST: Final = 1 - 1e-9  # twenty times 0.05 is a little less than one


class Budget:
    """`rate` copies for each query.

    It begins empty where nothing is hedged at first, so that the total never passes the budget;
    `full` where something may be, or a first slow query would go unhelped.
    """

    __slots__ = ("_denied_before", "_fed", "_rate", "_size", "_tokens", "_wanted", "denied")

    def __init__(self, rate: float, *, full: bool) -> None:
        self._rate = rate
        self._size = max(BURST, rate) if rate > 0 else 0.0
        self._tokens = self._size if full else 0.0
        self._fed = 0  # by how many queries
        self.denied = 0
        self._wanted = 0  # since `paid_share` was last asked
        self._denied_before = 0

    def take(self, queries: int) -> bool:
        """Whether a copy may be sent, after so many queries; it is paid for then."""
        if queries > self._fed:
            self._tokens = min(self._tokens + self._rate * (queries - self._fed), self._size)
            self._fed = queries
        self._wanted += 1
        if self._tokens < ALMOST:
            self.denied += 1
            return False
        self._tokens -= 1
        return True

    def paid_share(self) -> float:
        """Which part of the copies wanted since this was last asked was paid for.

        Stragglers come one by one, and then it is nearly 1. It is less when they come in bursts:
        then the backends are slow together, and what more is asked of them makes them slower.
        """
        wanted, denied = self._wanted, self.denied - self._denied_before
        self._wanted, self._denied_before = 0, self.denied
        return 1 - denied / wanted if wanted else 1.0

    def give_back(self) -> None:
        """A copy that was paid for was never asked."""
        self._tokens = min(self._tokens + 1, self._size)


class Due(Protocol):
    """Who waits for a moment, and may lose interest before."""

    settled: bool  # it has

    def due(self) -> None:
        """The moment has come."""


class Schedule:
    """Calls ``due()`` at each one's moment, unless it is settled by then.

    Those that are settled stay in the heap until they come to its top, which is cheaper than to
    take them out: all wait about as long.
    """

    __slots__ = ("_at", "_heap", "_loop", "_number", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Due]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0  # when the timer fires

    def add(self, when: float, who: Due) -> None:
        """Call ``who.due()`` at `when`."""
        heap = self._heap
        while heap and heap[0][2].settled:
            heapq.heappop(heap)
        self._number += 1
        heapq.heappush(heap, (when, self._number, who))
        if self._timer is None or when < self._at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        heap, now = self._heap, self._at
        self._at = -math.inf  # nobody arms it meanwhile
        try:
            while heap and (heap[0][0] <= now or heap[0][2].settled):
                who = heapq.heappop(heap)[2]
                if not who.settled:
                    who.due()
        finally:
            self._timer = None
            if heap:
                self._arm(heap[0][0])


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
