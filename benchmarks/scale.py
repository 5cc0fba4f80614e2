"""Whether costs stay flat as programs grow: longer relays, and more actors parked on one channel.

    python benchmarks/scale.py [--rounds 5] [--n 20000] [--only NAMES] [--json FILE] [--uvloop]

- relay: nanoseconds per hop, unbuffered, with 2, 20, 200 and 2000 stages that add one to each
  value, between a producer and a sink. As many hops for each length, so fewer values.
- parked: nanoseconds per value, with 10 to 100 000 actors in line on one unbuffered channel, which
  are fed in turn by one more.

Only the flow is timed, not starting and ending the actors. Each column is also shown relative to
the first. More actors touch more memory, which costs in any language: so Go does the same, and what
remains of our growth beside Go's is ours.
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import GO, GO_SHARE, OURS, QUEUE, Benchmark, GoProgram, Peer, Timed, main
from tailrace import Channel, Group, Receiver, Sender

STAGES = (2, 20, 200, 2_000)
PARKED = (10, 100, 1_000, 10_000, 100_000)
LAST = -1


def check(total: int, expected: int) -> None:
    if total != expected:
        raise SystemExit(f"{total}, not {expected}: it lost or invented values")


def took(times: list[int], units: int) -> Timed:
    began, ended = times
    return Timed(ended - began, units)


def values_for(stages: int, n: int) -> int:
    """How many values make about n hops."""
    return max(1, n // (stages + 1))


def relayed(stages: int, n: int) -> int:
    """The sum that arrives: each of 0 … n−1 raised by one in each stage."""
    return n * (n - 1) // 2 + n * stages


# --- The relay: tailrace ------------------------------------------------------------------------


async def plus_one(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value + 1)


async def produce(n: int, out: Sender[int], arrived: Receiver[None], times: list[int]) -> None:
    await out.send(0)  # goes through alone: when it has arrived, all stages have started
    await arrived.recv()
    times.append(time.perf_counter_ns())
    for value in range(n):
        await out.send(value)


async def total(
    n: int, inbox: Receiver[int], arrived: Sender[None], times: list[int], totals: list[int]
) -> None:
    await inbox.recv()
    await arrived.send(None)
    result = 0
    for _ in range(n):  # and not until Closed: that comes when all stages have ended
        result += await inbox.recv()
    times.append(time.perf_counter_ns())
    totals.append(result)


async def relay(stages: int, n: int) -> Timed:
    n = values_for(stages, n)
    first = inbox = Channel[int]()
    arrived = Channel[None]()
    times: list[int] = []
    totals: list[int] = []
    async with Group() as go:
        for _ in range(stages):
            out = Channel[int]()
            go(plus_one, inbox, out)
            inbox = out
        go(total, n, inbox, arrived, times, totals)
        go(produce, n, first, arrived, times)
    check(totals[0], relayed(stages, n))
    return took(times, n * (stages + 1))


# --- The relay: asyncio.Queue -------------------------------------------------------------------

Queue = asyncio.Queue[int | None]


async def relay_queues(stages: int, n: int) -> Timed:
    n = values_for(stages, n)
    arrived = asyncio.Event()
    times: list[int] = []

    async def between(inbox: Queue, out: Queue) -> None:
        while (value := await inbox.get()) is not None:
            await out.put(value + 1)
        await out.put(None)

    async def last(inbox: Queue) -> int:
        await inbox.get()
        arrived.set()
        result = 0
        for _ in range(n):
            result += await inbox.get() or 0
        times.append(time.perf_counter_ns())
        return result

    first = inbox = Queue(1)  # a Queue(0) would be unbounded
    tasks = []
    for _ in range(stages):
        out = Queue(1)
        tasks.append(asyncio.create_task(between(inbox, out)))
        inbox = out
    sink = asyncio.create_task(last(inbox))
    await first.put(0)
    await arrived.wait()
    times.append(time.perf_counter_ns())
    for value in range(n):
        await first.put(value)
    await first.put(None)
    check(await sink, relayed(stages, n))
    await asyncio.gather(*tasks)
    return took(times, n * (stages + 1))


# --- Many that are parked -----------------------------------------------------------------------


async def park(inbox: Receiver[int], times: list[int], totals: list[int]) -> None:
    result = 0
    async for value in inbox:
        if value == LAST:
            times.append(time.perf_counter_ns())
        else:
            result += value
    totals.append(result)


async def feed(n: int, out: Sender[int], times: list[int]) -> None:
    times.append(time.perf_counter_ns())
    for value in range(n):
        await out.send(value)
    await out.send(LAST)  # whoever receives it does so after all others


async def parked(actors: int, n: int) -> Timed:
    channel = Channel[int]()
    times: list[int] = []
    totals: list[int] = []
    async with Group() as go:
        go(park, channel, times, totals, actors=actors)
        while channel.statistics().waiting_receivers < actors:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.001)
        go(feed, n, channel, times)
    check(sum(totals), n * (n - 1) // 2)
    return took(times, n)


async def parked_queue(actors: int, n: int) -> Timed:
    queue = asyncio.Queue[int](1)
    started = 0
    all_started, end = asyncio.Event(), asyncio.Event()
    times: list[int] = []
    result = 0

    async def park_task() -> None:
        nonlocal started, result
        started += 1
        if started == actors:
            all_started.set()
        while True:
            value = await queue.get()
            if value == LAST:
                times.append(time.perf_counter_ns())
                end.set()
            else:
                result += value

    tasks = [asyncio.create_task(park_task()) for _ in range(actors)]
    await all_started.wait()
    times.append(time.perf_counter_ns())
    for value in range(n):
        await queue.put(value)
    await queue.put(LAST)
    await end.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    check(result, n * (n - 1) // 2)
    return took(times, n)


RELAY = Benchmark(
    key="scale_relay",
    title="Relays of more and more stages, unbuffered",
    unit="ns per hop",
    columns=tuple(map(str, STAGES)),
    heading="stages",
    n=20_000,
    peers=(
        Peer("tailrace, actors", {str(m): partial(relay, m) for m in STAGES}, share=OURS),
        Peer(
            QUEUE,
            {str(m): partial(relay_queues, m) for m in STAGES},
        ),
    ),
    go=GoProgram("scale.go", ("relay", *map(str, STAGES)), share=3 * GO_SHARE),
    baselines=(GO,),
    growth=True,
    note=f"{QUEUE} has no capacity 0 and so has 1.",
)

CROWD = Benchmark(
    key="scale_parked",
    title="More and more actors parked on one unbuffered channel, fed in turn",
    unit="ns per value",
    columns=tuple(map(str, PARKED)),
    heading="actors",
    n=20_000,
    peers=(
        Peer("tailrace, actors", {str(m): partial(parked, m) for m in PARKED}, share=OURS),
        Peer(
            QUEUE,
            {str(m): partial(parked_queue, m) for m in PARKED},
        ),
    ),
    go=GoProgram("scale.go", ("parked", *map(str, PARKED)), share=3 * GO_SHARE),
    baselines=(GO,),
    passes=1,  # most of a pass is starting and ending the actors
    growth=True,
    note=f"{QUEUE} has no capacity 0 and so has 1.",
)

if __name__ == "__main__":
    main(RELAY, CROWD)
