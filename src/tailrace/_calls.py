"""Layer 1: what a user's function is, and whether what it returned has been run.

A function that yields runs nothing when it is called, and neither does one that returns a `map`.
Where a result means that work is done, such an object is a fault and never a value.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

__all__ = ["close", "is_async", "is_generator", "left_to_run", "unwrapped"]

# No `Iterator`: the cursor that `executemany` returns is one, and its rows are written.
_LEFT_TO_RUN: Final = (
    Generator,
    AsyncGenerator,
    Coroutine,
    map,
    filter,
    zip,
    enumerate,
    itertools.chain,
    itertools.starmap,
    functools.partial,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
)


def unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside of partials."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is a coroutine function, or an object whose `__call__` is one."""
    return any(map(inspect.iscoroutinefunction, _called(fn)))


def is_generator(fn: Callable[..., Any]) -> bool:
    """Whether `fn`, or its `__call__`, is a generator function, plain or async."""
    return any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in _called(fn))


def left_to_run(result: object) -> bool:
    """Whether `result` is work that nobody has done or waited for."""
    if isinstance(result, Future):
        return not result.done()
    return isinstance(result, _LEFT_TO_RUN) or inspect.isawaitable(result)


def close(result: object) -> None:
    """Close a coroutine or generator, so that Python does not warn of it."""
    if isinstance(result, (Generator, Coroutine)):
        result.close()


def _called(fn: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    fn = unwrapped(fn)
    return fn, type(fn).__call__
