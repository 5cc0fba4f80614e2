"""Parking: waiters, which stand for a task or a thread that cannot go on, and queues of them.

Invariants
- A waiter is claimed at most once, under the lock; the claim alone decides what happened. A select
  is one waiter in several queues, so exactly one of its cases can win.
- A claim appends the waiter to `ready` of its scheduler at once. `apply` is the effect: it has the
  loop or the thread go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias

from tailrace._core.common import ATTEMPT_AGAIN, BUDGET, CANCELLED, YIELD_STEPS
from tailrace._core.python.scheduler import NO_LOOP, Scheduler, budget, locked, scheduler_here

_no_result: Final = [].clear  # the cheapest call that returns None


class Waiter:
    """A task that is parked, as what it awaits: just enough of a future for any kind of task.

    A future of asyncio's own would cost a `Handle` and a turn of the loop for each wake-up; waiters
    are resumed many to a turn, by `Scheduler.run`.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "callback",
        "cancel_messages",
        "context",
        "owner",
        "result",
        "scheduler",
        "since",
        "winner",
    )

    # Set by the task that awaits, in the step in which it parks.
    callback: Callable[[Waiter], object]
    context: Context
    # One for each time that its task was cancelled while it was parked here; set by the first.
    cancel_messages: list[object]
    # A task calls it when it resumes. Not a method: the method's frame would be in the traceback of
    # a cancellation, and would lead to the task by the frames that called it.
    result: Callable[[], object]
    # The operation that won, or a Claim; None until then.
    winner: object

    def __init__(self, scheduler: Scheduler, owner: object) -> None:
        self.winner = None
        self.scheduler = scheduler
        self.owner = owner  # the operation or select that is awaited
        self.since = scheduler.time()
        self.result = _no_result
        self._asyncio_future_blocking = True

    def claim(self, winner: object) -> Waiter | None:
        """Under the lock: take this waiter for `winner`. None if it is taken or unreachable."""
        if self.winner is not None or not self.scheduler.reachable():
            return None
        self.winner = winner
        self.scheduler.ready += (self,)  # not by a call: see the invariants of `scheduler`
        return self

    def apply(self, here: Scheduler) -> None:
        """Have the task resumed by its own loop."""
        scheduler = self.scheduler
        if scheduler is not here:
            scheduler.post()
        elif not scheduler.scheduled:
            scheduler.schedule()

    def cancellations(self) -> int:
        """How often its task was cancelled while it was parked here."""
        return len(getattr(self, "cancel_messages", ()))

    def __repr__(self) -> str:
        return "<parked on a channel>" if self.winner is None else f"<claimed by {self.winner!r}>"

    # What a task asks of a future.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        loop = self.scheduler.loop()
        assert loop is not None  # the task that is parked here keeps it alive
        return loop

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: Context | None = None
    ) -> None:
        self.callback = callback
        self.context = copy_context() if context is None else context

    def cancel(self, msg: object = None) -> bool:
        if hasattr(self, "cancel_messages"):
            self.cancel_messages.append(msg)
        else:
            self.cancel_messages = [msg]
        if not wake(self, CANCELLED):
            return False
        cancelled = asyncio.Future[None](loop=self.get_loop())
        cancelled.cancel(self.cancel_messages[0])
        self.result = cancelled.result
        return True

    def done(self) -> bool:
        return self.winner is not None

    def cancelled(self) -> bool:
        return self.winner is CANCELLED


class Yielded(Waiter):
    """What a task awaits that has spent the budget: it goes to the back of `ready`.

    It is never claimed. The task itself raises a cancellation that comes meanwhile.
    """

    __slots__ = ()

    def __init__(self, scheduler: Scheduler) -> None:
        self.winner = ATTEMPT_AGAIN
        self.scheduler = scheduler
        self.result = _no_result
        self._asyncio_future_blocking = True

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: Context | None = None
    ) -> None:
        super().add_done_callback(callback, context=context)
        self.scheduler.steps += YIELD_STEPS
        self.scheduler.ready.append(self)
        self.apply(self.scheduler)

    def cancel(self, msg: object = None) -> bool:
        return False


