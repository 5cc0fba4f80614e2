"""What the queries of one `Hedged` share: backends, budget, plan, counters and one timer."""

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

__all__ = ["BURST", "Budget", "Pool", "Schedule", "Scheduled"]

BURST: Final = 50.0  # copies at once; with fewer, chance alone would often empty the bucket
ALMOST: Final = 1 - 1e-9  # twenty times 0.05 is a little less than one
WINDOW: Final = 10_000  # latencies that are remembered
ENOUGH: Final = 10.0  # latencies that must lie above the delay before one is chosen
PLAN_EVERY: Final = 1000  # latencies after which the delay is chosen anew
PLANNED_SHARE: Final = 0.97  # of the budget; with all of it the bucket would often be empty


class Budget:
    """How many more copies may be sent: a token bucket of `rate` copies for each query.

    Queries feed it, and never the clock: an overload answers no more queries per second, so it must
    not pay for more copies. It begins empty if nothing is hedged at first, so that the total never
    passes the budget. It begins `full` if the first query may be hedged already.
    """

    __slots__ = ("_denied_before", "_fed", "_rate", "_size", "_tokens", "_wanted", "denied")

    def __init__(self, rate: float, *, full: bool) -> None:
        self._rate = rate
        self._size = max(BURST, rate) if rate > 0 else 0.0
        self._tokens = self._size if full else 0.0
        self._fed = 0  # queries that have been counted
        self.denied = 0
        self._wanted = 0  # copies since the last `paid_share`
        self._denied_before = 0

    def take(self, queries: int) -> bool:
        """Pay for a copy, if there is a token. `queries`: how many there were, ever."""
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
        """The share of the copies wanted since the last call that was paid for.

        Where stragglers come one by one it is nearly 1. Where they come in bursts it is less: then
        the backends are slow together, and more copies would make them slower.
        """
        wanted, denied = self._wanted, self.denied - self._denied_before
        self._wanted, self._denied_before = 0, self.denied
        return 1 - denied / wanted if wanted else 1.0

    def give_back(self) -> None:
        """A copy that was paid for was never sent."""
        self._tokens = min(self._tokens + 1, self._size)


class Scheduled(Protocol):
    """What waits for a moment."""

    decided: bool  # it needs no call any more

    def due(self) -> None:
        """The moment has come."""


class Schedule:
    """Calls ``due()`` of each entry at its moment, unless the entry is decided by then.

    One timer serves all, where one each would nearly always be set and cancelled. Decided entries
    stay in the heap until they come to its top: as all wait about as long, that is cheaper than to
    take them out.
    """

    __slots__ = ("_at", "_heap", "_loop", "_number", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Scheduled]] = []
        self._number = 0  # orders entries of the same moment
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0  # when the timer fires

    def add(self, when: float, entry: Scheduled) -> None:
        """Call ``entry.due()`` at `when`."""
        heap = self._heap
        while heap and heap[0][2].decided:
            heapq.heappop(heap)
        self._number += 1
        heapq.heappush(heap, (when, self._number, entry))
        if self._timer is None or when < self._at:
            self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        heap, now = self._heap, self._at
        self._at = -math.inf  # so that `add` sets no timer meanwhile
        try:
            while heap and (heap[0][0] <= now or heap[0][2].decided):
                entry = heapq.heappop(heap)[2]
                if not entry.decided:
                    entry.due()
        finally:
            self._timer = None
            if heap:
                self._set_timer(heap[0][0])


class Sent(Protocol):
    """A copy that was sent before."""

    replica: Replica


class Pool:
    """The shared state of one `Hedged`. It works on one event loop at a time."""

    __slots__ = (
        "_budget_rate",
        "_target",
        "any_ejected",
        "balance",
        "budget",
        "copies",
        "delay",
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
        "rng",
        "schedule",
        "sketch",
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
        rng: random.Random,
    ) -> None:
        self.replicas = [
            Replica(backend, position, limit, eject) for position, backend in enumerate(backends, 1)
        ]
        self.max_copies = max_copies
        self.fatal = fatal
        self.dispose = dispose
        self.rng = rng
        self._target = target
        self._budget_rate = budget
        self.balance = BALANCERS[balance]
        self.loop: asyncio.AbstractEventLoop | None = None
        self.budget = Budget(budget, full=delay is not None)
        self.sketch = Sketch(WINDOW)  # of copies, to choose the delay
        self.latencies: deque[float] = deque(maxlen=WINDOW)  # of queries, for statistics
        never = delay is None or delay == math.inf or max_copies == 1
        self.delay, self.probability = NEVER if never else Plan(delay or 0.0, 1.0)
        learns = delay is None and budget > 0 and max_copies > 1
        self.next_plan = ENOUGH / min(1.0, budget) if learns else math.inf  # a count of the sketch
        self.queries = self.copies = self.hedges = self.failovers = 0
        self.any_ejected = False  # whether any backend was ever ejected
        self.wins = [0] * max_copies

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on another event loop."""
        self.loop = loop
        self.schedule = Schedule(loop)
        for replica in self.replicas:
            replica.reset()

    def choose(self, sent: Sequence[Sent], now: float) -> Replica:
        """Choose the backend of a query's next copy.

        It is one of those that got the fewest copies of this query, and a usable one, if any is.
        """
        candidates = self.replicas
        if sent:
            before = [copy.replica for copy in sent]
            fewest = min(before.count(replica) for replica in candidates)
            candidates = [r for r in candidates if before.count(r) == fewest]
        if self.any_ejected and len(candidates) > 1:
            usable = [r for r in candidates if r.health is None or r.health.usable(now)]
            candidates = usable or candidates
        return self.balance(candidates, now, self.rng)

    def failed(self, replica: Replica, now: float) -> None:
        """A backend has failed, and the failure is not a fatal one: eject it if that is due."""
        replica.failures += 1
        health = replica.health
        if health is not None and health.failed() and now >= health.ejected_until:
            out = sum(r.health is not None and now < r.health.ejected_until for r in self.replicas)
            if 2 * (out + 1) <= len(self.replicas):
                health.eject(now)
                self.any_ejected = True

    def choose_delay(self) -> None:
        """Choose the delay anew, as there are enough new latencies."""
        count = self.sketch.count
        self.next_plan = count + min(PLAN_EVERY, count)  # at first the count doubles between plans
        # Squared: where half of the wanted copies were denied, plan with a quarter of the budget.
        budget = PLANNED_SHARE * self._budget_rate * self.budget.paid_share() ** 2
        self.delay, self.probability = plan(self.sketch.curve(), self._target, budget)
