"""Targets: where the transactions of a store go; and functions as targets.

A `Target` is asynchronous. A plain function, or a database driver that blocks, is a
`BlockingTarget`. `ThreadedTarget` makes a target of that: all its calls happen in one and the same
thread, in order, as connections to databases require.
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
"""How long the end of a store waits for its target to close. The closing goes on after that."""


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a batch that was written.

    `refused` has the errors of the messages that are not stored, by place in the batch (`Reject`:
    the sender's fault). All others are stored; `repeats` of them were stored before.
    """

    repeats: int = 0
    refused: Mapping[int, Exception] = field(default_factory=dict[int, Exception])


class Unusable(Exception):
    """The set-up seems to be wrong: a table, a role or a right is missing.

    No row is the cause. The batch is tried again as in an outage; if that does not help, the store
    ends with `StoreError`.
    """


class Target(Protocol[T_contra]):
    """Takes one batch after another, each as one transaction.

    `open` is called first, once per actor, and `close` last. The calls of one actor never overlap,
    those of several actors may. If `write` raises, no row of the batch was stored: `StoreError`
    ends the store, any other error is about the batch.
    """

    async def open(self, element: Any) -> None:
        """Get ready for rows of type `element`; None if the type is not known yet."""

    def write(self, messages: Messages[T_contra], /) -> Awaitable[Written]:
        """Store the rows of these messages durably. Begins at once."""
        ...

    async def close(self) -> None:
        """Release connections and files."""


class BlockingTarget(Protocol[T_contra]):
    """A `Target` of plain functions, which are all called from one thread."""

    def open(self, element: Any) -> None:
        """As `Target.open`."""

    def write(self, messages: Messages[T_contra], /) -> Written:
        """As `Target.write`."""
        ...

    def close(self) -> None:
        """As `Target.close`."""


class ThreadedTarget(Generic[T]):
    """A blocking target in a thread of its own.

    A call that is cancelled goes on in the thread, and its result is dropped.
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
        """As `Target.close`. Waits for the thread for at most `CLOSING_SECONDS`."""
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
        """Call it in the thread. A call wakes the loop once, however many rows it has."""
        return asyncio.get_running_loop().run_in_executor(self._worker, function, *args)


class KeyFold(Generic[T]):
    """Makes of messages the rows of a transaction, in which each key occurs once.

    Two messages of one key are one row if a client sent the same twice, or if their data are equal.
    Otherwise the later one is refused, as it will not be stored.
    """

    def __init__(self, key: Callable[[T], Hashable] | None) -> None:
        self._key = key

    def __call__(self, messages: Messages[T]) -> tuple[list[T], Written]:
        """The rows to write, and the outcome if they are written."""
        key = self._key
        if key is None:
            return [message.data for message in messages], Written()
        first: dict[Hashable, Message[T]] = {}
        refused: dict[int, Exception] = {}
        for position, message in enumerate(messages):
            try:  # `key`, `__hash__` and `__eq__` are user code
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
        self._fold = KeyFold(key)

    def __repr__(self) -> str:
        return f"<async {name_of(self._write)}>"

    async def open(self, element: Any) -> None:
        """Nothing to do."""

    async def write(self, messages: Messages[T], /) -> Written:
        """As `Target.write`. StoreError if the function returns work that has not run."""
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
        self._fold = KeyFold(key)

    def __repr__(self) -> str:
        return f"<plain {name_of(self._write)}>"

    def open(self, element: Any) -> None:
        """Nothing to do."""

    def write(self, messages: Messages[T], /) -> Written:
        """As `Target.write`. StoreError if the function returns work that has not run."""
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
    """The name of a function; never its repr, which may show a password that a partial binds."""
    write = unwrapped(write)
    return getattr(write, "__qualname__", None) or type(write).__qualname__
