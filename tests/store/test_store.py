"""store(write): group commit, poison, outage, cancellation, of any function that writes rows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Channel, Group, Message, Outcome, Receiver, Reject, Sender, emit, run
from tailrace.errors import Outage
from tailrace.message.internals import message_of
from tailrace.retry import Retry
from tailrace.store import Store, StoreError, StoreStatistics, store
from tailrace.store.target import PlainFunction, ThreadedTarget, Written
from tailrace.worker import LeftBehind, leave_behind

pytestmark = pytest.mark.virtual_time

NOW = Retry(3, backoff=0)
"""Tries again without a pause."""


class Database:
    """A table in memory. A transaction waits while `gate` is closed; `fails` may raise."""

    def __init__(self, fails: Callable[[Sequence[Any]], object] = lambda rows: None) -> None:
        self.transactions: list[list[Any]] = []
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.fails = fails

    @property
    def rows(self) -> list[Any]:
        return [row for transaction in self.transactions for row in transaction]

    async def write(self, rows: Sequence[Any]) -> None:
        self.tries += 1
        self.began.set()
        await self.gate.wait()
        self.fails(rows)
        self.transactions.append(list(rows))


def messages(*data: Any) -> tuple[list[Message[Any]], list[Awaitable[Outcome]]]:
    made = [Message[Any](each) for each in data]
    return made, [message.settled() for message in made]


async def stored(actor: Store[Any], data: Iterable[Any]) -> list[Outcome]:
    """Run `actor` until it has dealt with `data`, all of which waits when it starts."""
    channel = Channel[Message[Any]](math.inf, name="to_store")
    sent, endings = messages(*data)
    await channel.send_many(sent)
    channel.close()
    await actor(channel)
    return [await ending for ending in endings]


# Group commit.


async def test_rows_that_wait_while_a_transaction_is_committed_go_into_the_next() -> None:
    database = Database()
    database.gate.clear()
    actor = store(database.write)
    channel = Channel[Message[int]](name="to_store")
    sent, endings = messages(*range(100))
    async with Group() as go:
        go(actor, channel)
        await channel.send(sent[0])
        await database.began.wait()
        go(emit(sent[1:]), channel)
        await all_at_rest()
        assert database.transactions == []
        database.gate.set()
    assert database.transactions == [[0], list(range(1, 100))]
    assert all([(await ending).ok for ending in endings])
    assert actor.statistics() == StoreStatistics(rows=100, transactions=2, largest=99)


async def all_at_rest() -> None:
    """Let everything happen that can without the clock."""
    await asyncio.sleep(1)


async def send_all(out: Sender[Message[Any]], sent: list[Message[Any]]) -> None:
    await out.send_many(sent)


async def test_what_is_waiting_is_one_transaction_without_any_delay() -> None:
    database = Database()
    loop = asyncio.get_running_loop()
    outcomes = await stored(store(database.write), "abc")
    assert database.transactions == [["a", "b", "c"]]
    assert all(outcome == Outcome("stored") for outcome in outcomes)
    assert loop.time() == 0


async def test_a_message_is_acked_only_once_its_transaction_is_done() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](1)
    message = Message(1)
    task = asyncio.create_task(store(database.write)(channel))
    await channel.send(message)
    await database.began.wait()
    await all_at_rest()
    assert message.outcome is None
    database.gate.set()
    assert (await message.settled()).ok
    channel.close()
    await task


async def test_no_transaction_is_larger_than_max_batch_and_no_more_than_one_waits() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](name="to_store")
    sent, _ = messages(*range(30))
    async with Group() as go:
        go(store(database.write, max_batch=4), channel)
        await channel.send(sent[0])
        await database.began.wait()
        go(emit(sent[1:]), channel)
        await all_at_rest()
        # One row is being committed, four wait for that, and the rest is kept from coming.
        assert channel.statistics().received == 5
        database.gate.set()
    assert database.rows == list(range(30))
    assert max(map(len, database.transactions)) == 4


async def test_during_every_transaction_one_batch_is_received() -> None:
    began, permits = 0, asyncio.Semaphore(0)

    async def write(rows: Sequence[int]) -> None:
        nonlocal began
        began += 1
        await permits.acquire()

    channel = Channel[Message[int]](name="to_store")
    sent, _ = messages(*range(12))
    async with Group() as go:
        go(store(write, max_batch=2), channel)
        go(emit(sent), channel)
        await all_at_rest()
        first = channel.statistics().received
        for n in range(3):
            assert (began, channel.statistics().received) == (n + 1, first + 2 * n)
            permits.release()
            await all_at_rest()
        for _ in range(12):
            permits.release()


async def test_a_batch_may_be_one_row() -> None:
    database = Database()
    await stored(store(database.write, max_batch=1), "abc")
    assert database.transactions == [["a"], ["b"], ["c"]]


async def test_order_is_kept() -> None:
    database = Database(lambda rows: 1 / 0 if any(row % 7 == 0 for row in rows) else None)
    channel = Channel[Message[int]](5)
    sent, _ = messages(*range(200))
    async with Group() as go:
        go(emit(sent), channel)
        go(store(database.write, max_batch=16), channel)
    assert database.rows == [row for row in range(200) if row % 7]


async def test_when_its_inbox_closes_it_commits_the_rest_and_returns() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](math.inf)
    sent, endings = messages(*range(10))
    actor = asyncio.create_task(store(database.write, max_batch=3)(channel))
    await channel.send_many(sent)
    await database.began.wait()
    channel.close()
    database.gate.set()
    await actor
    assert database.rows == list(range(10))
    assert all([(await ending).ok for ending in endings])


async def test_a_cause_comes_through_after_the_rest_was_committed() -> None:
    database = Database()
    sent, endings = messages(*range(3))

    async def source(out: Sender[Message[int]]) -> None:
        await out.send_many(sent)
        raise OSError("source died")

    channel = Channel[Message[int]](math.inf)
    with channel.receiving() as inbox:
        with pytest.raises(OSError, match="source died"), channel.sending() as out:
            await source(out)
        with pytest.raises(Exception, match="closed") as raised:
            await store(database.write)(inbox)
    assert isinstance(raised.value.__cause__, OSError)
    assert all([(await ending).ok for ending in endings])


async def test_a_group_is_not_idle_while_a_transaction_is_committed() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](name="to_store")
    message = Message(1)
    async with Group(on_exit="cancel") as go:
        go(store(database.write), channel)
        await channel.send(message)
        await database.began.wait()
        idle = asyncio.ensure_future(go.idle())
        await all_at_rest()
        assert not idle.done()
        database.gate.set()
        await idle
        assert message.outcome == Outcome("stored")


async def test_several_actors_of_one_store_lose_and_double_nothing() -> None:
    database = Database()
    actor = store(database.write, max_batch=8)
    channel = Channel[Message[int]](name="to_store")
    sent, endings = messages(*range(500))
    async with Group() as go:
        go(actor, channel, actors=4)
        go(emit(sent), channel)
    assert sorted(database.rows) == list(range(500))
    assert all([(await ending).ok for ending in endings])
    assert actor.statistics().rows == 500


async def test_a_store_may_be_run_again() -> None:
    database = Database()
    actor = store(database.write)
    await stored(actor, "ab")
    await stored(actor, "c")
    assert database.rows == ["a", "b", "c"]
    assert actor.statistics().rows == 3


async def test_messages_that_are_settled_already_are_skipped_and_counted() -> None:
    database = Database()
    actor = store(database.write)
    channel = Channel[Message[str]](math.inf)
    given_up, wanted = Message("given up"), Message("wanted")
    given_up.abort("the caller has gone")
    await channel.send_many([given_up, wanted])
    channel.close()
    await actor(channel)
    assert database.transactions == [["wanted"]]
    assert given_up.outcome == Outcome("aborted", "the caller has gone")
    assert actor.statistics() == StoreStatistics(rows=1, transactions=1, largest=1, skipped=1)


# Keys.


async def test_equal_rows_with_one_key_are_written_once_and_all_acked() -> None:
    database = Database()
    actor = store(database.write, key=str.lower)
    outcomes = await stored(actor, ["a", "b", "a", "c", "b"])
    assert database.transactions == [["a", "b", "c"]]
    assert [outcome.status for outcome in outcomes] == ["stored"] * 5
    assert actor.statistics() == StoreStatistics(rows=3, transactions=1, largest=5, repeats=2)


async def test_a_row_with_the_key_of_another_but_other_data_is_rejected() -> None:
    database = Database()
    actor = store(database.write, key=str.lower)
    outcomes = await stored(actor, ["a", "b", "A", "c"])
    assert database.transactions == [["a", "b", "c"]]
    assert [outcome.status for outcome in outcomes] == ["stored", "stored", "rejected", "stored"]
    assert "same key" in outcomes[2].reason
    assert actor.statistics() == StoreStatistics(rows=3, transactions=1, largest=3, rejected=1)


async def test_a_row_whose_key_cannot_be_told_fails_alone() -> None:
    database = Database()
    outcomes = await stored(store(database.write, key=str.lower), ["a", 1, "b"])
    assert [outcome.status for outcome in outcomes] == ["stored", "failed", "stored"]
    assert database.rows == ["a", "b"]


# Poison.


@pytest.mark.parametrize("bad", [{0}, {999}, {500}, {3, 4, 700}, set(range(0, 1000, 100))])
async def test_a_poison_row_fails_alone_in_few_transactions(bad: set[int]) -> None:
    def fails(rows: Sequence[int]) -> None:
        if found := bad & set(rows):
            raise ValueError(f"no {min(found)}")

    database = Database(fails)
    actor = store(database.write)
    outcomes = await stored(actor, range(1000))
    assert database.rows == [row for row in range(1000) if row not in bad]
    for row, outcome in enumerate(outcomes):
        if row in bad:
            assert outcome.status == "failed"
            assert outcome.reason == f"ValueError: no {row}"
            assert isinstance(outcome.error, ValueError)
        else:
            assert outcome.ok
    assert database.tries <= 1 + 2 * len(bad) * math.ceil(math.log2(1000))
    assert actor.statistics().failures == len(bad)
    assert actor.statistics().retries == 0


async def test_when_every_row_is_poison_every_row_fails_and_the_store_lives_on() -> None:
    database = Database(lambda rows: 1 / 0 if "good" not in rows else None)
    actor = store(database.write)
    outcomes = await stored(actor, range(10))
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert [outcome.ok for outcome in await stored(actor, ["good"])] == [True]


# Outage.


async def test_an_outage_is_retried_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailrace")
    outages = iter([ConnectionError("gone"), TimeoutError("slow")])

    def fails(rows: Sequence[Any]) -> None:
        if error := next(outages, None):
            raise error

    database = Database(fails)
    actor = store(database.write)
    outcomes = await stored(actor, range(5))
    assert database.transactions == [[0, 1, 2, 3, 4]]
    assert all(outcome.ok for outcome in outcomes)
    assert actor.statistics() == StoreStatistics(rows=5, transactions=1, largest=5, retries=2)
    assert [record.getMessage() for record in caplog.records] == [
        "store: outage, trying again: gone",
        "store: the outage is over, after 3 tries",
    ]


async def test_an_outage_that_lasts_fails_all_rows_and_not_one_by_one() -> None:
    database = Database(fails=raises(ConnectionError("gone")))
    actor = store(database.write, retry=Retry(4, backoff=1))
    outcomes = await stored(actor, range(100))
    assert {outcome.reason for outcome in outcomes} == {"Outage: ConnectionError: gone"}
    assert {type(outcome.error) for outcome in outcomes} == {Outage}
    assert {outcome.error.reason for outcome in outcomes if isinstance(outcome.error, Outage)} == {
        "the store is out of order"  # for clients: the text of the error may name a host
    }
    assert {str(outcome.error.__cause__) for outcome in outcomes if outcome.error} == {"gone"}
    assert database.tries == 4
    assert 0 < asyncio.get_running_loop().time() <= 1 + 2 + 4
    assert actor.statistics() == StoreStatistics(failures=100, retries=3)


def raises(error: Exception) -> Callable[[object], None]:
    def fails(rows: object) -> None:
        raise error

    return fails


async def test_an_outage_holds_back_the_senders_and_then_everything_is_stored() -> None:
    out_of_order = True

    def fails(rows: Sequence[Any]) -> None:
        if out_of_order:
            raise ConnectionError("gone")

    database = Database(fails)
    channel = Channel[Message[int]](name="to_store")
    sent, endings = messages(*range(50))
    async with Group() as go:
        go(store(database.write, max_batch=10, retry=Retry(None)), channel)
        await channel.send(sent[0])
        await database.began.wait()
        go(emit(sent[1:]), channel)
        await asyncio.sleep(3600)
        assert channel.statistics().received == 11
        assert database.tries > 100
        out_of_order = False
    assert database.rows == list(range(50))
    assert all([(await ending).ok for ending in endings])


async def test_what_is_an_outage_is_for_the_caller_to_say() -> None:
    class DriverError(Exception):
        pass

    def fails(rows: Sequence[Any]) -> None:
        if database.tries < 3:
            raise DriverError("terminating connection")

    database = Database(fails)
    policy = Retry(5, backoff=0, on=DriverError)
    outcomes = await stored(store(database.write, retry=policy), range(5))
    assert all(outcome.ok for outcome in outcomes)
    assert database.tries == 3

    database = Database(fails=raises(OSError("not retried now")))
    outcomes = await stored(store(database.write, retry=policy), range(2))
    assert database.tries == 3  # both, then each alone
    assert {outcome.status for outcome in outcomes} == {"failed"}


async def test_poison_is_found_after_an_outage_too() -> None:
    def fails(rows: Sequence[int]) -> None:
        if database.tries == 1:
            raise ConnectionError("gone")
        if 3 in rows:
            raise ValueError("three")

    database = Database(fails)
    outcomes = await stored(store(database.write, retry=NOW), range(5))
    assert [outcome.ok for outcome in outcomes] == [True, True, True, False, True]


# Cancellation.


async def test_a_cancelled_store_acks_what_is_being_committed_and_nothing_else() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](name="to_store")
    sent, endings = messages(*range(10))
    actor = asyncio.create_task(store(database.write, max_batch=4)(channel))
    await channel.send(sent[0])
    await database.began.wait()
    sender = asyncio.create_task(send_all(channel, sent[1:]))
    await all_at_rest()
    actor.cancel()
    await all_at_rest()
    assert not actor.done()
    database.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await actor
    sender.cancel()
    assert database.rows == [0]
    assert (await endings[0]).ok
    for ending in endings[1:5]:  # had been received
        assert await ending == Outcome("failed", "the store was stopped before this was stored")
    assert [message.outcome for message in sent[5:]] == [None] * 5
    assert channel.statistics().received == 5


async def test_a_cancelled_store_receives_nothing_more_while_it_waits() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](math.inf)
    actor = asyncio.create_task(store(database.write)(channel))
    await channel.send(Message(0))
    await database.began.wait()
    await all_at_rest()
    actor.cancel()
    await all_at_rest()
    await channel.send(Message(1))
    await all_at_rest()
    database.gate.set()
    await asyncio.wait([actor])
    assert database.rows == [0]
    assert len(channel) == 1


async def test_a_cancelled_store_waits_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](1)
    message = Message(1)
    actor = asyncio.create_task(store(database.write)(channel))
    await channel.send(message)
    await database.began.wait()
    began = asyncio.get_running_loop().time()
    actor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await actor
    assert asyncio.get_running_loop().time() - began == 10
    assert database.rows == []
    assert message.outcome is not None
    assert "may be stored" in message.outcome.reason
    assert "not waiting" in caplog.text


async def test_a_write_that_is_given_up_has_ended_when_the_store_has() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def write(rows: Sequence[Any]) -> None:
        began.set()
        try:
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(3)  # rolls back
            ended.set()

    channel = Channel[Message[int]](1)
    actor = asyncio.create_task(store(write)(channel))
    await channel.send(Message(1))
    await began.wait()
    actor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await actor
    assert ended.is_set()


async def test_a_store_that_is_cancelled_twice_ends_at_once() -> None:
    database = Database()
    database.gate.clear()
    channel = Channel[Message[int]](1)
    message = Message(1)
    actor = asyncio.create_task(store(database.write)(channel))
    await channel.send(message)
    await database.began.wait()
    actor.cancel()
    await asyncio.sleep(1)
    actor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await actor
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() == 1
    assert message.outcome is not None
    assert message.outcome.status == "failed"


async def test_a_cancelled_store_does_not_try_again() -> None:
    database = Database(fails=raises(ConnectionError("gone")))
    channel = Channel[Message[int]](1)
    message = Message(1)
    actor = asyncio.create_task(store(database.write, retry=Retry(None, backoff=5))(channel))
    await channel.send(message)
    await all_at_rest()
    tries = database.tries
    actor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await actor
    assert database.tries == tries
    assert message.outcome == Outcome("failed", "the store was stopped before this was stored")


async def test_an_idle_store_is_cancelled_at_once() -> None:
    channel = Channel[Message[int]]()
    actor = asyncio.create_task(store(Database().write)(channel))
    await all_at_rest()
    actor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await actor
    assert channel.statistics().waiting_receivers == 0


async def test_a_write_that_is_cancelled_by_another_is_a_failure_of_its_rows() -> None:
    def fails(rows: Sequence[Any]) -> None:
        raise asyncio.CancelledError

    outcomes = await stored(store(Database(fails).write), [1])
    assert outcomes[0].status == "failed"
    assert "cancelled" in outcomes[0].reason


# Plain functions.


async def test_a_plain_function_is_called_in_one_thread_other_than_the_loops() -> None:
    threads: list[threading.Thread] = []
    rows: list[Any] = []

    def write(batch: Sequence[Any]) -> None:
        threads.append(threading.current_thread())
        rows.extend(batch)

    actor = store(write, max_batch=2)
    channel = Channel[Message[int]](name="to_store")
    sent, endings = messages(*range(10))
    async with Group() as go:
        go(actor, channel, actors=3)
        go(emit(sent), channel)
    assert sorted(rows) == list(range(10))
    assert all([(await ending).ok for ending in endings])
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    threads[0].join(5)
    assert not threads[0].is_alive()  # it ends with the last actor


@pytest.mark.parametrize("error", [StopIteration("x"), KeyError("x"), asyncio.CancelledError("x")])
async def test_whatever_a_plain_function_raises_fails_the_row(error: BaseException) -> None:
    def write(rows: Sequence[Any]) -> None:
        raise error

    (outcome,) = await stored(store(write), [1])
    assert outcome.status == "failed"


async def test_a_plain_function_that_is_being_called_is_waited_for_when_cancelled() -> None:
    began, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    written: list[int] = []

    def write(rows: Sequence[int]) -> None:
        loop.call_soon_threadsafe(began.set)
        assert gate.wait(10)
        written.extend(rows)

    channel = Channel[Message[int]](1)
    message = Message(1)
    actor = asyncio.create_task(store(write)(channel))
    await channel.send(message)
    await began.wait()
    actor.cancel()
    loop.call_soon(gate.set)
    with pytest.raises(asyncio.CancelledError):
        await actor
    assert written == [1]
    assert message.outcome == Outcome("stored")


async def test_a_plain_function_that_returns_an_awaitable_ends_the_store() -> None:
    async def really(rows: Sequence[Any]) -> None:
        raise AssertionError("never awaited")

    def write(rows: Sequence[Any]) -> Any:
        return really(rows)

    channel = Channel[Message[int]](math.inf)
    message = Message(1)
    await channel.send(message)
    with pytest.raises(StoreError, match=r"write.*returned an awaitable.*async def"):
        await store(write)(channel)
    assert message.outcome is not None
    assert message.outcome.status == "failed"


def generates(rows: Sequence[Any]) -> Iterator[None]:
    for _ in rows:
        yield


async def generates_on_the_loop(rows: Sequence[Any]) -> AsyncIterator[None]:
    for _ in rows:
        yield


class Generates:
    def __call__(self, rows: Sequence[Any]) -> Iterator[None]:
        return (yield from generates(rows))


@pytest.mark.parametrize(
    "write",
    [
        generates,
        generates_on_the_loop,
        Generates(),
        functools.partial(generates),
        functools.partial(Generates()),
    ],
)
def test_a_generator_function_is_refused_as_it_writes_nothing(write: Any) -> None:
    with pytest.raises(TypeError, match=r"generator function.*nothing of it has run.*yield"):
        store(write)


@pytest.mark.parametrize(
    "returns",
    [
        generates,
        generates_on_the_loop,
        lambda rows: (row for row in rows),
        lambda rows: map(print, rows),
        lambda rows: filter(print, rows),
        lambda rows: itertools.starmap(print, rows),
        lambda rows: functools.partial(print, rows),
        lambda rows: rows.clear,
        lambda rows: Future[None](),
    ],
)
@pytest.mark.parametrize("on_loop", [True, False])
async def test_nothing_is_acked_that_a_write_left_to_be_run(returns: Any, on_loop: bool) -> None:
    async def on_the_loop(rows: Sequence[Any]) -> Any:
        return returns(rows)

    channel = Channel[Message[int]](math.inf)
    message = Message(1)
    await channel.send(message)
    with pytest.raises(StoreError, match=r"returned an? .*which nobody runs"):
        await store(on_the_loop if on_loop else lambda rows: returns(rows))(channel)
    assert message.outcome is not None
    assert message.outcome.status == "failed"


async def test_an_async_function_that_returns_an_awaitable_ends_the_store() -> None:
    async def write(rows: Sequence[Any]) -> Any:
        return asyncio.get_running_loop().create_future()

    with pytest.raises(StoreError, match=r"write.*returned a Future, which nobody runs"):
        await stored(store(write), [1])


async def test_a_cursor_may_be_returned() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        connection.execute("CREATE TABLE t (x)")
        write: Any = lambda rows: connection.executemany(  # noqa: E731
            "INSERT INTO t VALUES (?)", [(row,) for row in rows]
        )
        assert await stored(store(write), [1]) == [Outcome("stored")]


async def test_coroutine_functions_are_known_in_every_form() -> None:
    rows: list[Any] = []

    async def write(table: str, batch: Sequence[Any]) -> None:
        rows.append((table, threading.current_thread() is threading.main_thread(), *batch))

    class Writer:
        async def __call__(self, batch: Sequence[Any]) -> None:
            await write("object", batch)

    await stored(store(functools.partial(write, "partial")), [1])
    await stored(store(Writer()), [2])
    await stored(store(functools.partial(Writer())), [3])
    assert rows == [("partial", True, 1), ("object", True, 2), ("object", True, 3)]


async def test_what_a_database_raises_when_it_is_closed_is_raised_by_the_store() -> None:
    class Database:
        def open(self, element: Any) -> None: ...

        def write(self, messages: Sequence[Message[Any]]) -> Written:
            return Written()

        def close(self) -> None:
            raise OSError("cannot close")

    actor = Store[Any](
        lambda: ThreadedTarget(Database(), "thread"),
        name="store",
        what="of a test",
        max_batch=10,
        retry=NOW,
    )
    channel = Channel[Message[int]](math.inf)
    message = Message(1)
    await channel.send(message)
    channel.close()
    with pytest.raises(OSError, match="cannot close"):
        await actor(channel)
    assert message.outcome == Outcome("stored")


async def test_the_thread_of_a_write_that_was_left_behind_ends_with_that_write() -> None:
    threads: list[threading.Thread] = []
    began, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def write(rows: Sequence[int]) -> None:
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(began.set)
        assert gate.wait(10)

    target = ThreadedTarget(PlainFunction(write, None), "writes")
    writing = target.write([Message(1)])
    await began.wait()
    assert leave_behind(loop) == ["writes"]
    with pytest.raises(LeftBehind):
        await writing
    await target.close()  # does not wait
    gate.set()
    (thread,) = threads
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


# What it says.


async def test_statistics_are_a_snapshot_that_nobody_can_change() -> None:
    actor = store(Database().write)
    before: Any = actor.statistics()
    await stored(actor, "a")
    assert before == StoreStatistics()
    with pytest.raises(AttributeError):
        before.rows = 1


def test_its_repr_shows_what_it_did_and_no_secrets() -> None:
    async def write(dsn: str, rows: Sequence[Any]) -> None: ...

    actor = store(functools.partial(write, "postgres://user:secret@host"))
    assert "user:" not in repr(actor)
    assert repr(actor).startswith("<store with test_its_repr")
    assert repr(actor).endswith("write: nothing stored yet>")


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"write": None}, TypeError, "takes a function that writes rows, not None"),
        ({"max_batch": 0}, ValueError, "max_batch must be a whole number of at least 1, not 0"),
        ({"max_batch": 1.5}, TypeError, "max_batch must be a whole number of at least 1, not 1.5"),
        ({"key": "id"}, TypeError, "key must be a function of a message's data, not 'id'"),
        ({"key": Database.write}, TypeError, "key must be a plain function.*not async"),
        ({"key": generates}, TypeError, "key must be a plain function.*generator"),
        ({"retry": 3}, TypeError, "retry must be a Retry, not 3"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        store(**{"write": Database.write, **wrong})


async def test_a_receiver_that_fails_ends_the_store_after_what_was_received() -> None:
    database = Database()
    sent, endings = messages(1, 2)

    class Failing(Channel[Message[int]]):
        def recv_many(self, n: int, /) -> Any:
            return super().recv_many(n) if len(self) else self.fail()

        async def fail(self) -> list[Message[int]]:
            raise ConnectionError("the subject is gone")

    channel = Failing(math.inf)
    await channel.send_many(sent)
    inbox: Receiver[Message[int]] = channel
    with pytest.raises(ConnectionError, match="the subject is gone"):
        await store(database.write)(inbox)
    assert database.rows == [1, 2]
    assert all([(await ending).ok for ending in endings])


# Values that are no messages.


async def test_plain_values_end_the_store_with_an_error_that_says_what_to_send() -> None:
    channel = Channel[Any](math.inf, name="to_store")
    message = Message("in the same batch")
    await channel.send_many([message, 5, "text"])
    with pytest.raises(TypeError, match=r"takes messages, but was sent a int: send Message\(value"):
        await store(Database().write)(channel)
    assert message.outcome is not None
    assert message.outcome.status == "failed"


async def test_a_channel_of_plain_values_is_refused_before_anything_is_received() -> None:
    channel = Channel[int](math.inf, name="numbers")
    await channel.send(5)
    wrong: Any = channel
    with pytest.raises(StoreError, match=r"numbers.* is of int: make it a Channel\[Message\[int"):
        await store(Database().write)(wrong)
    assert len(channel) == 1


# What is rejected, and what is logged.


async def test_a_row_that_write_rejects_is_rejected_alone() -> None:
    def fails(rows: Sequence[Any]) -> None:
        if "bad" in rows:
            raise Reject("we do not take this one")

    database = Database(fails)
    actor = store(database.write)
    outcomes = await stored(actor, ["a", "bad", "b"])
    assert outcomes[1] == Outcome("rejected", "we do not take this one")
    assert database.rows == ["a", "b"]
    assert (actor.statistics().rejected, actor.statistics().failures) == (1, 0)


async def test_rejecting_is_no_outage_whatever_the_retry_says() -> None:
    database = Database(raises(Reject("no")))
    outcomes = await stored(store(database.write, retry=Retry(None, on=Exception)), "a")
    assert outcomes == [Outcome("rejected", "no")]
    assert database.tries == 1


async def test_a_row_that_fails_is_logged_with_its_id_and_error_and_many_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database(raises(ValueError('column "amont" does not exist')))
    channel = Channel[Message[str]](math.inf)
    sent = [Message(str(n), id=f"id{n}") for n in range(5)]
    await channel.send_many(sent)
    channel.close()
    await store(database.write)(channel)
    first, rest = caplog.records
    assert "failed for message id0" in first.getMessage()
    assert "store with " in first.getMessage()
    assert first.exc_info is not None
    assert str(first.exc_info[1]) == 'column "amont" does not exist'
    assert rest.getMessage().endswith("failed for 4 more messages")


async def test_a_log_that_raises_fails_no_more_than_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def filter_that_raises(record: logging.LogRecord) -> bool:
        raise RuntimeError("no current request")

    monkeypatch.setattr(logging.getLogger("tailrace"), "filters", [filter_that_raises])
    database = Database(lambda rows: 1 / 0 if "bad" in rows else None)
    outcomes = await stored(store(database.write), ["bad", "good"])
    assert [outcome.status for outcome in outcomes] == ["failed", "stored"]


async def test_that_it_gave_up_is_said_of_nothing_that_was_then_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tailrace")
    errors = iter([ConnectionError("down"), ValueError("the system is starting up")])

    def fails(rows: Sequence[Any]) -> None:
        if error := next(errors, None):
            raise error

    outcomes = await stored(store(Database(fails).write), range(4))
    assert all(outcome.ok for outcome in outcomes)
    assert "gave up" not in caplog.text
    assert "the outage is over, after 2 tries" in caplog.text


class Untrue(Exception):
    """Which no traceback can be printed of: that asks exceptions whether they are true."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


