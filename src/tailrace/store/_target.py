"""Where transactions go: the one interface of all stores, and how functions become one.

A `Target` is asynchronous. What blocks, a plain function or a database driver, is a
`BlockingTarget`, and `InThread` makes a target of it: all of its calls happen in one and the same
thread, in order, which is what connections to databases want.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

from tailrace.message import Message
from tailrace.store._errors import StoreError
from tailrace.store._worker import Worker

T = TypeVar("T")
R = TypeVar("R")

Messages: TypeAlias = Sequence[Message[T]]

CLOSING_SECONDS: Final = 5.0
"""How long the end of a store waits for its connection to be closed; then it goes on closing."""


class Target(Protocol[T]):
    """Takes one batch after another, each as one transaction: all of it, or nothing.

    `open` comes first, once per actor, and `close` last; the calls of one actor never overlap,
    those of several may. `write` returns how many of the rows were there already; what it raises
    means that none was stored. `StoreError` ends the store, any other error is the batch's own.
    """

    async def open(self, element: Any) -> None:
        """Get ready for rows of type `element`; None if nobody knows it yet."""

    def write(self, messages: Messages[T], /) -> Awaitable[int]:
        """Store the rows of these messages, for good. Begins at once."""
        ...

    async def close(self) -> None:
        """Let go of everything."""


class BlockingTarget(Protocol[T]):
    """The same in plain functions, which are all called from one thread."""

    def open(self, element: Any) -> None:
        """As `Target.open`."""

    def write(self, messages: Messages[T], /) -> int:
        """As `Target.write`."""
        ...

    def close(self) -> None:
        """As `Target.close`."""


class InThread(Generic[T]):
    """A blocking target in a thread of its own.

    A call that is cancelled goes on in the thread; nobody hears how it ended.
    """

    def __init__(self, target: BlockingTarget[T], name: str) -> None:
        self._target = target
        self._worker = Worker(name)

    def __repr__(self) -> str:
        return f"<{self._target!r} in {self._worker!r}>"

    async def open(self, element: Any) -> None:
        """As `Target.open`."""
        await self._begin(self._target.open, element)

    def write(self, messages: Messages[T], /) -> Awaitable[int]:
        """As `Target.write`."""
        return self._begin(self._target.write, messages)

    async def close(self) -> None:
        """As `Target.close`, but the thread is waited for only so long."""
        loop = asyncio.get_running_loop()
        closing = loop.run_in_executor(self._worker, self._target.close)
        self._worker.shutdown(wait=False)
        done, _ = await asyncio.wait([closing], timeout=CLOSING_SECONDS)
        for future in done:
            future.result()

    def _begin(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """One wake-up of the loop for each call, however many rows it has."""
        return asyncio.get_running_loop().run_in_executor(self._worker, function, *args)


class _Fold(Generic[T]):
    """The rows of a transaction, each key once if there are keys."""

    def __init__(self, key: Callable[[T], Hashable] | None) -> None:
        self._key = key

    def __call__(self, messages: Messages[T]) -> list[T]:
        key = self._key
        if key is None:
            return [message.data for message in messages]
        rows: dict[Hashable, T] = {}
        for message in messages:
            rows.setdefault(key(message.data), message.data)
        return list(rows.values())


class AsyncFunction(Generic[T]):
    """A coroutine function that writes rows, as a target."""

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[None]],
        key: Callable[[T], Hashable] | None,
    ) -> None:
        self._write = write
        self._fold = _Fold(key)

    def __repr__(self) -> str:
        return f"<async {name_of(self._write)}>"

    async def open(self, element: Any) -> None:
        """Nothing to do."""

    async def write(self, messages: Messages[T], /) -> int:
        """As `Target.write`."""
        rows = self._fold(messages)
        await self._write(rows)
        return len(messages) - len(rows)

    async def close(self) -> None:
        """Nothing to do."""


class PlainFunction(Generic[T]):
    """A plain function that writes rows, as a blocking target."""

    def __init__(
        self, write: Callable[[Sequence[T]], None], key: Callable[[T], Hashable] | None
    ) -> None:
        self._write = write
        self._fold = _Fold(key)

    def __repr__(self) -> str:
        return f"<plain {name_of(self._write)}>"

    def open(self, element: Any) -> None:
        """Nothing to do."""

    def write(self, messages: Messages[T], /) -> int:
        """As `Target.write`. StoreError if the function turns out to be asynchronous."""
        rows = self._fold(messages)
        result = cast("object", self._write(rows))
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise StoreError(
                f"{name_of(self._write)} is a plain function, so it is called in a thread, but it "
                f"returned an awaitable: define it with `async def` to have it awaited on the loop"
            )
        return len(messages) - len(rows)

    def close(self) -> None:
        """Nothing to do."""


def is_async(write: Callable[..., Any]) -> bool:
    """Whether `write` is a coroutine function, or an object whose `__call__` is one."""
    kind = type(write)
    return inspect.iscoroutinefunction(write) or inspect.iscoroutinefunction(kind.__call__)


def name_of(write: Callable[..., Any]) -> str:
    """What to call it; never its repr, which may show what a partial has bound (a password)."""
    while isinstance(write, functools.partial):
        write = write.func
    return getattr(write, "__qualname__", None) or type(write).__qualname__
