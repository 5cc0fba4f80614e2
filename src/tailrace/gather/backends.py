"""Backends and their answers: `Backend`, `Answer`, and the names of backends in texts."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar, cast, overload

from tailrace.usercode import is_generator, shown, unwrapped

__all__ = ["Answer", "Backend", "FunctionBackend", "backend", "check", "close_unstarted", "label"]

Q = TypeVar("Q")
R = TypeVar("R")
Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_MISSING: Final = object()

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class Backend(Protocol[Q_contra, R_co]):
    """Anything that can be asked. A ``name`` attribute, if it has one, is used in messages."""

    async def query(self, query: Q_contra, /) -> R_co:
        """Answer `query`, or raise. A cancelled query should end soon."""
        ...


class Answer(Generic[R_co]):
    """The answer of one backend, or its error, and after how many seconds it came.

    `backend` is the backend that was asked. `error` is None if it answered, and a TimeoutError if
    it had not answered when the wait ended.
    """

    __slots__ = ("_value", "backend", "error", "seconds")

    def __init__(
        self,
        backend: Any,
        value: R_co = cast(Any, None),  # noqa: B008 (a cast is not a call)
        *,
        error: Exception | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.backend = backend
        self.error = error
        self.seconds = seconds
        self._value = value

    @property
    def ok(self) -> bool:
        """Whether the backend answered."""
        return self.error is None

    @property
    def value(self) -> R_co:
        """The answer. Raises the backend's error if there is none."""
        if self.error is not None:
            raise self.error
        return self._value

    def __repr__(self) -> str:
        said = f"error={self.error!r}" if self.error is not None else _short.repr(self._value)
        return f"Answer({label(self.backend)}, {said}, seconds={self.seconds:.6g})"


class FunctionBackend(Generic[Q_contra, R_co]):
    """An async function as a `Backend`: see `backend`."""

    __slots__ = ("_fn", "name")

    def __init__(self, fn: Callable[[Q_contra], Awaitable[R_co]], *, name: str = "") -> None:
        if not callable(fn):
            raise TypeError(f"backend: not an async function: {fn!r}")
        if is_generator(fn):
            raise TypeError(
                f"backend: a generator function answers nothing when it is asked: {fn!r}; return "
                f"the answer, as a list, instead of yielding"
            )
        if not isinstance(cast("object", name), str):
            raise TypeError(f"backend: name must be a str, not {name!r}")
        self.name: str = name or _name_of(fn)
        self._fn = fn

    async def query(self, query: Q_contra, /) -> R_co:
        """Call the function. TypeError if it is a plain one, which returns no awaitable."""
        answer = self._fn(query)
        if not hasattr(answer, "__await__") and not inspect.isawaitable(answer):
            raise TypeError(
                f"backend {self.name} is made of a function that is not async: it returned a "
                f"{type(answer).__name__}; define it with `async def`, and call what blocks by "
                f"`asyncio.to_thread`"
            )
        return await answer

    def __repr__(self) -> str:
        return f"backend({self.name})"


@overload
def backend(fn: Callable[[Q], Awaitable[R]], /, *, name: str = "") -> FunctionBackend[Q, R]: ...
@overload
def backend(*, name: str) -> Callable[[Callable[[Q], Awaitable[R]]], FunctionBackend[Q, R]]: ...
def backend(fn: Any = _MISSING, /, *, name: str = "") -> Any:
    """Make a `Backend` of an async function: ``backend(fn)``, or as a decorator.

    Errors, logs and statistics call it `name`: by default the name of the function. Give one where
    several backends are made of one function, as in ``backend(partial(get, url), name=url)``. The
    decorator takes one too: ``@backend(name="images")``.
    """
    if fn is _MISSING:
        return partial(FunctionBackend, name=name)
    return FunctionBackend(fn, name=name)


def _name_of(fn: Callable[..., Any]) -> str:
    name = getattr(unwrapped(fn), "__name__", None)
    return name if isinstance(name, str) and name else shown(fn)


def check(caller: str, backends: Sequence[object]) -> None:
    """ValueError if there are no backends; TypeError, with its position, for one that is none."""
    if not backends:
        raise ValueError(f"{caller}: no backends to ask")
    for position, candidate in enumerate(backends, 1):
        hint = _not_a_backend(candidate)
        if hint is not None:
            for each in backends:
                close_unstarted(each)
            raise TypeError(
                f"{caller}: backend {position} of {len(backends)} has no `query` method: "
                f"{candidate!r}{hint}"
            )


def _not_a_backend(candidate: object) -> str | None:
    """None for a backend; else a hint at what the caller may have meant, for an error text."""
    query = getattr(candidate, "query", None)
    if isinstance(candidate, type) and (query is None or inspect.isfunction(query)):
        return "; it is a class: pass an instance"
    if callable(query):
        return None
    if inspect.iscoroutine(candidate):
        return "; it is a coroutine, which could be awaited only once: pass what is asked"
    return "; backend() makes one of an async function" if callable(candidate) else ""


def close_unstarted(value: object) -> None:
    """Close a coroutine that was never started: Python would warn that it was never awaited."""
    if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
        value.close()


def label(backend: object) -> str:
    """The name of a backend, or of an awaitable, in texts; its repr if it has no name."""
    for attribute in ("name", "__qualname__"):
        try:
            name = getattr(backend, attribute, None)
        except Exception:  # a property that raises, or `__getattr__`
            continue
        if isinstance(name, str) and name:
            return name
    if type(backend).__repr__ is object.__repr__:
        return type(backend).__name__
    return _short.repr(backend)
