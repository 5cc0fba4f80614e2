"""Channel, semantic 6: several loops and threads at once, finalisers, closed loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tailrace import Group
from tailrace.errors import Closed, WouldBlock


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often somebody wakes it, from its own thread and from others."""

    soon = threadsafe = 0

    def call_soon(self, *args: Any, **kwargs: Any) -> Any:
        self.soon += 1
        return super().call_soon(*args, **kwargs)

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
        self.threadsafe += 1
        return super().call_soon_threadsafe(*args, **kwargs)


def run_on(loop: asyncio.AbstractEventLoop, main: Any) -> Any:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


@pytest.mark.parametrize("capacity", [0, 1, 50])
def test_channel_6_several_loops_in_several_threads_lose_and_double_nothing(
    core: Any, any_loop: Any, capacity: int
) -> None:
    channel = core.Channel(capacity)
    each = 400

    async def produce(first: int) -> None:
        async def send(first: int) -> None:
            for n in range(first, first + each // 4):
                await channel.send(n)

        await asyncio.gather(*[send(first + each // 4 * part) for part in range(4)])

    async def consume() -> list[int]:
        received: list[int] = []

        async def receive() -> None:
            async for value in channel:
                received.append(value)

        await asyncio.gather(*[receive() for _ in range(3)])
        return received

    with ThreadPoolExecutor(4) as pool:
        consumers = [pool.submit(run_on, any_loop(), consume()) for _ in range(2)]
        producers = [pool.submit(run_on, any_loop(), produce(each * n)) for n in range(2)]
        for producer in producers:
            producer.result(20)
        channel.close()
        received = sum((consumer.result(20) for consumer in consumers), [])
    assert sorted(received) == list(range(2 * each))
    assert channel.statistics().sent == channel.statistics().received == 2 * each


def test_channel_6_cancellation_stays_exact_between_loops(core: Any, any_loop: Any) -> None:
    channel = core.Channel(1)
    sent: list[int] = []
    received: list[int] = []
    senders_done = threading.Event()

    async def produce(first: int) -> None:
        for n in range(first, first + 300):
            try:
                async with asyncio.timeout(0.0002 * (n % 3)):
                    await channel.send(n)
                    sent.append(n)
            except TimeoutError:
                pass

    async def consume() -> None:
        while not senders_done.is_set():
            try:
                async with asyncio.timeout(0.0002 * (len(received) % 3)):
                    received.append(await channel.recv())
            except TimeoutError:
                await asyncio.sleep(0)

    with ThreadPoolExecutor(4) as pool:
        consumers = [pool.submit(run_on, any_loop(), consume()) for _ in range(2)]
        producers = [pool.submit(run_on, any_loop(), produce(1000 * n)) for n in range(2)]
        for producer in producers:
            producer.result(20)
        senders_done.set()
        for consumer in consumers:
            consumer.result(20)
    received += [channel.recv_nowait() for _ in range(len(channel))]
    # A send that timed out where nothing awaited it afterwards may still have been counted by
    # its own line: both lists are written after the fact, so they must agree exactly.
    assert sorted(received) == sorted(sent)


def test_channel_6_wake_ups_from_another_thread_are_coalesced(core: Any, settle: Any) -> None:
    loop = CountingLoop()
    channel = core.Channel()
    n = 500

    async def main() -> None:
        tasks = [asyncio.ensure_future(channel.recv()) for _ in range(n)]
        while channel.statistics().waiting_receivers < n:
            await asyncio.sleep(0)
        before = loop.threadsafe
        thread = threading.Thread(target=burst)
        thread.start()
        thread.join()  # the loop stands still meanwhile, as in any callback that takes long
        assert loop.threadsafe - before == 1
        assert await asyncio.gather(*tasks) == list(range(n))

    def burst() -> None:
        for value in range(n):
            channel.send_nowait(value)

    run_on(loop, main())


def test_channel_6_wake_ups_within_a_loop_are_coalesced(core: Any) -> None:
    loop = CountingLoop()
    channel = core.Channel()
    n = 500

    async def main() -> None:
        tasks = [asyncio.ensure_future(channel.recv()) for _ in range(n)]
        while channel.statistics().waiting_receivers < n:
            await asyncio.sleep(0)
        before = loop.soon
        for value in range(n):
            channel.send_nowait(value)
        assert loop.soon - before <= 1
        assert await asyncio.gather(*tasks) == list(range(n))

    run_on(loop, main())


def test_channel_6_wake_ups_go_on_after_each_burst(core: Any) -> None:
    """A flag that says "posted already" must not outlive the post."""
    loop = CountingLoop()
    channel = core.Channel()
    echo = core.Channel()

    async def main() -> None:
        async for value in channel:
            await echo.send(value)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_on, loop, main())
        for n in range(300):
            channel.sync.send(n, timeout=10)
            assert echo.sync.recv(timeout=10) == n
        channel.close()
        running.result(10)


@pytest.mark.parametrize("kind", ["recv", "send", "select"])
def test_channel_6_waiters_of_a_closed_loop_are_skipped(
    core: Any, any_loop: Any, kind: str
) -> None:
    channel = core.Channel()
    loop = any_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed …"
    operation = {
        "recv": channel.recv,
        "send": lambda: channel.send("of the closed loop"),
        "select": lambda: core.select(channel.recv(), core.Channel().recv()),
    }[kind]()

    async def park() -> None:
        await operation

    task = loop.create_task(park())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert sum(waiting(channel)) == 1
    loop.close()
    assert sum(waiting(channel)) == 0  # it could not be claimed any more

    async def meet() -> None:
        if kind == "send":
            receiving = asyncio.ensure_future(channel.recv())
            await asyncio.sleep(0)
            await channel.send("alive")
            assert await receiving == "alive"
        else:
            sending = asyncio.ensure_future(channel.send("alive"))
            await asyncio.sleep(0)
            assert not sending.done()
            assert await channel.recv() == "alive"
            await sending

    asyncio.run(meet())
    assert not task.done()
    del task
    gc.collect()
    assert channel.statistics().sent == channel.statistics().received == 1


def waiting(channel: Any) -> tuple[int, int]:
    statistics = channel.statistics()
    return statistics.waiting_senders, statistics.waiting_receivers


def test_channel_6_a_value_handed_to_a_loop_that_closes_comes_back(
    core: Any, any_loop: Any
) -> None:
    channel = core.Channel()
    loop = any_loop()
    loop.set_exception_handler(lambda loop, context: None)

    async def receive() -> None:
        await channel.recv()

    tasks = [loop.create_task(receive()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    for n in range(3):
        channel.send_nowait(n)  # handed over, but the loop never runs again
    loop.close()
    assert len(channel) == 0
    del tasks

    async def look() -> list[int]:
        with pytest.raises(WouldBlock):
            channel.recv_nowait()  # from here on the closed loop is forgotten
        gc.collect()
        return [channel.recv_nowait() for _ in range(len(channel))]

    assert asyncio.run(look()) == [0, 1, 2]


def test_channel_6_a_close_reaches_every_loop(core: Any, any_loop: Any) -> None:
    channel = core.Channel()

    async def receive() -> str:
        try:
            await channel.recv()
        except Closed:
            return "closed"
        return "value"

    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(run_on, any_loop(), receive()) for _ in range(4)]
        while waiting(channel) != (0, 4):
            pass
        channel.close()
        assert [end.result(10) for end in ends] == ["closed"] * 4


def test_channel_6_reprs_and_statistics_may_be_asked_for_from_any_thread(core: Any) -> None:
    channel = core.Channel(2, name="watched")
    stop = threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        while not stop.is_set():
            try:
                assert "watched" in repr(channel)
                statistics = channel.statistics()
                assert statistics.sent == statistics.received + statistics.buffered
                assert len(channel) >= 0
            except BaseException as error:
                errors.append(error)
                return

    async def churn() -> None:
        async def receive() -> None:
            for n in range(20):
                try:
                    async with asyncio.timeout(0):
                        await (channel.recv() if n % 4 else channel.send(n))
                except TimeoutError:
                    pass

        await asyncio.gather(*[receive() for _ in range(300)])

    watcher = threading.Thread(target=watch)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        watcher.start()
        asyncio.run(churn())
    finally:
        stop.set()
        watcher.join()
        sys.setswitchinterval(interval)
    assert errors == []


def test_channel_6_random_work_in_threads_and_loops_keeps_the_counts(core: Any) -> None:
    channels = [core.Channel(capacity) for capacity in (0, 1, 3)]
    lock = threading.Lock()
    sent: list[Any] = []
    received: list[Any] = []

    def note(into: list[Any], values: list[Any]) -> None:
        with lock:
            into += values

    async def task(name: Any, dice: random.Random) -> None:
        for n in range(60):
            channel, value = dice.choice(channels), (name, n)
            try:
                async with asyncio.timeout(dice.choice([0, 0.0003, 0.001])):
                    if dice.random() < 0.5:
                        await channel.send(value)
                        note(sent, [value])
                    else:
                        note(received, [await channel.recv()])
            except TimeoutError:
                pass

    async def loop(name: int) -> None:
        await asyncio.gather(*[task((name, k), random.Random(100 * name + k)) for k in range(5)])

    def thread(name: str) -> None:
        dice = random.Random(name)
        for n in range(100):
            channel, value = dice.choice(channels), (name, n)
            try:
                if dice.random() < 0.5:
                    channel.sync.send(value, timeout=dice.choice([0, 0.0005]))
                    note(sent, [value])
                else:
                    note(received, [channel.sync.recv(timeout=dice.choice([0, 0.0005]))])
            except TimeoutError:
                pass

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(asyncio.run, loop(n)) for n in range(2)]
        work += [pool.submit(thread, name) for name in "ab"]
        for each in work:
            each.result(30)
    for channel in channels:
        received += [channel.recv_nowait() for _ in range(len(channel))]
    assert sorted(map(str, received)) == sorted(map(str, sent))
    assert len(received) > 50


async def test_channel_4_cancelled_thread_actors_lose_and_double_nothing(core: Any) -> None:
    for seed in range(60):
        await exchange_until_cancelled(core, random.Random(seed))


async def exchange_until_cancelled(core: Any, dice: random.Random) -> None:
    channel = core.Channel(dice.choice([0, 1, 3]))
    sent: list[str] = []
    received: list[str] = []

    def produce() -> None:
        for n in range(10**9):
            with contextlib.suppress(TimeoutError):
                channel.sync.send(f"thread {n}", timeout=dice.choice([None, None, 0.0005]))
                sent.append(f"thread {n}")

    def consume() -> None:
        while True:
            received.append(channel.sync.recv())

    async def produce_too() -> None:
        for n in range(10**9):
            await channel.send(f"task {n}")
            sent.append(f"task {n}")

    async with Group() as go:
        go(produce)
        go(consume)
        if dice.random() < 0.5:
            go(produce_too)
        await asyncio.sleep(dice.random() * 0.005)
        go.cancel()
    received += [channel.recv_nowait() for _ in range(len(channel))]
    assert sorted(received) == sorted(sent)
