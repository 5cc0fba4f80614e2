"""Deadlocks: found exactly, told readably, and never where something could still happen."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tailrace import Channel, select, testing
from tailrace.errors import Closed, Deadlock


def line_of(function: Callable[..., object], text: str) -> int:
    """The number of the line of this file on which `function` says `text`."""
    lines, start = inspect.getsourcelines(function)
    return start + next(number for number, line in enumerate(lines) if text in line)


async def relay(inbox: Channel[int], out: Channel[int]) -> None:
    await asyncio.sleep(0.5)
    value = await inbox.recv()
    await out.send(value)


async def crossed() -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(relay(a, b), name="forth")
        tasks.create_task(relay(b, a), name="back")
        await asyncio.sleep(2)


def test_a_deadlock_is_told_as_a_wait_for_graph() -> None:
    with pytest.raises(Deadlock) as caught:
        testing.run(crossed)
    inside = line_of(relay, "recv()")
    outside = line_of(crossed, "TaskGroup")
    # The line of an `async with` that waits is its first or its last, as the Python pleases.
    text = re.sub(r":\d+ in crossed", f":{outside} in crossed", str(caught.value))
    assert text.splitlines() == [
        "all 3 tasks are asleep, and nothing is left that could wake one, at 2 s",
        f"  crossed  waiting                      at test_deadlock.py:{outside} in crossed",
        f"  back     receiving from b  for 1.5 s  at test_deadlock.py:{inside} in relay",
        f"  forth    receiving from a  for 1.5 s  at test_deadlock.py:{inside} in relay",
    ]


def test_each_way_of_being_stuck_has_its_words() -> None:
    async def main() -> None:
        full, empty, other = (Channel[int](name=name) for name in ("full", "empty", "other"))

        async def sends() -> None:
            await full.send(1)

        async def receives() -> None:
            async for _ in empty:
                pass

        async def selects() -> None:
            await select(empty.recv(), other.send(3), None)

        async def waits() -> None:
            await asyncio.Event().wait()

        await asyncio.gather(*(f() for f in (sends, receives, selects, waits)))

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    told = {line.split()[0]: re.split(r"\s{2,}", line)[2] for line in lines(caught.value)}
    assert told == {
        "main": "waiting",
        "sends": "sending to full",
        "receives": "receiving from empty",
        "selects": "receiving from empty or sending to other",
        "waits": "waiting",
    }


def lines(deadlock: Deadlock) -> list[str]:
    return str(deadlock).splitlines()[1:]


def test_tasks_are_listed_in_the_order_of_their_numbers() -> None:
    async def stuck() -> None:
        await Channel[int]().recv()

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(stuck(), name=f"worker {number}")

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    names = [line.split("  ")[1] for line in lines(caught.value)]
    assert names == ["main", *(f"worker {number}" for number in range(12))]


def test_a_deadlock_of_one_and_of_none_are_told_apart() -> None:
    with pytest.raises(Deadlock, match="the only task is asleep"):
        testing.run(asyncio.Event().wait())
    loop = testing.VirtualClockLoop()
    try:
        with pytest.raises(Deadlock, match="neither a task nor a timer"):
            loop.run_forever()
    finally:
        loop.close()


def test_sleeping_for_ever_is_a_deadlock_and_sleeping_long_is_not() -> None:
    testing.run(asyncio.sleep(1e12))
    with pytest.raises(Deadlock):
        testing.run(asyncio.sleep(math.inf))


def test_a_task_that_can_still_be_woken_is_no_deadlock() -> None:
    async def main() -> int:
        channel = Channel[int]()
        asyncio.get_running_loop().call_later(1e6, channel.close)
        with pytest.raises(Closed):
            await channel.recv()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        return await future

    assert testing.run(main) == 1


def test_a_job_that_will_send_is_no_deadlock() -> None:
    async def main() -> int:
        channel = Channel[int]()
        job = asyncio.create_task(asyncio.to_thread(send_late, channel))
        value = await channel.recv()
        await job
        return value

    def send_late(channel: Channel[int]) -> None:
        time.sleep(0.02)
        channel.sync.send(5)

    assert testing.run(main) == 5


def test_an_idle_worker_of_an_executor_does_not_hide_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.to_thread(int)
        await Channel[int](name="silent").recv()

    with pytest.raises(Deadlock, match="receiving from silent"):
        testing.run(main)


def test_a_stranger_among_the_threads_may_still_speak() -> None:
    async def main() -> int:
        channel = Channel[int]()

        def speak() -> None:
            time.sleep(0.1)
            channel.sync.send(6)

        threading.Thread(target=speak).start()
        return await channel.recv()

    assert testing.run(main) == 6


def test_once_the_stranger_is_gone_the_deadlock_is_found() -> None:
    async def main() -> None:
        threading.Thread(target=time.sleep, args=(0.05,)).start()
        await Channel[int]().recv()

    with pytest.raises(Deadlock):
        testing.run(main)


def test_a_socket_that_may_still_speak_is_no_deadlock() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def speak() -> None:
        time.sleep(0.1)
        theirs.send(b"x")

    async def main() -> bytes:
        return await asyncio.get_running_loop().sock_recv(ours, 1)

    thread = threading.Thread(target=speak)  # started before the loop is made: it cannot know it
    thread.start()
    with ours, theirs:
        assert testing.run(main) == b"x"
        thread.join()


def test_tasks_cancelled_by_a_deadlock_can_clean_up() -> None:
    cleaned: list[float] = []

    async def main() -> None:
        try:
            await Channel[int]().recv()
        finally:
            await asyncio.sleep(3)
            cleaned.append(asyncio.get_running_loop().time())

    with pytest.raises(Deadlock):
        testing.run(main)
    assert cleaned == [3]


@pytest.mark.virtual_time
async def test_waiting_for_all_to_be_parked_is_no_deadlock_even_if_they_are_in_one() -> None:
    stuck = asyncio.create_task(relay(Channel[int](), Channel[int]()))
    await testing.wait_all_parked()
    await asyncio.sleep(1)
    await testing.wait_all_parked()
    assert not stuck.done()
    stuck.cancel()
