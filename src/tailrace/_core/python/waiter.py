"""Waiters: how something that cannot go on is parked, claimed by one peer, and woken.

Invariants
- `lock` guards every queue, buffer and claim of every channel. One lock for all is no loss while
  the GIL lets one thread run at a time, and it makes a select over many channels a plain step.
- A waiter is *claimed* at most once, under the lock; the claim alone decides what happened. A
  select is one waiter in several queues, so exactly one of its cases can win.
- Whoever claims a waiter puts it into `ready` of its state under the lock, once it has its value,
  and lets the loop or thread know after the lock was let go (as in Go's runtime).
- A signal handler may raise after any call and at the start of any function. Between the claim and
  the append to `ready` there is neither. The lock is taken as the first thing in a `try`, whose
  ``except`` is `recover`: it lets the lock go and lets everybody know who has a waiter in `ready`.
  (Out of a `with` an exception could come with the lock held: 3.14 runs handlers after the call of
  ``__enter__``, and 3.13 at the backward jump of a loop.)
- Nobody enters a channel while this thread holds the lock: a finaliser or signal handler that
  tries gets an error instead of a corrupted queue or a deadlock.
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
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tailrace._core.common import (
    BUDGET,
    TURN_SECONDS,
    TURN_STEPS,
    YIELD_STEPS,
    ParkedThread,
)
from tailrace._core.faces import ThreadActorFace

if TYPE_CHECKING:
    from tailrace._core.python.operation import Operation

lock = threading.RLock()
_lock: Any = lock  # the two methods of it that typeshed omits
acquire = lock.acquire
release = lock.release
if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread it has not
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # as logging does
# Private, but what threading.Condition itself relies on.
held: Callable[[], bool] = _lock._is_owned
running_loop = asyncio._get_running_loop
get_ident = threading.get_ident


def reentered() -> RuntimeError:
    """The error for entering a channel from inside a channel operation of the same thread."""
    return RuntimeError(
        "a channel was used by a finaliser or signal handler that ran in the middle of a channel "
        "operation; post the work to the event loop instead (loop.call_soon_threadsafe)"
    )


CLOCK_STEPS: Final = 8
"""After how many steps of a turn the clock is read again."""


class Mark:
    """A claim by something that is not an operation."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


PENDING: Final[Any] = Mark("PENDING")  # an attempt's answer: not now
LOOK_AGAIN: Final = Mark("LOOK_AGAIN")  # a channel closed: try again, something is ready now
TIMED_OUT: Final = Mark("TIMED_OUT")
CANCELLED: Final = Mark("CANCELLED")


_no_result: Final = [].clear  # the cheapest call that returns None


