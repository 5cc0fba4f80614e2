"""What the native core takes from asyncio, and the parts of the Task protocol that people read."""

from __future__ import annotations

import _asyncio
import asyncio
import time
import warnings
from asyncio import base_tasks
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from itertools import count, repeat
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

from tailrace._core.native._engine import Actor, Sleeper

# asyncio's own ways to make a third-party task known, as they are on this version.
current_tasks: Any = getattr(_asyncio, "_current_tasks", None)
swap_current_task: Any = getattr(_asyncio, "_swap_current_task", None)
_add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
_register_task: Any = asyncio._register_task
# The WeakSet of all tasks, where there is one: to 3.13; the second is 3.11's name for it.
_known: Any = getattr(_asyncio, "_scheduled_tasks", getattr(_asyncio, "_all_tasks", None))
_describe: Any = base_tasks
_numbers = count(1)
Future: Any = _asyncio.Future


def note_tasks(actors: Iterable[Any]) -> None:
    """Let `asyncio.all_tasks` know of them."""
    if _known is None:
        for actor in actors:
            _register_task(actor)
    else:  # as WeakSet.update, in one go
        _known.data.update(map(ref, actors, repeat(_known._remove)))


class ActorFace:
    """The part of the Task protocol that no step waits for."""

    if TYPE_CHECKING:
        _cancelled_error: BaseException | None
        _context: Context
        _coro: Any
        _name: str
        _number: int
        _source_traceback: list[Any] | None
        _warns_when_lost: bool

        def _begin(
            self, coro: Any, loop: Any, name: str, context: Context | None, eager: bool, /
        ) -> None: ...

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
        eager = eager_start and loop is asyncio._get_running_loop() and bool(swap_current_task)
        self._begin(coro, loop, name, context, eager)
        _register_task(self)
        if self._source_traceback:
            del self._source_traceback[-1]  # this frame; not of interest, as asyncio says

    def __repr__(self) -> str:
        # As a task, by its class: whoever reads logs looks for "<Task".
        kind: type = type(self)
        name = "Task" if kind is Actor else kind.__name__
        if self._coro is None:
            return f"<{name} not started>"
        return f"<{name} {' '.join(_describe._task_repr_info(self))}>"

    @property
    def _log_destroy_pending(self) -> bool:
        """As a task's: whether it is told of that it was dropped before it had ended."""
        return self._warns_when_lost

    @_log_destroy_pending.setter
    def _log_destroy_pending(self, warns: bool) -> None:
        self._warns_when_lost = warns

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


def warn_lost(actor: Any) -> None:
    """An actor was collected before it had ended."""
    context = {"task": actor, "message": "Task was destroyed but it is pending!"}
    if actor._source_traceback:
        context["source_traceback"] = actor._source_traceback
    actor.get_loop().call_exception_handler(context)


def wait_for(actor: Any, future: Any, loop: Any, context: Context) -> None:
    """Have `actor`, whose coroutine yielded `future`, woken when that is done. RuntimeError, in
    asyncio's words, if it is nothing that an actor of `loop` can wait for."""
    if not getattr(future, "_asyncio_future_blocking", None):
        raise RuntimeError(_bad_yield(actor, future))
    if future is actor:
        raise RuntimeError(f"Task cannot await on itself: {future!r}")
    if (future.get_loop() if hasattr(future, "get_loop") else future._loop) is not loop:
        raise RuntimeError(f"Task {actor!r} got Future {future!r} attached to a different loop")
    future._asyncio_future_blocking = False
    future.add_done_callback(actor._wakeup, context=context)
    if _add_awaited_by is not None:
        _add_awaited_by(future, actor)


def _bad_yield(actor: Any, yielded: Any) -> str:
    generator = isinstance(yielded, GeneratorType)
    if generator or hasattr(yielded, "_asyncio_future_blocking"):
        what = "for generator " if generator else ""
        return f"yield was used instead of yield from {what}in task {actor!r} with {yielded!r}"
    return f"Task got bad yield: {yielded!r}"


# By the address of their loop, which removes its own when it is freed.
schedulers: dict[int, Any] = {}


def parts_of(loop: Any) -> tuple[Any, ...]:
    """What a scheduler keeps of its loop: the clock that `loop.time` reads, None if the loop must
    be asked itself; the context of its callbacks; and whether the loop is one of virtual time.
    """
    try:
        ordinary = getattr(loop.__class__, "time", None) is asyncio.BaseEventLoop.time
        for needed in ("call_soon", "call_soon_threadsafe", "is_closed", "get_debug", "time"):
            getattr(loop, needed)
    except AttributeError as error:
        raise TypeError(f"{loop!r} is not an event loop") from error
    clock = time.monotonic if ordinary else None
    return clock, Context(), bool(getattr(loop, "detects_deadlock", False))


def parked_on(task: asyncio.Task[Any]) -> Any:
    """The channel operation or select that `task` sleeps in, None if it runs or waits elsewhere."""
    waiting: Any = getattr(task, "_fut_waiter", None)
    return waiting if isinstance(waiting, Sleeper) and waiting.parked else None


def awaited_by(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """The future, no channel operation, that `task` waits for; None if it waits for none."""
    waiting: Any = getattr(task, "_fut_waiter", None)
    return None if isinstance(waiting, Sleeper) else waiting


def when_sent(task: asyncio.Task[Any], then: Callable[[], object]) -> bool:
    """If `task` is parked in a send, call `then` once it has resumed; else False."""
    parked = parked_on(task)
    return getattr(parked, "verb", None) == "send" and when_resumed(task, then)


def when_resumed(task: asyncio.Task[Any], then: Callable[[], object]) -> bool:
    """If `task` is parked on a channel, call `then` after the step in which it is resumed; else
    False."""
    parked = parked_on(task)
    if parked is None:
        return False
    if isinstance(task, Actor):
        task._after = _both(task._after, then)
    elif parked._driver is not None:
        resume = [parked._driver]

        def resume_then(parked: Any) -> None:
            try:
                resume.pop()(parked)
            finally:
                del parked  # with `pop`: what the task raises keeps this frame alive
            then()

        parked._driver = resume_then
    return True


def when_quiet(loop: asyncio.AbstractEventLoop, then: Callable[[], object]) -> bool:
    """If tasks that were parked on channels are being resumed in `loop`, call `then` soon after
    the last of them; else False."""
    scheduler = schedulers.get(id(loop))
    if scheduler is None or not scheduler._scheduled:
        return False
    scheduler._on_quiet = _both(scheduler._on_quiet, then)
    return True


def _both(first: Callable[[], object] | None, then: Callable[[], object]) -> Callable[[], object]:
    if first is None:
        return then

    def both() -> None:
        first()
        then()

    return both


def warn_unused(unused: Any) -> None:
    """An operation or select was dropped without ever being awaited or selected."""
    does = getattr(unused, "does", "select")
    warnings.warn(f"{does} was never awaited", RuntimeWarning, stacklevel=2, source=unused)
