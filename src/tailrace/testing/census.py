"""The census of a virtual clock: which threads can still wake a loop that has nothing to do.

- *Work in hand*: a job in an executor, a thread actor that runs. It is part of the program, so
  the clock stands still until the work is done, as it does while a task runs.
- *The outside world*: sockets, pipes, child processes, threads of other libraries. Nobody knows
  when one of these will act next, so the clock keeps real time while there are any.
- With neither of these, only a timer can wake the loop, and the clock may jump to that timer.

A thread that is parked in a channel operation is neither: like a parked task, it is woken by
others. If the operation has a timeout, which is in real time, the thread is the outside world.

The clock must take the census before it polls the selector. A thread posts to the loop first, and
parks or ends after that, so in this order no post is missed.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

from tailrace import _core
from tailrace._core import ParkedThread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE: Final = 0.02
"""Real seconds for which an unknown thread counts as work in hand.

A thread that is about to end or to park has done so by then, so the clock stays exact.
"""


class Job(Generic[T, *Ts]):
    """A function in an executor, and the thread that it runs on."""

    def __init__(self, work: Callable[[*Ts], T]) -> None:
        self.work = work
        self.thread: int | None = None

    def __repr__(self) -> str:
        work: Callable[..., Any] = self.work
        while isinstance(work, functools.partial):  # to_thread: partial(context.run, function)
            work = work.args[0] if work.args and callable(work.args[0]) else work.func
        return f"{getattr(work, '__qualname__', repr(work))} in an executor"

    def run(self, *args: *Ts) -> T:
        """Call the function, on a worker's thread."""
        self.thread = threading.get_ident()
        return self.work(*args)


class Census:
    """The threads that one virtual clock has to consider."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._older = frozenset(threading.enumerate())
        self._jobs: dict[asyncio.Future[Any], Job[Any, *tuple[Any, ...]]] = {}
        self._executors: weakref.WeakSet[Executor] = weakref.WeakSet()
        self._first_seen: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Census: {', '.join(self.in_hand()) or 'no work in hand'}>"

    def submitted(
        self, job: Job[Any, *tuple[Any, ...]], future: asyncio.Future[Any], executor: Executor
    ) -> None:
        """Count `job` as work in hand until `future` is done or cancelled."""
        self._executors.add(executor)
        self._jobs[future] = job
        future.add_done_callback(self._jobs.pop)

    def in_hand(self) -> list[str]:
        """The work in hand, in words. While there is any, the clock stands still."""
        work = [repr(job) for job in self._jobs.values() if _awake(job.thread)]
        work += [
            f"thread actor {actor.thread.name}"
            for actor in self._actors()
            if not actor.parked and not (actor.cancelled and self._stays(actor))
        ]
        work += [f"thread {thread.name}" for thread in self._strangers() if not self._stays(thread)]
        return work

    def may_speak(self) -> bool:
        """Whether a thread of the outside world may wake the loop."""
        return (
            any(_timed(job.thread) for job in self._jobs.values())
            # A cancelled actor that has not ended is in blocking code, which cannot be cancelled.
            or any(actor.cancelled or _timed(actor.thread.ident) for actor in self._actors())
            or bool(self._strangers())
        )

    def _actors(self) -> list[_core.ThreadHandle]:
        """The thread actors that this loop waits for."""
        loop = self._loop()
        return [actor for actor in _core.thread_handles if actor.loop is loop and actor.alive]

    def _strangers(self) -> list[threading.Thread]:
        """The unknown threads that may act: started since the loop was made, no thread actor, no
        worker of an executor, and not parked without a timeout."""
        others = [thread for thread in threading.enumerate() if thread not in self._older]
        if not others:
            return others
        ours = {actor.thread for actor in _core.thread_handles}
        for executor in self._executors:
            # A private attribute. Where it is missing, idle workers count as strangers.
            ours.update(getattr(executor, "_threads", ()))
        ours.add(threading.current_thread())
        strangers: list[threading.Thread] = []
        for thread in others:
            if thread in ours:
                continue
            if _awake(thread.ident) or _timed(thread.ident):
                strangers.append(thread)
            else:
                self._first_seen.pop(thread, None)  # its patience begins anew when it wakes
        return strangers

    def _stays(self, thread: object) -> bool:
        """Whether a thread, which may be about to end or park, has been seen for a while."""
        now = time.monotonic()
        return now - self._first_seen.setdefault(thread, now) > PATIENCE


def _parked(thread: int | None) -> ParkedThread | None:
    """The channel operation that a thread is parked in, unless it has been claimed."""
    parked = None if thread is None else _core.parked_threads.get(thread)
    return parked if parked is not None and parked.operation.parked else None


def _awake(thread: int | None) -> bool:
    return _parked(thread) is None


def _timed(thread: int | None) -> bool:
    """Whether a thread is parked in an operation with a timeout."""
    parked = _parked(thread)
    return parked is not None and parked.deadline is not None
