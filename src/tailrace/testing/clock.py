"""An asyncio event loop whose clock jumps to the next timer when nothing else can happen.

Invariants
- Time moves only when no callback is ready, and then straight to the earliest timer. So a program
  without threads and sockets takes no real time, and each run is the same.
- Timers that are due at the same instant fire in the order in which they were set.
- While work is in hand (a job in an executor, a thread actor that runs) the clock stands still.
  While the outside world may act (sockets, child processes, unknown threads) the clock keeps real
  time. See `census`.
- With none of these and no timer, nothing can ever happen again: that is a `Deadlock`.

asyncio asks its selector to wait only when no callback is ready. So all of this is decided in the
selector, as in trio's MockClock and in looptime. Unlike looptime's, this clock does not advance
while a job is in an executor.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import inspect
import logging
import math
import operator
import selectors
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ProcessPoolExecutor
from contextvars import Context
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple, overload

from tailrace import _core
from tailrace.errors import Deadlock
from tailrace.group import Group
from tailrace.testing.census import Census, Job
from tailrace.testing.deadlock import wait_for_graph
from tailrace.usercode import close

__all__ = ["VirtualClockLoop", "run", "wait_all_parked"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events: TypeAlias = list[tuple[selectors.SelectorKey, int]]

LOOK_AGAIN: Final = 0.05
"""Real seconds between two looks whether the clock must still keep real time."""
SHORTEST: Final = 0.00005
LONGEST: Final = 0.005
"""Real seconds between two looks at the work in hand, as a thread that parks posts nothing. The
pause doubles from the shortest to the longest."""
SUSPICIOUS: Final = 5.0
"""Real seconds after which a warning names the work that keeps the clock standing still."""

_log = logging.getLogger("tailrace.testing")


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: `time()` starts at 0.0 and jumps from timer to timer.

    `seed`, a whole number, seeds the random choices of `select`, so that a run repeats exactly.
    TypeError for a `seed` that is no whole number. When nothing can ever happen again, the method
    that runs the loop raises `Deadlock` with the wait-for graph. The loop can be run again after
    that, to cancel what is left.
    """

    detects_deadlock: Final = True
    """Tells watchers that a deadlock raises by itself here."""

    _scheduled: list[asyncio.TimerHandle]  # asyncio's heap of timers
    _ready: deque[asyncio.Handle]
    _clock_resolution: float
    _debug: bool
    _default_executor: Executor
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]

    def __init__(self, seed: int = 0) -> None:
        self._poll = _VirtualSelector(self._nothing_ready)
        super().__init__(self._poll)
        self._own_files = len(self._poll.get_map())  # asyncio's wake-up pipe
        self._now = 0.0
        self._timers = 0
        self._quiet: list[_Timer] = []  # a heap, as that of the others
        self._all_parked: list[tuple[asyncio.Future[None], int]] = []
        self._census = Census(self)
        self._pause = SHORTEST
        self._held_since: float | None = None
        self._seeded = False
        try:
            self.seed = operator.index(seed)
        except TypeError:
            self.close()
            raise TypeError(f"seed must be a whole number, not {seed!r}") from None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed() else "running" if self.is_running() else "stopped"
        return f"<VirtualClockLoop at {self._now:.6g} s, seed {self.seed}, {state}>"

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_forever(self) -> None:
        """As asyncio's. The first run seeds the random choices of `select`."""
        if not self._seeded:
            self._seeded = True
            _core.seed(self.seed)
        super().run_forever()

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, but callbacks due at the same instant keep the order of these calls.

        On a virtual clock most deadlines are equal to others, and asyncio's heap has no order of
        its own for equal ones.
        """
        self._check_closed()
        if self._debug:
            self._check_thread()
        self._timers += 1
        timer = _Timer(when, self._timers, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        return timer

    def call_later_quietly(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts
    ) -> asyncio.TimerHandle:
        """As `call_later`, for watchers: the clock does not stop for this timer.

        It runs when the clock stops at or after its time. It does not prevent a `Deadlock`.
        """
        self._timers += 1
        timer = _Timer(self._now + delay, self._timers, callback, args, self, None)
        timer._scheduled = False  # asyncio does not count it among its timers
        heapq.heappush(self._quiet, timer)
        return timer

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """As asyncio's. The clock stands still until the future is done or cancelled."""
        job = Job(func)
        work: Callable[[*Ts], T] = job.run
        if isinstance(executor, ProcessPoolExecutor):
            work = func  # another process cannot be given the job, which cannot be pickled
        future = super().run_in_executor(executor, work, *args)
        self._census.submitted(job, future, executor or self._default_executor)
        return future

    def wait_all_parked(self, *, again: bool = False) -> asyncio.Future[None]:
        """The future that the function `wait_all_parked` awaits.

        With `again` it is done only after something else has run, so that a task which waits for
        a condition can look at it again.
        """
        parked = self.create_future()
        self._all_parked.append((parked, self._poll.turns if again else -1))
        return parked

    # What is done when no callback is ready, in this order.

    def _nothing_ready(self) -> Events:
        in_hand = self._census.in_hand()
        foreign = self._census.may_speak() or len(self._poll.get_map()) > self._own_files
        events = self._poll.look(0)
        if events or self._ready:  # the census may have set off a finaliser
            return events
        if in_hand:
            return self._hold(in_hand)
        self._pause = SHORTEST
        self._held_since = None
        if self._wake_first_waiter():
            return []
        due = self._scheduled[0].when() if self._scheduled else math.inf
        if foreign:
            return self._walk(due)
        if due == math.inf:
            return self._deadlocked()
        self._advance(due)
        return []

    def _wake_first_waiter(self) -> bool:
        """Wake the first task that waits in `wait_all_parked`. False if none does."""
        self._all_parked = [entry for entry in self._all_parked if not entry[0].done()]
        for entry in self._all_parked:
            parked, turn = entry
            if turn < self._poll.turns - 1:  # something else has run since it asked
                self._all_parked.remove(entry)
                parked.set_result(None)
                return True
        return False

    def _deadlocked(self) -> Events:
        """Raise `Deadlock`, unless a garbage collection makes something ready.

        A message that was dropped in a reference cycle is settled, as lost, when it is collected.
        """
        gc.collect()
        events = self._poll.look(0)
        if not events and not self._ready:
            raise Deadlock(wait_for_graph(self))
        return events

    def _hold(self, in_hand: list[str]) -> Events:
        """Wait a little, in real time, for work in hand."""
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        elif 0 <= self._held_since < now - SUSPICIOUS:
            self._held_since = math.inf  # the warning comes once
            _log.warning("the virtual clock stands still, waiting for %s", ", ".join(in_hand))
        pause = self._pause
        self._pause = min(2 * pause, LONGEST)
        if pause >= 0.001:
            return self._poll.look(pause)
        time.sleep(pause)  # a selector rounds up to a millisecond
        return self._poll.look(0)

    def _walk(self, due: float) -> Events:
        """Keep real time until an event or the next timer."""
        started = time.monotonic()
        events = self._poll.look(min(LOOK_AGAIN, due - self._now))
        self._advance(min(due, self._now + time.monotonic() - started))
        return events

    def _advance(self, to: float) -> None:
        self._now = max(self._now, to)
        # asyncio runs timers that are due before `time() + resolution`: far from zero, that sum
        # must still be later than the time that was jumped to.
        self._clock_resolution = max(1e-9, math.ulp(self._now))
        while self._quiet and self._quiet[0].when() <= self._now:
            timer = heapq.heappop(self._quiet)
            if not timer.cancelled():
                self._ready.append(timer)


