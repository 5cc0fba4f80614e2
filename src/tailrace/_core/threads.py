"""Threads: how a thread is parked in a channel operation, and how a thread actor is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from tailrace._core.common import (
    CANCELLED,
    HAPPENED,
    TIMED_OUT,
    UNCLAIMED,
    ParkedThread,
    label,
)
from tailrace._core.twin import OperationLike
from tailrace.arguments import check_timeout

T = TypeVar("T")

parked_threads: dict[int, ParkedThread] = {}
"""By thread identifier: the threads that are parked in an operation."""


class ThreadHandle:
    """A thread whose blocking operations can be cancelled from outside."""

    __slots__ = (
        "__weakref__",
        "_posting",
        "alive",
        "cancelled",
        "deadline",
        "loop",
        "on_park",
        "operation",
        "since",
        "thread",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self.loop = loop
        self.thread = thread
        self.alive = True
        self.cancelled = False
        self.operation: OperationLike[Any] | None = None  # in which it was parked last
        self.since = loop.time()
        self.deadline: float | None = None
        # Each is called on the loop's thread, once, when the thread parks next, or has ended.
        self.on_park: deque[Callable[[], object]] = deque()
        self._posting = False
        thread_handles.add(self)

    def enter(self) -> None:
        """Make the calling thread this one."""
        _here.handle = self

    def park(self, operation: OperationLike[Any], deadline: float | None) -> None:
        """By the thread itself, once `operation` is parked: remember it, and the time (of
        `time.monotonic`) at which the thread gives up. If it was cancelled, wake it at once."""
        self._posting = bool(self.on_park)
        self.deadline = deadline
        self.operation = operation
        self.since = self.loop.time()
        # A canceller sets `cancelled` and then reads `operation`; here it is the other way round:
        # one of the two sees what the other has done.
        if self.cancelled:
            operation._wake(CANCELLED)

    def notify(self) -> None:
        """Have `on_park` called. The thread does not count as parked before that, or a virtual
        clock could jump ahead of it."""
        with contextlib.suppress(RuntimeError):  # the loop was closed, and does not wait for it
            while self.on_park:
                self.loop.call_soon_threadsafe(self.on_park.popleft())
        self._posting = False

    def cancel(self, *, finish_send: bool = False) -> None:
        """Wake the parked operation with CancelledError, or fail the next one.

        With `finish_send` a send that is parked may happen first.
        """
        self.cancelled = True
        operation = self.operation
        if operation is not None and not (finish_send and not operation.receives):
            operation._wake(CANCELLED)

    @property
    def parked(self) -> bool:
        """Whether the thread is parked in a channel operation, and nothing has claimed that."""
        return not self._posting and self.operation is not None and self.operation.parked

    def __repr__(self) -> str:
        state = "parked" if self.parked else "running" if self.alive else "ended"
        return f"<ThreadHandle {state}{', cancelled' if self.cancelled else ''}>"


class _Here(threading.local):
    handle: ThreadHandle | None = None


_here = _Here()
thread_handles: weakref.WeakSet[ThreadHandle] = weakref.WeakSet()


def block(operation: OperationLike[T], timeout: float | None) -> T:
    """Drive an operation from a thread, which sleeps meanwhile.

    TimeoutError after `timeout` seconds; CancelledError in the thread of a cancelled actor. Then
    it did not happen.
    """
    try:
        operation._begin()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                f"a blocking {operation.method} would stop this thread's event loop; await it "
                f"instead"
            )
        seconds = check_timeout(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        handle = _here.handle
        while True:
            if handle is not None and handle.cancelled:
                raise asyncio.CancelledError
            if operation._attempt(None):
                return operation.take_value()
            lock = threading.Lock()
            lock.acquire()
            try:
                if operation._attempt(lock):
                    return operation.take_value()
                if handle is not None:
                    handle.park(operation, deadline)
                    if handle.on_park:
                        handle.notify()
                _sleep(operation, lock, deadline)
            except BaseException:
                operation._give_up()
                raise
            if operation._claim == HAPPENED:
                return operation.take_value()
            # The channel was closed: attempt again.
    finally:
        del operation  # a traceback has this frame, and must not lead to the value


def _sleep(operation: OperationLike[Any], lock: threading.Lock, deadline: float | None) -> None:
    """Sleep until claimed. Raises TimeoutError or CancelledError if that is the claim."""
    me = threading.get_ident()
    parked_threads[me] = ParkedThread(operation, deadline)
    try:
        if operation._claim == UNCLAIMED:  # else it was claimed before this thread was in the table
            lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic()))
    finally:
        del parked_threads[me]
    operation._wake(TIMED_OUT)  # in vain, if it was claimed
    if operation._claim == CANCELLED:
        raise asyncio.CancelledError
    if operation._claim == TIMED_OUT:
        raise TimeoutError(f"{operation.method} on {label(operation.channel)} timed out")