class Waiter:
    """A party of an event loop, as what its task awaits: just enough of a future for any Task.

    A future of asyncio's own would cost a `Handle` and a turn of the loop for each wake-up;
    these are resumed many to a turn, by `LoopState.run`.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "callback",
        "context",
        "messages",
        "result",
        "since",
        "state",
        "winner",
    )

    # Set by the task that awaits, in the same step in which it parks.
    callback: Callable[[Waiter], object]
    context: Context
    # Of each time that its task was cancelled while it slept here; set by the first.
    messages: list[object]
    # A task calls it when it resumes. No method: its frame would be in the traceback of a
    # cancellation, and lead by the frames that called it to the task.
    result: Callable[[], object]

    def __init__(self, state: LoopState) -> None:
        self.winner: object = None
        self.state = state
        self.since = state.time()
        self.result = _no_result
        self._asyncio_future_blocking = True

    def claim(self, winner: object) -> bool:
        """Under the lock: take this waiter for `winner`, unless it is taken or out of reach."""
        if self.winner is not None or not self.state.reachable():
            return False
        self.winner = winner
        self.state.ready.append(self)
        return True

    def wake(self, here: LoopState) -> None:
        """Have the claimed party, which is in `ready`, resumed by its own loop. Doing it twice is
        no harm."""
        state = self.state
        if state is not here:
            state.post()
        elif not state.scheduled:
            state.schedule()

    def claim_and_wake(self, winner: object) -> bool:
        """For a claim by something that is not an operation, in any thread."""
        try:
            acquire()
            claimed = self.claim(winner)
            release()
            if claimed:
                self.wake(here_now())
        except BaseException:
            recover()
            raise
        return claimed

    def requests(self) -> int:
        """How often its task was cancelled while it slept here."""
        return len(getattr(self, "messages", ()))

    def __repr__(self) -> str:
        return "<parked on a channel>" if self.winner is None else f"<claimed by {self.winner!r}>"

    # What a Task asks of a future.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        loop = self.state.loop()
        assert loop is not None  # a task that waits here keeps it
        return loop

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: Context | None = None
    ) -> None:
        self.callback = callback
        self.context = copy_context() if context is None else context

    def cancel(self, msg: object = None) -> bool:
        if hasattr(self, "messages"):
            self.messages.append(msg)
        else:
            self.messages = [msg]
        claimed = self.claim_and_wake(CANCELLED)
        if claimed:
            cancelled = asyncio.Future[None](loop=self.get_loop())
            cancelled.cancel(self.messages[0])
            self.result = cancelled.result
        return claimed

    def done(self) -> bool:
        return self.winner is not None

    def cancelled(self) -> bool:
        return self.winner is CANCELLED


class Yielded(Waiter):
    """A party that has spent the budget: it stands at the back of the line of the ready.

    Nobody claims it. A cancellation meanwhile is raised by the task itself as it is resumed.
    """

    __slots__ = ()

    def __init__(self, state: LoopState) -> None:
        self.winner = LOOK_AGAIN
        self.state = state
        self.result = _no_result
        self._asyncio_future_blocking = True

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: Context | None = None
    ) -> None:
        super().add_done_callback(callback, context=context)
        self.state.steps += YIELD_STEPS
        self.state.ready.append(self)
        self.wake(self.state)

    def cancel(self, msg: object = None) -> bool:
        return False


class ThreadWaiter:
    """A party that is a thread: it sleeps on a lock of its own."""

    __slots__ = ("state", "until", "winner")

    def __init__(self, until: float | None) -> None:
        self.winner: object = None
        self.until = until  # of `time.monotonic`
        self.state = ThreadState()

    def claim(self, winner: object) -> bool:
        """Under the lock: take this waiter for `winner`, unless it is taken already."""
        if self.winner is not None:
            return False
        self.winner = winner
        self.state.ready.append(self)
        return True

    def wake(self, here: LoopState) -> None:
        """Let the thread go on."""
        self.state.post()


class ThreadState:
    """What a `LoopState` is to the waiters of a loop, for the one waiter of a thread."""

    __slots__ = ("gate", "ready")

    def __init__(self) -> None:
        self.ready: deque[Any] = deque()  # its waiter, once that is claimed
        self.gate = threading.Lock()
        self.gate.acquire()

    def reachable(self) -> bool:
        return True

    def post(self) -> None:
        with contextlib.suppress(RuntimeError):  # another thread has, in the same instant
            if self.gate.locked():
                self.gate.release()


class WaitQueue(deque["Operation[Any]"]):
    """Parked operations, first in first out; one leaves from the middle in O(1), amortised.

    An operation that left stays as a tombstone (`queued` is False) until it is popped, or until
    tombstones outnumber the living and are swept. Tombstones hold no values.
    """

    __slots__ = ("dead",)

    def __init__(self) -> None:
        super().__init__()
        self.dead = 0

    def leave(self, operation: Operation[Any]) -> None:
        """Take `operation` out, wherever it stands; nothing if a peer has popped it."""
        if not getattr(operation, "queued", False):  # not yet, where it was interrupted
            return
        operation.queued = False
        # The channel has the tombstone, which must not lead to the task and its loop.
        del operation.waiter
        self.dead += 1
        if self.dead > 16 and self.dead * 2 > len(self):
            living = [parked for parked in self if parked.queued]
            self.clear()
            self.extend(living)
            self.dead = 0

    def claim_first(self, here: LoopState) -> Operation[Any] | None:
        """Pop and claim the first operation whose waiter can still be had.

        The caller hands over the value and puts the waiter into its `ready`, without a call.
        """
        while self:
            operation = self[0]
            if not operation.queued:
                del self[0]
                self.dead -= 1
                continue
            waiter = operation.waiter
            # Asked while it still stands in line: what `is_closed` raises must not cost its place.
            can = waiter.winner is None and (waiter.state is here or waiter.state.reachable())
            del self[0]
            if can:
                waiter.winner = operation
                operation.queued = False
                return operation
            operation.queued = False
        return None

    def claim_all(self) -> list[Waiter | ThreadWaiter]:
        """For a channel that closes: claim everybody, to look again; returns whom to wake."""
        woken: list[Waiter | ThreadWaiter] = []
        for operation in self:
            if operation.queued and operation.waiter.claim(LOOK_AGAIN):
                woken.append(operation.waiter)
            operation.queued = False
        self.clear()
        self.dead = 0
        return woken

    def waiting(self) -> int:
        """How many could still be claimed."""
        return sum(
            parked.queued and parked.waiter.winner is None and parked.waiter.state.reachable()
            for parked in self
        )


def _no_loop_to_wait_on() -> float:
    raise RuntimeError("no running event loop to wait on; from a thread use channel.sync")


def _none() -> None:
    return None


def _time_of(loop: Callable[[], asyncio.AbstractEventLoop | None], /) -> float:
    alive = loop()
    assert alive is not None
    return alive.time()


class LoopState:
    """What each event loop has of its own: who is to be resumed.

    One `call_soon` serves a burst of wake-ups, and one `call_soon_threadsafe` a burst from
    elsewhere. `no_loop` stands for a thread without a loop.

    It does not keep the loop alive: a closed one is freed with its last user.
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

    # The loop; None once it was freed, and for `no_loop`.
    loop: Callable[[], asyncio.AbstractEventLoop | None]

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.thread = 0  # that of `run`, while it runs
        self.time: Callable[[], float]
        if loop is None:
            self.loop = _none
            self.time = _no_loop_to_wait_on
        else:
            self.loop = weakref.ref(loop, partial(_forget, id(loop)))
            ordinary = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
            # The base loop's time() is this clock behind a Python call for each park.
            self.time = time.monotonic if ordinary else partial(_time_of, self.loop)
        self.ready: deque[Any] = deque()  # waiters
        self.scheduled = False
        self.on_quiet: list[Callable[[], object]] = []  # to be called once nobody is ready
        self.steps = 0  # of this turn
        self.posted = False

    def reachable(self) -> bool:
        """Whether its waiters can still be resumed: not those of a loop that was closed."""
        loop = self.loop()
        return not loop.is_closed() if loop is not None else self is no_loop

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """As the loop's. RuntimeError if it was closed."""
        loop = self.loop()
        if loop is None:
            raise RuntimeError("Event loop is closed")
        loop.call_soon_threadsafe(callback, *args)

    def schedule(self) -> None:
        """Have `run` called at the loop's next turn."""
        loop: Any = self.loop()  # which calls this
        turn = _Turn(self)
        self.scheduled = True
        try:
            loop.call_soon(turn)
        except BaseException:
            turn.begun = True  # if the loop has it all the same, another one does no harm
            self.scheduled = False  # or nobody would ever be resumed again
            raise

    def run(self, turn: _Turn) -> None:
        """One turn: resume the ready and those whom they wake, within bounds, in order.

        The bounds keep timers and sockets served. On a virtual clock, which stands still
        meanwhile, only the count bounds, so that a run repeats. In debug mode a turn ends with the
        first step that takes too long, and so knows whose that was.
        """
        ready = self.ready
        loop: Any = self.loop()  # which calls this
        often = 1 if loop.get_debug() else CLOCK_STEPS
        ends = self.time() + TURN_SECONDS
        self.steps = 0
        waiter: Any = None
        context: Any = None
        look = often
        # Who asks in this thread until we are done is on this loop, and need not call
        # `running_loop`, which on 3.11 makes a system call each time (getpid).
        self.thread = get_ident()
        latest.state = self
        try:
            while ready:
                waiter = ready[0]
                del ready[0]  # no call, after which a signal handler could raise
                try:
                    context = waiter.context
                except AttributeError:
                    continue  # of a coroutine that is driven by hand: nobody to resume
                context.run(waiter.callback, waiter)
                steps = self.steps = self.steps + 1
                if steps >= look:
                    if steps >= TURN_STEPS or self.time() > ends:
                        break
                    look = steps + often
        finally:  # whatever a task let through (SystemExit), the others still have their turn
            self.thread = 0
            if often == 1 and waiter is not None:
                turn.blocker = getattr(getattr(waiter, "callback", None), "__self__", None)
            # What a task raises refers to this frame: the frame must not refer to the task.
            del turn, waiter, context
            self.scheduled = False
            if ready:
                self.schedule()
            elif self.on_quiet:
                for told in self.on_quiet:
                    loop.call_soon(told)
                self.on_quiet.clear()

    def post(self) -> None:
        """Have the ready resumed on the loop's own thread. Any thread may call this."""
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
        """Those that were posted are in `ready`."""
        self.posted = False  # first: whoever appends from now on posts again
        if self.ready and not self.scheduled:
            self.schedule()

    def dropped(self) -> None:
        """The loop has dropped what it was to call. If it was closed, nobody resumes the ready; if
        a signal handler has raised instead, they must be."""
        if not self.reachable():
            self.on_quiet.clear()
            self.ready.clear()
        elif self.ready:
            self.post()


