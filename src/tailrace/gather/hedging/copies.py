"""The copies of one query of a `Hedged`.

Invariants:
- At most `max_copies` are sent. One that was withdrawn from a line was not.
- The first copy, and each that replaces a failed one, is free. Every other is paid for from the
  budget, and the money comes back if it, or the free one in its stead, is withdrawn.
- While a copy lives or one can be sent in its place, no failure but a fatal one ends the race.
- User code (`dispose`, `fatal`, a backend that raises when it is called) runs inside callbacks of
  the event loop. Whatever it raises becomes the race's `crash`; the counts are right all the same.

Most queries are answered by their first copy, so what is on the way of that calls little: a call
costs as much here as all that it does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextvars import copy_context
from types import CoroutineType
from typing import Any, Generic, TypeVar

from tailrace.gather.hedging.pool import Pool
from tailrace.gather.hedging.replica import Replica
from tailrace.gather.race import Race, awaiting, failing, sign
from tailrace.usercode import is_a

__all__ = ["HedgedRace"]

Q = TypeVar("Q")
R = TypeVar("R")


class Copy(Generic[R]):
    """One copy: in line for a slot of its backend, then asked."""

    task: asyncio.Task[R] | None = None  # none while in line
    paid = False
    withdrawn = False

    def __init__(self, race: HedgedRace[Any, R], replica: Replica, now: float) -> None:
        self.race = race
        self.replica = replica
        self.sent = now

    def begin(self) -> None:
        """It has got a slot."""
        self.race.context.copy().run(self.race.advance, self)

    def ended(self, task: asyncio.Task[R]) -> None:
        """It has answered, failed, or been cancelled."""
        race, replica = self.race, self.replica
        race.running -= 1
        now = race.loop.time()
        try:
            if task.cancelled():
                race.gave_up(self, now)
            elif (error := task.exception()) is None:
                pool = race.pool
                took = now - self.sent
                replica.answered(took, now)
                if pool.sketch.saw(took) >= pool.next_plan:
                    pool.learn()
                if race.winner is None and not race.ending:
                    race.winner, race.settled = task, True
                    pool.wins[race.copies.index(self)] += 1
                    pool.latencies.append(now - race.started)
                else:
                    race.dispose(task.result())
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
        if replica.line:
            replica.advance()
        race.look()


class HedgedRace(Race[R], Generic[Q, R]):
    """One copy, and more when it pays."""

    who = "Hedged"
    fate: Exception | None = None  # a fatal failure
    failures: tuple[tuple[int, Exception], ...] = ()  # whose, by position
    waiting = 0  # copies in line
    denied = 0  # copies that the budget did not pay for
    stopped = 0.0  # when the copies were cancelled

    def __init__(self, pool: Pool, question: Q) -> None:
        self.loop = self._loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.tasks = []
        self._dispose = pool.dispose
        if self.loop is not pool.loop:
            pool.enter(self.loop)
        self.pool = pool
        self.copies: list[Copy[R]] = []
        self.question = question
        self.context = copy_context()

    # --- sending

    def begin(self) -> None:
        """Send the first copy; with a delay of 0 all that there may be."""
        pool = self.pool
        pool.queries += 1
        self._send(False, self.started)
        if pool.probability and (pool.probability >= 1 or pool.dice.random() < pool.probability):
            if pool.delay > 0:
                pool.schedule.add(self.started + pool.delay, self)
            else:
                self._send_the_rest()

    def _send_the_rest(self) -> None:
        pool = self.pool
        while len(self.copies) < pool.max_copies and pool.budget.take(pool.queries):
            self._send(True, self.started)
        if self.running and self.waiting:
            self.withdraw()  # tied: those that have slots need none in line

    def due(self) -> None:
        """Enough time has passed for another copy."""
        if self.over() or len(self.copies) >= self.pool.max_copies:
            return
        if self.pool.budget.take(self.pool.queries):
            self.context.copy().run(self._send, True, self.loop.time())
        else:
            self.denied += 1
        self._wait_again()

    def _wait_again(self) -> None:
        pool = self.pool
        if 0 < pool.delay < math.inf and len(self.copies) < pool.max_copies:
            # Twice as long after each denial: when all are slow, all would ask all the time.
            wait = pool.delay * 2.0 ** min(self.denied, 60)
            pool.schedule.add(self.loop.time() + wait, self)

    def _send(self, paid: bool, now: float) -> None:
        pool = self.pool
        if self.copies or pool.suspected:
            replica = pool.choose(self.copies, now)
        else:
            replica = pool.balance(pool.replicas, now, pool.dice)
        copy = Copy(self, replica, now)
        if paid:
            copy.paid = True
        self.copies.append(copy)
        replica.pending += 1
        if replica.busy < replica.limit:
            self._ask(copy)
        else:
            self.waiting += 1
            replica.line.append(copy)

    def _ask(self, copy: Copy[R]) -> None:
        replica, pool = copy.replica, self.pool
        replica.busy += 1
        replica.queries += 1
        if pool.suspected and replica.health is not None and replica.health.suspect:
            replica.health.trying = True
        pool.copies += 1
        if copy.paid:
            pool.hedges += 1
        try:
            answering: Any = replica.ask(self.question)
        except (Exception, asyncio.CancelledError) as error:
            answering = failing(error)  # so that it comes of the copy
        except BaseException:
            replica.busy -= 1
            replica.pending -= 1
            raise
        coroutine: Coroutine[Any, Any, R] = (
            answering if answering.__class__ is CoroutineType else awaiting(answering)
        )
        copy.task = task = asyncio.Task(coroutine, loop=self.loop, name=replica.task_name)
        task.add_done_callback(copy.ended, context=self.context)
        self.tasks.append(task)
        self.running += 1

    # --- tied copies

    def advance(self, copy: Copy[R]) -> None:
        """A copy has got a slot: those still in line are not needed."""
        self.waiting -= 1
        self._ask(copy)
        if self.waiting:
            self.withdraw()
            self._wait_again()

    def withdraw(self) -> None:
        """Take all out of their lines. If the free one is among them, another becomes free."""
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

    # --- what becomes of them

    def over(self) -> bool:
        """Whether a copy has answered, or none can."""
        return (
            self.winner is not None
            or not (self.running or self.waiting)
            or self.fate is not None
            or self.crash is not None
        )

    def gave_up(self, copy: Copy[R], now: float) -> None:
        """A copy was cancelled, by us or not."""
        if self.ending:
            took = self.stopped - copy.sent
            copy.replica.gave_up(took, now)
            self.pool.sketch.censored(took)
        else:
            self.failed(RuntimeError("cancelled, and not by Hedged"), copy, now)

    def failed(self, error: Exception, copy: Copy[R], now: float) -> None:
        """A copy has failed: another takes its place, if there may be one."""
        pool, replica = self.pool, copy.replica
        sign(error, replica.backend, replica.position, len(pool.replicas))
        self.failures = (*self.failures, (replica.position, error))
        if pool.fatal is not None and pool.fatal(error):
            replica.spared()
            self.fate = error
            return
        pool.failed(replica, now)
        if not self.ending and self.winner is None and len(self.copies) < pool.max_copies:
            pool.failovers += 1
            self._send(False, now)

    def stop(self) -> bool:
        """As for any race; those in line are withdrawn."""
        if self.waiting:
            self.withdraw()
        self.stopped = self.loop.time()
        return super().stop()

    def errors(self) -> list[Exception]:
        """The failures, in the order of the backends."""
        return [error for _, error in sorted(self.failures, key=lambda failure: failure[0])]
