"""What an acknowledged event costs: Listen → Filter → Enrich → Store with messages, in memory.

    python benchmarks/each_pipeline.py [--rounds 5] [--n 7000] [--only NAMES] [--json FILE]
                                       [--uvloop]

As talk_pipeline.py, but each event is a `Message`, which the filter aborts or the store acks. In
"each", the enriching stage is ``each(enriched)`` in place of an actor written by hand; in "each,
twice" the filter is one too, and aborts by an exception. The peers acknowledge nothing. What a peer
has no channels for, it calls straight through; csp is given all events at once, with a time each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import OURS, Benchmark, Peer, each_capacity, main
from benchmarks.talk_pipeline import (
    CAPACITIES,
    STORED,
    bytewax_flow,
    enriched,
    events,
    expected,
    reactivex_stream,
    streamz_stream,
)
from tailrace import Abort, Channel, Group, Message, Receiver, Sender, each

Texts = Channel[Message[str]]


async def listen(n: int, out: Sender[Message[str]]) -> None:
    for i in range(n):
        await out.send(Message("foo" if i % 10 < 6 else "bar"))


async def filter_bars(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        if message.data == "bar":
            message.abort("filtered")
        else:
            await out.send(message)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        message.data = enriched(message.data)
        await out.send(message)


async def store(inbox: Receiver[Message[str]], counts: list[int]) -> None:
    stored = 0
    async for message in inbox:
        stored += message.data == STORED
        message.ack()
    counts.append(stored)


def kept(data: str) -> str:
    if data == "bar":
        raise Abort("filtered")
    return data


async def flow(filtering: Any, enriching: Any, capacity: int, n: int) -> int:
    to_filter, to_enrich, to_store = (Texts(capacity) for _ in range(3))
    counts: list[int] = []
    async with Group() as go:
        go(listen, n, to_filter)
        go(filtering, to_filter, to_enrich)
        go(enriching, to_enrich, to_store)
        go(store, to_store, counts)
    return counts[0]


async def by_hand(capacity: int, n: int) -> int:
    return await flow(filter_bars, enrich, capacity, n)


async def with_each(capacity: int, n: int) -> int:
    return await flow(filter_bars, each(enriched), capacity, n)


async def with_each_twice(capacity: int, n: int) -> int:
    return await flow(each(kept), each(enriched), capacity, n)


# --- peers


async def aiostream_stream(_: int, n: int) -> int:
    from aiostream import pipe, stream  # type: ignore[import-not-found, unused-ignore]

    stored: list[str] = []
    kept = stream.iterate(events(n)) | pipe.filter(lambda data: data != "bar")
    await (kept | pipe.map(enriched) | pipe.action(stored.append))
    return stored.count(STORED)


async def pipevine_pipeline(capacity: int, n: int) -> int:
    import pipevine  # type: ignore[import-not-found, import-untyped, unused-ignore]

    stored: list[str] = []

    # pipevine has no filter, so a None goes through all stages.
    async def keep(data: str, state: object) -> str | None:
        return None if data == "bar" else data

    async def enrich(data: str | None, state: object) -> str | None:
        return None if data is None else enriched(data)

    async def store(data: str | None, state: object) -> None:
        if data is not None:
            stored.append(data)

    pipeline = pipevine.Pipeline(events(n))
    for function in (keep, enrich, store):
        pipeline = pipeline >> pipevine.work_pool(buffer=capacity or 1)(function)
    await pipeline.run()
    return stored.count(STORED)


async def csp_graph(_: int, n: int) -> int:
    from benchmarks import csp_nodes

    return csp_nodes.run(list(events(n))).count(STORED)


EACH = Benchmark(
    key="each_pipeline",
    title="The talk's pipeline with messages that are acknowledged, in memory",
    unit="ns per event",
    columns=tuple(map(str, CAPACITIES)),
    n=7_000,
    expected=expected,
    baselines=("by hand",),
    peers=(
        Peer("by hand", each_capacity(by_hand, CAPACITIES), share=OURS),
        Peer("each", each_capacity(with_each, CAPACITIES), share=OURS),
        Peer("each, twice", each_capacity(with_each_twice, CAPACITIES), share=OURS),
        Peer("csp", each_capacity(csp_graph, (0,)), needs="csp"),
        Peer("bytewax (batches)", each_capacity(bytewax_flow, CAPACITIES), needs="bytewax"),
        Peer("reactivex", each_capacity(reactivex_stream, (0,)), needs="reactivex"),
        Peer("streamz", each_capacity(streamz_stream, (0,)), needs="streamz"),
        Peer("aiostream", each_capacity(aiostream_stream, (0,)), needs="aiostream", share=0.25),
        Peer(
            "pipevine", each_capacity(pipevine_pipeline, CAPACITIES), needs="pipevine", share=0.05
        ),
    ),
)

if __name__ == "__main__":
    main(EACH)
