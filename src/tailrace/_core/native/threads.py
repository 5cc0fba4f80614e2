"""Threads: how one waits in a channel operation, and how one that is an actor is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from typing import Any

from tailrace._core.common import ParkedThread, check_timeout, label
from tailrace._core.faces import ThreadActorFace
from tailrace._core.native.sleeping import CANCELLED, HAPPENED, TIMED_OUT


class _ThreadState(threading.local):
    actor: ThreadActor | None = None


thread = _ThreadState()
parked_threads: dict[int, ParkedThread] = {}  # by thread identifier, for testing's clock
thread_actors: weakref.WeakSet[ThreadActor] = weakref.WeakSet()


class ThreadActor(ThreadActorFace):
    """A thread whose blocking operations can be cancelled from outside."""

    __slots__ = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        super().__init__(loop, thread)
        thread_actors.add(self)

    def park(self, operation: Any, until: float | None) -> None:
        """The thread has parked there; if it was cancelled meanwhile, it is woken at once."""
        super().park(operation, until)
        if self.cancelled:
            operation._wake(CANCELLED)

    def enter(self) -> None:
        """Make the calling thread this actor's."""
        thread.actor = self

    def cancel(self, *, finish_send: bool = False) -> None:
        """Wake the parked operation with CancelledError, or fail the next one.

        With `finish_send` a send that is parked is left to happen first.
        """
        self.cancelled = True
        operation: Any = self.operation
        if operation is not None and not (finish_send and not operation.receives):
            operation._wake(CANCELLED)


def is_main() -> bool:
    """Whether signal handlers run in this thread."""
    return threading.get_ident() == threading.main_thread().ident


def block(operation: Any, timeout: float | None) -> Any:
    """Drive an operation from a thread, which sleeps meanwhile.

    TimeoutError after `timeout` seconds; CancelledError in the thread of a cancelled actor. Then
    it did not happen.
    """
    operation.__await__()  # from here on it is used
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            f"a blocking {operation.does} would stop this thread's event loop; await it instead"
        )
    seconds = check_timeout(timeout)
    until = None if seconds is None else time.monotonic() + seconds
    actor = thread.actor
    while True:
        if actor is not None and actor.cancelled:
            raise asyncio.CancelledError
        if operation._block(None):
            return operation._take_outcome()
        gate = threading.Lock()
        gate.acquire()
        try:
            if operation._block(gate):
                return operation._take_outcome()
            if actor is not None:
                actor.park(operation, until)
                if actor.on_park:
                    actor.tell()
            claimed = _sleep(operation, gate, until)
        except BaseException:  # a signal handler raised, KeyboardInterrupt most likely
            operation._interrupted(None)
            raise
        if claimed == HAPPENED:
            return operation._take_outcome()
        if claimed == CANCELLED:
            raise asyncio.CancelledError
        if claimed == TIMED_OUT:
            raise TimeoutError(f"{operation.does} on {label(operation.channel)} timed out")


def _sleep(operation: Any, gate: threading.Lock, until: float | None) -> int:
    """Sleep until claimed and return how."""
    me = threading.get_ident()
    parked_threads[me] = ParkedThread(operation, until)
    try:
        gate.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic()))
    finally:
        del parked_threads[me]
    operation._wake(TIMED_OUT)  # in vain, if it was claimed
    claimed: int = operation._claim
    return claimed