class _Turn:
    """What the loop calls for one turn of its state."""

    __slots__ = ("begun", "blocker", "state")

    def __init__(self, state: LoopState) -> None:
        self.state = state
        self.begun = False
        self.blocker: object = None

    def __call__(self) -> None:
        self.begun = True
        try:
            self.state.run(self)
        finally:
            del self  # as `run` does, and asyncio's own `Handle`

    @property
    def __self__(self) -> object:
        """In debug mode the task that asyncio is to name when the turn took too long."""
        return self.blocker

    def __del__(self) -> None:
        if not getattr(self, "begun", True):  # none yet where it was interrupted as it was made
            self.state.scheduled = False
            self.state.dropped()


class _Delivery:
    """The same for the wake-ups from elsewhere."""

    __slots__ = ("begun", "state")

    def __init__(self, state: LoopState) -> None:
        self.state = state
        self.begun = False

    def __call__(self) -> None:
        self.begun = True
        self.state.deliver()

    def __del__(self) -> None:
        if not getattr(self, "begun", True):  # none yet where it was interrupted as it was made
            self.state.posted = False
            self.state.dropped()


class _Budget:
    """How many operations may still succeed without parking before one yields.

    One count for the process: whoever spends the last yields. That bounds how long an event loop
    is kept from its other work without asking at each operation whose turn it is.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = BUDGET

    def anew(self) -> Yielded | None:
        """Begin a new budget; what to yield first: None where no loop runs."""
        self.left = BUDGET
        here = here_now()
        return None if here is no_loop else Yielded(here)


budget = _Budget()


class _Latest:
    """The state that was asked for last, nearly always that of the loop that runs now."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = no_loop


