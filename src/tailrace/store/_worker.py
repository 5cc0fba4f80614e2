"""One thread that runs what it is given, in order: where a store's blocking writes happen.

A `concurrent.futures.ThreadPoolExecutor` of one worker would do, but for the end of the process:
that waits for the pool's threads, so that a write that hangs would keep a cancelled program from
ending. This thread is a daemon: a transaction cut off by the end of the process is rolled back,
and nothing of it was acked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker(Executor):
    """An executor of one daemon thread, which starts with the first job and ends at shutdown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        # Named as in ThreadPoolExecutor: the virtual clock spares an executor's idle threads.
        self._threads: set[threading.Thread] = set()

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "running" if self._threads else "not started"
        return f"<Worker {self.name!r}, {state}>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` after all that was submitted before."""
        future: Future[R] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except StopIteration as error:  # no future can hold one: its waiter would hang
                refused = RuntimeError("the write raised StopIteration")
                refused.__cause__ = error
                future.set_exception(refused)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self!r} takes no more work")
            if not self._threads:
                thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._threads.add(thread)
                thread.start()
            self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has done what was submitted; `wait` for that if wanted."""
        if cancel_futures:
            raise NotImplementedError("a store does all that it was given, or says it did not")
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or it keeps the last batch alive until the next one comes
