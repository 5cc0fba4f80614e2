"""Actors as plain asyncio tasks: how the Python core runs them, and the native one if asked to.

``TAILRACE_TASKS=asyncio`` keeps asyncio's own tasks under native channels, for code that must have
`asyncio.Task` itself; the default, ``auto``, is what the core does best.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def wanted() -> bool:
    """Whether the environment asks for stock tasks. ImportError for a value that is none."""
    how = os.environ.get("TAILRACE_TASKS", "auto")
    if how not in ("auto", "asyncio"):
        raise ImportError(f"TAILRACE_TASKS must be auto or asyncio, not {how!r}")
    return how == "asyncio"


def spawn(
    coroutine: Coroutine[Any, Any, None], *, name: str, number: int = 0
) -> asyncio.Task[None]:
    """Start an actor on the running loop, called `name`, or ``name#number`` if there is one."""
    if number:
        name = f"{name}#{number}"
    return asyncio.get_running_loop().create_task(coroutine, name=name)


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    """See `tailrace.task_factory`."""
    return asyncio.Task(coro, loop=loop, **options)
