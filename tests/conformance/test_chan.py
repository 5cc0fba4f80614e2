"""Go's src/runtime/chan_test.go, its tests of one channel: Chan, NonblockRecvRace, MultiConsumer,
ChanSendInterface.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier

import pytest

from tailrace import (
    Channel,
    Closed,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    WouldBlock,
    collect,
    emit,
    select_nowait,
)
from tailrace.testing import wait_all_parked

virtual_time = pytest.mark.virtual_time
capacities = pytest.mark.parametrize("capacity", [0, 1, 2, 3, 10, 99, 200])


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns far more often than they otherwise would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# Chan


@virtual_time
@capacities
async def test_an_empty_channel_blocks_receivers_and_refuses_those_who_cannot_wait(
    capacity: int,
) -> None:
    ch = Channel[int](capacity)
    got: list[int] = []

    async def receive() -> None:
        got.append(await ch.recv())

    async with Group() as go:
        go(receive, actors=2)
        await wait_all_parked()
        assert got == []
        with pytest.raises(WouldBlock):
            ch.recv_nowait()
        with pytest.raises(WouldBlock):
            select_nowait(ch.recv())
        await ch.send(0)
        await ch.send(0)
    assert got == [0, 0]


@virtual_time
@capacities
async def test_a_full_channel_blocks_senders_and_refuses_those_who_cannot_wait(
    capacity: int,
) -> None:
    ch = Channel[int](capacity)
    for value in range(capacity):
        await ch.send(value)
    sent = False

    async def send() -> None:
        nonlocal sent
        await ch.send(-1)
        sent = True

    async with Group() as go:
        go(send)
        await wait_all_parked()
        assert not sent
        with pytest.raises(WouldBlock):
            ch.send_nowait(-2)
        with pytest.raises(WouldBlock):
            select_nowait(ch.send(-2))
        await ch.recv()
        await wait_all_parked()
        assert sent
    assert len(ch) == capacity


@virtual_time
@capacities
async def test_a_closed_channel_gives_what_it_holds_and_then_its_end(capacity: int) -> None:
    ch = Channel[int](capacity)
    for value in range(capacity):
        await ch.send(value)
    ch.close()
    for value in range(capacity):
        assert await ch.recv() == value
    for _ in range(2):
        with pytest.raises(Closed):
            await ch.recv()


@virtual_time
@capacities
async def test_a_close_wakes_a_receiver(capacity: int) -> None:
    ch = Channel[int](capacity)
    heard = Channel[bool]()

    async def receive() -> None:
        try:
            await ch.recv()
        except Closed:
            await heard.send(True)

    async with Group() as go:
        go(receive)
        await wait_all_parked()
        ch.close()
        assert await heard.recv()


@virtual_time
@capacities
async def test_values_come_in_the_order_in_which_they_were_sent(capacity: int) -> None:
    ch = Channel[int](capacity)
    async with Group() as go:
        go(emit(range(100)), ch.sender)
        for value in range(100):
            assert await ch.recv() == value
    ch = Channel[int](capacity)
    async with Group() as go:
        go(emit(range(100)), ch)
        assert await collect(ch) == list(range(100))


@virtual_time
@capacities
async def test_of_what_many_send_to_many_nothing_is_lost_and_nothing_doubled(capacity: int) -> None:
    senders, values = 4, 500
    ch = Channel[int](capacity)
    got: list[Counter[int]] = []

    async def receive(inbox: Receiver[int]) -> None:
        counter: Counter[int] = Counter()
        for _ in range(values):
            counter[await inbox.recv()] += 1
        got.append(counter)

    async with Group() as go:
        go(emit(range(values)), ch, actors=senders)
        go(receive, ch, actors=senders)
    assert len(got) == senders
    assert sum(got, Counter[int]()) == dict.fromkeys(range(values), senders)


@pytest.mark.parametrize("capacity", [0, 1, 10, 200])
@pytest.mark.usefixtures("hasty")
async def test_of_what_threads_send_to_threads_nothing_is_lost_and_nothing_doubled(
    capacity: int,
) -> None:
    """As above, with goroutines that do run in parallel: two threads a side, two actors a side."""
    values = 300
    ch = Channel[int](capacity)
    got: list[Counter[int]] = []

    def send(out: SyncSender[int]) -> None:
        for value in range(values):
            out.send(value)

    def receive(inbox: SyncReceiver[int]) -> None:
        got.append(Counter(inbox.recv() for _ in range(values)))

    async def receive_on_the_loop(inbox: Receiver[int]) -> None:
        got.append(Counter([await inbox.recv() for _ in range(values)]))

    async with Group() as go:
        go(send, ch.sync, actors=2)
        go(emit(range(values)), ch, actors=2)
        go(receive, ch.sync, actors=2)
        go(receive_on_the_loop, ch, actors=2)
    assert len(got) == 4
    assert sum(got, Counter[int]()) == dict.fromkeys(range(values), 4)


@virtual_time
@capacities
async def test_length_and_capacity_are_what_was_sent_and_what_was_asked_for(capacity: int) -> None:
    ch = Channel[int](capacity)
    assert (len(ch), ch.capacity) == (0, capacity)
    for sent in range(capacity):
        assert len(ch) == sent
        await ch.send(sent)
    assert (len(ch), ch.capacity) == (capacity, capacity)


# NonblockRecvRace


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("hasty")
def test_a_receive_that_cannot_wait_races_a_close_and_still_finds_the_channel_ready() -> None:
    """It holds a value, or it is closed: at no instant is it neither."""
    together = Barrier(2)

    def receive(ch: Channel[int]) -> str:
        together.wait()
        try:
            return f"got {ch.recv_nowait()}"
        except Closed:
            return "closed"

    outcomes: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(1) as other:
        for _ in range(3_000):
            ch = Channel[int](1)
            ch.send_nowait(1)
            racer: Future[str] = other.submit(receive, ch)
            together.wait()
            ch.close()
            try:
                mine = f"got {ch.recv_nowait()}"
            except Closed:
                mine = "closed"
            outcomes[mine, racer.result()] += 1
    assert outcomes.keys() <= {("got 1", "closed"), ("closed", "got 1")}


# MultiConsumer


@virtual_time
@pytest.mark.parametrize("capacity", [0, 69])
async def test_many_workers_that_tarry_at_random_lose_nothing_and_end_by_themselves(
    capacity: int,
) -> None:
    workers, values = 23, 10_000
    primes = [2, 3, 7, 11, 13, 17, 19, 23, 27, 31]
    dice = random.Random(1)
    todo, results = Channel[int](capacity), Channel[int](capacity)

    async def work(inbox: Receiver[int], out: Sender[int]) -> None:
        async for value in inbox:
            if dice.choice(primes) == value:  # upset the order
                await asyncio.sleep(0)
            await out.send(value)

    async with Group() as go:
        go(emit(primes[i % len(primes)] for i in range(values)), todo)
        go(work, todo, results, actors=workers)
        got = Counter(await collect(results))
    assert got == {prime: values / len(primes) for prime in primes}


# ChanSendInterface


@virtual_time
async def test_what_is_received_is_the_very_object_that_was_sent() -> None:
    class Thing:
        """Equal to everything, so that only identity can tell."""

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    ch = Channel[object](1)
    first, second, third = Thing(), Thing(), Thing()
    await ch.send(first)
    with pytest.raises(WouldBlock):
        select_nowait(ch.send(second), ch.send(third))
    assert await ch.recv() is first
    index, _ = select_nowait(ch.send(second), ch.send(third))
    assert await ch.recv() is (second, third)[index]