def new_budget() -> Yielded | None:
    """Begin a new budget. Returns what to yield first; None where no loop runs."""
    budget.left = BUDGET
    here = scheduler_here()
    return None if here is NO_LOOP else Yielded(here)


class ThreadWaiter:
    """A thread that is parked: it waits for `lock`, which a claim releases."""

    __slots__ = ("scheduler", "winner")

    def __init__(self, lock: threading.Lock) -> None:
        self.winner: object = None
        self.scheduler = ThreadScheduler(lock)

    def claim(self, winner: object) -> ThreadWaiter | None:
        """Under the lock: take this waiter for `winner`. None if it is taken."""
        if self.winner is not None:
            return None
        self.winner = winner
        self.scheduler.ready += (self,)
        return self

    def apply(self, here: Scheduler) -> None:
        """Let the thread go on."""
        self.scheduler.post()


class ThreadScheduler:
    """What a `Scheduler` is to the waiters of a loop, for the one waiter of a thread."""

    __slots__ = ("lock", "ready")

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.ready: deque[Any] = deque()  # the waiter, once it is claimed

    def reachable(self) -> bool:
        return True

    def post(self) -> None:
        with contextlib.suppress(RuntimeError):  # another thread has, in the same instant
            if self.lock.locked():
                self.lock.release()


AnyWaiter: TypeAlias = Waiter | ThreadWaiter


def wake(waiter: AnyWaiter, winner: object) -> bool:
    """Claim a waiter for something other than a peer, and wake it. False if it was claimed.

    Any thread may call this, also a finaliser in the middle of an operation.
    """
    return locked(scheduler_here(), waiter.claim, winner) is not None


# --- queues ---------------------------------------------------------------------------------------


class WaitQueue(deque[Any]):
    """Parked operations, first in first out; one leaves from the middle in O(1), amortised.

    An operation that left stays as a tombstone (`queued` is False) until it is popped, or until
    tombstones outnumber the living and are swept. A tombstone holds no value.
    """

    __slots__ = ("tombstones",)

    def __init__(self) -> None:
        super().__init__()
        self.tombstones = 0

    def leave(self, operation: Any) -> None:
        """Remove `operation` from wherever it stands. Nothing, if it is not in the queue."""
        if not getattr(operation, "queued", False):  # missing if it was interrupted before
            return
        operation.queued = False
        # The channel has the tombstone, which must not lead to the task and its loop.
        del operation.waiter
        self.tombstones += 1
        if self.tombstones > 16 and self.tombstones * 2 > len(self):
            living = [parked for parked in self if parked.queued]
            self.clear()
            self.extend(living)
            self.tombstones = 0

    def claim_first(self, here: Scheduler) -> Any:
        """Pop and claim the first operation whose waiter can be claimed; None if there is none.

        The caller gives or takes the value, and then appends the waiter to its `ready`: until then
        without a call, see the invariants of `scheduler`.
        """
        while self:
            operation = self[0]
            if not operation.queued:
                del self[0]
                self.tombstones -= 1
                continue
            waiter = operation.waiter
            # Asked while the operation is queued: if `is_closed` raises, it keeps its place.
            can = waiter.winner is None and (
                waiter.scheduler is here or waiter.scheduler.reachable()
            )
            del self[0]
            if can:
                waiter.winner = operation
                operation.queued = False
                return operation
            operation.queued = False
        return None

    def claim_all(self) -> list[AnyWaiter]:
        """Claim all, to attempt again, as their channel was closed. Returns the effects."""
        claimed: list[AnyWaiter] = []
        for operation in self:
            if operation.queued and operation.waiter.claim(ATTEMPT_AGAIN):
                claimed.append(operation.waiter)
            operation.queued = False
        self.clear()
        self.tombstones = 0
        return claimed

    def waiting(self) -> int:
        """How many could be claimed now."""
        return sum(
            parked.queued and parked.waiter.winner is None and parked.waiter.scheduler.reachable()
            for parked in self
        )
