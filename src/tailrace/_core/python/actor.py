"""What can be known from outside of an actor, which in this core is a plain asyncio task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tailrace._core.python.channel import Send
from tailrace._core.python.parking import Waiter
from tailrace._core.python.scheduler import scheduler_of
from tailrace._core.tasks import resume_then


def parked_on(task: asyncio.Task[Any]) -> Any:
    """The channel operation or select in which `task` is parked; None if it is not."""
    waiter: Any = getattr(task, "_fut_waiter", None)
    return waiter.owner if isinstance(waiter, Waiter) and waiter.winner is None else None


def awaited_by(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """The future, no channel operation, that `task` waits for; None if it waits for none."""
    waiting: Any = getattr(task, "_fut_waiter", None)
    return None if isinstance(waiting, Waiter) else waiting


def when_sent(task: asyncio.Task[Any], then: Callable[[], object]) -> bool:
    """If `task` is parked in a send, call `then` once it has resumed; else False."""
    return isinstance(parked_on(task), Send) and when_resumed(task, then)


def when_resumed(task: asyncio.Task[Any], then: Callable[[], object]) -> bool:
    """If `task` is parked on a channel, call `then` after the step in which it is resumed; else
    False."""
    parked = parked_on(task)
    if parked is None:
        return False
    waiter: Waiter = parked.waiter
    waiter.callback = resume_then(waiter.callback, then)
    return True


def when_quiet(loop: asyncio.AbstractEventLoop, then: Callable[[], object]) -> bool:
    """If tasks that were parked on channels are being resumed in `loop`, call `then` soon after
    the last of them; else False."""
    scheduler = scheduler_of(loop)
    if not scheduler.scheduled:
        return False
    scheduler.on_quiet.append(then)
    return True
