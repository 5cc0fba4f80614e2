"""Where a task waits, and whether it waits for another: for it, or what asyncio makes of it.

`asyncio.gather`, `wait_for`, `wait`, a `TaskGroup` and their like give whoever calls them a future
of their own, and add a callback to each task that they wait for, which holds that future, or an
object that does. So the way is from the awaited task up, by its callbacks.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Final

from tailrace import _core

_NOT_THE_USERS: Final = frozenset({"asyncio", "tailrace"})
_FAR: Final = 100
"""How many futures are looked at: who waits in a deeper pile than that is taken not to wait."""


def waits_for(task: asyncio.Task[Any], tasks: Collection[asyncio.Task[Any] | None]) -> bool:
    """Whether `task` is one of `tasks`, or waits until one of them is done."""
    if task in tasks:
        return True
    if not tasks or _core.awaited_by(task) is None:
        return False
    pile: list[Any] = [each for each in tasks if each is not None]
    reached = set(map(id, pile))
    for future in pile:
        if _core.awaited_by(task) is future:
            return True
        if len(pile) > _FAR:
            break
        for callback, *_ in getattr(future, "_callbacks", None) or ():
            for held in _held_by(callback):
                if not asyncio.isfuture(held) or id(held) in reached:
                    continue
                # A task is reached if it waits there; it may be held for other reasons.
                inner: Any = held if hasattr(held, "get_coro") else None
                if inner is None or id(_core.awaited_by(inner)) in reached:
                    reached.add(id(held))
                    pile.append(held)
    return False


def place_of(task: asyncio.Task[Any]) -> str:
    """Where a task is suspended, in words for a log, with a comma before them; or nothing.

    That is the innermost line of it which is not the library's own or asyncio's.
    """
    place = ""
    for step in await_chain(task):
        frame: Any = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is None:
            continue
        if place and str(frame.f_globals.get("__name__")).partition(".")[0] in _NOT_THE_USERS:
            break
        code = frame.f_code
        place = f", at {Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
    return place


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


def _held_by(callback: Any) -> Iterator[Any]:
    """What a callback may resume: what it was made with, the object that it is of, and of that."""
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
            if type(held) is dict:  # its attributes
                yield from held.values()
