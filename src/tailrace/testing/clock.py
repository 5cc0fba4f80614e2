"""An asyncio event loop whose clock jumps to the next timer as soon as nothing else can happen.

Invariants
- Time moves only when no callback is ready, and then straight to the earliest timer: a program
  without threads and sockets takes no real time and does the same in every run.
- Timers that are due at the same instant fire in the order in which they were set.
- While work is in hand (a job in an executor, a thread actor that runs) the clock stands still.
  While the outside world may speak (sockets, child processes, foreign threads) it keeps real
  time. See `census`.
- With none of these and no timer, nothing can ever happen again: that is a `Deadlock`, exactly.

How: asyncio asks its selector to wait only when nothing is ready, so the selector is where all
of that is decided. (Trio's MockClock and looptime take the same seam; unlike looptime's, this
clock never advances under a job that is being done.)
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
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, TypeVarTuple, overload

from tailrace import _core
from tailrace.errors import Deadlock
from tailrace.group import Group
from tailrace.testing.census import Job, Outside
from tailrace.testing.deadlock import wait_for_graph
from tailrace.usercode import close

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["VirtualClockLoop", "run", "wait_all_parked"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events: TypeAlias = list[tuple[selectors.SelectorKey, int]]

LOOK_AGAIN: Final = 0.05
"""Real seconds after which a clock that keeps real time looks whether it still must."""
SHORTEST: Final = 0.00005
LONGEST: Final = 0.005
"""Real seconds between two looks at the work in hand: a thread that parks does not say so."""
SUSPICIOUS: Final = 5.0
"""Real seconds that the clock may stand still before a warning says for whom."""

_log = logging.getLogger("tailrace.testing")


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: `time()` starts at 0.0 and jumps from timer to timer.

    `seed`, a whole number, starts the dice of `select`, so that a run repeats exactly. Raises
    `Deadlock`, with the wait-for graph, out of whatever runs the loop when nothing can ever
    happen again; the loop can then still be run, to cancel what is left.
    """

    detects_deadlock: Final = True
    """Whether a deadlock raises by itself here, so that nobody needs to watch for one by timers:
    those would always be something that can still happen."""

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
        self._outside = Outside(self)
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
        """As asyncio's; the first run starts the dice of `select` at `seed`."""
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

        On a real clock no two deadlines are equal; on a virtual one most are, and asyncio's heap
        would run equal ones in an order that nobody could predict from the program.
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
        """As `call_later`, for who only looks on: the clock does not stop for it, so it runs at
        the first stop at or after its time, and a deadlock is one although it is pending."""
        self._timers += 1
        timer = _Timer(self._now + delay, self._timers, callback, args, self, None)
        timer._scheduled = False  # asyncio counts none of these
        heapq.heappush(self._quiet, timer)
        return timer

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """As asyncio's; until the future is done (or cancelled) the clock stands still."""
        job = Job(func)
        work: Callable[[*Ts], T] = job.run
        if isinstance(executor, ProcessPoolExecutor):
            work = func  # the job itself would have to be pickled
        future = super().run_in_executor(executor, work, *args)
        self._outside.submitted(job, future, executor or self._default_executor)
        return future

    def wait_all_parked(self, *, again: bool = False) -> asyncio.Future[None]:
        """What the function `wait_all_parked` awaits; with `again`, for a time when they are
        parked after something else has run: so who waits for a condition can look again."""
        parked = self.create_future()
        self._all_parked.append((parked, self._poll.turns if again else -1))
        return parked

    # What happens when nothing is ready, in this order.

    def _nothing_ready(self) -> Events:
        in_hand = self._outside.in_hand()
        foreign = self._outside.may_speak() or len(self._poll.get_map()) > self._own_files
        events = self._poll.look(0)
        if events or self._ready:  # the census itself may have set off a finaliser
            return events
        if in_hand:
            return self._hold(in_hand)
        self._pause = SHORTEST
        self._held_since = None
        if self._tell_that_all_are_parked():
            return []
        due = self._scheduled[0].when() if self._scheduled else math.inf
        if foreign:
            return self._walk(due)
        if due == math.inf:
            return self._deadlocked()
        self._advance(due)
        return []

    def _tell_that_all_are_parked(self) -> bool:
        """Wake the first that waits for this, if anybody does."""
        self._all_parked = [entry for entry in self._all_parked if not entry[0].done()]
        for entry in self._all_parked:
            parked, turn = entry
            if turn < self._poll.turns - 1:  # else nothing but itself has run since it asked
                self._all_parked.remove(entry)
                parked.set_result(None)
                return True
        return False

    def _deadlocked(self) -> Events:
        """Raise `Deadlock`, unless garbage that waits for its collector has something to say: a
        message that was dropped in a reference cycle is settled, as lost, only then."""
        gc.collect()
        events = self._poll.look(0)
        if not events and not self._ready:
            raise Deadlock(wait_for_graph(self))
        return events

    def _hold(self, in_hand: list[str]) -> Events:
        """Wait a little, in real time, for others to finish or to park."""
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        elif 0 <= self._held_since < now - SUSPICIOUS:
            self._held_since = math.inf  # said once
            _log.warning("the virtual clock stands still, waiting for %s", ", ".join(in_hand))
        pause = self._pause
        self._pause = min(2 * pause, LONGEST)
        if pause >= 0.001:
            return self._poll.look(pause)
        time.sleep(pause)  # a selector would round it up to a millisecond
        return self._poll.look(0)

    def _walk(self, due: float) -> Events:
        """Keep real time until something happens or the next timer is due."""
        started = time.monotonic()
        events = self._poll.look(min(LOOK_AGAIN, due - self._now))
        self._advance(min(due, self._now + time.monotonic() - started))
        return events

    def _advance(self, to: float) -> None:
        self._now = max(self._now, to)
        # asyncio runs what is due before `time() + resolution`: far from zero, that sum must
        # still be a later time than the one that was jumped to.
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


class _VirtualSelector(selectors.BaseSelector):
    """A real selector that asks `nothing_ready` instead of waiting."""

    def __init__(self, nothing_ready: Callable[[], Events]) -> None:
        self._real = selectors.DefaultSelector()
        self._nothing_ready = nothing_ready
        self.turns = 0

    def select(self, timeout: float | None = None) -> Events:
        self.turns += 1
        if timeout is not None and timeout <= 0:
            return self._real.select(0)
        return self._nothing_ready()

    def look(self, timeout: float) -> Events:
        """What became readable or writable within `timeout` real seconds."""
        return self._real.select(timeout)

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


async def wait_all_parked() -> None:
    """Return once every other task of this loop is blocked and no work is in hand.

    No virtual time passes meanwhile. A thread actor that runs and a job in an executor count as
    not blocked; of several tasks that wait here, one is woken at a time, in order. RuntimeError
    on any loop but the virtual one, which alone can know. Cancelled: nothing has happened.
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
    which is run in a `Group`. TypeError for a `seed` that is no
    whole number. Raises whatever it raises, and `Deadlock` when it can never end.
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
    # A deadlock raises here; the group's own watch for stalls would only put it off.
    async with Group(stall_after=None) as go:
        started = main(go)
        if started is not None:
            await started
