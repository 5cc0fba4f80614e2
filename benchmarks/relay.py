"""What a hop costs: values relayed producer → +1 → +1 → sink, over three channels.

    python benchmarks/relay.py [--rounds 5] [--n 7000] [--only NAMES] [--json FILE] [--uvloop]

Each peer gets the most natural program it has: a task (actor, goroutine) per stage, a channel per
hop, a loop that receives and sends. The end of the stream is a closed channel, or None for
asyncio.Queue, which cannot be closed everywhere. The sum is checked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import OURS, QUEUE, Benchmark, GoProgram, Peer, each_capacity, main
from tailrace import Channel, Closed, Group, Receiver, Sender

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

HOPS = 3
CAPACITIES = (0, 1, 64, 1024)
MANY = 64  # values per send_many and recv_many


def expected(n: int) -> int:
    """The sum that arrives: 0 … n−1, each raised twice by one."""
    return n * (n - 1) // 2 + 2 * n


# --- tailrace -----------------------------------------------------------------------------------


async def produce(n: int, out: Sender[int]) -> None:
    for value in range(n):
        await out.send(value)


async def plus_one(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value + 1)


async def total(inbox: Receiver[int], totals: list[int]) -> None:
    result = 0
    async for value in inbox:
        result += value
    totals.append(result)


async def actors(capacity: int, n: int) -> int:
    a, b, c = (Channel[int](capacity) for _ in range(3))
    totals: list[int] = []
    async with Group() as go:
        go(produce, n, a)
        go(plus_one, a, b)
        go(plus_one, b, c)
        go(total, c, totals)
    return totals[0]


async def plain_tasks(capacity: int, n: int) -> int:
    a, b, c = (Channel[int](capacity) for _ in range(3))
    totals: list[int] = []

    async def first() -> None:
        await produce(n, a)
        a.close()

    async def between(inbox: Channel[int], out: Channel[int]) -> None:
        await plus_one(inbox, out)
        out.close()

    await asyncio.gather(first(), between(a, b), between(b, c), total(c, totals))
    return totals[0]


# The same with many values per operation.


def slices(n: int) -> Iterator[list[int]]:
    """0 … n−1 in pieces of MANY."""
    return (list(range(start, min(start + MANY, n))) for start in range(0, n, MANY))


async def produce_many(n: int, out: Sender[int]) -> None:
    for values in slices(n):
        await out.send_many(values)


async def plus_one_many(inbox: Receiver[int], out: Sender[int]) -> None:
    while True:  # until Closed, which ends an actor well
        await out.send_many([value + 1 for value in await inbox.recv_many(MANY)])


async def total_many(inbox: Receiver[int], totals: list[int]) -> None:
    result = 0
    try:
        while True:
            result += sum(await inbox.recv_many(MANY))
    except Closed:
        totals.append(result)


async def many(capacity: int, n: int) -> int:
    a, b, c = (Channel[int](capacity) for _ in range(3))
    totals: list[int] = []
    async with Group() as go:
        go(produce_many, n, a)
        go(plus_one_many, a, b)
        go(plus_one_many, b, c)
        go(total_many, c, totals)
    return totals[0]


# --- asyncio.Queue ------------------------------------------------------------------------------


async def queues(capacity: int, n: int) -> int:
    # A Queue(0) would be unbounded: one place is the nearest it has to a rendezvous.
    a, b, c = (asyncio.Queue[int | None](capacity or 1) for _ in range(3))

    async def first() -> None:
        for value in range(n):
            await a.put(value)
        await a.put(None)

    async def between(inbox: asyncio.Queue[int | None], out: asyncio.Queue[int | None]) -> None:
        while (value := await inbox.get()) is not None:
            await out.put(value + 1)
        await out.put(None)

    async def last() -> int:
        result = 0
        while (value := await c.get()) is not None:
            result += value
        return result

    *_, result = await asyncio.gather(first(), between(a, b), between(b, c), last())
    return result


# --- anyio and trio -----------------------------------------------------------------------------


async def _sum(stream: AsyncIterable[int], totals: list[int]) -> None:
    result = 0
    async for value in stream:
        result += value
    totals.append(result)


async def anyio_streams(capacity: int, n: int) -> int:
    import anyio

    async def first(out: MemoryObjectSendStream[int]) -> None:
        async with out:
            for value in range(n):
                await out.send(value)

    async def between(
        inbox: MemoryObjectReceiveStream[int], out: MemoryObjectSendStream[int]
    ) -> None:
        async with inbox, out:
            async for value in inbox:
                await out.send(value + 1)

    async def last(inbox: MemoryObjectReceiveStream[int], totals: list[int]) -> None:
        async with inbox:
            await _sum(inbox, totals)

    (a, a_out), (b, b_out), (c, c_out) = (
        anyio.create_memory_object_stream[int](capacity) for _ in range(3)
    )
    totals: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(first, a)
        group.start_soon(between, a_out, b)
        group.start_soon(between, b_out, c)
        group.start_soon(last, c_out, totals)
    return totals[0]


async def trio_channels(capacity: int, n: int) -> int:
    import trio

    async def first(out: Any) -> None:
        async with out:
            for value in range(n):
                await out.send(value)

    async def between(inbox: Any, out: Any) -> None:
        async with inbox, out:
            async for value in inbox:
                await out.send(value + 1)

    async def last(inbox: Any, totals: list[int]) -> None:
        async with inbox:
            await _sum(inbox, totals)

    (a, a_out), (b, b_out), (c, c_out) = (trio.open_memory_channel(capacity) for _ in range(3))
    totals: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, a)
        nursery.start_soon(between, a_out, b)
        nursery.start_soon(between, b_out, c)
        nursery.start_soon(last, c_out, totals)
    return totals[0]


RELAY = Benchmark(
    key="relay",
    title="Relay of three hops",
    unit="ns per hop",
    columns=tuple(map(str, CAPACITIES)),
    units=lambda n: HOPS * n,
    n=7_000,
    expected=expected,
    go=GoProgram("relay.go", tuple(map(str, CAPACITIES))),
    note=f"{QUEUE} has no capacity 0: in that column it has 1.",
    peers=(
        Peer("tailrace, actors", each_capacity(actors, CAPACITIES), share=OURS),
        Peer("tailrace, plain tasks", each_capacity(plain_tasks, CAPACITIES), share=OURS),
        Peer(f"tailrace, send_many/recv_many({MANY})", each_capacity(many, (64,)), share=4 * OURS),
        Peer(QUEUE, each_capacity(queues, CAPACITIES)),
        Peer("anyio streams", each_capacity(anyio_streams, CAPACITIES), needs="anyio", share=0.25),
        Peer(
            "trio channels",
            each_capacity(trio_channels, CAPACITIES),
            needs="trio",
            share=0.25,
            trio=True,
        ),
    ),
)

if __name__ == "__main__":
    main(RELAY)