no_loop = LoopState(None)
latest = _Latest()
_states: dict[int, LoopState] = {}  # by the address of their loop, which lives


def state_of(loop: asyncio.AbstractEventLoop | None) -> LoopState:
    """The state that belongs to `loop`, made at its first use."""
    if loop is None:
        return no_loop
    try:
        acquire()
        state = _states.get(id(loop))
        if state is None:
            state = _states[id(loop)] = LoopState(loop)
        release()
    except BaseException:
        recover()
        raise
    latest.state = state
    return state


def _forget(address: int, _: object) -> None:
    """A loop was freed."""
    if latest.state is _states.pop(address, None):
        latest.state = no_loop


def here_now() -> LoopState:
    """The state of the loop running in this thread, or `no_loop`."""
    state = latest.state
    return state if state.thread == get_ident() else state_of(running_loop())


def recover() -> None:
    """After an exception amid an operation: let the lock go, and let everybody know who has a
    waiter that was claimed. What is interrupted here as well is made good by the next wake-up."""
    claimed: list[LoopState | ThreadState]
    try:
        acquire()  # once more, perhaps: `_states` must not change meanwhile
        claimed = [state for state in list(_states.values()) if state.thread != get_ident()]
        for parked in list(parked_threads.values()):
            waiter = getattr(parked.operation, "waiter", None)
            if waiter is not None:
                claimed.append(waiter.state)
    finally:
        while held():
            release()
    for state in claimed:
        if state.ready:
            state.post()


class _ThreadState(threading.local):
    """What each thread has of its own: the dice of select, and its actor if it is one."""

    dice: int | None = None
    actor: ThreadActor | None = None

    def below(self, n: int) -> int:
        """A random whole number in ``[0, n)``: Knuth's 64-bit LCG, its high half scaled."""
        if self.dice is None:
            self.dice = int.from_bytes(os.urandom(8), "little")
        self.dice = (self.dice * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return ((self.dice >> 32) * n) >> 32

    def shuffled(self, n: int) -> list[int]:
        """The numbers below `n` in random order (Fisher and Yates, as Knuth writes it)."""
        order = list(range(n))
        for last in range(n - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


class ThreadActor(ThreadActorFace):
    """A thread whose blocking operations can be cancelled from outside."""

    __slots__ = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        super().__init__(loop, thread)
        thread_actors.add(self)

    def enter(self) -> None:
        """Make the calling thread this actor's."""
        thread.actor = self

    def cancel(self, *, finish_send: bool = False) -> None:
        """Wake the parked operation with CancelledError, or fail the next one.

        With `finish_send` a send that is parked is left to happen first.
        """
        try:
            acquire()
            self.cancelled = True
            operation = self.operation
            spared = operation is not None and finish_send and not operation.receives
            waiter = None if spared else getattr(operation, "waiter", None)
            if waiter is not None and not waiter.claim(CANCELLED):
                waiter = None
            release()
            if waiter is not None:
                waiter.wake(no_loop)
        except BaseException:
            recover()
            raise


thread = _ThreadState()
parked_threads: dict[int, ParkedThread] = {}  # by thread identifier, for testing's clock
thread_actors: weakref.WeakSet[ThreadActor] = weakref.WeakSet()


def seed(n: int) -> None:
    """Start the dice of select at `n`, and the budget anew, for runs that repeat."""
    thread.dice = n & 0xFFFFFFFFFFFFFFFF
    budget.left = BUDGET
