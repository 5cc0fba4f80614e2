"""Operations: what `send` and `recv` return, and their drivers.

A driver attempts an operation, and parks it if it cannot happen, in one step under the lock. Four
drivers (await, `select`, the ``*_nowait`` calls, a blocked thread) call the same `attempt`, so a
value always moves by the same code, which is in `channel`. A spent budget yields before the
attempt. When a channel closes, its parked operations are attempted again.

The claim of the waiter alone decides what happened. If the task of a claimed operation is
cancelled, a send returns and the cancellation comes at the task's next await; a receive gives its
value back under its ticket, which keeps the order.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from tailrace._core.base import Operation, tell_dropped
from tailrace._core.cancellation import hear_put_off, put_off, put_off_cancellation
from tailrace._core.common import CANCELLED, HAPPENED, UNCLAIMED, Claim, label
from tailrace._core.python.parking import (
    AnyWaiter,
    ThreadWaiter,
    Waiter,
    new_budget,
    wake,
)
from tailrace._core.python.scheduler import (
    NO_LOOP,
    WAIT,
    Effect,
    Outcome,
    Scheduler,
    acquire,
    budget,
    call_when_free,
    entered,
    get_ident,
    held,
    latest,
    locked,
    recover,
    reentered,
    release,
    running_loop,
    scheduler_here,
    scheduler_of,
)
from tailrace.errors import Closed, WouldBlock

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class CoreOperation(Operation[T_co]):
    """An operation of this core: the hooks that drivers call, and the await."""

    # Only the first three are set from the start: most operations never park. `queued` and
    # `waiter` come with parking, `ticket` with a value that was handed over.
    __slots__ = ("channel", "queued", "ticket", "used", "value", "waiter")

    receives = False
    # If not, the cancellation of a claimed operation may be put off, and `undo` needs no lock.
    gives_back = True  # whether `undo` gives a value back, under the lock
    watches = False  # whether `watch` is to be called once it is parked
    simple_value = True  # whether `take_value` does nothing but return `value`
    selectable = True

    channel: Any
    queued: bool
    ticket: int
    waiter: AnyWaiter

    def __init__(self, channel: Any, value: Any = None) -> None:
        self.channel = channel
        self.value = value
        self.used = False

    def __del__(self) -> None:
        if not getattr(self, "used", True):  # missing if `__init__` was interrupted
            warnings.warn(
                f"{self.method} was never awaited", RuntimeWarning, stacklevel=2, source=self
            )

    @property
    def _unused(self) -> bool:
        return not self.used

    @property
    def _claim(self) -> Claim:
        """Valid after a wake-up."""
        waiter = getattr(self, "waiter", None)
        winner = None if waiter is None else waiter.winner
        if isinstance(winner, Claim):
            return winner
        return UNCLAIMED if winner is None else HAPPENED

    @property
    def parked(self) -> bool:
        """Whether a task or thread is parked in it, and nothing has claimed it."""
        waiter = getattr(self, "waiter", None)  # asked from other threads
        return waiter is not None and waiter.winner is None

    @property
    def since(self) -> float:
        """The loop's time at which a task parked here."""
        assert isinstance(self.waiter, Waiter)
        return self.waiter.since

    # Hooks. `Effect` is what to apply once the lock is released.

    def attempt(self, here: Scheduler) -> Effect:
        """Under the lock: take effect if that is possible now, else return `WAIT`.

        Raises `Closed`; then nothing has changed.
        """
        raise NotImplementedError

    def enqueue(self) -> None:
        """Under the lock, with `waiter` set: stand in the channel's queue."""
        raise NotImplementedError

    def watch(self) -> None:
        """Without the lock, after `enqueue`, if it `watches`: may run user code."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """Under the lock, after `enqueue`: leave the queue, if it is still there."""
        raise NotImplementedError

    def undo(self, here: Scheduler) -> Effect:
        """It was claimed, and its await raises. Under the lock if it `gives_back`: give back what
        was handed over."""
        return None

    def forget_waiter(self) -> None:
        """Drop the waiter, if there is one: an operation that is kept must not lead to the task."""
        if hasattr(self, "waiter"):
            del self.waiter

    def take_value(self) -> Any:
        """Without the lock, once, after it happened: the value."""
        value, self.value = self.value, None
        return value

    # Drivers.

    def _begin(self) -> None:
        """Mark it used. RuntimeError if it was used already."""
        if self.used:
            raise RuntimeError(f"{self.method} was awaited already: it is used once")
        self.used = True

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self.used:
            self._begin()  # raises
        self.used = True
        return self._drive()

    def _drive(self) -> Generator[Any, Any, Any]:
        """Attempt, and if need be park, until it happened."""
        # `entered`, written out: a call of it here costs 14 % of an unbuffered hop.
        while True:
            if budget.left <= 0:
                yield new_budget()
            here = latest.scheduler
            if here.thread != get_ident():  # not resumed by `Scheduler.run`
                loop = running_loop()
                if here.loop() is not loop:
                    here = scheduler_of(loop)
            if held():
                raise reentered()
            waiter = None
            try:
                acquire()
                effect: Any = self.attempt(here)
                if effect is WAIT:
                    waiter = self.waiter = Waiter(here, self)
                    self.enqueue()
                    release()
                    if self.watches:
                        self.watch()
                else:
                    release()
                    if effect is not None and (effect.scheduler is not here or not here.scheduled):
                        effect.apply(here)  # else the turn that runs resumes the waiter
            except BaseException as error:
                recover()
                if waiter is not None:
                    interrupted((self,), waiter, error)
                budget.left -= 1  # it did not park: a task that goes on after `Closed` yields too
                self.value = None  # the traceback has this frame, and the value is the sender's
                raise
            if waiter is None:
                budget.left -= 1
                break
            while True:
                try:
                    if put_off:
                        hear_put_off()
                    yield waiter
                except BaseException as error:
                    if interrupted((self,), waiter, error):
                        del waiter  # the traceback has this frame, and must not lead to the task
                        raise
                if waiter.winner is not None:
                    break
                waiter._asyncio_future_blocking = True  # resumed, but not claimed: park again
            if waiter.winner is self:
                del self.waiter  # each refers to the other: not to be left to the collector
                break
            # The channel was closed: attempt again.
            if not self.queued:  # else that close was interrupted amid its claims
                del self.waiter
        if self.simple_value:
            value: Any = self.value
            self.value = None
            return value
        del waiter  # `take_value` may raise
        return self.take_value()

    def now(self) -> Any:
        """Do it at once, for the ``*_nowait`` calls; WouldBlock if it would have to wait."""
        self._begin()
        here = scheduler_here()
        if entered(here, self.attempt, here) is WAIT:
            raise WouldBlock(f"{self.method} on {label(self.channel)} would wait")
        return self.take_value()

    # What a thread needs: see `twin.OperationLike`.

    def _attempt(self, lock: threading.Lock | None) -> bool:
        try:
            return entered(NO_LOOP, self._attempt_or_park, lock) is not WAIT
        except Closed:
            self.value = None  # as in `_drive`
            raise

    def _attempt_or_park(self, lock: threading.Lock | None) -> Effect:
        effect = self.attempt(NO_LOOP)
        if effect is WAIT and lock is not None:
            self.waiter = ThreadWaiter(lock)
            self.enqueue()
        return effect

    def _wake(self, claim: Claim) -> bool:
        waiter = getattr(self, "waiter", None)
        return waiter is not None and wake(waiter, claim)

    def _give_up(self) -> None:
        waiter = getattr(self, "waiter", None)
        if waiter is not None:
            locked(NO_LOOP, settle, (self,), waiter, NO_LOOP)
            self.forget_waiter()
            self.value = None


def interrupted(
    cases: Sequence[CoreOperation[Any] | None], waiter: Waiter, error: BaseException
) -> bool:
    """Decide what an exception at the await means. True: raise it. False: a send happened; return.

    `cases` are the operations that are parked by `waiter`: one, or those of a select.
    """
    if held():  # the garbage collector closed this coroutine in the middle of an operation
        call_when_free(waiter.scheduler.loop(), interrupted, cases, waiter, error)
        return True
    here = scheduler_here()
    locked(here, settle, cases, waiter, here)
    winner = waiter.winner
    if isinstance(winner, CoreOperation) and not winner.gives_back:
        if put_off_cancellation(error, waiter.cancellations()):
            return False
        winner.undo(here)
    for case in cases:
        if case is not None:
            case.forget_waiter()
            case.value = None
    return True


def settle(
    cases: Sequence[CoreOperation[Any] | None], waiter: AnyWaiter, here: Scheduler
) -> Effect:
    """Under the lock, for an await that ends by an exception: claim the waiter unless it was
    claimed, leave the queues, and give back what was handed over."""
    winner = waiter.winner = waiter.winner or CANCELLED
    for case in cases:
        if case is not None and case is not winner:
            case.withdraw()
    if isinstance(winner, CoreOperation) and winner.gives_back:
        return winner.undo(here)
    return None


# --- effects --------------------------------------------------------------------------------------


def add_effect(effects: list[Outcome], effect: Effect) -> None:
    """Append an effect that is none or one."""
    if effect is not None:
        effects.append(effect)


class Dropped:
    """The effect of an overflow policy: a value was dropped, and is told so."""

    __slots__ = ("value",)
    scheduler = None

    def __init__(self, value: object) -> None:
        self.value = value

    def apply(self, here: Scheduler) -> None:
        """Tell the value."""
        try:
            tell_dropped(self.value)
        except Exception as error:  # the sender need not know the value
            raise_in_finaliser(error)


class _Raises:
    __slots__ = ("error",)

    error: Exception

    def __del__(self) -> None:
        raise self.error


def raise_in_finaliser(error: Exception) -> None:
    """Give `error` to `sys.unraisablehook`."""
    raises = _Raises()
    raises.error = error
