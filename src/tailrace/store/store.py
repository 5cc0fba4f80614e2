"""`Store`, the actor at the end of a pipeline, and `store`, which makes one of a function."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

from tailrace.arguments import check_count
from tailrace.channel import Receiver
from tailrace.errors import StoreError
from tailrace.message import Message
from tailrace.message.internals import FailureLog
from tailrace.retry import Retry
from tailrace.store.commit import Counters, GroupCommit, StoreStatistics, shown
from tailrace.store.target import (
    AsyncFunction,
    PlainFunction,
    Target,
    ThreadedTarget,
    Unusable,
    name_of,
)
from tailrace.usercode import is_a, is_async, is_generator

T = TypeVar("T")

_log = logging.getLogger("tailrace")


class Store(Generic[T]):
    """An actor that stores what it receives, many rows to a transaction, and acks each message
    once it is durable; `store` and `store_sqlite` make it.

    Start it with ``go(store, channel)``. One actor is enough: it stores all messages that wait, in
    one transaction. With ``actors=n``, or in several groups, the actors share one connection (to
    PostgreSQL: one for each event loop), and their transactions take turns.
    """

    def __init__(
        self,
        make_target: Callable[[], Target[T]],
        *,
        name: str,
        what: str,
        max_batch: int,
        retry: Retry,
        per_loop: bool = False,
    ) -> None:
        check_count("max_batch", max_batch)
        self.name = name
        """The name of this actor in graphs and in test kits."""
        self._make_target = make_target
        self._what = what
        self._max_batch = max_batch
        self._retry = retry
        self._counters = Counters()
        self._failures = FailureLog(f"{name} {what}")
        self._lock = threading.Lock()  # actors may be on several loops
        self._actors = 0
        self._per_loop = per_loop  # whether a target can be used on one event loop only
        # By loop; None: for all loops. Each with the number of actors that use it.
        self._targets: dict[asyncio.AbstractEventLoop | None, tuple[Target[T], int]] = {}

    def __repr__(self) -> str:
        running = f", {self._actors} running" if self._actors else ""
        return f"<{self.name} {self._what}: {shown(self.statistics())}{running}>"

    def statistics(self) -> StoreStatistics:
        """A frozen snapshot of the counters of all actors of this store."""
        return self._counters.snapshot()

    async def __call__(self, inbox: Receiver[Message[T]]) -> None:
        """Store the messages of `inbox` until it closes.

        Raises `StoreError` when the database cannot be used (if possible before it receives
        anything), and `Closed` if the inbox was closed with a cause. By then every message that it
        received is settled. Cancelled: it waits for a transaction that is being committed, for at
        most ten seconds (under `run` no longer than its grace), and acks its messages; all others
        in hand fail.
        """
        target = self._enter()
        try:
            await self._open(target, _row_type(inbox))
            await GroupCommit(
                self.name,
                inbox,
                target,
                max_batch=self._max_batch,
                retry=self._retry,
                counters=self._counters,
                failures=self._failures,
            ).run()
        finally:
            self._failures.rest()
            await self._leave(target)

    def _enter(self) -> Target[T]:
        loop = asyncio.get_running_loop() if self._per_loop else None
        with self._lock:
            target, actors = self._targets.get(loop) or (self._make_target(), 0)
            self._targets[loop] = target, actors + 1
            self._actors += 1
            return target

    async def _leave(self, target: Target[T]) -> None:
        loop = asyncio.get_running_loop() if self._per_loop else None
        with self._lock:
            self._actors -= 1
            _, actors = self._targets[loop]
            if actors > 1:
                self._targets[loop] = target, actors - 1
                return
            del self._targets[loop]
        await target.close()

    async def _open(self, target: Target[T], element: Any) -> None:
        delays = self._retry.delays()
        tries = 0
        while True:
            tries += 1
            try:
                return await target.open(element)
            except StoreError:
                raise
            except Exception as error:
                again = is_a(error, Unusable) or self._retry.applies(error)
                delay = next(delays, None) if again else None
                if delay is None:
                    raise StoreError(f"{self.name} cannot use {self._what}: {error}") from error
                if tries == 1:
                    _log.warning("%s: cannot start yet, trying again: %s", self.name, error)
            await asyncio.sleep(delay)


def store(
    write: Callable[[Sequence[T]], Awaitable[None] | None],
    *,
    max_batch: int = 1000,
    key: Callable[[T], Hashable] | None = None,
    retry: Retry | None = None,
) -> Store[T]:
    """An actor that stores with ``write(rows)``, which is one transaction of any database.

    `write` gets the data of 1 to `max_batch` messages, in the order of their arrival, and returns
    once they are durable; if it raises, nothing was stored. A coroutine function is awaited on
    the loop. A plain function is called in a thread, the same one each time. While `write` runs,
    the next batch is received.

    An error to which `retry` applies is an *outage*: the same rows are tried again, with
    exponential backoff, while the channel makes senders wait. When the attempts are used up, the
    messages fail with `Outage`. By default outages are `OSError` (with `ConnectionError` and
    `TimeoutError`), tried ten times over about ten seconds; name what your driver raises, as in
    ``Retry(on=psycopg.OperationalError)``. Any other error is *poison*: the batch is halved until
    the row that it is about fails alone. ``raise Reject(reason)`` in `write` rejects that row.

    A row may be written twice: when an outage hid that it was stored, or when a sender repeats
    itself. So give the table a key, and skip rows that are there (``ON CONFLICT DO NOTHING``). With
    `key`, equal rows of one transaction with the same ``key(data)`` are written once and all acked;
    a row with the key of an earlier one, but with other data, is rejected.

    TypeError or ValueError for arguments that make no sense.
    """
    if not callable(write):
        raise TypeError(f"store takes a function that writes rows, not {write!r}")
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of a message's data, not {key!r}")
    name = name_of(write)
    if is_generator(write):
        raise TypeError(
            f"store({name}): a generator function writes no rows, as nothing of it has run when "
            f"it returns; write all rows that it is given, without yield"
        )
    if key is not None and (is_async(key) or is_generator(key)):
        raise TypeError(
            f"store({name}): key must be a plain function that returns the key of a message's "
            f"data, not async or a generator function: {name_of(key)}"
        )

    def make_target() -> Target[T]:
        if is_async(write):
            return AsyncFunction(cast("Callable[[Sequence[T]], Awaitable[None]]", write), key)
        plain = PlainFunction(cast("Callable[[Sequence[T]], None]", write), key)
        return ThreadedTarget(plain, f"store {name}")

    return Store(
        make_target,
        name="store",
        what=f"with {name}",
        max_batch=max_batch,
        retry=check_retry(retry),
    )


def check_retry(retry: object) -> Retry:
    """The policy to use. TypeError for what is no `Retry`."""
    if retry is None:
        return Retry()
    if not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {retry!r}")
    return retry


def _row_type(inbox: object) -> Any:
    """T of a channel of Message[T]; None for an untyped channel. StoreError for another type."""
    element = getattr(inbox, "element", None)
    if get_origin(element) is not Message:
        if element is not Any and isinstance(element, type) and not issubclass(Message, element):
            kind = element.__name__
            raise StoreError(
                f"a store takes messages, but {inbox!r} is of {kind}: make it a "
                f"Channel[Message[{kind}]]"
            )
        return None
    (row,) = get_args(element)
    return None if row is Any or isinstance(row, TypeVar) else row
