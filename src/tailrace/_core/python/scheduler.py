"""Scheduler: resumes the waiters of one event loop, many to a turn. Also the lock and the budget.

One `call_soon` covers a burst of wake-ups. A turn ends after TURN_STEPS or TURN_SECONDS, whichever
is first, so that timers and sockets are served; the remaining waiters are resumed next turn. Any
thread may append to `ready`; if no turn is scheduled, `post` wakes the loop.

Invariants
- `lock` guards every queue, buffer and claim of every channel. One lock is enough while the GIL
  lets one thread run at a time, and it makes a select over many channels one step.
- No user code runs while the lock is held, except the `is_closed` of event loops.
- A waiter is appended to `ready` under the lock, by the claim. Its loop or thread is told after the
  lock was released (as in Go's runtime): that is an *effect*.
- A signal handler may raise after any call and at the start of any function. Between a claim and
  the append to `ready` there is neither. The lock is acquired by the first call in a `try`, whose
  ``except`` is `recover`: it releases the lock and tells the loop or thread of each claimed waiter.
  (A `with` could leave the lock held: 3.14 runs signal handlers after the call of ``__enter__``,
  3.13 at the backward jump of a loop.)
- A thread that holds the lock does not enter a channel: a finaliser or a signal handler that tries
  to gets an error. It would corrupt a queue, or wait for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from tailrace._core.common import BUDGET, TURN_SECONDS, TURN_STEPS
from tailrace._core.threads import parked_threads

R = TypeVar("R")

CLOCK_STEPS: Final = 8
"""After how many steps of a turn the clock is read again."""

# --- the lock -------------------------------------------------------------------------------------

_lock: Any = threading.RLock()  # Any: typeshed omits two of its methods
acquire: Callable[[], bool] = _lock.acquire
release: Callable[[], None] = _lock.release
# Private, but what threading.Condition itself relies on.
held: Callable[[], bool] = _lock._is_owned
if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that it lacks
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # as logging does

running_loop = asyncio._get_running_loop
get_ident = threading.get_ident


class Outcome(Protocol):
    """Something to do once the lock is released: resume a waiter, or report a dropped value."""

    @property
    def scheduler(self) -> Any:
        """That resumes the waiter; nothing is left to do if it is scheduled, and is `here`."""
        ...

    def apply(self, here: Scheduler, /) -> None:
        """Do it; `here` is the calling thread's scheduler. A second time does no harm."""
        ...


Effect: TypeAlias = Outcome | None


class _Wait:
    """The type of WAIT."""

    __slots__ = ()
    scheduler = None

    def __repr__(self) -> str:
        return "WAIT"

    def apply(self, here: Scheduler) -> None:
        """Nothing has happened."""


WAIT: Final[Any] = _Wait()
"""What an attempt returns in place of an effect: the operation cannot happen now."""


def reentered() -> RuntimeError:
    """The error for entering a channel inside a channel operation of the same thread."""
    return RuntimeError(
        "a channel was used by a finaliser or signal handler that ran in the middle of a channel "
        "operation; post the work to the event loop instead (loop.call_soon_threadsafe)"
    )


def entered(here: Scheduler | None, step: Callable[..., R], *args: Any) -> R:
    """As `locked`; RuntimeError if this thread holds the lock already."""
    if held():
        raise reentered()
    return locked(here, step, *args)


def locked(here: Scheduler | None, step: Callable[..., R], *args: Any) -> R:
    """Call ``step(*args)`` under the lock. With `here`, the step returns an effect: apply it.

    For a step that is correct even in the middle of an operation of this thread, such as a claim.
    """
    try:
        acquire()
        result = step(*args)
        release()
        if here is not None:
            effect: Any = result
            apply(effect, here)
    except BaseException:
        recover()
        raise
    return result


