"""Calling a function of `each` once: on the event loop, or in a thread.

A *caller* makes the attempts of one message after another. An attempt that takes longer than
`timeout` ends with TimeoutError; where its function cannot be stopped, the caller is busy until it
has returned.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from tailrace.actors.stock import name_of
from tailrace.deadline import within
from tailrace.usercode import close
from tailrace.worker import Worker

__all__ = ["NOT_RUN", "Call", "Caller", "OnLoop", "Thread", "not_run", "on_loop"]

B = TypeVar("B")

Call: TypeAlias = Callable[[Any], Awaitable[Any]]

_log = logging.getLogger("tailrace")


class Caller(Protocol):
    """Makes one attempt after another."""

    @property
    def call(self) -> Call:
        """Makes one attempt. Cancelled: as after a timeout."""
        ...

    @property
    def busy(self) -> asyncio.Future[Any] | None:
        """What is done once the attempt that was given up has ended; None if there is none."""
        ...

    def close(self) -> None:
        """No attempt will be made any more."""


class OnLoop:
    """A `Caller` of functions that run on the event loop. Any number of messages may share it."""

    busy: None = None

    def __init__(self, call: Call) -> None:
        self.call = call

    def close(self) -> None:
        """Nothing to do."""


def on_loop(fn: Callable[[Any], Any], timeout: float | None, asynchronous: bool) -> Call:
    """What calls `fn` on the event loop."""

    async def plain(data: Any) -> Any:
        value = fn(data)
        return await value if hasattr(value, "__await__") else value

    async def timed(data: Any) -> Any:
        with within(timeout):
            return await at_most(timeout, fn(data))

    if not asynchronous:
        return plain
    return fn if timeout is None else timed


async def at_most(timeout: float | None, work: Awaitable[B]) -> B:
    """What `work` returns. TimeoutError, with the seconds, if it takes longer than `timeout`."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"took longer than {timeout} s") from error
        raise


class Thread:
    """A `Caller` with a thread of its own, in which a blocking function is called."""

    def __init__(self, fn: Callable[[Any], Any], timeout: float | None, name: str) -> None:
        self._fn = fn
        self._timeout = timeout
        self._worker = Worker(f"{name}_thread")
        self._job: asyncio.Future[Any] | None = None

    async def call(self, data: Any) -> Any:
        """The function's result. After a timeout or a cancellation the call goes on; the next
        attempt begins when it has returned."""
        if (job := self.busy) is not None:
            await asyncio.wait([job])
        loop = asyncio.get_running_loop()
        with within(self._timeout):
            context = copy_context()
            self._job = loop.run_in_executor(
                self._worker, lambda: context.run(_finished, self._fn, data)
            )
            return await at_most(self._timeout, asyncio.shield(self._job))

    @property
    def busy(self) -> asyncio.Future[Any] | None:
        """What is done once the call that was given up has returned."""
        return None if self._job is None or self._job.done() else self._job

    def close(self) -> None:
        """Let the thread end once its call has. Do not wait: the call may block forever."""
        self._worker.shutdown(wait=False)
        if self.busy is not None:
            _log.warning(
                "each: %s is left behind in a call that has not returned", self._worker.name
            )


def _finished(fn: Callable[[Any], Any], data: Any) -> Any:
    """What `fn` returns. TypeError if that is work that has not run."""
    try:
        value = fn(data)
    except StopIteration as error:  # no future can hold it: its waiter would hang
        raise RuntimeError(f"{name_of(fn)} raised StopIteration") from error
    if inspect.isawaitable(value) or type(value) in NOT_RUN:
        raise not_run(name_of(fn), value)
    return value


NOT_RUN: Final = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


def not_run(name: str, value: Any) -> TypeError:
    """The error for a function that returned `value`, of which nothing has run."""
    close(value)
    return TypeError(
        f"{name} returned a {type(value).__name__}, of which nothing has run: each takes a "
        f"function that returns its result; await what is async (no threads=True for an async "
        f"function), and return a list instead of yielding"
    )
