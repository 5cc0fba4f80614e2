"""Group commit without a timer: what comes in during one transaction goes into the next.

One `GroupCommit` is one running actor of a store. While it has nothing in hand it waits for its
inbox. With the first row it has a task beside it: the *intake* goes on receiving, and so keeps
senders going, while the actor takes all that has come in, stores it as one transaction, acks it,
and so on until nothing is left.

Nothing ever waits for a batch to fill: alone, a row is committed at once; under load the batches
are as large as the disk is slow. (The idea is old: group commit in IMS Fast Path, 1985.)

Invariants
- A message is acked after its transaction is durable, and before the next one begins. Batches are
  committed in the order of arrival, and so are the parts of one that had to be divided.
- The intake is at most one batch ahead.
- Every message received is settled before the actor ends, whichever way it ends.
- The actor itself is parked in a receive while nothing is in hand, and only then: so `Group.idle`
  and the wait-for graph see a store as they see any other actor.
- An error is either an *outage* (the retry policy applies to it): the database is out of order,
  and the same rows are tried again. Or it is *poison*: something is wrong with a row. Then the
  batch is halved until the row is alone and fails alone (or is rejected, if the error is a
  `Reject`): of n rows, k bad ones cost O(k log n) transactions. A target that knows which rows
  are bad says so (`Written.refused`), and stores the others at once.
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
from tailrace.store.target import Messages, Target, Written
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

    `rows` were stored, in so many `transactions`, the largest of `largest` rows; `repeats` of
    them were there already and are not counted in `rows` (all were acked). `failures` are
    messages that failed, `rejected` ones have rows that the database cannot hold; `skipped` ones
    were settled before they came here; `retries` are transactions tried again in an outage.
    """

    rows: int = 0
    transactions: int = 0
    largest: int = 0
    repeats: int = 0
    failures: int = 0
    skipped: int = 0
    retries: int = 0
    rejected: int = 0


class Tally:
    """The counters, shared by the actors of a store, which may be on several loops."""

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
        """A transaction is done, after which so many messages are stored."""
        with self._lock:
            counts = self._counts
            counts["rows"] += messages - repeats
            counts["transactions"] += 1
            counts["repeats"] += repeats
            counts["largest"] = max(counts["largest"], messages)

    def add(self, what: Literal["failures", "rejected", "skipped", "retries"], count: int) -> None:
        """Something else happened, so many times."""
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
        tally: Tally,
        failures: FailureLog,
    ) -> None:
        self.name = name
        self._inbox = inbox
        self._target = target
        self._max_batch = max_batch
        self._retry = retry
        self._tally = tally
        self._failures = failures
        self._received: list[Message[T]] = []  # not yet in a transaction
        self._room = asyncio.Event()
        self._intake: asyncio.Task[None] | None = None
        self._cancelled: asyncio.CancelledError | None = None  # put off during a transaction

    def __repr__(self) -> str:
        return f"<GroupCommit of {self.name}: {len(self._received)} received>"

    async def run(self) -> None:
        """Store what comes until the inbox closes.

        Raises `Closed` if that was with a cause, `StoreError` if the target cannot go on; what
        was received by then is settled. Cancelled: no further transaction is begun; one that is
        being committed is waited for, for at most `LINGER` seconds, and acked; the rest fails.
        """
        while True:
            if not self._received:
                try:
                    self._received = list(await self._inbox.recv_many(self._max_batch))
                except Closed as closed:
                    if closed.__cause__ is not None:
                        raise
                    return
            await self._busy()

    async def _busy(self) -> None:
        """Commit what is in hand, and what comes in meanwhile, until nothing is left."""
        self._intake = intake = asyncio.create_task(self._take_in(), name=f"{self.name}.intake")
        try:
            while self._received:
                batch, self._received = self._received, []
                self._room.set()
                await self._commit(batch)
                if self._cancelled is not None:
                    raise self._cancelled
            intake.cancel()  # exact: what it was not given yet stays in the channel
            await _end_of(intake)
            if not intake.cancelled():
                intake.result()
        except BaseException as error:
            intake.cancel()
            try:
                await _end_of(intake)
            finally:
                cancelled = is_a(error, asyncio.CancelledError)
                self._fail(self._received, STOPPED if cancelled else error)
            raise

    async def _take_in(self) -> None:
        while True:
            room = self._max_batch - len(self._received)
            if room:
                try:
                    received = await self._inbox.recv_many(room)
                except Closed:
                    return  # the actor hears the same when it is idle
                self._received += received
            else:
                self._room.clear()
                await self._room.wait()

    # One batch.

    async def _commit(self, batch: list[Message[T]]) -> None:
        """Settle every message of `batch`: as one transaction, or as few as may be."""
        try:
            fresh = [message for message in batch if message.outcome is None]
        except AttributeError:
            raise self._wrongly_wired(batch) from None
        if len(fresh) < len(batch):
            self._tally.add("skipped", len(batch) - len(fresh))
        parts = [fresh] if fresh else []  # the next one last
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
        """What to raise for a batch with values that are no messages; the messages fail."""
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
        """Try until it is done, or is not to be done: then say why. `Outage`: the attempts are
        used up; another error is about a row.
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
                outage = Outage(failure(result).reason)
                outage.__cause__ = result
                return outage
            if tries == 1:
                _log.warning("%s: outage, trying again: %s", self.name, result)
            self._tally.add("retries", 1)
            for message in (*rows, *self._received):
                delayed_by_outage(message)
            if self._cancelled is None:
                await asyncio.sleep(delay)
        return STOPPED

    def _is_outage(self, error: Exception) -> bool:
        if is_a(error, Reject):
            return False
        try:
            return self._retry.applies(error)
        except Exception as raised:  # the predicate is user code, and the error may be one row's
            text = "%s: the predicate of its Retry raised; not trying again"
            log_error(_log, text, self.name, error=raised)
            return False

    async def _try(self, rows: Messages[T]) -> Written | Exception:
        """One transaction. Only `StoreError` and what is no `Exception` is raised."""
        writing = asyncio.ensure_future(self._target.write(rows))
        try:
            await _end_of(writing)
        except asyncio.CancelledError as cancelled:
            self._cancelled = cancelled
            if self._intake is not None:
                self._intake.cancel()  # nothing more comes in while that lasts
            await self._linger(writing, rows)
        error = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        if error is None:
            written = writing.result()
            if stored := len(rows) - len(written.refused):
                self._tally.committed(stored, written.repeats)
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
        """Cancelled amid a transaction: wait for its end, so that no ack is lost, but not for
        ever, and no longer if cancelled once more."""
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
            await _end_of(writing)
        except asyncio.CancelledError:
            writing.cancel()
        self._fail(rows, CUT_OFF)
        assert self._cancelled is not None
        raise self._cancelled

    def _fail(self, messages: Messages[T], error: BaseException | str) -> None:
        """Settle what is not stored, unless it is settled already, and say so in the log."""
        if is_a(error, Reject):
            rejected = sum(message.reject(error.reason) for message in messages)
            self._tally.add("rejected", rejected)
            return
        failed = 0
        for message in messages:
            if settle_failed(message, error):
                failed += 1
                self._failures.add(message.id, error)
        if failed:
            self._tally.add("failures", failed)


async def _end_of(work: asyncio.Future[Any]) -> None:
    """Return when `work` has ended, however it did. Cancelled: it goes on.

    `asyncio.wait` does the same for several at three times the cost, which every commit would pay.
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
    """The counters that are not zero, in words."""
    counts = [(f.name, getattr(statistics, f.name)) for f in fields(statistics)]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "nothing stored yet"
