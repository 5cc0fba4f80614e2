"""Layer 0: user code: what its functions are, what it returns, raises and shows.

User code may do anything. An exception of a user's class may refuse attributes and notes, and raise
when it is shown; nothing here raises for that reason, since that exception is the news and must
arrive.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import reprlib
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, TypeGuard, TypeVar

__all__ = [
    "add_note",
    "clear_frames",
    "close",
    "describe",
    "is_a",
    "is_async",
    "is_generator",
    "left_to_run",
    "log_error",
    "shown",
    "unwrapped",
]

E = TypeVar("E", bound=BaseException)

_log = logging.getLogger("tailrace")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60

# --- functions

# Not `Iterator`: a cursor, as `executemany` returns it, is one, and its rows are written.
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
    """The function inside partials."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is a coroutine function, or an object whose `__call__` is one."""
    if type(fn) is FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # at once: a program may start a thousand stages of a function
    return any(map(inspect.iscoroutinefunction, _called(fn)))


def is_generator(fn: Callable[..., Any]) -> bool:
    """Whether `fn`, or its `__call__`, is a generator function, plain or async."""
    return any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in _called(fn))


def left_to_run(result: object) -> bool:
    """Whether `result` is work that has not run, or was not waited for."""
    if isinstance(result, Future):
        return not result.done()
    return isinstance(result, _LEFT_TO_RUN) or inspect.isawaitable(result)


def close(result: object) -> None:
    """Close a coroutine or generator, so that Python does not warn about it."""
    if isinstance(result, (Generator, Coroutine)):
        result.close()


def _called(fn: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    fn = unwrapped(fn)
    return fn, type(fn).__call__


# --- exceptions and values


def is_a(error: object, classes: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """As `isinstance`, but without calling a `__class__` property of the exception."""
    return issubclass(type(error), classes)


def clear_frames(error: BaseException) -> None:
    """Release the local variables of the functions that `error` has passed through.

    Of its causes, its contexts, and the members of groups too. Whoever keeps the exception (a
    variable, a log handler, a closed channel) then keeps nothing that those functions had in hand.
    """
    found: list[BaseException] = [error]
    seen: set[int] = set()
    while found:
        error = found.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(_builtin(error, "__traceback__"))
        related = [_builtin(error, "__cause__"), _builtin(error, "__context__")]
        if is_a(error, BaseExceptionGroup):
            related += BaseExceptionGroup.exceptions.__get__(error)
        found += [other for other in related if other is not None]


def _builtin(error: BaseException, name: str) -> Any:
    """An attribute of BaseException, whatever the user's class has under that name."""
    return vars(BaseException)[name].__get__(error)


def add_note(error: BaseException, text: str) -> None:
    """Add `text` to the notes of `error`, unless it is there already.

    If the exception refuses notes (a frozen dataclass, an `add_note` that raises), `text` is logged
    instead.
    """
    try:
        notes = getattr(error, "__notes__", None)
        if not isinstance(notes, list) or text not in notes:
            error.add_note(text)
    except (KeyboardInterrupt, SystemExit):
        raise  # the process is to end
    except BaseException:  # whatever it raises, the caller goes on
        _log.error("%s: %s", describe(error), text)


def log_error(
    log: logging.Logger, text: str, *args: object, error: BaseException | None = None
) -> None:
    """Log `text` with the traceback of `error`. Raises nothing, whatever handlers and filters do.

    To format a traceback, logging calls `__bool__` and reads attributes of the exception. If those
    raise, the exception is logged by the name of its class.
    """
    try:
        log.error(text, *args, exc_info=error)
    except KeyboardInterrupt:
        raise  # the process is to end
    except BaseException:
        if error is not None:
            log_error(log, f"{text}: %s", *args, type(error).__name__)


def describe(error: BaseException) -> str:
    """The class and the text of `error`, or the class alone if it has no text."""
    name = type(error).__name__
    try:
        text = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        text = "(its __str__ failed)"
    return f"{name}: {text}" if text else name


def shown(value: object) -> str:
    """A short repr of a user's value. Never raises, whatever the value's own code does."""
    try:
        return _short.repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "<a value that cannot be shown>"