def call_when_free(
    loop: asyncio.AbstractEventLoop | None, callback: Callable[..., object], *args: Any
) -> None:
    """Call back once this thread has left the operation that it is in: by that loop; if there is
    none, or it was closed, in a thread of its own, which waits for the lock."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(callback, *args)
            return
    threading.Thread(target=callback, args=args, daemon=True).start()


def apply(effect: Outcome | list[Outcome] | None, here: Scheduler) -> None:
    """Apply an effect, or a list of effects."""
    if isinstance(effect, list):
        for each in effect:
            each.apply(here)
    elif effect is not None:
        effect.apply(here)


def recover() -> None:
    """After an exception in an operation: release the lock, and tell the loop or thread of every
    claimed waiter. If this is interrupted too, the next wake-up makes it good."""
    claimed: list[Any] = []  # schedulers, of loops and threads
    try:
        acquire()  # perhaps once more: `_schedulers` must not change meanwhile
        me = get_ident()
        claimed.extend(each for each in list(_schedulers.values()) if each.thread != me)
        for parked in list(parked_threads.values()):
            waiter = getattr(parked.operation, "waiter", None)
            if waiter is not None:
                claimed.append(waiter.scheduler)
    finally:
        while held():
            release()
    for scheduler in claimed:
        if scheduler.ready:
            scheduler.post()


# --- schedulers -----------------------------------------------------------------------------------


def _no_loop_to_wait_on() -> float:
    raise RuntimeError("no running event loop to wait on; from a thread use channel.sync")


def _none() -> None:
    return None


def _time_of(loop: Callable[[], asyncio.AbstractEventLoop | None], /) -> float:
    alive = loop()
    assert alive is not None
    return alive.time()


class Scheduler:
    """What each event loop has of its own: the waiters that are to be resumed.

    It does not keep the loop alive: a closed loop is freed with its last user. `NO_LOOP` stands
    for a thread without a loop.
    """

    __slots__ = (
        "loop",
        "on_quiet",
        "posted",
        "ready",
        "scheduled",
        "steps",
        "thread",
        "time",
    )

    # Gives the loop; None once the loop was freed, and for `NO_LOOP`.
    loop: Callable[[], asyncio.AbstractEventLoop | None]

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.thread = 0  # the identifier of the thread that is in `run`
        self.time: Callable[[], float]
        if loop is None:
            self.loop = _none
            self.time = _no_loop_to_wait_on
        else:
            self.loop = weakref.ref(loop, partial(_forget, id(loop)))
            ordinary = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
            # The base loop's time() is this clock behind a Python call for each park.
            self.time = time.monotonic if ordinary else partial(_time_of, self.loop)
        self.ready: deque[Any] = deque()  # claimed waiters
        self.scheduled = False  # a turn is scheduled, or runs
        self.on_quiet: list[Callable[[], object]] = []  # to be called once `ready` is empty
        self.steps = 0  # of this turn
        self.posted = False

    def reachable(self) -> bool:
        """Whether its waiters can still be resumed: not those of a closed loop."""
        loop = self.loop()
        return not loop.is_closed() if loop is not None else self is NO_LOOP

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """As the loop's. RuntimeError if the loop was closed."""
        loop = self.loop()
        if loop is None:
            raise RuntimeError("Event loop is closed")
        loop.call_soon_threadsafe(callback, *args)

    def schedule(self) -> None:
        """Have `run` called in the loop's next turn."""
        loop: Any = self.loop()  # not None: this is called by it
        turn = _Turn(self)
        self.scheduled = True
        try:
            loop.call_soon(turn)
        except BaseException:
            turn.begun = True  # if the loop has this turn all the same, a second one does no harm
            self.scheduled = False  # else no waiter of this loop would ever be resumed
            raise

    def run(self, turn: _Turn) -> None:
        """One turn: resume the waiters in `ready`, and those that they wake, in order.

        On a virtual clock, which stands still meanwhile, only the count of steps bounds a turn, so
        that a run repeats. In debug mode a turn ends with the first step that takes too long, and
        `turn.blocker` is the task of that step.
        """
        ready = self.ready
        loop: Any = self.loop()  # not None: this is called by it
        stride = 1 if loop.get_debug() else CLOCK_STEPS
        ends = self.time() + TURN_SECONDS
        self.steps = 0
        waiter: Any = None
        context: Any = None
        look = stride
        # While `thread` is set, `scheduler_here` need not call `running_loop`, which on 3.11 makes
        # a system call each time (getpid).
        self.thread = get_ident()
        latest.scheduler = self
        try:
            while ready:
                waiter = ready[0]
                del ready[0]  # not by a call, after which a signal handler could raise
                try:
                    context = waiter.context
                except AttributeError:
                    continue  # of a coroutine that is driven by hand: there is no task to resume
                context.run(waiter.callback, waiter)
                steps = self.steps = self.steps + 1
                if steps >= look:
                    if steps >= TURN_STEPS or self.time() > ends:
                        break
                    look = steps + stride
        finally:  # whatever a task let through (SystemExit), the other waiters are resumed
            self.thread = 0
            if stride == 1 and waiter is not None:
                turn.blocker = getattr(getattr(waiter, "callback", None), "__self__", None)
            # What a task raises refers to this frame: the frame must not refer to the task.
            del turn, waiter, context
            self.scheduled = False
            if ready:
                self.schedule()
            elif self.on_quiet:
                for callback in self.on_quiet:
                    loop.call_soon(callback)
                self.on_quiet.clear()

    def post(self) -> None:
        """Have `ready` resumed on the loop's own thread. Any thread may call this."""
        if self.posted:
            return
        delivery = _Delivery(self)
        self.posted = True
        try:
            self.call_soon_threadsafe(delivery)
        except BaseException as error:
            delivery.begun = True
            self.posted = False
            if not isinstance(error, RuntimeError) or self.reachable():
                raise
            self.ready.clear()  # closed since the claim: its tasks give back when torn down

    def deliver(self) -> None:
        """What `post` has the loop call."""
        self.posted = False  # first: a thread that appends from now on posts again
        if self.ready and not self.scheduled:
            self.schedule()

    def dropped(self) -> None:
        """The loop has dropped a callback. If the loop was closed, nothing resumes `ready`; if a
        signal handler has raised instead, `ready` is posted again."""
        if not self.reachable():
            self.on_quiet.clear()
            self.ready.clear()
        elif self.ready:
            self.post()


