"""`each`: an actor made of a function ``data -> data``.

Invariants:
- Each message received is sent on (with what the function returned as its data) or is settled
  here: aborted, rejected or failed, never dropped. So is the message in hand when the actor is
  cancelled or `out` is closed.
- Unless ``on_error="raise"``, an exception of the function ends its message and nothing else.
- Between two messages the actor refers to neither. So a message that is lost later is collected,
  and its sender is told, even while the actor is idle.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, get_args, overload

from tailrace.actors.stock import Stock, is_being_cancelled, name_of
from tailrace.arguments import check_seconds
from tailrace.channel import Receiver, Sender
from tailrace.deadline import within
from tailrace.errors import Abort, Reject
from tailrace.message import Message
from tailrace.message.internals import FailureLog, current, failure, make_current, settle_failed
from tailrace.usercode import close, is_async, is_generator
from tailrace.worker import Worker

__all__ = ["Each", "EachStatistics", "each"]

A = TypeVar("A")
B = TypeVar("B")

OnError: TypeAlias = Literal["fail", "abort", "raise"]

_log = logging.getLogger("tailrace")


@overload
def each(
    fn: Callable[[A], Awaitable[B]], *, timeout: float | None = None, on_error: OnError = "fail"
) -> Each[A, B]: ...
@overload
def each(
    fn: Callable[[A], B],
    *,
    timeout: float | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
) -> Each[A, B]: ...
def each(
    fn: Callable[[A], Any],
    *,
    timeout: float | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
) -> Each[A, Any]:
    """Make an actor that sends each message on with ``fn(data)`` as its data.

    `fn` is async, or plain and quick, or plain and blocking with ``threads=True``: then each actor
    calls it in a thread of its own. What it returns is the new data; None is a value too. To end a
    message instead, `fn` raises `Abort` or `Reject` with a reason.

    Any other exception, or taking longer than `timeout` seconds, fails that message and is logged
    (at once, then at most every 10 s with a count); the actor goes on. With ``on_error="abort"``
    the message is aborted; with ``"raise"`` it fails, and the exception ends the actor. If a
    blocking function takes too long, its message fails, but its actor takes no other message before
    the function has returned.

    The group decides how many run at once: ``go(each(fetch), urls, pages, actors=8)``. Messages
    then go on in the order of completion. A message that is settled already is skipped and counted.

    TypeError if `fn` is no function, or a generator function; ValueError for options that exclude
    each other. If `fn` returns a generator or a coroutine, its message fails. The actor raises
    TypeError for a value that is no `Message`. Cancelled: the message in hand fails.
    """
    return Each(fn, timeout=timeout, on_error=on_error, threads=threads)


@dataclass(frozen=True, slots=True)
class EachStatistics:
    """The counters of all actors of one `each` together.

    Messages were `passed` on, `aborted`, `rejected` or `failed` here, or `skipped`, because others
    had settled them.
    """

    passed: int = 0
    aborted: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0


class Each(Stock, Generic[A, B]):
    """The actor that `each` makes. It keeps nothing of a message, so several tasks may run it."""

    def __init__(
        self,
        fn: Callable[[A], Any],
        *,
        timeout: float | None = None,
        on_error: OnError = "fail",
        threads: bool = False,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"each takes a function of a message's data, not {fn!r}")
        super().__init__(name_of(fn))
        asynchronous = is_async(fn)
        if on_error not in get_args(OnError):
            raise ValueError(
                f"each({self.name}): on_error={on_error!r} is none of {get_args(OnError)}"
            )
        if timeout is not None:
            check_seconds(f"each({self.name}): timeout", timeout, positive=True, endless=True)
        if threads and asynchronous:
            raise ValueError(f"each({self.name}): an async function does not run in threads")
        if is_generator(fn):
            raise TypeError(
                f"each({self.name}): a generator function makes no data, as nothing of it has run "
                f"when it returns; return a list instead of yielding, or write an actor that sends "
                f"each value"
            )
        if timeout is not None and not asynchronous and not threads:
            raise ValueError(
                f"each({self.name}): a plain function on the event loop cannot be interrupted "
                f"after timeout={timeout}; make it async, or give it threads=True"
            )
        self._fn = fn
        self._timeout = None if timeout == math.inf else timeout
        self._on_error: OnError = on_error
        self._threads = threads
        self._call = _on_loop(fn, self._timeout, asynchronous)
        self._failures = FailureLog(repr(self))
        self._passed = self._aborted = self._rejected = self._failed = 0

    async def __call__(self, inbox: Receiver[Message[A]], out: Sender[Message[B]]) -> None:
        """Handle the messages of `inbox` until it closes. See `each`."""
        thread = _Thread(self._fn, self._timeout, self.name) if self._threads else None
        call = self._call if thread is None else thread.call
        outer_message = current.get()
        try:
            async for message in inbox:
                passed = await self._handle(message, call)
                if passed is not None:
                    try:
                        await out.send(passed)
                    except BaseException as error:
                        self._not_passed(passed, error)
                        raise
                    self._passed += 1
                del message, passed
                if thread is not None:
                    await thread.free()
        finally:
            if thread is not None:
                thread.close()
            current.set(outer_message)
            self._failures.rest()

    def statistics(self) -> EachStatistics:
        """A snapshot of the counters."""
        return EachStatistics(
            self._passed, self._aborted, self._rejected, self._failed, self._skipped
        )

    def __repr__(self) -> str:
        options = "".join(
            f", {name}={value!r}"
            for name, value, default in (
                ("timeout", self._timeout, None),
                ("on_error", self._on_error, "fail"),
                ("threads", self._threads, False),
            )
            if value != default
        )
        return f"each({self.name}{options})"

    async def _handle(self, message: Message[A], call: _Call) -> Message[B] | None:
        """Call the function. Returns the message to send on; None if it is settled."""
        try:
            if message.outcome is not None:
                self._skipped += 1
                return None
            make_current(message)
            value = await call(message.data)
            if type(value) in _NOT_RUN:
                raise _not_run(self.name, value)
            if message.outcome is None:
                return message.with_data(value)
            self._skipped += 1  # settled meanwhile
        except Abort as stop:
            self._aborted += message.abort(stop.reason)
        except Reject as stop:
            self._rejected += message.reject(stop.reason)
        except Exception as error:
            self._failure(message, error)
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                self._not_passed(message, error)
                raise
            self._failure(message, error)  # the function awaited something that was cancelled
        except BaseException as error:
            self._not_passed(message, error)
            raise
        finally:
            del message  # or it and its error, whose traceback refers to this frame, form a cycle
        return None

    def _failure(self, message: Message[Any], error: BaseException) -> None:
        """The function failed: fail the message, and if asked for, the actor."""
        # Checked only here, where a value that is no message ends up, so that messages pay nothing.
        if not isinstance(cast("object", message), Message):
            raise TypeError(f"{self!r} takes messages, but was sent {message!r}") from None
        if self._on_error == "abort":
            self._aborted += message.abort(failure(error).reason)
        else:
            self._failed += settle_failed(message, error)
        if self._on_error == "raise":
            raise error
        self._failures.add(message.id, error)

    def _not_passed(self, message: Message[Any], error: BaseException) -> bool:
        settled = super()._not_passed(message, error)
        self._failed += settled
        return settled


# --- calling the function -------------------------------------------------------------------

_Call: TypeAlias = Callable[[Any], Awaitable[Any]]


def _on_loop(fn: Callable[[Any], Any], timeout: float | None, asynchronous: bool) -> _Call:
    """What calls `fn` on the event loop."""

    async def plain(data: Any) -> Any:
        value = fn(data)
        return await value if hasattr(value, "__await__") else value

    async def timed(data: Any) -> Any:
        with within(timeout):
            return await _at_most(timeout, fn(data))

    if not asynchronous:
        return plain
    return fn if timeout is None else timed


async def _at_most(timeout: float | None, work: Awaitable[B]) -> B:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"took longer than {timeout} s") from error
        raise


class _Thread:
    """Calls a blocking function in the one thread of one actor."""

    def __init__(self, fn: Callable[[Any], Any], timeout: float | None, name: str) -> None:
        self._fn = fn
        self._timeout = timeout
        self._worker = Worker(f"{name}_thread")
        self._job: asyncio.Future[Any] | None = None

    async def call(self, data: Any) -> Any:
        """The function's result. After a timeout or a cancellation the call goes on."""
        loop = asyncio.get_running_loop()
        with within(self._timeout):
            context = copy_context()
            self._job = loop.run_in_executor(
                self._worker, lambda: context.run(_finished, self._fn, data)
            )
            return await _at_most(self._timeout, asyncio.shield(self._job))

    async def free(self) -> None:
        """Wait until a call that was given up has ended."""
        if self._job is not None and not self._job.done():
            await asyncio.wait([self._job])

    def close(self) -> None:
        """Let the thread end once its call has. Do not wait: the call may block forever."""
        self._worker.shutdown(wait=False)
        if self._job is not None and not self._job.done():
            _log.warning(
                "each: %s is left behind in a call that has not returned", self._worker.name
            )


def _finished(fn: Callable[[Any], Any], data: Any) -> Any:
    """What `fn` returns. TypeError if that is work that has not run."""
    try:
        value = fn(data)
    except StopIteration as error:  # no future can hold it: its waiter would hang
        raise RuntimeError(f"{name_of(fn)} raised StopIteration") from error
    if inspect.isawaitable(value) or type(value) in _NOT_RUN:
        raise _not_run(name_of(fn), value)
    return value


_NOT_RUN: Final = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


def _not_run(name: str, value: Any) -> TypeError:
    """The error for a function that returned `value`, of which nothing has run."""
    close(value)
    return TypeError(
        f"{name} returned a {type(value).__name__}, of which nothing has run: each takes a "
        f"function that returns its result; await what is async (no threads=True for an async "
        f"function), and return a list instead of yielding"
    )
