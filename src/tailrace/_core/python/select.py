"""Select: one waiter in several queues, so that exactly one of its cases happens."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from tailrace._core.base import SelectBase
from tailrace._core.cancellation import hear_put_off, put_off
from tailrace._core.common import TIMED_OUT
from tailrace._core.done import DoneBase, Watch
from tailrace._core.python.operations import CoreOperation, interrupted
from tailrace._core.python.parking import Waiter, new_budget, wake
from tailrace._core.python.scheduler import (
    WAIT,
    Effect,
    Scheduler,
    budget,
    entered,
    locked,
    rng,
    scheduler_here,
)
from tailrace.arguments import check_timeout
from tailrace.errors import Closed, WouldBlock

T = TypeVar("T")

Cases = tuple[CoreOperation[Any] | None, ...]


class Select(SelectBase):
    """What `select` returns: await it once for ``(index, value)``."""

    __slots__ = ("cases", "priority", "timeout", "used", "waiter")

    def __init__(self, cases: Cases, timeout: float | None, priority: bool) -> None:
        self.used = True  # until the arguments are found good there is nothing to await
        self.waiter: Waiter | None = None
        spend(cases)
        timeout = check_timeout(timeout)
        if timeout is None and all(case is None for case in cases):
            raise ValueError("select without a case and without a timeout would wait forever")
        self.cases = cases
        self.timeout = timeout
        self.priority = priority
        self.used = False

    def __del__(self) -> None:
        if not getattr(self, "used", True):  # missing if `__init__` was interrupted
            warnings.warn("select was never awaited", RuntimeWarning, stacklevel=2, source=self)

    @property
    def since(self) -> float:
        """The loop's time at which a task parked here."""
        assert self.waiter is not None
        return self.waiter.since

    @property
    def parked(self) -> bool:
        """Whether a task or thread is parked in it, and nothing has claimed it."""
        return self.waiter is not None and self.waiter.winner is None

    def __await__(self) -> Generator[Any, Any, tuple[int | None, Any]]:
        if self.used:
            raise RuntimeError("select was awaited already: it is used once")
        self.used = True
        return self._drive()

    def _drive(self) -> Generator[Any, Any, tuple[int | None, Any]]:
        """Attempt each case, and if none can happen be parked in all queues, until one happened."""
        here = scheduler_here()
        while True:
            if budget.left <= 0:
                yield new_budget()
            self.waiter = None
            choice = Choice(self.cases, self.priority)
            try:
                entered(here, self._attempt_or_park, choice, here)
                if self.waiter is not None:
                    yield from self._sleep(self.waiter, choice.order)
            except BaseException as error:
                if self.waiter is None or self._interrupted(self.waiter, error):
                    raise
            if self.waiter is None:
                budget.left -= 1
                return choice.index_and_value()
            winner = self.waiter.winner
            self.waiter = None  # it leads to the task, which may keep this select
            if winner is TIMED_OUT:
                return None, None
            if isinstance(winner, CoreOperation):
                winner.forget_waiter()
                return self.cases.index(winner), winner.take_value()
            # A channel was closed: attempt again.

    def _attempt_or_park(self, choice: Choice, here: Scheduler) -> Effect:
        effect = choice.attempt(here)
        if effect is not WAIT:
            return effect
        self.waiter = waiter = Waiter(here, self)
        for index in choice.order:  # a random one: of two cases in one queue neither is favoured
            case = self.cases[index]
            if case is not None:
                case.waiter = waiter
                case.enqueue()
        return None

    def _sleep(self, waiter: Waiter, order: Sequence[int]) -> Generator[Any, Any, None]:
        """Be parked until claimed, and leave the other queues."""
        timer = None
        try:
            for index in order:  # a random one: see `_attempt_or_park`
                case = self.cases[index]
                if case is not None and case.watches:
                    case.watch()
            if self.timeout is not None:
                timer = waiter.get_loop().call_later(self.timeout, wake, waiter, TIMED_OUT)
            while waiter.winner is None:
                waiter._asyncio_future_blocking = True
                if put_off:
                    hear_put_off()
                yield waiter
        except BaseException:
            del waiter  # the traceback has this frame, and must not lead to the task
            raise
        finally:
            if timer is not None:
                timer.cancel()
        locked(None, self._withdraw, waiter)

    def _withdraw(self, waiter: Waiter) -> None:
        """Under the lock: leave every queue but the winner's own, which the claim has left."""
        for case in self.cases:
            if case is not None and case is not waiter.winner:
                case.withdraw()
                case.forget_waiter()

    def _interrupted(self, waiter: Waiter, error: BaseException) -> bool:
        raises = interrupted(self.cases, waiter, error)
        if raises:
            self.waiter = None
        return raises


