"""Layer 0: a thread for calls that block, one after another.

Each actor of `each(threads=True)` has one, and each store. A `ThreadPoolExecutor` will not do: a
process joins its threads before it ends, so a call that hangs would keep a program from ending.
This thread is a daemon. It ends when it is shut down, or is left behind in a call that hangs.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class LeftBehind(Exception):
    """The call goes on in its thread, and is no longer waited for."""


class Worker(Executor):
    """An executor of one daemon thread, which starts with the first call and ends at shutdown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self.left = False
        """Whether a call was left behind. Calls after it may never run."""
        self._pending: dict[Future[Any], asyncio.AbstractEventLoop | None] = {}
        # The name of ThreadPoolExecutor's: the virtual clock ignores idle threads of executors.
        self._threads: set[threading.Thread] = set()
        _workers.add(self)

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "running" if self._threads else "not started"
        return f"<Worker {self.name!r}, {state}>"

    @property
    def busy(self) -> bool:
        """Whether a call is running or queued."""
        return bool(self._pending)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` after all calls submitted before."""
        future: Future[R] = Future()

        def job() -> None:
            try:
                if not future.done() and future.set_running_or_notify_cancel():
                    _complete(future, lambda: fn(*args, **kwargs))
            finally:
                self._pending.pop(future, None)

        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self!r} takes no more work")
            if not self._threads:
                thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._threads.add(thread)
                thread.start()
            self._pending[future] = asyncio._get_running_loop()
            self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after the calls that were submitted; `wait` until it has ended."""
        if cancel_futures:
            raise NotImplementedError("a worker makes all calls submitted to it")
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def leave_behind(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Raise `LeftBehind` where tasks of `loop` wait for a call. Returns whether any does."""
        left = False
        for future, home in list(self._pending.items()):
            if home is loop:
                try:
                    future.set_exception(LeftBehind(f"{self.name} is left behind in its thread"))
                except InvalidStateError:
                    continue  # it has ended just now
                self.left = left = True
        return left

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or it would keep its arguments alive until the next call


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def leave_behind(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Wait no longer for any call made from `loop`. Returns the names of their workers."""
    return [worker.name for worker in list(_workers) if worker.leave_behind(loop)]


def _complete(future: Future[R], call: Callable[[], R]) -> None:
    try:
        try:
            result = call()
        except StopIteration as error:  # no future can hold one: its waiter would hang
            refused = RuntimeError(f"{type(error).__name__} was raised by the function")
            refused.__cause__ = error
            future.set_exception(refused)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
    except InvalidStateError:
        pass  # it was left behind meanwhile
