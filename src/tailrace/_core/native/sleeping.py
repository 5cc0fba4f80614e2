"""What is asked of an operation or select of the native core but not by who is in a hurry.

`throw` and `close` are what a coroutine does to what it awaits; here is what they mean for one.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

# As the engine counts, in `native.h`.
FRESH, PARKED = 0, 3
UNCLAIMED, HAPPENED, LOOK_AGAIN, TIMED_OUT, CANCELLED = range(5)
DONE = 5


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
            del error  # its traceback holds this frame
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
    def doing(self) -> str:
        """What somebody parked here is doing to its channel."""
        if self._kind == DONE:
            return "waiting for"
        return "sending to" if self._kind % 2 else "receiving from"

    @property
    def receives(self) -> bool:
        """Whether it is a receive."""
        return self._kind % 2 == 0


def refuse_case(index: int, case: Any) -> NoReturn:
    """Say why that is no case of select."""
    if getattr(case, "_kind", None) in (0, 1, DONE):
        raise RuntimeError(f"case {index} of select was used already: {case!r}")
    raise TypeError(
        f"case {index} of select is {case!r}: give it an operation, such as channel.recv(), "
        f"channel.send(value) or done(future), or None for no case"
    )
