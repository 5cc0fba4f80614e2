"""What can be known from outside of an actor, which in this core is a plain asyncio task."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from operator import attrgetter
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from tailrace._core.python.operation import Operation, Send
from tailrace._core.python.select import Select
from tailrace._core.python.waiter import Waiter, state_of


def _asynchronous_generator(step: Any) -> Any:
    """Whose step that is: it does not say, but the garbage collector knows."""
    referents: list[Any] = gc.get_referents(step)
    found: Any = [held for held in referents if isinstance(held, AsyncGeneratorType)]
    return found[0] if found else None


_awaits: dict[type, Callable[[Any], Any]] = {
    CoroutineType: attrgetter("cr_await"),
    GeneratorType: attrgetter("gi_yieldfrom"),
    AsyncGeneratorType: attrgetter("ag_await"),
}


def parked_on(task: asyncio.Task[Any]) -> Operation[Any] | Select | None:
    """The channel operation or select that `task` sleeps in, None if it runs or waits elsewhere."""
    # Found by walking what the task's coroutine awaits, so that parking pays nothing for it.
    innermost: Any = None
    awaited: Any = task.get_coro()
    while awaited is not None:
        innermost = awaited
        kind: type = awaited.__class__
        awaited = _awaits.get(kind, _asynchronous_generator)(awaited)
    frame = getattr(innermost, "gi_frame", None)
    owner: Any = frame.f_locals.get("self") if frame is not None else None
    if not isinstance(owner, (Operation, Select)):
        return None
    parked: Operation[Any] | Select = owner  # pyright: ignore[reportUnknownVariableType]
    waiter: Any = getattr(parked, "waiter", None)  # none yet where the budget yields
    return parked if isinstance(waiter, Waiter) and waiter.winner is None else None


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
    waiter = parked.waiter
    assert isinstance(waiter, Waiter)
    resume = [waiter.callback]

    def resume_then(waiter: Waiter) -> None:
        try:
            resume.pop()(waiter)
        finally:
            del waiter  # with `pop`: what the task raises keeps this frame alive
        then()

    waiter.callback = resume_then
    return True


def when_quiet(loop: asyncio.AbstractEventLoop, then: Callable[[], object]) -> bool:
    """If tasks that were parked on channels are being resumed in `loop`, call `then` soon after
    the last of them; else False."""
    state = state_of(loop)
    if not state.scheduled:
        return False
    state.on_quiet.append(then)
    return True