class _Timer(asyncio.TimerHandle):
    """A timer handle that sorts by time, then by the order of creation."""

    __slots__ = ("_number",)
    _scheduled: bool

    def __init__(
        self,
        when: float,
        number: int,
        callback: Callable[..., object],
        args: tuple[object, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._number = number
        self._scheduled = True

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self._number) < (other.when(), other._number)


class _VirtualSelector(selectors.DefaultSelector):
    """A selector that calls `nothing_ready` instead of waiting."""

    def __init__(self, nothing_ready: Callable[[], Events]) -> None:
        super().__init__()
        self._nothing_ready = nothing_ready
        self.turns = 0

    def select(self, timeout: float | None = None) -> Events:
        self.turns += 1
        if timeout is not None and timeout <= 0:
            return super().select(0)
        return self._nothing_ready()

    def look(self, timeout: float) -> Events:
        """The files that become ready within `timeout` real seconds."""
        return super().select(timeout)


async def wait_all_parked() -> None:
    """Return once every other task of this loop is blocked and no work is in hand.

    No virtual time passes meanwhile. A thread actor that runs and a job in an executor are work in
    hand. If several tasks wait here, one is woken at a time, in order. RuntimeError on a loop
    that is no `VirtualClockLoop`. Cancelled: nothing has happened.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualClockLoop):
        await loop.wait_all_parked()
    else:
        raise RuntimeError(  # noqa: TRY004  # about where it was called, not with what
            f"wait_all_parked() needs the virtual clock, and this is {loop!r}: mark the test "
            f"@pytest.mark.virtual_time, or start it with tailrace.testing.run"
        )


@overload
def run(main: Coroutine[Any, Any, T], *, seed: int = 0) -> T: ...
@overload
def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 0) -> T: ...
@overload
def run(main: Callable[[Group], Awaitable[None] | None], *, seed: int = 0) -> None: ...
def run(main: Any, *, seed: int = 0) -> Any:
    """Run `main` on the virtual clock, as `asyncio.run` does on the real one; return its result.

    `main` is a coroutine, an async function without parameters, or a program's ``main(go)``,
    which is run in a `Group`. TypeError for a `seed` that is no whole number. Raises what `main`
    raises, and `Deadlock` if it can never end.
    """
    if not inspect.iscoroutine(main):
        if not callable(main):
            raise TypeError(f"run takes a coroutine or a main function, not {main!r}")
        main = main() if _takes_nothing(main) else _in_a_group(main)  # pyright: ignore[reportArgumentType]  # it takes a group, then
    try:
        loop = VirtualClockLoop(seed)
    except BaseException:
        close(main)
        raise
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


def _takes_nothing(main: Callable[..., Any]) -> bool:
    try:
        inspect.signature(main).bind()
    except TypeError:
        return False
    return True


async def _in_a_group(main: Callable[[Group], Awaitable[None] | None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name(getattr(main, "__name__", "main"))
    # A deadlock raises by itself here, so no watch for stalls is needed.
    async with Group(stall_after=None) as go:
        started = main(go)
        if started is not None:
            await started
