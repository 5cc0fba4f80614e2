"""What `each` and `in_order` do with a message: call a function, again if need be, and judge.

Invariants:
- Each message handled is returned, with what the function returned as its data, or is settled here
  (aborted, rejected or failed), or goes on in its dead letter. So does the message in hand when the
  actor is cancelled, or when a channel that it sends to is closed.
- Unless ``on_error="raise"``, an exception of the function ends its message and nothing else.
- Between two messages nothing here refers to either. So a message that is lost later is collected,
  and its sender is told, even while the actor is idle.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, get_args
from weakref import ref

from tailrace.actors.calls import NOT_RUN, Call, Caller, OnLoop, Thread, not_run, on_loop
from tailrace.actors.letters import DeadLetter, dead_letter
from tailrace.actors.stock import Stock, is_being_cancelled, name_of
from tailrace.arguments import check_count, check_seconds
from tailrace.channel import Sender
from tailrace.errors import Abort, Reject
from tailrace.message import Message
from tailrace.message.internals import FailureLog, current, failure, settle_failed
from tailrace.retry import Retry
from tailrace.usercode import is_async, is_generator, log_error

__all__ = ["Dead", "EachStatistics", "Handler", "OnError"]

A = TypeVar("A")
B = TypeVar("B")

OnError: TypeAlias = Literal["fail", "abort", "raise"]
Dead: TypeAlias = "Sender[Message[DeadLetter[A]]] | None"

_log = logging.getLogger("tailrace")

_set_current: Final = current.set

_DATA: Final = frozenset({str, bytes, int, float, bool, list, dict, tuple, set, type(None)})
"""Types of results that are neither awaitable nor work that has not run."""


@dataclass(frozen=True, slots=True)
class EachStatistics:
    """The counters of all actors of one `each` or `in_order` together.

    Messages were `passed` on, `aborted`, `rejected` or `failed` here, sent on as `dead` letters, or
    `skipped`, because others had settled them. `retried` counts the attempts after the first.
    """

    passed: int = 0
    aborted: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0
    dead: int = 0
    retried: int = 0


class Handler(Stock, Generic[A, B]):
    """Handles messages, for the actors `Each` and `InOrder`. It keeps nothing of a message, so
    several tasks may use one."""

    maker = "each"
    """The function that makes it."""

    def __init__(
        self,
        fn: Callable[[A], Any],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        on_error: OnError = "fail",
        threads: bool = False,
        processes: int = 0,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"{self.maker} takes a function of a message's data, not {fn!r}")
        super().__init__(name_of(fn))
        self._fn = fn
        self._asynchronous = is_async(fn)
        self._check(timeout, retry, on_error, threads, processes)
        self._processes = processes
        self._pickled = b""
        if processes:
            from tailrace.actors.processes import pickled_function

            self._pickled = pickled_function(f"{self.maker}({self.name})", fn)
        self._timeout = None if timeout == math.inf else timeout
        self._retry = retry
        self._on_error: OnError = on_error
        self._threads = threads
        self._call = on_loop(fn, self._timeout, self._asynchronous)
        self._failures = FailureLog(repr(self))
        self._passed = self._aborted = self._rejected = self._failed = 0
        self._dead = self._retried = 0

    def _check(
        self, timeout: object, retry: object, on_error: object, threads: bool, processes: object
    ) -> None:
        """TypeError or ValueError for options that are wrong, or exclude each other."""
        where = f"{self.maker}({self.name})"
        if on_error not in get_args(OnError):
            raise ValueError(f"{where}: on_error={on_error!r} is none of {get_args(OnError)}")
        if timeout is not None:
            check_seconds(f"{where}: timeout", timeout, positive=True, endless=True)
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"{where}: retry must be a Retry, not {retry!r}")
        check_count(f"{where}: processes", processes, least=0)
        if threads and processes:
            raise ValueError(f"{where}: threads=True and processes={processes} exclude each other")
        if (threads or processes) and self._asynchronous:
            kind = "threads" if threads else "processes"
            raise ValueError(f"{where}: an async function does not run in {kind}")
        if is_generator(self._fn):
            raise TypeError(
                f"{where}: a generator function makes no data, as nothing of it has run when it "
                f"returns; return a list instead of yielding, or make several messages of each "
                f"with expand({self.name})"
            )
        if timeout is not None and not (self._asynchronous or threads or processes):
            raise ValueError(
                f"{where}: a plain function on the event loop cannot be interrupted after "
                f"timeout={timeout}; make it async, or give it threads=True or processes=n"
            )

    def statistics(self) -> EachStatistics:
        """A snapshot of the counters."""
        return EachStatistics(
            self._passed,
            self._aborted,
            self._rejected,
            self._failed,
            self._skipped,
            self._dead,
            self._retried,
        )

    def __repr__(self) -> str:
        return f"{self.maker}({', '.join([self.name, *self._options()])})"

    def _options(self) -> list[str]:
        """The options that are not the defaults, about as they are written."""
        options: list[tuple[str, object, object]] = [
            ("timeout", self._timeout, None),
            ("on_error", self._on_error, "fail"),
            ("threads", self._threads, False),
            ("processes", self._processes, 0),
        ]
        shown = [f"{name}={value!r}" for name, value, default in options if value != default]
        if self._retry is not None:
            shown.append(f"retry=Retry({self._retry.attempts}, …)")  # in each line of the log
        return shown

    def _caller(self) -> Caller:
        """What calls the function, for one message at a time."""
        if self._threads:
            return Thread(self._fn, self._timeout, self.name)
        return OnLoop(self._call)

    # --- one message

    def _at_once(
        self, message: Message[A], dead: Dead[A]
    ) -> Message[B] | Awaitable[Message[B] | None] | None:
        """As `_handle`, for a plain function; or what is left to be awaited.

        A coroutine for each message would double what `each` costs.
        """
        root: Message[Any] | None
        try:
            root = message._origin or message  # faster than the property `outcome`, which says this
            if root._outcome is None:
                _set_current(ref(message))
                value = self._fn(message.data)
                if type(value) not in _DATA:
                    if hasattr(value, "__await__"):
                        return self._handle(message, self._call, dead, begun=value)
                    if type(value) in NOT_RUN:
                        raise not_run(self.name, value)
                if root._outcome is None:
                    return message.with_data(value)
            self._skipped += 1  # settled before or meanwhile
        except Abort as stop:
            self._aborted += message.abort(stop.reason)
        except Reject as stop:
            self._rejected += message.reject(stop.reason)
        except (Exception, asyncio.CancelledError) as error:  # not ours: nothing was awaited
            return self._handle(message, self._call, dead, failed=error)
        except BaseException as error:
            self._not_passed(message, error)
            raise
        finally:
            # Else they, and an error whose traceback refers to this frame, would form a cycle.
            del message
            root = None
        return None

    async def _handle(
        self,
        message: Message[A],
        call: Call,
        dead: Dead[A],
        *,
        begun: Awaitable[B] | None = None,
        failed: BaseException | None = None,
    ) -> Message[B] | None:
        """Call the function until an attempt succeeds, or none is left.

        Returns the message to send on; None if it is settled, or goes on in its dead letter.
        `begun` is the first attempt if that has begun, `failed` its error if it has failed.
        """
        attempts = 0
        delays: Iterator[float] | None = None
        try:
            data = _data_of(self, message)
            while failed is not None or message.outcome is None:
                attempts += 1
                if failed is None:
                    _set_current(ref(message))
                    try:
                        value = await (call(data) if begun is None else begun)
                        if type(value) in NOT_RUN:
                            raise not_run(self.name, value)
                        if message.outcome is None:
                            return message.with_data(value)
                        continue  # settled meanwhile
                    except Exception as error:
                        failed = error
                    except asyncio.CancelledError as error:
                        if is_being_cancelled():
                            raise
                        failed = error  # the function awaited something that was cancelled
                if delays is None and self._retry is not None:
                    delays = self._retry.delays()
                if not await self._comes_again(message, failed, delays):
                    await self._give_up(message, data, failed, attempts, dead)
                    return None
                begun = failed = None
            self._skipped += 1
            return None
        except BaseException as error:
            self._not_passed(message, error)
            raise
        finally:
            del message, failed  # or they and their tracebacks, which refer to this frame, ...
            begun = None  # ... form cycles

    async def _comes_again(
        self, message: Message[A], error: BaseException, delays: Iterator[float] | None
    ) -> bool:
        """Wait until the next attempt is due. False if there is none."""
        try:
            if delays is None or not self._applies(error):
                return False
            delay = next(delays, None)
            if delay is None:
                return False
            await asyncio.sleep(delay)
            if message.outcome is None:
                self._retried += 1
            return True
        finally:
            del message, error

    def _applies(self, error: BaseException) -> bool:
        if isinstance(error, (Abort, Reject)) or self._retry is None:
            return False
        try:
            return self._retry.applies(error)
        except Exception as broken:  # a predicate is user code
            log_error(_log, "%r: the predicate of its Retry raised", self, error=broken)
            return False
        finally:
            del error

    async def _give_up(
        self, message: Message[A], data: A, error: BaseException, attempts: int, dead: Dead[A]
    ) -> None:
        """Settle the message by its last error, or send it on as a dead letter."""
        try:
            if isinstance(error, Abort):
                self._aborted += message.abort(error.reason)
            elif isinstance(error, Reject):
                self._rejected += message.reject(error.reason)
            elif dead is None:
                self._failure(message, error)
                if self._on_error == "raise":
                    raise error
            else:
                self._failures.add(message.id, error)
                letter = dead_letter(message, data, error, attempts, self.name)
                await self._pass_on(letter, dead)
                self._dead += 1
                del letter
        finally:
            del message, data, error

    def _failure(self, message: Message[Any], error: BaseException) -> None:
        """The function failed, and the message is not tried again."""
        if self._on_error == "abort":
            self._aborted += message.abort(failure(error).reason)
        else:
            self._failed += settle_failed(message, error)
        if self._on_error != "raise":  # else the group reports it
            self._failures.add(message.id, error)

    def _not_passed(self, message: Message[Any], error: BaseException) -> bool:
        if not isinstance(cast("object", message), Message):
            return False
        settled = super()._not_passed(message, error)
        self._failed += settled
        return settled


def _data_of(actor: Stock, message: Message[A]) -> A:
    """The data of `message`. TypeError for what is no message."""
    if not isinstance(cast("object", message), Message):
        raise TypeError(f"{actor!r} takes messages, but was sent {message!r}")
    return message.data
