"""What goes on beyond the loop's own tasks, and what that means for a virtual clock.

Three kinds of things can wake a loop that has nothing to do:

- *Work in hand*: a job in an executor, a thread actor. It belongs to the program, so the clock
  stands still until it is done, as it stands still while a task runs.
- *The outside world*: sockets, pipes, child processes, threads that somebody else started. Nobody
  can know when those will speak next, so while there are any the clock keeps real time.
- Neither: then only a timer can, and the clock may jump to it.

A thread that is parked in a channel operation is none of these: like a parked task, it can only
be woken by somebody else. (With a timeout of its own, which is in real time, it may speak.)

Ask about threads before polling the selector. Whoever is in hand posts to the loop first and
parks or ends afterwards; asked in this order, nothing it posted can be missed.
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
"""Real seconds for which a stranger among the threads counts as work in hand. A thread that is
about to end or to park has done so by then, and the clock of a test with threads stays exact."""


class Job(Generic[T, *Ts]):
    """A function on its way through an executor; knows on which thread it runs."""

    def __init__(self, work: Callable[[*Ts], T]) -> None:
        self.work = work
        self.thread: int | None = None

    def __repr__(self) -> str:
        work: Callable[..., Any] = self.work
        while isinstance(work, functools.partial):  # to_thread: partial(context.run, function)
            work = work.args[0] if work.args and callable(work.args[0]) else work.func
        return f"{getattr(work, '__qualname__', repr(work))} in an executor"

    def run(self, *args: *Ts) -> T:
        """Do it, on a worker's thread."""
        self.thread = threading.get_ident()
        return self.work(*args)


class Outside:
    """The census that one virtual clock takes when its loop has nothing to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._elders = frozenset(threading.enumerate())
        self._jobs: dict[asyncio.Future[Any], Job[Any, *tuple[Any, ...]]] = {}
        self._executors: weakref.WeakSet[Executor] = weakref.WeakSet()
        self._first_seen: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Outside: {', '.join(self.in_hand()) or 'no work in hand'}>"

    def submitted(
        self, job: Job[Any, *tuple[Any, ...]], future: asyncio.Future[Any], executor: Executor
    ) -> None:
        """`job` is in hand until `future` is done, or abandoned: cancelled."""
        self._executors.add(executor)
        self._jobs[future] = job
        future.add_done_callback(self._jobs.pop)

    def in_hand(self) -> list[str]:
        """The work that holds the clock, in words."""
        work = [repr(job) for job in self._jobs.values() if _awake(job.thread)]
        work += [
            f"thread actor {actor.thread.name}"
            for actor in self._actors()
            if not actor.parked and not (actor.cancelled and self._stays(actor))
        ]
        work += [f"thread {thread.name}" for thread in self._strangers() if not self._stays(thread)]
        return work

    def may_speak(self) -> bool:
        """Whether a thread may wake the loop whenever it pleases, for all that can be known."""
        return (
            any(_timed(job.thread) for job in self._jobs.values())
            # A cancelled one that is still there is in blocking code that cannot be cancelled.
            or any(actor.cancelled or _timed(actor.thread.ident) for actor in self._actors())
            or bool(self._strangers())
        )

    def _actors(self) -> list[_core.ThreadHandle]:
        """The thread actors that this loop waits for."""
        loop = self._loop()
        return [actor for actor in _core.thread_handles if actor.loop is loop and actor.alive]

    def _strangers(self) -> list[threading.Thread]:
        """Threads started since the loop was made, but for those that are accounted for (thread
        actors and the workers of executors) and those that are parked for good."""
        others = [thread for thread in threading.enumerate() if thread not in self._elders]
        if not others:
            return others
        ours = {actor.thread for actor in _core.thread_handles}
        for executor in self._executors:
            # Not public, and only spared here: without it idle workers would be strangers.
            ours.update(getattr(executor, "_threads", ()))
        ours.add(threading.current_thread())
        strangers: list[threading.Thread] = []
        for thread in others:
            if thread in ours:
                continue
            if _awake(thread.ident) or _timed(thread.ident):
                strangers.append(thread)
            else:
                self._first_seen.pop(thread, None)  # when it wakes it is a new stranger
        return strangers

    def _stays(self, somebody: object) -> bool:
        """Whether somebody who might be about to end or park has been seen for a while."""
        now = time.monotonic()
        return now - self._first_seen.setdefault(somebody, now) > PATIENCE


def _parked(thread: int | None) -> ParkedThread | None:
    """In which channel operation a thread sleeps, if nobody has completed it yet."""
    parked = None if thread is None else _core.parked_threads.get(thread)
    return parked if parked is not None and parked.operation.parked else None


def _awake(thread: int | None) -> bool:
    return _parked(thread) is None


def _timed(thread: int | None) -> bool:
    """Whether a thread sleeps so, but will wake by itself."""
    parked = _parked(thread)
    return parked is not None and parked.deadline is not None