class _Turn:
    """What the loop calls for one turn."""

    __slots__ = ("begun", "blocker", "scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.begun = False
        self.blocker: object = None

    def __call__(self) -> None:
        self.begun = True
        try:
            self.scheduler.run(self)
        finally:
            del self  # as `run` does, and asyncio's own `Handle`

    @property
    def __self__(self) -> object:
        """In debug mode: the task that asyncio names in its log of slow callbacks."""
        return self.blocker

    def __del__(self) -> None:
        if not getattr(self, "begun", True):  # missing if `__init__` was interrupted
            self.scheduler.scheduled = False
            self.scheduler.dropped()


class _Delivery:
    """What the loop calls after `post`."""

    __slots__ = ("begun", "scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.begun = False

    def __call__(self) -> None:
        self.begun = True
        self.scheduler.deliver()

    def __del__(self) -> None:
        if not getattr(self, "begun", True):  # missing if `__init__` was interrupted
            self.scheduler.posted = False
            self.scheduler.dropped()


class _Latest:
    """The scheduler that was asked for last: nearly always that of the loop that runs now."""

    __slots__ = ("scheduler",)

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler


NO_LOOP: Final = Scheduler(None)
latest: Final = _Latest(NO_LOOP)
_schedulers: dict[int, Scheduler] = {}  # by the address of their loop, which lives


def scheduler_of(loop: asyncio.AbstractEventLoop | None) -> Scheduler:
    """The scheduler of `loop`, made at its first use."""
    if loop is None:
        return NO_LOOP
    scheduler = locked(None, _scheduler_of, loop)
    latest.scheduler = scheduler
    return scheduler


def _scheduler_of(loop: asyncio.AbstractEventLoop) -> Scheduler:
    scheduler = _schedulers.get(id(loop))
    if scheduler is None:
        scheduler = _schedulers[id(loop)] = Scheduler(loop)
    return scheduler


def _forget(address: int, _: object) -> None:
    """A loop was freed."""
    if latest.scheduler is _schedulers.pop(address, None):
        latest.scheduler = NO_LOOP


def scheduler_here() -> Scheduler:
    """The scheduler of the loop that runs in this thread, or `NO_LOOP`."""
    scheduler = latest.scheduler
    return scheduler if scheduler.thread == get_ident() else scheduler_of(running_loop())


# --- budget and chance ----------------------------------------------------------------------------


class _Budget:
    """How many operations may still succeed without parking before one yields.

    One count for the process: the operation that spends the last of it yields. That bounds how
    long an event loop is kept from its other work, and no operation has to look up its actor.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = BUDGET


budget: Final = _Budget()


class _Rng:
    """The random numbers of select: Knuth's 64-bit LCG, started at random."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = int.from_bytes(os.urandom(8), "little")

    def below(self, n: int) -> int:
        """A random whole number in ``[0, n)``: the high half of the state, scaled."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return ((self.state >> 32) * n) >> 32

    def shuffled(self, n: int) -> list[int]:
        """The numbers below `n` in random order (Fisher and Yates, as Knuth writes it)."""
        order = list(range(n))
        for last in range(n - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


rng: Final = _Rng()


def seed(n: int) -> None:
    """Start the random numbers of select at `n`, and a new budget, for runs that repeat."""
    rng.state = n & 0xFFFFFFFFFFFFFFFF
    budget.left = BUDGET
