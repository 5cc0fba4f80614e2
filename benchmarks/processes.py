"""What `each(processes=n)` makes of two cores: a function that computes, in 1 and in 2 processes.

    python benchmarks/processes.py [--rounds 5] [--n 200] [--only NAMES] [--json FILE] [--uvloop]

Each message takes some milliseconds. The start of the processes is not counted. The second block is
the time relative to one process: 0.5 would be perfect, 0.59 is 1.7 times as fast.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import Benchmark, Peer, Timed, main
from tailrace import Channel, Group, Message, Receiver, each

PROCESSES = (1, 2)


def compute(data: int) -> int:
    """Some milliseconds of plain Python."""
    total = 0
    for i in range(100_000):
        total += i ^ data
    return total


async def with_each(processes: int, n: int) -> Timed:
    inbox, out = Channel[Message[int]](), Channel[Message[int]]()
    seen: list[int] = []
    done = asyncio.Event()

    async def store(inbox: Receiver[Message[int]]) -> None:
        async for message in inbox:
            seen.append(message.data)
            if message.ack() and len(seen) == expected:
                done.set()

    async with Group() as go:
        go(each(compute, processes=processes), inbox, out)
        go(store, out)
        with inbox.sending() as sender:
            expected = 8 * processes
            for i in range(expected):
                await sender.send(Message(i))
            await done.wait()
            await asyncio.sleep(2.0)  # until the last process has started
            done.clear()
            seen.clear()
            expected = n
            began = time.perf_counter_ns()
            for i in range(n):
                await sender.send(Message(i))
            await done.wait()
            took = time.perf_counter_ns() - began
    if sorted(seen) != sorted(map(compute, range(n))):
        raise SystemExit("each: wrong results")
    return Timed(took // 1000, n)


async def with_executor(processes: int, n: int) -> Timed:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:

        async def all_of(count: int) -> list[int]:
            calls = (loop.run_in_executor(executor, compute, i) for i in range(count))
            return await asyncio.gather(*calls)

        await all_of(8 * processes)
        began = time.perf_counter_ns()
        results = await all_of(n)
        took = time.perf_counter_ns() - began
    if results != list(map(compute, range(n))):
        raise SystemExit("ProcessPoolExecutor: wrong results")
    return Timed(took // 1000, n)


CORES = Benchmark(
    key="processes",
    title="A function that computes, in processes",
    unit="µs per message",
    columns=tuple(map(str, PROCESSES)),
    n=200,
    peers=(
        Peer("tailrace, each(processes)", {str(p): partial(with_each, p) for p in PROCESSES}),
        Peer("ProcessPoolExecutor", {str(p): partial(with_executor, p) for p in PROCESSES}),
    ),
    heading="processes",
    baselines=(),
    passes=1,
    growth=True,
)

if __name__ == "__main__":
    main(CORES)
