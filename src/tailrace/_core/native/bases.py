"""The base classes of the engine's types: what no value waits for is written here, in Python.

The engine imports this module, which therefore does not import the engine. A base without
``__slots__ = ()`` would give each operation a dictionary.
"""

from __future__ import annotations

import _asyncio
import asyncio
import sys
import warnings
from asyncio import base_tasks
from collections.abc import Coroutine
from contextvars import Context
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from tailrace._core import base
from tailrace._core.common import (
    CANCELLED,
    OVERFLOWS,
    UNCLAIMED,
    Overflow,
    Verb,
    check_capacity,
    check_overflow,
    label,
)
from tailrace.arguments import check_timeout
from tailrace.errors import WouldBlock

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# As the engine counts, in `native.h`.
FRESH, PARKED = 0, 3
DONE = 5
METHODS = (
    "Channel.recv",
    "Channel.send",
    "Channel.__anext__",
    "Channel.send_many",
    "Channel.recv_many",
    "done",
)

SelectBase = base.SelectBase


class ChannelBase(base.ChannelBase[T], Generic[T]):
    """How a channel is made."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _begin(self, limit: int, overflow: int, capacity: float, name: str, /) -> None: ...

    def __init__(
        self, capacity: float = 0, *, name: str = "", overflow: Overflow = "block"
    ) -> None:
        check_capacity(capacity)
        check_overflow(overflow, capacity)
        limit = int(min(capacity, sys.maxsize))
        self._begin(limit, OVERFLOWS.index(overflow), capacity, name)


class TurnBase:
    """What asyncio asks of a callback of its loop."""

    __slots__ = ()

    if TYPE_CHECKING:
        _blocker: Any

    @property
    def __self__(self) -> Any:
        """In debug mode the task that asyncio is to name when the turn took too long."""
        blocker = self._blocker  # an actor, or the callback of another task
        return blocker if isinstance(blocker, ActorBase) else getattr(blocker, "__self__", None)


class WaiterBase:
    """The part of operations and selects that nothing waits for.

    `throw` and `close` are what a coroutine does to what it awaits.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _claim: int
        _phase: int

        def _cancel(self, message: object, /) -> bool: ...
        def __next__(self) -> Any: ...
        def _interrupted(self, error: BaseException | None, /) -> bool: ...

    @property
    def _unused(self) -> bool:
        return self._phase == FRESH

    @property
    def parked(self) -> bool:
        """Whether a task or thread is parked in it, and nothing has claimed it."""
        return self._phase == PARKED and self._claim == UNCLAIMED

    def done(self) -> bool:
        """As `asyncio.Future.done`."""
        return self._claim != UNCLAIMED

    def cancelled(self) -> bool:
        """As `asyncio.Future.cancelled`."""
        return self._claim == CANCELLED

    def cancel(self, msg: object = None) -> bool:
        """As `asyncio.Future.cancel`."""
        return self._cancel(msg)

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

    def _give_up(self) -> None:
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


class OperationBase(base.Operation[T_co], Generic[T_co]):
    """What an operation does, in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        _kind: int

    def _method(self) -> str:
        """What messages call it."""
        return METHODS[self._kind]

    def _verb(self) -> Verb:
        """What a task or thread that is parked here is doing to its channel."""
        if self._kind == DONE:
            return "done"
        return "send" if self._kind % 2 else "receive"

    def _receives(self) -> bool:
        """Whether it is a receive."""
        return self._kind % 2 == 0

    # Any: to type checkers these are plain attributes, as in the other core.
    method: Any = property(_method)
    verb: Any = property(_verb)
    receives: Any = property(_receives)

    def _begin(self) -> None:
        self.__await__()


class SendManyBase(base.SendManyBase):
    """`Channel.send_many`: sends one after another; `sent` counts those that happened."""

    __slots__ = ()

    if TYPE_CHECKING:
        _count: int

    def _sent(self) -> int:
        """How many values were sent so far, exact after any exception."""
        return self._count

    sent: Any = property(_sent)


ENGINE = "tailrace._core.native"
"""The module that the engine's types say they are of."""

# --- actors ---------------------------------------------------------------------------------------

_describe: Any = base_tasks
_numbers = count(1)
_register_task: Any = asyncio._register_task
swap_current_task: Any = getattr(_asyncio, "_swap_current_task", None)
Future: Any = _asyncio.Future


