"""Group commit without a timer: what arrives during one transaction goes into the next.

One `GroupCommit` is one running actor of a store. While it has no messages it waits for its inbox.
From the first message on, a task *receives ahead*, so that senders can go on. Meanwhile the actor
takes all that was received, stores it in one transaction, acks it, and so on until nothing is left.

No row waits for a batch to fill: a single row is committed at once. Under load, the slower the
disk, the larger the batches. (The idea is old: group commit in IMS Fast Path, 1985.)

Invariants
- A message is acked after its transaction is durable, and before the next one begins. Batches are
  committed in the order of arrival, and so are the parts of a batch that was divided.
- At most one batch is received ahead.
- Every message received is settled before the actor ends, however it ends.
- With no messages, the actor itself (not its helper task) is parked in the receive; with some, it
  never is. So `Group.idle` and the wait-for graph see a store like any other actor.
- An error is an *outage* if the retry policy applies to it: the database is out of order, and the
  same rows are tried again. Any other error is *poison*: something is wrong with a row. Then the
  batch is halved until that row is alone and fails alone (or is rejected, if the error is a
  `Reject`): k bad rows of n cost O(k log n) transactions. A target that knows which rows are bad
  names them (`Written.refused`), and stores the others at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, Literal, TypeVar

from tailrace.channel import Receiver
from tailrace.errors import Closed, Outage, Reject, StoreError
from tailrace.message import Message
from tailrace.message.internals import FailureLog, delayed_by_outage, failure, settle_failed
from tailrace.retry import Retry
from tailrace.store.target import Messages, Target, Unusable, Written
from tailrace.usercode import is_a, log_error
from tailrace.worker import LeftBehind

T = TypeVar("T")

_log = logging.getLogger("tailrace")

LINGER: Final = 10.0
"""Seconds for which a cancelled store waits for the transaction that is being committed."""

STOPPED: Final = "the store was stopped before this was stored"
CUT_OFF: Final = "the store was stopped while this was being committed; it may be stored"


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store has done so far, all its actors together.

    `rows` were stored in so many `transactions`, the largest of which had `largest` rows. `repeats`
    are rows that were there already: acked, but not counted in `rows`. `failures` are messages
    that failed; those `rejected` have rows that the database cannot hold; those `skipped` were
    settled before they came here. `retries` are transactions tried again in an outage.
    """

    rows: int = 0
    transactions: int = 0
    largest: int = 0
    repeats: int = 0
    failures: int = 0
    skipped: int = 0
    retries: int = 0
    rejected: int = 0


