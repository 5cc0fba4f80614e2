"""What a task awaits: the frames it sleeps in, and whether it waits for another task.

`asyncio.gather`, `wait_for`, `wait` and a `TaskGroup` give their caller a future of their own. To
each task that they wait for they add a callback, which holds that future, or holds an object that
does. So `waits_for` goes from the awaited task up, by the callbacks.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import Any, Final

from tailrace import _core

_LIBRARIES: Final = frozenset({"asyncio", "tailrace"})
"""The packages whose frames say nothing about the user's program."""
_MAX_FUTURES: Final = 100
"""How many futures `waits_for` looks at. A task that waits further away counts as not waiting."""
_TIMEOUTS: Final = frozenset({"asyncio", "anyio", "async_timeout"})
"""The packages with context managers that set a deadline."""


def await_chain(task: asyncio.Task[Any]) -> Generator[Any]:
    """The coroutines and generators that `task` sleeps in, from the outermost one."""
    step: Any = task.get_coro()
    while step is not None:
        yield step
        for inner in ("cr_await", "gi_yieldfrom", "ag_await"):
            if hasattr(step, inner):
                step = getattr(step, inner)
                break
        else:
            return


def frame_of(step: Any) -> FrameType | None:
    """The frame of one step of an await chain; None if it has none."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame: FrameType | None = getattr(step, name, None)
        if frame is not None:
            return frame
    return None


def is_users(frame: FrameType) -> bool:
    """Whether a frame is of code that is neither tailrace's nor asyncio's."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES


def line_of(frame: FrameType) -> str:
    """The line at which a frame stands: ``events.py:12 in main``."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"


def place_of(task: asyncio.Task[Any], *, before: str = "") -> str:
    """``at events.py:12 in main``: the innermost line of the user's code in which a task sleeps.

    With `before` before it; empty if there is no such line.
    """
    place = ""
    for frame in filter(None, map(frame_of, await_chain(task))):
        if is_users(frame):
            place = f"{before}at {line_of(frame)}"
    return place


def waits_for(task: asyncio.Task[Any], tasks: Collection[asyncio.Task[Any] | None]) -> bool:
    """Whether `task` is one of `tasks`, or waits until one of them is done."""
    if task in tasks:
        return True
    if not tasks or _core.awaited_by(task) is None:
        return False
    futures: list[Any] = [each for each in tasks if each is not None]
    reached = set(map(id, futures))
    for future in futures:
        if _core.awaited_by(task) is future:
            return True
        if len(futures) > _MAX_FUTURES:
            break
        for callback, *_ in getattr(future, "_callbacks", None) or ():
            for held in _held_by(callback):
                if not asyncio.isfuture(held) or id(held) in reached:
                    continue
                # A task counts only if it awaits what was reached: a callback may hold a task
                # for other reasons.
                inner: Any = held if hasattr(held, "get_coro") else None
                if inner is None or id(_core.awaited_by(inner)) in reached:
                    reached.add(id(held))
                    futures.append(held)
    return False


def _held_by(callback: Any) -> Iterator[Any]:
    """The objects that a callback may resume: its arguments, its cells, its object's attributes."""
    if isinstance(callback, functools.partial):
        yield from callback.args
        yield from _held_by(callback.func)
    elif type(callback) is FunctionType:
        for cell in callback.__closure__ or ():
            yield from gc.get_referents(cell)
    else:
        owner = callback.__self__ if type(callback) is MethodType else callback
        yield owner
        for held in gc.get_referents(owner):
            yield held
            if type(held) is dict:  # the attributes of `owner`
                yield from held.values()


def has_deadline(task: asyncio.Task[Any]) -> bool:
    """Whether `task` sleeps inside a running ``asyncio.timeout``, or one of anyio's.

    The frame of an ``async with`` holds the `__aexit__` of its context manager.
    """
    for step in await_chain(task):
        for held in gc.get_referents(step):
            owner: Any = held.__self__ if type(held) is MethodType else held
            made = getattr(owner, "gen", None) if type(owner).__module__ == "contextlib" else None
            for each in (owner,) if made is None else (owner, *gc.get_referents(made)):
                if _is_running_timeout(each):
                    return True
    return False


def _is_running_timeout(thing: Any) -> bool:
    # By `type`: `isinstance` asks for `__class__`, which runs user code where `thing` is a proxy.
    owner = thing.__self__ if type(thing) is MethodType else thing
    module: object = type(owner).__module__
    if not isinstance(module, str) or module.partition(".")[0] not in _TIMEOUTS:
        return False
    # While a timeout runs it has a timer. The attribute's name in asyncio, and in anyio:
    timer = getattr(owner, "_timeout_handler", None) or getattr(owner, "_timeout_handle", None)
    return timer is not None
