"""Actors as plain asyncio tasks: how the Python core runs them, and the native one if asked to.

``TAILRACE_TASKS=asyncio`` keeps asyncio's own tasks under native channels, for code that must have
`asyncio.Task` itself; the default, ``auto``, is what the core does best.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_EMPTY = Context()


def resume_then(
    resume: Callable[[Any], object], then: Callable[[], object]
) -> Callable[[Any], None]:
    """A callback of a waiter that resumes its task by `resume`, and then calls `then`."""
    once = [resume]

    def callback(waiter: Any) -> None:
        try:
            once.pop()(waiter)
        finally:
            del waiter  # with `pop`: what the task raises keeps this frame alive
        then()

    return callback


def wanted() -> bool:
    """Whether the environment asks for stock tasks. ImportError for a value that is none."""
    how = os.environ.get("TAILRACE_TASKS", "auto")
    if how not in ("auto", "asyncio"):
        raise ImportError(f"TAILRACE_TASKS must be auto or asyncio, not {how!r}")
    return how == "asyncio"


def spawn(
    coroutines: list[Coroutine[Any, Any, None]],
    name: str,
    first: int,
    ended: Callable[[asyncio.Task[None]], object],
    /,
) -> dict[asyncio.Task[None], None]:
    """Start an actor for each of a list of coroutines: a dict of them.

    They are called ``name#first`` and so on; with `first` 0 there is one, called `name`. `ended`
    is called with each that has ended, in an empty context and as part of no task.
    """
    loop = asyncio.get_running_loop()
    tasks: dict[asyncio.Task[None], None] = {}
    for number, coroutine in enumerate(coroutines, first):
        task = loop.create_task(coroutine, name=f"{name}#{number}" if number else name)
        task.add_done_callback(ended, context=_EMPTY)
        tasks[task] = None
    return tasks


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    """See `tailrace.task_factory`."""
    return asyncio.Task(coro, loop=loop, **options)
