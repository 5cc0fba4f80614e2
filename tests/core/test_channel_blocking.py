"""``channel.sync``: the same channel for threads, with timeouts."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tailrace.errors import Closed

PATIENCE = 10.0


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until(condition: Any) -> None:
    """Wait for what other threads are about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def waiting(channel: Any) -> tuple[int, int]:
    statistics = channel.statistics()
    return statistics.waiting_senders, statistics.waiting_receivers


def test_sync_send_and_recv_meet_across_threads(core: Any, threads: Any) -> None:
    channel = core.Channel()
    receiving = threads.submit(channel.sync.recv, PATIENCE)
    channel.sync.send("a", PATIENCE)
    assert receiving.result(PATIENCE) == "a"
    sending = threads.submit(channel.sync.send, "b", PATIENCE)
    assert channel.sync.recv(timeout=PATIENCE) == "b"
    sending.result(PATIENCE)


@pytest.mark.parametrize("capacity", [0, 1, 64, math.inf])
def test_sync_threads_lose_and_double_nothing(core: Any, threads: Any, capacity: float) -> None:
    channel = core.Channel(capacity)

    def produce(first: int) -> None:
        for n in range(first, first + 500):
            channel.sync.send(n)

    def consume() -> list[int]:
        return list(channel.sync)

    consumers = [threads.submit(consume) for _ in range(3)]
    producers = [threads.submit(produce, 500 * n) for n in range(3)]
    for producer in producers:
        producer.result(PATIENCE)
    channel.close()
    received = [consumer.result(PATIENCE) for consumer in consumers]
    assert sorted(sum(received, [])) == list(range(1500))
    for values in received:  # and each producer's come in order
        for n in range(3):
            mine = [value for value in values if value // 500 == n]
            assert mine == sorted(mine)
    statistics = channel.statistics()
    assert statistics.sent == statistics.received == 1500


def test_sync_iteration_ends_at_the_close_and_raises_its_cause(core: Any) -> None:
    channel = core.Channel(4)
    for value in (1, None):
        channel.send_nowait(value)
    channel.close()
    assert list(channel.sync) == [1, None]
    assert list(channel.sync.receiver) == []
    broken = core.Channel(1)
    cause = ValueError("why")
    broken.sync.send(1)
    broken.close(cause)
    seen: list[int] = []

    def consume() -> None:
        for value in broken.sync:
            seen.append(value)

    with pytest.raises(Closed) as caught:
        consume()
    assert seen == [1]
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("timeout", [0, 0.001, 0.02, -1])
def test_sync_a_timeout_means_that_nothing_happened(core: Any, timeout: float) -> None:
    channel = core.Channel(name="slow")
    with pytest.raises(TimeoutError, match="slow"):
        channel.sync.recv(timeout)
    with pytest.raises(TimeoutError, match="slow"):
        channel.sync.send(1, timeout=timeout)
    assert waiting(channel) == (0, 0)
    assert channel.statistics().sent == 0
    assert len(channel) == 0


def test_sync_a_timeout_is_not_waited_for_when_the_operation_can_happen(core: Any) -> None:
    channel = core.Channel(1)
    for timeout in (0, -1, None, math.inf, 1e300, 10**30):
        channel.sync.send(1, timeout)
        assert channel.sync.recv(timeout) == 1


@pytest.mark.parametrize("timeout", [1e12, 1e300, math.inf])
def test_sync_a_timeout_beyond_the_clock_is_as_good_as_none(
    core: Any, threads: Any, timeout: float
) -> None:
    channel = core.Channel()
    receiving = threads.submit(channel.sync.recv, timeout)
    until(lambda: waiting(channel) == (0, 1) or receiving.done())
    channel.sync.send(1, PATIENCE)
    assert receiving.result(PATIENCE) == 1


@pytest.mark.parametrize("timeout", ["1", True, [], math.nan])
def test_sync_a_timeout_that_is_no_duration_is_named(core: Any, timeout: Any) -> None:
    channel = core.Channel(1)
    with pytest.raises((TypeError, ValueError), match="timeout"):
        channel.sync.send(1, timeout)
    with pytest.raises((TypeError, ValueError), match="timeout"):
        channel.sync.recv(timeout)
    assert len(channel) == 0


def test_sync_a_close_wakes_parked_threads(core: Any, threads: Any) -> None:
    receiving, sending = core.Channel(), core.Channel()
    ends: list[Future[Any]] = [
        threads.submit(receiving.sync.recv),
        threads.submit(list, receiving.sync),
        threads.submit(sending.sync.send, 1),
    ]
    until(lambda: waiting(receiving) == (0, 2) and waiting(sending) == (1, 0))
    receiving.close()
    sending.close()
    assert isinstance(ends[0].exception(PATIENCE), Closed)
    assert ends[1].result(PATIENCE) == []
    assert isinstance(ends[2].exception(PATIENCE), Closed)
    assert sending.statistics().sent == 0


def test_sync_threads_are_served_first_in_first_out(core: Any, threads: Any) -> None:
    channel = core.Channel()
    receiving = []
    for n in range(10):
        receiving.append(threads.submit(channel.sync.recv))
        until(lambda n=n: waiting(channel) == (0, n + 1))
    for n in range(10):
        channel.send_nowait(n)
    assert [future.result(PATIENCE) for future in receiving] == list(range(10))


async def test_channel_6_a_blocking_operation_on_a_running_loops_thread_is_an_error(
    core: Any,
) -> None:
    channel = core.Channel(2, name="c")
    channel.send_nowait(1)
    with pytest.raises(RuntimeError, match="event loop"):
        channel.sync.recv()
    with pytest.raises(RuntimeError, match="event loop"):
        channel.sync.send(2, timeout=1)
    with pytest.raises(RuntimeError, match="event loop"):
        next(iter(channel.sync))
    assert channel.statistics().sent == 1
    assert channel.statistics().received == 0


def test_sync_works_where_a_loop_ran_before(core: Any) -> None:
    channel = core.Channel(1)

    async def send() -> None:
        await channel.send(1)

    asyncio.run(send())
    assert channel.sync.recv() == 1


async def test_sync_a_thread_and_the_loop_exchange_values(core: Any, threads: Any) -> None:
    there, back = core.Channel(), core.Channel(3)

    def double() -> None:
        for value in there.sync:
            back.sync.send(2 * value)
        back.close()

    doubling = asyncio.get_running_loop().run_in_executor(threads, double)

    async def feed() -> None:
        for n in range(300):
            await there.send(n)
        there.close()

    feeding = asyncio.create_task(feed())
    assert [value async for value in back] == [2 * n for n in range(300)]
    await feeding
    await doubling


async def test_sync_a_thread_takes_its_place_among_tasks(
    core: Any, threads: Any, settle: Any
) -> None:
    channel = core.Channel()
    first = asyncio.ensure_future(channel.recv())
    await settle()
    thread = threads.submit(channel.sync.recv)
    while waiting(channel) != (0, 2):
        await asyncio.sleep(0.0002)
    last = asyncio.ensure_future(channel.recv())
    await settle()
    for n in range(3):
        channel.send_nowait(n)
    assert await first == 0
    assert await asyncio.wrap_future(thread) == 1
    assert await last == 2


@pytest.mark.parametrize("capacity", [0, 1])
def test_sync_a_timeout_in_the_instant_of_the_hand_off_is_exact(
    core: Any, threads: Any, capacity: int
) -> None:
    """Whoever wins the race: what was received was sent, and the rest is still there."""
    channel = core.Channel(capacity)
    sent: list[int] = []
    received: list[int] = []
    done = threading.Event()

    def produce() -> None:
        for n in range(400):
            try:
                channel.sync.send(n, timeout=0.0001 * (n % 3))
                sent.append(n)
            except TimeoutError:
                pass
        done.set()

    def consume() -> None:
        while not done.is_set():
            try:
                received.append(channel.sync.recv(timeout=0.0001 * (len(received) % 4)))
            except TimeoutError:
                pass

    for work in [threads.submit(consume), threads.submit(produce)]:
        work.result(PATIENCE)
    received += [channel.recv_nowait() for _ in range(len(channel))]
    assert received == sent


def test_sync_never_used_operations_do_not_warn(core: Any) -> None:
    """A blocking call that is refused has no operation that its caller could await."""
    channel = core.Channel()
    with pytest.raises(TypeError):
        channel.sync.recv("soon")
    channel.close()
    with pytest.raises(Closed):
        channel.sync.send(1)