class ActorBase:
    """The part of the Task protocol that no step waits for."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        _cancelled_error: BaseException | None
        _cancelling: int
        _context: Context
        _coro: Any
        _must_cancel: bool
        _name: str
        _number: int
        _source_traceback: list[Any] | None
        _warns_when_lost: bool

        def _begin(
            self, coro: Any, loop: Any, name: str, context: Context | None, eager: bool, /
        ) -> None: ...
        def _cancel(self, message: object, /) -> bool: ...
        def _step(self) -> None: ...

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: object = None,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> None:
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        if context is not None and not isinstance(context, Context):
            raise TypeError(f"context must be a contextvars.Context or None, not {context!r}")
        name = f"Task-{next(_numbers)}" if name is None else str(name)
        loop = asyncio.get_event_loop() if loop is None else loop
        eager = eager_start and loop is asyncio._get_running_loop() and sys.version_info >= (3, 12)
        self._begin(coro, loop, name, context, eager)
        if eager:
            self._step_at_once(loop)
        _register_task(self)
        if self._source_traceback:
            del self._source_traceback[-1]  # this frame; not of interest, as asyncio says

    def _step_at_once(self, loop: asyncio.AbstractEventLoop) -> None:
        """Step it for the first time, within the step of another task, or of none."""
        try:
            self._context.run(_nothing)  # RuntimeError if it is entered: asyncio refuses that too
        except BaseException:
            self._warns_when_lost = False
            raise
        outer = swap_current_task(loop, None)
        try:
            self._step()
        finally:
            swap_current_task(loop, outer)

    if not TYPE_CHECKING:

        @property
        def __class__(self):
            """What `isinstance` reads: code that looks for an `asyncio.Task` finds one."""
            return asyncio.Task

    def __repr__(self) -> str:
        # As a task: log readers look for "<Task".
        kind: type = type(self)
        name = "Task" if kind.__module__ == ENGINE else kind.__name__
        if self._coro is None:
            return f"<{name} not started>"
        return f"<{name} {' '.join(_describe._task_repr_info(self))}>"

    @property
    def _log_destroy_pending(self) -> bool:
        """As a task's: whether it warns when it is dropped before it has ended."""
        return self._warns_when_lost

    @_log_destroy_pending.setter
    def _log_destroy_pending(self, warns: bool) -> None:
        self._warns_when_lost = warns

    def cancel(self, msg: object = None) -> bool:
        """Have CancelledError raised in it at its await; False if it has ended."""
        if self._cancel(msg):
            return True
        self._log_traceback = False  # its canceller knows of its failure, if it has failed
        return False

    def cancelling(self) -> int:
        """How many cancellations were not taken back."""
        return self._cancelling

    def uncancel(self) -> int:
        """Take one cancellation back; how many are left."""
        if self._cancelling > 0:
            self._cancelling -= 1
            if self._cancelling == 0:
                self._must_cancel = False
        return self._cancelling

    def get_name(self) -> str:
        """Its name."""
        return f"{self._name}#{self._number}" if self._number else self._name

    def set_name(self, name: object, /) -> None:
        """Rename it."""
        self._name, self._number = str(name), 0

    def get_coro(self) -> Any:
        """The coroutine that it runs."""
        return self._coro

    def get_context(self) -> Context:
        """The context that it runs in."""
        return self._context

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        """As `asyncio.Task.get_stack`."""
        stack: list[Any] = _describe._task_get_stack(self, limit)
        return stack

    def print_stack(self, *, limit: int | None = None, file: Any = None) -> None:
        """As `asyncio.Task.print_stack`."""
        _describe._task_print_stack(self, limit, file)

    def set_result(self, result: object, /) -> NoReturn:
        """Refused, as by a task."""
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: object, /) -> NoReturn:
        """Refused, as by a task."""
        raise RuntimeError("Task does not support set_exception operation")

    def result(self) -> Any:
        """As `asyncio.Task.result`; what ended it by cancellation is raised itself, once."""
        self._raise_cancelled()
        return Future.result(self)

    def exception(self) -> BaseException | None:
        """As `asyncio.Task.exception`."""
        self._raise_cancelled()
        error: BaseException | None = Future.exception(self)
        return error

    def _raise_cancelled(self) -> None:
        error, self._cancelled_error = self._cancelled_error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def _make_cancelled_error(self) -> BaseException:
        error, self._cancelled_error = self._cancelled_error, None
        if error is None:
            error = Future._make_cancelled_error(self)
        return error


def _nothing() -> None:
    pass


# --- what the engine calls for words and refusals -------------------------------------------------


def raise_not_driven(waiter: Any, stepping: bool) -> NoReturn:
    """An operation or select must not be driven now."""
    if stepping:  # as a generator raises it
        raise RuntimeError(f"{waiter!r} is in a step already")
    if waiter._unused:  # `a, b = channel.recv()`: an await was forgotten
        raise TypeError(f"{waiter!r} is not an iterator: await it")
    method = getattr(waiter, "method", "select")
    raise RuntimeError(f"{method} was awaited already: it is used once")


def raise_no_callback(waiter: Any) -> NoReturn:
    """A callback is added to what is not parked, or is waited for already."""
    if waiter._unused:
        base.NoFuture.add_done_callback(waiter, None)
    raise RuntimeError("only the task that is parked here may wait for it")


def raise_would_block(channel: object, kind: int) -> NoReturn:
    """A call that does not wait would have to."""
    raise WouldBlock(f"{METHODS[kind]} on {label(channel)} would wait")


def raise_no_case(index: int, case: Any) -> NoReturn:
    """That is no case of select."""
    if getattr(case, "_kind", None) in (0, 1, DONE):
        raise RuntimeError(f"case {index} of select was used already: {case!r}")
    raise TypeError(
        f"case {index} of select is {case!r}: give it an operation, such as channel.recv(), "
        f"channel.send(value) or done(future), or None for no case"
    )


def select_options(
    *, timeout: float | None = None, priority: bool = False
) -> tuple[float | None, bool]:
    """What `select` was given by name."""
    return check_timeout(timeout), priority


def select_nowait_options(*, priority: bool = False) -> tuple[None, bool]:
    """What `select_nowait` was given by name."""
    return None, priority


def warn_unused(unused: Any) -> None:
    """An operation or select was dropped without being awaited or selected."""
    method = getattr(unused, "method", "select")
    warnings.warn(f"{method} was never awaited", RuntimeWarning, stacklevel=2, source=unused)
