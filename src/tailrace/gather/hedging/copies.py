"""The race of one query of a `Hedged`: one copy, and more when that pays.

Invariants
- At most `max_copies` are sent. A copy that was withdrawn from a queue does not count.
- The first copy is free, and so is each that replaces a failed one. Every other copy is paid for
  from the budget. The token comes back if that copy is withdrawn, or if the free copy is withdrawn,
  which makes a paid one free.
- While a copy runs, or another can be sent, no failure but a fatal one ends the race.
- User code (`dispose`, `fatal`, a backend that raises when it is called) runs in callbacks of the
  event loop. What it raises becomes the race's `crash`; the counters are right all the same.

The first copy answers most queries. So its way makes few calls: each costs as much as the rest.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from tailrace.gather.hedging.pool import Pool
from tailrace.gather.hedging.replica import Replica
from tailrace.gather.race import Race, add_origin
from tailrace.usercode import is_a

__all__ = ["HedgedRace"]

Q = TypeVar("Q")
R = TypeVar("R")


class Copy(Generic[R]):
    """One copy: queued for a slot of its backend, then running."""

    task: asyncio.Task[R] | None = None  # None while it is queued
    paid = False
    withdrawn = False

    def __init__(self, race: HedgedRace[Any, R], replica: Replica, now: float) -> None:
        self.race = race
        self.replica = replica
        self.sent = now

    def begin(self) -> None:
        """It has got a slot."""
        self.race.context.copy().run(self.race.got_slot, self)

    def ended(self, task: asyncio.Task[R]) -> None:
        """It has answered, failed, or been cancelled."""
        race, replica = self.race, self.replica
        race.running -= 1
        now = race.loop.time()
        try:
            if task.cancelled():
                race.cancelled(self, now)
            elif (error := task.exception()) is None:
                pool = race.pool
                took = now - self.sent
                replica.record(took, now)
                if replica.health is not None and replica.health.suspect:
                    replica.health.succeeded()
                if pool.sketch.record(took) >= pool.next_plan:
                    pool.choose_delay()
                if race.take(task):
                    race.decided = True
                    pool.wins[race.copies.index(self)] += 1
                    pool.latencies.append(now - race.started)
            elif is_a(error, Exception):
                race.failed(error, self, now)
            else:
                race.crash = error
        except BaseException as crash:  # of user code
            race.crash = crash
        if race.waiting and race.over():
            race.withdraw()
        replica.pending -= 1
        replica.busy -= 1
        if replica.queue:
            replica.advance()
        race.check()


class HedgedRace(Race[R], Generic[Q, R]):
    """The race of one query; an entry of the pool's schedule."""

    fatal_error: Exception | None = None
    waiting = 0  # copies in queues
    denied = 0  # copies of this query that the budget did not pay for
    stopped = 0.0  # when the copies were cancelled
    _failures: tuple[tuple[int, Exception], ...] = ()  # with the position of the backend

    def __init__(self, pool: Pool, query: Q) -> None:
        super().__init__("Hedged", pool.dispose)
        if self.loop is not pool.loop:
            pool.enter(self.loop)
        self.pool = pool
        self.query = query
        self.copies: list[Copy[R]] = []  # sent, in order, without those withdrawn
        self.context = copy_context()

    # --- sending

    def start(self) -> None:
        """Send the first copy; with a delay of 0, as many as there may be."""
        pool = self.pool
        pool.queries += 1
        self._send(False, self.started)
        if pool.probability and (pool.probability >= 1 or pool.rng.random() < pool.probability):
            if pool.delay > 0:
                pool.schedule.add(self.started + pool.delay, self)
            else:
                self._send_all()

    def _send_all(self) -> None:
        pool = self.pool
        while len(self.copies) < pool.max_copies and pool.budget.take(pool.queries):
            self._send(True, self.started)
        if self.running and self.waiting:
            self.withdraw()  # one has a slot, so the queued copies are not needed

    def due(self) -> None:
        """The delay has passed: send another copy, if the budget pays for it."""
        if self.over() or len(self.copies) >= self.pool.max_copies:
            return
        if self.pool.budget.take(self.pool.queries):
            self.context.copy().run(self._send, True, self.loop.time())
        else:
            self.denied += 1
        self._schedule_next()

    def _schedule_next(self) -> None:
        pool = self.pool
        if 0 < pool.delay < math.inf and len(self.copies) < pool.max_copies:
            # Twice as long after each denial, or all queries would ask all the time when all are
            # slow.
            wait = pool.delay * 2.0 ** min(self.denied, 60)
            pool.schedule.add(self.loop.time() + wait, self)

    def _send(self, paid: bool, now: float) -> None:
        pool = self.pool
        if self.copies or pool.any_ejected:
            replica = pool.choose(self.copies, now)
        else:
            replica = pool.balance(pool.replicas, now, pool.rng)
        copy = Copy(self, replica, now)
        if paid:
            copy.paid = True
        self.copies.append(copy)
        replica.pending += 1
        if replica.busy < replica.limit:
            self._ask(copy)
        else:
            self.waiting += 1
            replica.queue.append(copy)

    def _ask(self, copy: Copy[R]) -> None:
        replica, pool = copy.replica, self.pool
        replica.busy += 1
        replica.queries += 1
        if pool.any_ejected and replica.health is not None and replica.health.on_probation:
            replica.health.probing = True
        pool.copies += 1
        if copy.paid:
            pool.hedges += 1
        try:
            copy.task = task = self.launch(
                replica.ask, self.query, replica.task_name, copy.ended, self.context
            )
        except BaseException:
            replica.busy -= 1
            replica.pending -= 1
            raise
        self.tasks.append(task)

    # --- queued copies

    def got_slot(self, copy: Copy[R]) -> None:
        """A queued copy has got a slot: the other queued copies are not needed."""
        self.waiting -= 1
        self._ask(copy)
        if self.waiting:
            self.withdraw()
            self._schedule_next()

    def withdraw(self) -> None:
        """Take all queued copies out of their queues."""
        for copy in [copy for copy in self.copies if copy.task is None]:
            copy.withdrawn = True
            copy.replica.pending -= 1
            self.copies.remove(copy)
            if copy.paid:
                self.pool.budget.give_back()
            elif (other := next((c for c in self.copies if c.paid and c.task), None)) is not None:
                other.paid = False
                self.pool.hedges -= 1
                self.pool.budget.give_back()
        self.waiting = 0

    # --- the end

    def over(self) -> bool:
        """Whether a copy has answered, or none can any more."""
        return (
            self.winner is not None
            or not (self.running or self.waiting)
            or self.fatal_error is not None
            or self.crash is not None
        )

    def cancelled(self, copy: Copy[R], now: float) -> None:
        """A copy was cancelled, by this race or by somebody else."""
        if self.ending:
            took = self.stopped - copy.sent
            copy.replica.censored(took, now)
            self.pool.sketch.record(took, censored=True)
        else:
            self.failed(RuntimeError("cancelled, and not by Hedged"), copy, now)

    def failed(self, error: Exception, copy: Copy[R], now: float) -> None:
        """A copy has failed: another one replaces it, if there may be more."""
        pool, replica = self.pool, copy.replica
        add_origin(error, replica.backend, replica.position, len(pool.replicas))
        self._failures = (*self._failures, (replica.position, error))
        if pool.fatal is not None and pool.fatal(error):
            replica.probe_ended()
            self.fatal_error = error
            return
        pool.failed(replica, now)
        if not self.ending and self.winner is None and len(self.copies) < pool.max_copies:
            pool.failovers += 1
            self._send(False, now)

    def stop(self) -> bool:
        """As `Race.stop`. Queued copies are withdrawn."""
        if self.waiting:
            self.withdraw()
        elif not self.running:
            self.ending = self.decided = True
            return False  # nearly always
        self.stopped = self.loop.time()
        return super().stop()

    def errors(self) -> list[Exception]:
        """The failures, in the order of the backends."""
        return [error for _, error in sorted(self._failures, key=lambda failure: failure[0])]
