"""What the native core takes from asyncio, and the parts of the Task protocol that people read."""

from __future__ import annotations

import _asyncio
import asyncio
import warnings
from asyncio import base_tasks
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

# asyncio's own ways to make a third-party task known, as they are on this version.
current_tasks: Any = getattr(_asyncio, "_current_tasks", None)
swap_current_task: Any = getattr(_asyncio, "_swap_current_task", None)
scheduled_tasks: Any = getattr(_asyncio, "_scheduled_tasks", None)
if scheduled_tasks is None:
    scheduled_tasks = getattr(_asyncio, "_all_tasks", None)  # 3.11's name for it
if scheduled_tasks is None:
    scheduled_tasks = SimpleNamespace(add=asyncio._register_task)
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
_describe: Any = base_tasks
_Future: Any = _asyncio.Future


class ActorFace:
    """The part of the Task protocol that no step waits for."""

    if TYPE_CHECKING:
        _cancelled_error: BaseException | None
        _context: Context
        _coro: Any
        _name: str
        _number: int

    def __repr__(self) -> str:
        if self._coro is None:
            return f"<{type(self).__name__} not started>"
        return f"<{type(self).__name__} {' '.join(_describe._task_repr_info(self))}>"

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
        return _Future.result(self)

    def exception(self) -> BaseException | None:
        """As `asyncio.Task.exception`."""
        self._raise_cancelled()
        error: BaseException | None = _Future.exception(self)
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
            error = _Future._make_cancelled_error(self)
        return error


def warn_lost(actor: Any) -> None:
    """An actor was collected before it had ended."""
    context = {"task": actor, "message": "Task was destroyed but it is pending!"}
    if actor._source_traceback:
        context["source_traceback"] = actor._source_traceback
    actor.get_loop().call_exception_handler(context)


def resume_then(resume: Callable[[Any], Any], then: Callable[[], object]) -> Callable[[Any], None]:
    """The callback `resume`, and `then` after it."""

    def resume_then(parked: Any) -> None:
        resume(parked)
        then()

    return resume_then


def warn_unused(unused: Any) -> None:
    """An operation or select was dropped without ever being awaited or selected."""
    does = getattr(unused, "does", "select")
    warnings.warn(f"{does} was never awaited", RuntimeWarning, stacklevel=2, source=unused)