class Choice:
    """The first of a select's cases that can happen, in the order of their chances."""

    __slots__ = ("cases", "closed", "index", "order")

    def __init__(self, cases: Cases, priority: bool) -> None:
        self.cases = cases
        self.order = list(range(len(cases))) if priority else rng.shuffled(len(cases))
        self.index: int | None = None
        self.closed: Closed | None = None  # if the case was ready because its channel is closed

    def attempt(self, here: Scheduler) -> Effect:
        """Under the lock: do the first case that can happen; WAIT if none can."""
        for index in self.order:
            case = self.cases[index]
            if case is None:
                continue
            effect: Effect = None
            try:
                effect = case.attempt(here)
            except Closed as closed:
                self.closed = closed
            if effect is not WAIT:
                self.index = index
                return effect
        wait: Effect = WAIT
        return wait

    def index_and_value(self) -> tuple[int, Any]:
        """What the select gives; raises if that is an error."""
        assert self.index is not None
        case = self.cases[self.index]
        assert case is not None
        closed, self.closed = self.closed, None
        try:
            if closed is None:
                return self.index, case.take_value()
            if case.receives and closed.__cause__ is None:
                return self.index, closed
            for each in self.cases:
                if each is not None:
                    each.value = None  # not sent: it is the sender's, and not the traceback's
            raise closed
        finally:
            del closed  # its traceback has this frame, and the frames that call this: no cycle


def spend(cases: tuple[object, ...]) -> None:
    """Mark every operation used, so that a refusal of one does not make the others warn."""
    refusal: Exception | None = None
    for index, case in enumerate(cases):
        if case is None:
            continue
        if not isinstance(case, CoreOperation) or not case.selectable:
            refusal = refusal or TypeError(
                f"case {index} of select is {case!r}: give it an operation, such as "
                f"channel.recv(), channel.send(value) or done(future), or None for no case"
            )
        elif case.used:
            refusal = refusal or RuntimeError(f"case {index} of select was used already: {case!r}")
        if isinstance(case, CoreOperation):
            case.used = True
    if refusal is not None:
        raise refusal


def select(
    *cases: CoreOperation[Any] | None, timeout: float | None = None, priority: bool = False
) -> Select:
    """Wait until one of `cases` can happen, do that one and no other: ``(index, value)``.

    A case is an operation (``channel.recv()``, ``channel.send(value)``, ``done(future)``) or
    None, which never happens (Go's nil channel). Among several that are ready the choice is
    uniformly random; with `priority` the first listed wins. After `timeout` seconds the answer
    is ``(None, None)``.

    A receive from a closed, drained channel is ready, with the `Closed` instance as its value;
    if it was closed with a cause, that `Closed` is raised. A send on a closed channel raises
    `Closed` when it is the case chosen.

    TypeError for what is not an operation; ValueError when nothing could ever happen.
    Cancelled: no case happened. A send that was taken in the same instant makes the await
    return, and the cancellation arrives at the task's next one.
    """
    return Select(cases, timeout, priority)


def select_nowait(*cases: CoreOperation[Any] | None, priority: bool = False) -> tuple[int, Any]:
    """Do one of `cases` if one can happen at once, else raise `WouldBlock` (Go's ``default``).

    Cases, choice and values are as for `select`.
    """
    spend(cases)
    here = scheduler_here()
    choice = Choice(cases, priority)
    if entered(here, choice.attempt, here) is WAIT:
        raise WouldBlock("no case of select is ready")
    return choice.index_and_value()


class Done(DoneBase[T], CoreOperation[T]):
    """A future, task or Event as a case of select; see `tailrace.done`."""

    __slots__ = ("_source", "_watched")
    verb = "done"
    method = "done"
    watches = True
    simple_value = False

    def __init__(self, source: asyncio.Future[T] | asyncio.Event) -> None:
        self.channel = source  # what messages name
        self.value = None
        self.used = False
        self._source = source
        self._watched: Watch | None = None

    def attempt(self, here: Scheduler) -> Effect:
        return None if self._ready() else WAIT

    def enqueue(self) -> None:
        self.queued = True

    def watch(self) -> None:
        self._watch()

    def withdraw(self) -> None:
        self.queued = False
        self._unwatch()

    def undo(self, here: Scheduler) -> None:
        self.withdraw()  # nothing was taken: it is still done

    def _happened(self) -> bool:
        if not self.queued:
            return False
        self.queued = False
        waiter = getattr(self, "waiter", None)  # missing if a wait has just ended
        return waiter is not None and wake(waiter, self)


def done(source: asyncio.Future[T] | asyncio.Event) -> CoreOperation[T]:
    """See `tailrace.done`."""
    return Done(source)
