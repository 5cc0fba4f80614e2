"""Actors from outside: what the engine takes from asyncio, and what can be known of a task."""

from __future__ import annotations

import _asyncio
import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import repeat
from types import GeneratorType
from typing import Any
from weakref import ref

from tailrace._core.common import TIMED_OUT
from tailrace._core.native._engine import Actor, Waiter
from tailrace._core.tasks import resume_then

# asyncio's own ways to make a third-party task known, as they are on this version.
current_tasks: Any = getattr(_asyncio, "_current_tasks", None)
_add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
_register_task: Any = asyncio._register_task
# The WeakSet of all tasks, where there is one: to 3.13; the second is 3.11's name for it.
_known: Any = getattr(_asyncio, "_scheduled_tasks", getattr(_asyncio, "_all_tasks", None))


def register_tasks(actors: Iterable[Any]) -> None:
    """Let `asyncio.all_tasks` know of them."""
    if _known is None:
        for actor in actors:
            _register_task(actor)
    else:  # as WeakSet.update, in one go
        _known.data.update(map(ref, actors, repeat(_known._remove)))


def is_main_thread() -> bool:
    """Whether signal handlers run in this thread."""
    return threading.get_ident() == threading.main_thread().ident


def wake_after(timeout: float, waiter: Any) -> asyncio.TimerHandle:
    """Have a select time out so many seconds from now."""
    handle: asyncio.TimerHandle = waiter.get_loop().call_later(timeout, waiter._wake, TIMED_OUT)
    return handle


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


def loop_parts(loop: Any) -> tuple[Any, ...]:
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
    """The channel operation or select in which `task` is parked; None if it is not."""
    waiting: Any = getattr(task, "_fut_waiter", None)
    return waiting if isinstance(waiting, Waiter) and waiting.parked else None


def awaited_by(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """The future, no channel operation, that `task` waits for; None if it waits for none."""
    waiting: Any = getattr(task, "_fut_waiter", None)
    return None if isinstance(waiting, Waiter) else waiting


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
        parked._driver = resume_then(parked._driver, then)
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
