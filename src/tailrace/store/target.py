"""Where transactions go: the one interface of all stores, and how functions become one.

A `Target` is asynchronous. What blocks, a plain function or a database driver, is a
`BlockingTarget`, and `InThread` makes a target of it: all of its calls happen in one and the same
thread, in order, which is what connections to databases want.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

from tailrace.errors import Reject, StoreError
from tailrace.message import Message
from tailrace.message.internals import digest_of
from tailrace.usercode import close, left_to_run, unwrapped
from tailrace.worker import Worker

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")

Messages: TypeAlias = Sequence[Message[T]]

CLOSING_SECONDS: Final = 5.0
"""How long the end of a store waits for its connection to be closed; then it goes on closing."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: `refused` says, by place in the batch, which messages are not
    stored and why (`Reject`: the sender's fault); all others are, `repeats` of them before.
    """

    repeats: int = 0
    refused: Mapping[int, Exception] = field(default_factory=dict[int, Exception])


class Target(Protocol[T_contra]):
    """Takes one batch after another, each as one transaction.

    `open` comes first, once per actor, and `close` last; the calls of one actor never overlap,
    those of several may. What `write` raises means that no row of the batch was stored.
    `StoreError` ends the store, any other error is the batch's own.
    """

    async def open(self, element: Any) -> None:
        """Get ready for rows of type `element`; None if nobody knows it yet."""

    def write(self, messages: Messages[T_contra], /) -> Awaitable[Written]:
        """Store the rows of these messages, for good. Begins at once."""
        ...

    async def close(self) -> None:
        """Let go of everything."""


class BlockingTarget(Protocol[T_contra]):
    """The same in plain functions, which are all called from one thread."""

    def open(self, element: Any) -> None:
        """As `Target.open`."""

    def write(self, messages: Messages[T_contra], /) -> Written:
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

    def write(self, messages: Messages[T], /) -> Awaitable[Written]:
        """As `Target.write`."""
        return self._begin(self._target.write, messages)

    async def close(self) -> None:
        """As `Target.close`, but the thread is waited for only so long."""
        if self._worker.left:
            self._worker.shutdown(wait=False)
            return
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
    """The rows of a transaction, each key once if there are keys.

    Two rows of one key are one row if a client sent the same twice, or if they are equal; else
    the later one is refused, as it will not be stored.
    """

    def __init__(self, key: Callable[[T], Hashable] | None) -> None:
        self._key = key

    def __call__(self, messages: Messages[T]) -> tuple[list[T], Written]:
        key = self._key
        if key is None:
            return [message.data for message in messages], Written()
        first: dict[Hashable, Message[T]] = {}
        refused: dict[int, Exception] = {}
        for position, message in enumerate(messages):
            try:  # what is called here may all be user code
                other = first.setdefault(key(message.data), message)
                if other is not message and not _same(other, message):
                    raise Reject(
                        "a row of the same key came before, with other data; it was not replaced"
                    )
            except Exception as error:
                refused[position] = error
        rows = [message.data for message in first.values()]
        return rows, Written(len(messages) - len(rows) - len(refused), refused)


def _same(one: Message[Any], other: Message[Any]) -> bool:
    sent = digest_of(one)
    return (sent is not None and sent == digest_of(other)) or bool(one.data == other.data)


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

    async def write(self, messages: Messages[T], /) -> Written:
        """As `Target.write`. StoreError if the function returns work that it has not done."""
        rows, written = self._fold(messages)
        if rows:
            result = cast("object", await self._write(rows))
            if result is not None:
                _check_ran(self._write, result)
        return written

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

    def write(self, messages: Messages[T], /) -> Written:
        """As `Target.write`. StoreError if the function returns work that it has not done."""
        rows, written = self._fold(messages)
        if not rows:
            return written
        result = cast("object", self._write(rows))
        if inspect.isawaitable(result):
            close(result)
            raise StoreError(
                f"{name_of(self._write)} is a plain function, so it is called in a thread, but it "
                f"returned an awaitable: define it with `async def` to have it awaited on the loop"
            )
        if result is not None:
            _check_ran(self._write, result)
        return written

    def close(self) -> None:
        """Nothing to do."""


def _check_ran(write: Callable[..., Any], result: object) -> None:
    """StoreError if `write` returned work instead of doing it: the rows are not written."""
    if left_to_run(result):
        close(result)
        raise StoreError(
            f"{name_of(write)} returned a {type(result).__name__}, which nobody runs, so the rows "
            f"are not written: let it write all rows before it returns"
        )


def name_of(write: Callable[..., Any]) -> str:
    """What to call it; never its repr, which may show what a partial has bound (a password)."""
    write = unwrapped(write)
    return getattr(write, "__qualname__", None) or type(write).__qualname__