class Counters:
    """The counters of a store, shared by its actors, which may be on several loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((field.name for field in fields(StoreStatistics)), 0)

    def __repr__(self) -> str:
        return f"<{self.snapshot()}>"

    def snapshot(self) -> StoreStatistics:
        """The counters at this instant."""
        with self._lock:
            return StoreStatistics(**self._counts)

    def committed(self, messages: int, repeats: int) -> None:
        """A transaction has stored so many messages, `repeats` of which were there already."""
        with self._lock:
            counts = self._counts
            counts["rows"] += messages - repeats
            counts["transactions"] += 1
            counts["repeats"] += repeats
            counts["largest"] = max(counts["largest"], messages)

    def add(self, what: Literal["failures", "rejected", "skipped", "retries"], count: int) -> None:
        """Add to another counter."""
        with self._lock:
            self._counts[what] += count


class GroupCommit(Generic[T]):
    """One actor of a store, from its first receive to its end."""

    def __init__(
        self,
        name: str,
        inbox: Receiver[Message[T]],
        target: Target[T],
        *,
        max_batch: int,
        retry: Retry,
        counters: Counters,
        failures: FailureLog,
    ) -> None:
        self.name = name
        self._inbox = inbox
        self._target = target
        self._max_batch = max_batch
        self._retry = retry
        self._counters = counters
        self._failures = failures
        self._received: list[Message[T]] = []  # not yet in a transaction
        self._room = asyncio.Event()
        self._receiving: asyncio.Task[None] | None = None
        # Came during a transaction; raised after it.
        self._cancelled: asyncio.CancelledError | None = None

    def __repr__(self) -> str:
        return f"<GroupCommit of {self.name}: {len(self._received)} received>"

    async def run(self) -> None:
        """Store messages until the inbox closes. Every message received is settled then.

        Raises `Closed` if the inbox was closed with a cause, `StoreError` if the target cannot go
        on. Cancelled: it begins no further transaction, waits for one that is being committed, for
        at most `LINGER` seconds, and acks its messages; all others fail.
        """
        while True:
            try:
                self._received = list(await self._inbox.recv_many(self._max_batch))
            except Closed as closed:
                if closed.__cause__ is not None:
                    raise
                return
            await self._commit_all()

    async def _commit_all(self) -> None:
        """Commit what was received, and what arrives meanwhile. Nothing is in hand afterwards."""
        self._receiving = receiving = asyncio.create_task(
            self._receive_ahead(), name=f"{self.name}.intake"
        )
        try:
            while self._received:
                batch, self._received = self._received, []
                self._room.set()
                await self._commit(batch)
                if self._cancelled is not None:
                    raise self._cancelled
            receiving.cancel()  # loses nothing: a cancelled receive leaves its value in the channel
            await wait_done(receiving)
            if not receiving.cancelled():
                receiving.result()
        except BaseException as error:
            receiving.cancel()
            try:
                await wait_done(receiving)
            finally:
                cancelled = is_a(error, asyncio.CancelledError)
                self._fail(self._received, STOPPED if cancelled else error)
            raise

    async def _receive_ahead(self) -> None:
        while True:
            room = self._max_batch - len(self._received)
            if room:
                try:
                    received = await self._inbox.recv_many(room)
                except Closed:
                    return  # the actor gets the same error at its next receive
                self._received += received
            else:
                self._room.clear()
                await self._room.wait()

    # --- one batch

    async def _commit(self, batch: list[Message[T]]) -> None:
        """Settle every message of `batch`, in one transaction or in as few as possible."""
        try:
            fresh = [message for message in batch if message.outcome is None]
        except AttributeError:
            raise self._wrongly_wired(batch) from None
        if len(fresh) < len(batch):
            self._counters.add("skipped", len(batch) - len(fresh))
        parts = [fresh] if fresh else []  # the next part last
        try:
            while parts:
                part = parts.pop()
                result = await self._store(part)
                if isinstance(result, Written):
                    self._settle(part, result)
                elif len(part) == 1 or isinstance(result, (str, Outage)):
                    self._fail(part, result)
                else:
                    half = len(part) // 2
                    parts += part[half:], part[:half]
        except BaseException as error:
            self._fail(fresh, STOPPED if is_a(error, asyncio.CancelledError) else error)
            raise

    def _wrongly_wired(self, batch: list[Any]) -> TypeError:
        """The error for a batch in which a value is no message. The messages in it fail."""
        wrong = next(each for each in batch if not isinstance(each, Message))
        kind = type(wrong).__name__
        error = TypeError(
            f"{self.name} takes messages, but was sent a {kind}: send Message(value) on a "
            f"Channel[Message[{kind}]], or have submit(channel, value) do so"
        )
        messages: list[Message[Any]] = [each for each in batch if isinstance(each, Message)]
        self._fail(messages, error)
        return error

    def _settle(self, part: list[Message[T]], written: Written) -> None:
        refused = written.refused
        if not refused:
            for message in part:
                message.ack()
            return
        for position, message in enumerate(part):
            if position in refused:
                self._fail([message], refused[position])
            else:
                message.ack()

    async def _store(self, rows: Messages[T]) -> Written | Exception | str:
        """Write `rows`, trying again during an outage. Returns `Written`, or why it gave up.

        `Outage`: the attempts are used up. Another error is about a row. A text: the store was
        stopped. StoreError is raised if the attempts are used up and the set-up is wrong.
        """
        delays = self._retry.delays()
        tries = 0
        while self._cancelled is None:
            tries += 1
            result = await self._try(rows)
            if isinstance(result, Written) or not self._is_outage(result):
                if tries > 1:
                    _log.info("%s: the outage is over, after %d tries", self.name, tries)
                return result
            delay = next(delays, None)
            if delay is None:
                _log.error("%s: gave up after %d tries: %s", self.name, tries, result)
                if is_a(result, Unusable):
                    raise StoreError(str(result)) from result
                outage = Outage(failure(result).reason)
                outage.reason = "the store is out of order"  # the text may name a host or a file
                outage.__cause__ = result
                return outage
            if tries == 1:
                _log.warning("%s: outage, trying again: %s", self.name, result)
            self._counters.add("retries", 1)
            for message in (*rows, *self._received):
                delayed_by_outage(message)
            if self._cancelled is None:
                await asyncio.sleep(delay)
        return STOPPED

    def _is_outage(self, error: Exception) -> bool:
        if is_a(error, Reject):
            return False
        if is_a(error, Unusable):
            return True
        try:
            return self._retry.applies(error)
        except Exception as raised:
            # The predicate is user code and may fail on the error of one row, so treat the error as
            # poison, not as an outage.
            text = "%s: the predicate of its Retry raised; not trying again"
            log_error(_log, text, self.name, error=raised)
            return False

    async def _try(self, rows: Messages[T]) -> Written | Exception:
        """One transaction, or its error. `StoreError` and what is no `Exception` are raised."""
        writing = asyncio.ensure_future(self._target.write(rows))
        try:
            await wait_done(writing)
        except asyncio.CancelledError as cancelled:
            self._cancelled = cancelled
            if self._receiving is not None:
                self._receiving.cancel()  # receive nothing more meanwhile
            await self._linger(writing, rows)
        error = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        if error is None:
            written = writing.result()
            if stored := len(rows) - len(written.refused):
                self._counters.committed(stored, written.repeats)
            return written
        if is_a(error, LeftBehind):
            self._fail(rows, CUT_OFF)
            raise self._cancelled or asyncio.CancelledError(str(error))
        if is_a(error, asyncio.CancelledError):
            return RuntimeError("the write was cancelled, but not by the store")
        if is_a(error, StoreError) or not is_a(error, Exception):
            raise error
        return error

    async def _linger(self, writing: asyncio.Future[Written], rows: Messages[T]) -> None:
        """Cancelled during a transaction: wait for its end, so that no ack is lost.

        For at most `LINGER` seconds, and only until the next cancellation.
        """
        try:
            done, _ = await asyncio.wait([writing], timeout=LINGER)
            if done:
                return
            _log.warning(
                "%s: cancelled, but its transaction has not ended for %g s; not waiting for it "
                "any longer",
                self.name,
                LINGER,
            )
            writing.cancel()
            await wait_done(writing)
        except asyncio.CancelledError:
            writing.cancel()
        self._fail(rows, CUT_OFF)
        assert self._cancelled is not None
        raise self._cancelled

    def _fail(self, messages: Messages[T], error: BaseException | str) -> None:
        """Fail or reject what is not stored, unless it is settled already, and log failures."""
        if is_a(error, Reject):
            rejected = sum(message.reject(error.reason) for message in messages)
            self._counters.add("rejected", rejected)
            return
        failed = 0
        for message in messages:
            if settle_failed(message, error):
                failed += 1
                self._failures.add(message.id, error)
        if failed:
            self._counters.add("failures", failed)


async def wait_done(work: asyncio.Future[Any]) -> None:
    """Return when `work` has ended, however it ended. Cancelled: `work` goes on.

    `asyncio.wait` would do, at three times the cost, for every commit.
    """
    if work.done():
        return
    ended = work.get_loop().create_future()

    def tell(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    work.add_done_callback(tell)
    try:
        await ended
    finally:
        work.remove_done_callback(tell)


def shown(statistics: StoreStatistics) -> str:
    """The counters that are not zero, as text."""
    counts = [(f.name, getattr(statistics, f.name)) for f in fields(statistics)]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "nothing stored yet"
