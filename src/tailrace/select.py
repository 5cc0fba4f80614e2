"""Layer 2: `select`, which waits for several channel operations and makes exactly one happen.

The implementation is in the core. Here are the types: an overload for each number of cases up to
six, so that type checkers infer the type of the value from the index in a ``match``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from tailrace import _core
from tailrace._core import Operation
from tailrace.errors import Closed

__all__ = ["done", "select", "select_nowait"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

_At0: TypeAlias = tuple[Literal[0], T | Closed]
_At1: TypeAlias = tuple[Literal[1], T | Closed]
_At2: TypeAlias = tuple[Literal[2], T | Closed]
_At3: TypeAlias = tuple[Literal[3], T | Closed]
_At4: TypeAlias = tuple[Literal[4], T | Closed]
_At5: TypeAlias = tuple[Literal[5], T | Closed]
_TimedOut: TypeAlias = tuple[None, None]
_Case: TypeAlias = Operation[T] | None


if TYPE_CHECKING:

    @overload
    def select(
        a: _Case[A], /, *, timeout: None = None, priority: bool = False
    ) -> Awaitable[_At0[A]]: ...
    @overload
    def select(
        a: _Case[A], /, *, timeout: float | None, priority: bool = False
    ) -> Awaitable[_At0[A] | _TimedOut]: ...
    @overload
    def select(
        a: _Case[A], b: _Case[B], /, *, timeout: None = None, priority: bool = False
    ) -> Awaitable[_At0[A] | _At1[B]]: ...
    @overload
    def select(
        a: _Case[A], b: _Case[B], /, *, timeout: float | None, priority: bool = False
    ) -> Awaitable[_At0[A] | _At1[B] | _TimedOut]: ...
    @overload
    def select(
        a: _Case[A], b: _Case[B], c: _Case[C], /, *, timeout: None = None, priority: bool = False
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C]]: ...
    @overload
    def select(
        a: _Case[A], b: _Case[B], c: _Case[C], /, *, timeout: float | None, priority: bool = False
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _TimedOut]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        /,
        *,
        timeout: None = None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D]]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        /,
        *,
        timeout: float | None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D] | _TimedOut]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        /,
        *,
        timeout: None = None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E]]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        /,
        *,
        timeout: float | None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E] | _TimedOut]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        f: _Case[F],
        /,
        *,
        timeout: None = None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E] | _At5[F]]: ...
    @overload
    def select(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        f: _Case[F],
        /,
        *,
        timeout: float | None,
        priority: bool = False,
    ) -> Awaitable[_At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E] | _At5[F] | _TimedOut]: ...
    @overload
    def select(
        *cases: _Case[Any], timeout: float | None = None, priority: bool = False
    ) -> Awaitable[tuple[int | None, Any]]: ...
    def select(
        *cases: _Case[Any], timeout: float | None = None, priority: bool = False
    ) -> Awaitable[Any]:
        """See `tailrace._core.select`."""
        ...

    @overload
    def select_nowait(a: _Case[A], /, *, priority: bool = False) -> _At0[A]: ...
    @overload
    def select_nowait(
        a: _Case[A], b: _Case[B], /, *, priority: bool = False
    ) -> _At0[A] | _At1[B]: ...
    @overload
    def select_nowait(
        a: _Case[A], b: _Case[B], c: _Case[C], /, *, priority: bool = False
    ) -> _At0[A] | _At1[B] | _At2[C]: ...
    @overload
    def select_nowait(
        a: _Case[A], b: _Case[B], c: _Case[C], d: _Case[D], /, *, priority: bool = False
    ) -> _At0[A] | _At1[B] | _At2[C] | _At3[D]: ...
    @overload
    def select_nowait(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        /,
        *,
        priority: bool = False,
    ) -> _At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E]: ...
    @overload
    def select_nowait(
        a: _Case[A],
        b: _Case[B],
        c: _Case[C],
        d: _Case[D],
        e: _Case[E],
        f: _Case[F],
        /,
        *,
        priority: bool = False,
    ) -> _At0[A] | _At1[B] | _At2[C] | _At3[D] | _At4[E] | _At5[F]: ...
    @overload
    def select_nowait(*cases: _Case[Any], priority: bool = False) -> tuple[int, Any]: ...
    def select_nowait(*cases: _Case[Any], priority: bool = False) -> Any:
        """See `tailrace._core.select`."""
        ...

else:
    # The functions of the core themselves: a call in between would cost time in the hot path.
    select = _core.select
    select_nowait = _core.select_nowait


@overload
def done(source: asyncio.Event) -> Operation[bool]: ...
@overload
def done(source: asyncio.Future[T]) -> Operation[T]: ...
def done(source: asyncio.Future[Any] | asyncio.Event) -> Operation[Any]:
    """A case of select that is ready when `source` is done: a future, a task, or an Event.

    If this case is chosen, its value is the result of `source` (True for an Event), or select
    raises the exception of `source`. If another case is chosen, nothing happens to `source`.
    TypeError for any other `source`.
    """
    if not isinstance(source, (asyncio.Event, asyncio.Future)):
        raise TypeError(
            f"done() takes a future, a task or an asyncio.Event, not {source!r}; "
            f"make a task of a coroutine first (asyncio.create_task)"
        )
    return _core.done(source)
