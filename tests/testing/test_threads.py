"""Virtual time with threads: one that runs holds the clock, one that is parked does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tailrace import Channel, Group, Receiver, SyncReceiver, SyncSender, testing
from tailrace.errors import Deadlock


def now() -> float:
    return asyncio.get_running_loop().time()


def square(inbox: SyncReceiver[int], out: SyncSender[int]) -> None:
    for number in inbox:
        time.sleep(0.005)  # real work
        out.send(number * number)


def test_a_thread_actor_that_works_holds_time() -> None:
    async def main() -> list[tuple[float, int]]:
        numbers, squares = Channel[int](), Channel[int]()
        seen: list[tuple[float, int]] = []

        async def ask(out: Channel[int], answers: Receiver[int]) -> None:
            with numbers.sending():
                for number in range(5):
                    await asyncio.sleep(1)
                    await out.send(number)
                    async with asyncio.timeout(0.000001):
                        seen.append((now(), await answers.recv()))

        async with Group(stall_after=None) as go:
            go(square, numbers.sync, squares.sync)
            go(ask, numbers, squares)
        return seen

    assert testing.run(main) == [(n + 1.0, n * n) for n in range(5)]


def test_a_thread_actor_that_is_parked_lets_time_go_on() -> None:
    async def main() -> float:
        numbers, squares = Channel[int](), Channel[int]()
        async with Group(stall_after=None) as go:
            go(square, numbers.sync, squares.sync)
            await asyncio.sleep(86400)
            numbers_in = numbers.sender
            await numbers_in.send(3)
            await asyncio.sleep(86400)  # it is parked in its send now
            assert await squares.recv() == 9
            go.cancel()
        return now()

    started = time.monotonic()
    assert testing.run(main) == 2 * 86400
    assert time.monotonic() - started < 10


def test_the_clock_is_exact_with_thread_actors_that_come_and_go() -> None:
    async def main() -> float:
        done = Channel[int](1)

        def once(out: SyncSender[int]) -> None:
            out.send(1)

        for _ in range(20):
            channel = Channel[int](1)
            async with Group(stall_after=None) as go:
                go(once, channel.sync)
            await asyncio.sleep(1)
        done.close()
        return now()

    assert testing.run(main) == 20


def test_wait_all_parked_waits_for_thread_actors_to_park() -> None:
    async def main() -> None:
        numbers, squares = Channel[int](), Channel[int]()
        async with Group(stall_after=None) as go:
            go(square, numbers.sync, squares.sync)
            await testing.wait_all_parked()
            assert numbers.statistics().waiting_receivers == 1
            await numbers.send(3)
            await testing.wait_all_parked()
            assert squares.statistics().waiting_senders == 1
            assert now() == 0
            go.cancel()

    testing.run(main)


def test_a_deadlock_of_tasks_and_threads_is_found_and_names_both() -> None:
    async def main() -> None:
        numbers, squares = Channel[int](name="numbers"), Channel[int](name="squares")

        async def confused(inbox: Receiver[int]) -> None:
            await inbox.recv()

        async with Group(stall_after=None) as go:
            go(square, numbers.sync, squares.sync, name="squarer")
            go(confused, squares)
            await asyncio.sleep(2)

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    title, *rows = str(caught.value).splitlines()
    assert title == (
        "all 3 tasks and threads are asleep, and nothing is left that could wake one, at 2 s"
    )
    told = {row.split()[0]: row for row in rows}
    assert set(told) == {"main", "confused", "squarer"}
    assert "receiving from squares  for 2 s" in told["confused"]
    assert "receiving from numbers  in a thread" in told["squarer"]
    assert told["squarer"].endswith("in square")


def test_a_job_that_is_parked_in_a_channel_lets_time_go_on() -> None:
    async def main() -> tuple[int, float]:
        channel = Channel[int]()
        job = asyncio.create_task(asyncio.to_thread(channel.sync.recv))
        await asyncio.sleep(3600)
        await channel.send(4)
        return await job, now()

    assert testing.run(main) == (4, 3600)


def test_a_foreign_thread_that_is_parked_in_a_channel_lets_time_go_on() -> None:
    async def main() -> float:
        channel = Channel[int]()
        received: list[int] = []
        thread = threading.Thread(target=lambda: received.extend(channel.sync))
        thread.start()
        for number in range(10):
            await asyncio.sleep(3600)
            await channel.send(number)
        channel.close()
        await asyncio.to_thread(thread.join)
        assert received == list(range(10))
        return now()

    assert testing.run(main) == 36000


def test_a_timeout_in_a_thread_is_real_and_so_is_the_clock_meanwhile() -> None:
    async def main() -> list[str]:
        channel, said = Channel[int](), Channel[str]()

        def impatient(inbox: SyncReceiver[int], out: SyncSender[str]) -> None:
            out.send(f"got {inbox.recv(timeout=20)}")
            try:
                inbox.recv(timeout=0.05)
            except TimeoutError:
                out.send("timed out")

        heard: list[str] = []
        async with Group(stall_after=None) as go:
            go(impatient, channel.sync, said.sync)
            await asyncio.sleep(0.05)
            await channel.sender.send(1)
            heard.append(await said.recv())
            async with asyncio.timeout(20):
                heard.append(await said.recv())
        return heard

    assert testing.run(main) == ["got 1", "timed out"]


def test_a_cancelled_thread_that_does_not_end_makes_the_clock_keep_real_time() -> None:
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def deaf() -> None:
            release.wait(30)

        async with Group(stall_after=None) as go:
            go(deaf)
            await asyncio.sleep(0)
            go.cancel()
            loop.call_later(0.1, release.set)  # or nothing would ever set it

    testing.run(main)
    assert release.is_set()
