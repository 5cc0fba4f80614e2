"""`Group.account`: each message that came in is counted once, and so is what became of it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading
from typing import Any

import pytest

from tailrace import (
    Account,
    Channel,
    Group,
    Message,
    Receiver,
    Sender,
    SyncSender,
    Tee,
    batch,
    each,
    emit,
    expand,
    submit,
    tee,
)
from tailrace.ledger import Ledger, counting

pytestmark = pytest.mark.timeout(60)


def account(**counts: int) -> Account:
    """An account with these counts, which adds up."""
    every = dict.fromkeys(Account._fields[1:], 0) | counts
    return Account(sum(every.values()), **every)


async def make(out: Sender[Message[int]], n: int = 6) -> None:
    for i in range(n):
        await out.send(Message(i))


async def settle(inbox: Receiver[Message[int]]) -> None:
    """Settle by the data: each outcome in turn."""
    async for msg in inbox:
        match msg.data % 6:
            case 0:
                msg.ack()
            case 1:
                msg.abort("odd")
            case 2:
                msg.reject("even")
            case 3:
                msg.fail("three")
            case 4:
                msg.ack("a result")
            case _:
                pass
        del msg  # the last kind is lost


async def store(inbox: Receiver[Message[Any]]) -> None:
    async for msg in inbox:
        msg.ack()


EVERY = account(stored=2, aborted=1, rejected=1, failed=1, lost=1)


def test_an_account_says_what_is_not_zero() -> None:
    assert str(account(stored=27, aborted=19)) == "46 in: 27 stored, 19 aborted"
    assert str(account(open=1)) == "1 in: 1 open"
    assert str(account()) == "0 in"


async def test_messages_of_a_source_are_counted_by_outcome() -> None:
    ch = Channel[Message[int]]()
    async with Group() as go:
        go(make, ch)
        go(settle, ch)
        assert go.account() == account()
    assert go.account() == EVERY


async def test_a_source_in_a_thread_is_counted() -> None:
    ch = Channel[Message[int]]()

    def make_there(out: SyncSender[Message[int]]) -> None:
        for i in range(6):
            out.send(Message(i))

    async with Group() as go:
        go(make_there, ch.sync)
        go(settle, ch)
    assert go.account() == EVERY


async def test_messages_of_the_block_are_counted_and_of_code_after_it_are_not() -> None:
    ch = Channel[Message[int]](1)
    async with Group() as go:
        go(store, ch)
        with ch.sending() as out:
            await out.send(Message(1))
            await asyncio.create_task(_send(out, 2))  # a task of the block
    Message(3).ack()
    assert go.account() == account(stored=2)


async def _send(out: Sender[Message[int]], data: int) -> None:
    await out.send(Message(data))


async def test_what_a_stage_that_receives_makes_is_not_counted() -> None:
    a, b = Channel[Message[int]](), Channel[Message[int]]()

    async def renew(inbox: Receiver[Message[int]], out: Sender[Message[int]]) -> None:
        async for msg in inbox:
            fresh = Message(msg.data)
            msg.ack()
            await out.send(fresh)

    async with Group() as go:
        go(make, a)
        go(renew, a, b)
        go(store, b)
    assert go.account() == account(stored=6)


async def test_a_stage_started_as_a_source_is_counted_though_it_receives() -> None:
    ticks, b = Channel[int](), Channel[Message[int]]()

    async def poll(inbox: Receiver[int], out: Sender[Message[int]]) -> None:
        async for tick in inbox:
            await out.send(Message(tick))

    async with Group() as go:
        go(emit(range(3)), ticks)
        go(poll, ticks, b, source=True)
        go(store, b)
    assert go.account() == account(stored=3)


async def test_submit_from_outside_counts_in_the_group_that_receives() -> None:
    ch = Channel[Message[int]]()
    started, over = asyncio.Event(), asyncio.Event()

    async def serve() -> Account:
        async with Group() as go:
            go(settle, ch)
            started.set()
            await over.wait()
            with ch.sending():
                pass
        return go.account()

    serving = asyncio.create_task(serve())
    await started.wait()
    async with Group() as other:
        outcomes = [await submit(ch, i) for i in range(6)]
        assert other.account() == account()
    over.set()
    assert await serving == EVERY
    assert [outcome.status for outcome in outcomes] == [
        *("stored", "aborted", "rejected", "failed", "stored", "lost")
    ]


async def test_submit_by_a_stage_that_receives_counts() -> None:
    a, b = Channel[int](), Channel[Message[int]]()

    async def ask(inbox: Receiver[int], out: Sender[Message[int]]) -> None:
        async for n in inbox:
            await submit(out, n)

    async with Group() as go:
        go(emit(range(4)), a)
        go(ask, a, b)
        go(store, b)
    assert go.account() == account(stored=4)


async def test_submit_counts_by_the_running_group_if_no_stage_holds_the_receiving_end() -> None:
    ch = Channel[Message[int]](1)
    async with Group() as go:
        submitting = asyncio.create_task(submit(ch, 1))
        msg = await ch.recv()
        msg.ack()
        del msg
        await submitting
    assert go.account() == account(stored=1)


async def test_a_message_that_submit_could_not_send_is_not_counted() -> None:
    ch = Channel[Message[int]]()
    async with Group() as go:
        with pytest.raises(TimeoutError, match="not sent"):
            await submit(ch, 1, timeout=0)
        ch.close()
        with pytest.raises(Exception, match="closed"):
            await submit(ch, 1)
        gc.collect()
        assert go.account() == account()


async def test_groups_inside_are_part_of_the_account() -> None:
    async def inner(accounts: list[Account]) -> None:
        ch = Channel[Message[int]]()
        async with Group() as go:
            go(make, ch)
            go(settle, ch)
        accounts.append(go.account())

    accounts: list[Account] = []
    async with Group() as go:
        go(inner, accounts, actors=30)  # more than are kept apart once they have ended
        await go.wait()
        async with Group() as here:
            Message(1).ack()
    assert accounts == [EVERY] * 30
    assert here.account() == account(stored=1)
    assert go.account() == account(stored=61, aborted=30, rejected=30, failed=30, lost=30)


async def test_a_message_settled_after_its_group_has_ended_is_open_until_then() -> None:
    async with Group() as go:
        async with Group() as inner:
            message = Message(1)
        for _ in range(20):
            async with Group():
                pass
        assert inner.account() == go.account() == account(open=1)
    message.ack()
    assert inner.account() == go.account() == account(stored=1)


@pytest.mark.virtual_time
async def test_the_clients_own_count_is_the_account_through_every_stock_actor() -> None:
    a, b, c, d, e, f = (Channel[Message[Any]](name=name) for name in "abcdef")
    statuses: list[str] = []

    async def client(out: Sender[Message[int]], first: int) -> None:
        for n in range(first, first + 25):
            statuses.append((await submit(out, n)).status)

    def parts(n: int) -> list[int]:
        if n % 7 == 3:
            raise ValueError(n)
        return [n] * (n % 3)

    async def end(inbox: Receiver[Message[list[int]]]) -> None:
        async for msg in inbox:
            if sum(msg.data) % 5 == 4:
                msg.reject("of five")
            else:
                msg.ack()

    async with Group() as go:
        go(client, a, 0)
        go(client, a, 100)
        go(expand(parts), a, b)
        go(each(lambda n: n), b, c, actors=2)
        go(Tee(copy=int), c, d, e)
        go(batch(3, 0.1), d, f)
        go(batch(2, 0.1), e, f)
        go(end, f)
    assert len(statuses) == 50
    counts = {status: statuses.count(status) for status in set(statuses)}
    assert set(counts) == {"stored", "aborted", "rejected", "failed"}
    assert go.account() == account(**counts)


@pytest.mark.virtual_time
async def test_tee_of_messages_that_a_source_makes_counts_them_once() -> None:
    a, b, c = (Channel[Message[int]]() for _ in range(3))
    async with Group() as go:
        go(make, a)
        go(tee, a, b, c)
        go(store, b)
        go(settle, c)
    assert go.account() == EVERY


async def test_values_dropped_by_overflow_have_failed_and_left_ones_are_lost() -> None:
    full = Channel[Message[int]](1, overflow="drop_newest")
    async with Group() as go:
        for n in range(3):
            await full.send(Message(n))
        assert go.account() == account(failed=2, open=1)
        full.recv_nowait()
    assert go.account() == account(failed=2, lost=1)


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_drain_and_a_cancellation_leave_nothing_uncounted(cancel: bool) -> None:
    ch = Channel[Message[int]](4)
    made = itertools.count()

    async def produce(out: Sender[Message[int]]) -> None:
        while True:
            await out.send(Message(next(made)))

    async with Group() as go:
        go(produce, ch)
        go(store, ch)
        for _ in range(50):
            await asyncio.sleep(0)
        if cancel:
            go.cancel()
        else:
            go.drain()
    gc.collect()
    counts = go.account()
    assert counts.entered == next(made)
    assert counts.open == 0
    assert counts.stored > 0
    assert counts.stored + counts.failed + counts.lost == counts.entered
    assert cancel or not counts.lost


def test_no_count_is_lost_to_threads_signals_or_finalisers() -> None:
    ledger = Ledger()
    rounds, threads = 2000, 4
    snapshots: list[Account] = []

    def work() -> None:
        counting.set(ledger)
        for n in range(rounds):
            loop = [Message(n)]  # lost by the collector, at any point of another settle
            loop.append(loop)  # type: ignore[arg-type]
            del loop
            Message(n).ack()
            Message(n).abort("")
            message = Message(n)
            message.ack(1)
            message.fail("late")

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            snapshots.append(ledger.account())
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
    gc.collect()
    all_made = rounds * threads
    assert ledger.account() == account(stored=2 * all_made, aborted=all_made, lost=all_made)
    assert all(shot.open >= 0 for shot in snapshots)
