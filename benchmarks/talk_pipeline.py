"""What an event costs in the talk's pipeline: Listen → Filter → Enrich → Store, in memory.

    python benchmarks/talk_pipeline.py [--rounds 5] [--n 7000] [--only NAMES] [--json FILE]
                                       [--uvloop]

60 % of the events are "foo", which is enriched and stored, 40 % "bar", which is filtered out.
Unbuffered (0) and with 64 places per channel. Where a peer has no channels, the columns are the
nearest it has: bytewax takes batches of 1 or 64, reactivex and streamz call straight through.
What is stored is checked, one by one.
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
from tailrace import Channel, Group, Receiver, Sender

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

CAPACITIES = (0, 64)
STORED = "☆ foo ☆"


def events(n: int) -> Iterator[str]:
    """What is listened to: six foos, four bars, and so on."""
    return ("foo" if i % 10 < 6 else "bar" for i in range(n))


def enriched(data: str) -> str:
    return f"☆ {data} ☆"


def expected(n: int) -> int:
    """How many are stored."""
    return n // 10 * 6


async def count(stream: AsyncIterable[str], counts: list[int]) -> None:
    """The store: counts those that are as they should be."""
    stored = 0
    async for data in stream:
        stored += data == STORED
    counts.append(stored)


# --- tailrace -----------------------------------------------------------------------------------


async def listen(n: int, out: Sender[str]) -> None:
    for i in range(n):
        await out.send("foo" if i % 10 < 6 else "bar")


async def filter_bars(inbox: Receiver[str], out: Sender[str]) -> None:
    async for data in inbox:
        if data != "bar":
            await out.send(data)


async def enrich(inbox: Receiver[str], out: Sender[str]) -> None:
    async for data in inbox:
        await out.send(f"☆ {data} ☆")


async def store(inbox: Receiver[str], counts: list[int]) -> None:
    stored = 0
    async for data in inbox:
        if data == STORED:
            stored += 1
    counts.append(stored)


async def actors(capacity: int, n: int) -> int:
    to_filter, to_enrich, to_store = (Channel[str](capacity) for _ in range(3))
    counts: list[int] = []
    async with Group() as go:
        go(listen, n, to_filter)
        go(filter_bars, to_filter, to_enrich)
        go(enrich, to_enrich, to_store)
        go(store, to_store, counts)
    return counts[0]


async def plain_tasks(capacity: int, n: int) -> int:
    to_filter, to_enrich, to_store = (Channel[str](capacity) for _ in range(3))
    counts: list[int] = []

    async def first() -> None:
        await listen(n, to_filter)
        to_filter.close()

    async def second() -> None:
        await filter_bars(to_filter, to_enrich)
        to_enrich.close()

    async def third() -> None:
        await enrich(to_enrich, to_store)
        to_store.close()

    await asyncio.gather(first(), second(), third(), store(to_store, counts))
    return counts[0]


# --- asyncio.Queue ------------------------------------------------------------------------------


async def queues(capacity: int, n: int) -> int:
    # A Queue(0) would be unbounded: one place is the nearest it has to a rendezvous.
    to_filter, to_enrich, to_store = (asyncio.Queue[str | None](capacity or 1) for _ in range(3))

    async def first() -> None:
        for i in range(n):
            await to_filter.put("foo" if i % 10 < 6 else "bar")
        await to_filter.put(None)

    async def second() -> None:
        while (data := await to_filter.get()) is not None:
            if data != "bar":
                await to_enrich.put(data)
        await to_enrich.put(None)

    async def third() -> None:
        while (data := await to_enrich.get()) is not None:
            await to_store.put(f"☆ {data} ☆")
        await to_store.put(None)

    async def fourth() -> int:
        stored = 0
        while (data := await to_store.get()) is not None:
            if data == STORED:
                stored += 1
        return stored

    *_, stored = await asyncio.gather(first(), second(), third(), fourth())
    return stored


# --- anyio and trio -----------------------------------------------------------------------------


async def anyio_streams(capacity: int, n: int) -> int:
    import anyio

    async def first(out: MemoryObjectSendStream[str]) -> None:
        async with out:
            for data in events(n):
                await out.send(data)

    async def second(
        inbox: MemoryObjectReceiveStream[str], out: MemoryObjectSendStream[str]
    ) -> None:
        async with inbox, out:
            async for data in inbox:
                if data != "bar":
                    await out.send(data)

    async def third(
        inbox: MemoryObjectReceiveStream[str], out: MemoryObjectSendStream[str]
    ) -> None:
        async with inbox, out:
            async for data in inbox:
                await out.send(enriched(data))

    async def fourth(inbox: MemoryObjectReceiveStream[str], counts: list[int]) -> None:
        async with inbox:
            await count(inbox, counts)

    (to_filter, filter_in), (to_enrich, enrich_in), (to_store, store_in) = (
        anyio.create_memory_object_stream[str](capacity) for _ in range(3)
    )
    counts: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(first, to_filter)
        group.start_soon(second, filter_in, to_enrich)
        group.start_soon(third, enrich_in, to_store)
        group.start_soon(fourth, store_in, counts)
    return counts[0]


async def trio_channels(capacity: int, n: int) -> int:
    import trio

    async def first(out: Any) -> None:
        async with out:
            for data in events(n):
                await out.send(data)

    async def second(inbox: Any, out: Any) -> None:
        async with inbox, out:
            async for data in inbox:
                if data != "bar":
                    await out.send(data)

    async def third(inbox: Any, out: Any) -> None:
        async with inbox, out:
            async for data in inbox:
                await out.send(enriched(data))

    async def fourth(inbox: Any, counts: list[int]) -> None:
        async with inbox:
            await count(inbox, counts)

    (to_filter, filter_in), (to_enrich, enrich_in), (to_store, store_in) = (
        trio.open_memory_channel(capacity) for _ in range(3)
    )
    counts: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, to_filter)
        nursery.start_soon(second, filter_in, to_enrich)
        nursery.start_soon(third, enrich_in, to_store)
        nursery.start_soon(fourth, store_in, counts)
    return counts[0]


# --- Stream libraries, where installed. They block the loop, which is empty: it is theirs. -------


async def bytewax_flow(batch: int, n: int) -> int:
    # fmt: off
    import bytewax.operators as op  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from bytewax.dataflow import Dataflow  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from bytewax.testing import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        TestingSink,
        TestingSource,
        run_main,
    )
    # fmt: on

    stored: list[str] = []
    flow = Dataflow("talk")
    stream = op.input("listen", flow, TestingSource(events(n), batch_size=batch or 1))
    foos = op.filter("filter", stream, lambda data: data != "bar")
    op.output("store", op.map("enrich", foos, enriched), TestingSink(stored))
    run_main(flow)
    return stored.count(STORED)


async def reactivex_stream(_: int, n: int) -> int:
    import reactivex  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from reactivex import operators  # type: ignore[import-not-found, import-untyped, unused-ignore]

    stored: list[str] = []
    reactivex.from_iterable(events(n)).pipe(
        operators.filter(lambda data: data != "bar"), operators.map(enriched)
    ).subscribe(stored.append)
    return stored.count(STORED)


async def streamz_stream(_: int, n: int) -> int:
    import streamz  # type: ignore[import-not-found, import-untyped, unused-ignore]

    stored: list[str] = []
    source = streamz.Stream()
    source.filter(lambda data: data != "bar").map(enriched).sink(stored.append)
    for data in events(n):
        source.emit(data)
    return stored.count(STORED)


TALK = Benchmark(
    key="talk_pipeline",
    title="The talk's pipeline: Listen → Filter → Enrich → Store, in memory",
    unit="ns per event",
    columns=tuple(map(str, CAPACITIES)),
    n=7_000,
    expected=expected,
    go=GoProgram("talk_pipeline.go", tuple(map(str, CAPACITIES))),
    note=f"{QUEUE} has no capacity 0: in that column it has 1.",
    peers=(
        Peer("tailrace, actors", each_capacity(actors, CAPACITIES), share=OURS),
        Peer("tailrace, plain tasks", each_capacity(plain_tasks, CAPACITIES), share=OURS),
        Peer(QUEUE, each_capacity(queues, CAPACITIES)),
        Peer("anyio streams", each_capacity(anyio_streams, CAPACITIES), needs="anyio", share=0.25),
        Peer(
            "trio channels",
            each_capacity(trio_channels, CAPACITIES),
            needs="trio",
            share=0.25,
            trio=True,
        ),
        Peer("bytewax (batches)", each_capacity(bytewax_flow, CAPACITIES), needs="bytewax"),
        Peer("reactivex (no channels)", each_capacity(reactivex_stream, (0,)), needs="reactivex"),
        Peer("streamz (no channels)", each_capacity(streamz_stream, (0,)), needs="streamz"),
    ),
)

if __name__ == "__main__":
    main(TALK)
