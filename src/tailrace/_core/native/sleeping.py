"""What is asked of an operation or select of the native core but not by who is in a hurry.

`throw` and `close` are what a coroutine does to what it awaits; here is what they mean for one.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from tailrace._core.common import Verb, check_timeout, label
from tailrace.errors import WouldBlock

# As the engine counts, in `native.h`.
FRESH, PARKED = 0, 3
UNCLAIMED, HAPPENED, LOOK_AGAIN, TIMED_OUT, CANCELLED = range(5)
DONE = 5
DOES = (
    "Channel.recv",
    "Channel.send",
    "Channel.__anext__",
    "Channel.send_many",
    "Channel.recv_many",
    "done",
)


class SleeperFace:
    """The part of operations and selects that nothing waits for."""

    if TYPE_CHECKING:
        _claim: int
        _phase: int

        def __next__(self) -> Any: ...
        def _interrupted(self, error: BaseException | None, /) -> bool: ...

    @property
    def _unused(self) -> bool:
        return self._phase == FRESH

    @property
    def parked(self) -> bool:
        """Whether somebody sleeps in it, whom nobody has woken."""
        return self._phase == PARKED and self._claim == UNCLAIMED

    def done(self) -> bool:
        """As `asyncio.Future.done`."""
        return self._claim != UNCLAIMED

    def cancelled(self) -> bool:
        """As `asyncio.Future.cancelled`."""
        return self._claim == CANCELLED

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """As `Coroutine.throw`. A send that had happened goes on as if nothing had been, and the
        cancellation comes at the task's next await."""
        error = _raised_by(kind, value)
        if traceback is not None:
            error.__traceback__ = traceback
        try:
            if self._interrupted(error):
                raise error
        finally:
            del error, kind, value, traceback  # the traceback of each holds this frame
        return next(self)

    def close(self) -> None:
        """As `Coroutine.close`: it is given up."""
        self._interrupted(None)


def _raised_by(kind: Any, value: Any) -> BaseException:
    """The exception that ``raise kind, value`` would have meant."""
    if isinstance(kind, BaseException):
        return kind
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise TypeError(f"throw() takes an exception, not {kind!r}")
    if isinstance(value, BaseException):
        return value
    if isinstance(value, tuple):
        return kind(*value)  # pyright: ignore[reportUnknownArgumentType]  # of anything
    return kind() if value is None else kind(value)


class KindFace:
    """What an operation does, in words."""

    if TYPE_CHECKING:
        _kind: int
        channel: Any

    @property
    def does(self) -> str:
        """What messages call it."""
        return DOES[self._kind]

    @property
    def verb(self) -> Verb:
        """What somebody parked here is doing to its channel."""
        if self._kind == DONE:
            return "done"
        return "send" if self._kind % 2 else "receive"

    @property
    def receives(self) -> bool:
        """Whether it is a receive."""
        return self._kind % 2 == 0


class SendingManyFace:
    """`Channel.send_many`: sends one after another; `sent` counts those that happened."""

    if TYPE_CHECKING:
        _count: int

    @property
    def sent(self) -> int:
        """How many values were sent so far, exact after any exception."""
        return self._count


class ReceivingManyFace:
    """`Channel.recv_many`: a receive that takes what else is there when it resumes."""


def refuse_again(used: Any) -> NoReturn:
    """Say why an operation or select cannot be awaited a second time."""
    raise RuntimeError(f"{getattr(used, 'does', 'select')} was awaited already: it is used once")


def refuse_waiting(channel: object, kind: int) -> NoReturn:
    """Say why a call that does not wait has not happened."""
    raise WouldBlock(f"{DOES[kind]} on {label(channel)} would wait")


def select(*, timeout: float | None = None, priority: bool = False) -> tuple[float | None, bool]:
    """Read what `select` was given by name."""
    return check_timeout(timeout), priority


def select_nowait(*, priority: bool = False) -> tuple[None, bool]:
    """Read what `select_nowait` was given by name."""
    return None, priority


def wake_after(timeout: float, sleeper: Any) -> asyncio.TimerHandle:
    """Have a select time out so many seconds from now."""
    handle: asyncio.TimerHandle = sleeper.get_loop().call_later(timeout, sleeper._wake, TIMED_OUT)
    return handle


def refuse_case(index: int, case: Any) -> NoReturn:
    """Say why that is no case of select."""
    if getattr(case, "_kind", None) in (0, 1, DONE):
        raise RuntimeError(f"case {index} of select was used already: {case!r}")
    raise TypeError(
        f"case {index} of select is {case!r}: give it an operation, such as channel.recv(), "
        f"channel.send(value) or done(future), or None for no case"
    )
