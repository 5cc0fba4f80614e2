"""What a value costs on its way from a thread to the event loop, and from thread to thread.

    python benchmarks/threads.py [--rounds 5] [--n 20000] [--only NAMES] [--json FILE] [--uvloop]

A thread sends with ``ch.sync.send``. The loop receives with ``async for``; or another thread does,
with ``for``. Capacities 1, 100 and 1000; with 1, nearly every value switches threads twice and ten
times fewer are sent. The end of the stream is a closed channel, else a None. The sum is checked.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import Benchmark, Peer, each_capacity, main
from tailrace import Channel, Group, Receiver, SyncReceiver, SyncSender

CAPACITIES = (1, 100, 1000)


def expected(n: int) -> int:
    """The sum that arrives."""
    return n * (n - 1) // 2


def microseconds(n: int) -> int:
    """A unit is a thousandth of a value, so that nanoseconds per unit are µs per value."""
    return 1000 * n


# --- From a thread to the loop ------------------------------------------------------------------


def produce(n: int, out: SyncSender[int]) -> None:
    for value in range(n):
        out.send(value)


async def total(inbox: Receiver[int], totals: list[int]) -> None:
    result = 0
    async for value in inbox:
        result += value
    totals.append(result)


async def to_actor(capacity: int, n: int) -> int:
    channel = Channel[int](capacity)
    totals: list[int] = []
    async with Group() as go:
        go(produce, n, channel.sync)
        go(total, channel, totals)
    return totals[0]


async def to_task(capacity: int, n: int) -> int:
    channel = Channel[int](capacity)
    totals: list[int] = []

    def first() -> None:
        produce(n, channel.sync)
        channel.close()

    thread = threading.Thread(target=first)
    thread.start()
    await total(channel, totals)
    thread.join()
    return totals[0]


def put_all(n: int, put: Callable[[int | None], object]) -> None:
    for value in range(n):
        put(value)
    put(None)


async def culsans_queue(capacity: int, n: int) -> int:
    import culsans

    channel = culsans.Queue(capacity)
    thread = threading.Thread(target=put_all, args=(n, channel.sync_q.put))
    thread.start()
    result = 0
    while (value := await channel.async_q.get()) is not None:
        result += value
    thread.join()
    return result


async def janus_queue(capacity: int, n: int) -> int:
    import janus

    channel: janus.Queue[int | None] = janus.Queue(capacity)
    thread = threading.Thread(target=put_all, args=(n, channel.sync_q.put))
    thread.start()
    result = 0
    while (value := await channel.async_q.get()) is not None:
        result += value
    thread.join()
    await channel.aclose()
    return result


# --- From thread to thread ----------------------------------------------------------------------


def total_in_thread(inbox: SyncReceiver[int], totals: list[int]) -> None:
    totals.append(sum(inbox))


async def between_threads(capacity: int, n: int) -> int:
    channel = Channel[int](capacity)
    totals: list[int] = []
    async with Group() as go:
        go(produce, n, channel.sync)
        go(total_in_thread, channel.sync, totals)
    return totals[0]


async def thread_queue(capacity: int, n: int) -> int:
    channel = queue.Queue[int | None](capacity)

    def last() -> int:
        result = 0
        while (value := channel.get()) is not None:
            result += value
        return result

    *_, result = await asyncio.gather(
        asyncio.to_thread(put_all, n, channel.put), asyncio.to_thread(last)
    )
    return result


TO_LOOP = Benchmark(
    key="thread_to_loop",
    title="A thread sends, the loop receives",
    unit="µs per value",
    columns=tuple(map(str, CAPACITIES)),
    n=20_000,
    shares={"1": 0.1},
    peers=(
        Peer("tailrace, thread to actor", each_capacity(to_actor, CAPACITIES)),
        Peer("tailrace, thread to plain task", each_capacity(to_task, CAPACITIES)),
        Peer("culsans", each_capacity(culsans_queue, CAPACITIES), needs="culsans"),
        Peer("janus", each_capacity(janus_queue, CAPACITIES), needs="janus"),
    ),
    expected=expected,
    units=microseconds,
    baselines=("culsans", "janus"),
    fine=2,
)

TO_THREAD = Benchmark(
    key="thread_to_thread",
    title="A thread sends, another receives",
    unit="µs per value",
    columns=tuple(map(str, CAPACITIES)),
    n=20_000,
    shares={"1": 0.1},
    peers=(
        Peer("tailrace, threads", each_capacity(between_threads, CAPACITIES)),
        Peer("queue.Queue", each_capacity(thread_queue, CAPACITIES)),
    ),
    expected=expected,
    units=microseconds,
    baselines=("queue.Queue",),
    fine=2,
)

if __name__ == "__main__":
    main(TO_LOOP, TO_THREAD)