@pytest.mark.parametrize("raised", [AttributeError("pgcode"), Untrue()], ids=repr)
async def test_a_predicate_that_raises_ends_no_more_than_the_retrying(raised: Exception) -> None:
    def on(error: BaseException) -> bool:
        raise raised

    database = Database(lambda rows: 1 / 0 if "bad" in rows else None)
    outcomes = await stored(store(database.write, retry=Retry(on=on)), ["a", "bad", "b"])
    assert [outcome.status for outcome in outcomes] == ["stored", "failed", "stored"]


async def test_an_outage_is_told_to_the_sources_of_the_messages_that_it_delays() -> None:
    told: list[str] = []

    class Source:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, outcome: Outcome, data: object) -> None:
            told.append(f"{self.name} {outcome.status}")

        def outage(self) -> None:
            told.append(f"{self.name} delayed")

    outages = iter([ConnectionError("gone")])

    def fails(rows: Sequence[Any]) -> None:
        if error := next(outages, None):
            raise error

    channel = Channel[Message[str]](math.inf)
    for name in "ab":
        await channel.send(message_of(name, None, Source(name)))
    channel.close()
    await store(Database(fails).write, retry=NOW)(channel)
    assert told == ["a delayed", "b delayed", "a stored", "b stored"]


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses attributes, a traceback and notes among them."""

    why: str


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_exception_that_refuses_attributes_fails_its_row_as_it_is(
    asynchronous: bool,
) -> None:
    def write(rows: Sequence[Any]) -> None:
        if "bad" in rows:
            raise FrozenError("no")

    database = Database(write)
    outcomes = await stored(store(database.write if asynchronous else write), ["a", "bad", "b"])
    assert [outcome.status for outcome in outcomes] == ["stored", "failed", "stored"]
    assert outcomes[1].error == FrozenError("no")


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_ends_it_from_a_write_too(ending: type[BaseException]) -> None:
    def write(rows: Sequence[Any]) -> None:
        raise ending

    def main(go: Group) -> None:
        channel = Channel[Message[int]]()
        go(emit([Message(1)]), channel)
        go(store(write), channel)

    with pytest.raises(ending):
        run(main)


# Threads that hang.


def test_a_write_that_hangs_does_not_outlast_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    began, release = threading.Event(), threading.Event()
    message = Message(1)

    def hangs(rows: Sequence[Any]) -> None:
        began.set()
        release.wait(30)

    async def main(go: Group) -> None:
        channel = Channel[Message[int]]()
        go(store(hangs), channel)
        await channel.send(message)
        await asyncio.to_thread(began.wait, 10)
        go.drain()
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(60)

    began_at = time.monotonic()
    try:
        with pytest.raises((SystemExit, asyncio.CancelledError)):
            run(main, grace=0.1)
    finally:
        release.set()
    assert time.monotonic() - began_at < 5
    assert message.outcome is not None
    assert "may be stored" in message.outcome.reason
    assert "is still running in its thread" in caplog.text
