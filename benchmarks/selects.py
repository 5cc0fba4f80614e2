"""What a select costs: receive from whichever of two channels has something.

    python benchmarks/selects.py [--rounds 5] [--n 3000] [--only NAMES] [--json FILE] [--uvloop]

- uncontended, as Go's BenchmarkSelectUncontended: one actor, two channels of capacity 1, a token
  in one of them. It is received by a select on both and sent to the other. No select waits.
- contended: two producers, each with an unbuffered channel of its own, and one actor that
  receives from both by select. A third of the selects find nobody and wait, in both lines.

The token counts how often it was received; what the producers sent is summed; both are checked.
Without select, people write asyncio.wait(..., FIRST_COMPLETED) over a Queue.get task for each
queue: the task that was not the first is kept for the next time, since cancelling it is how values
are lost. A queue has at least one place.

(Not named select.py: beside a script, that name hides the standard library's module.)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import GO, OURS, Benchmark, GoProgram, Peer, main
from tailrace import Channel, Closed, Group, Receiver, Sender, select

UNCONTENDED, CONTENDED = "uncontended", "contended"
WAIT = "asyncio.wait, Queue.get"


def checked(total: int, n: int) -> int:
    """n, if `total` is the sum of what two producers have sent, of n values together."""
    return n if total == 2 * sum(range(n // 2)) else -1


# --- tailrace -----------------------------------------------------------------------------------


async def pass_on(n: int, a: Channel[int], b: Channel[int], received: list[int]) -> None:
    """Receives a token n times from either channel, each time sending it to the other."""
    await a.send(0)
    token: Any  # Closed does not come here
    for _ in range(n):
        index, token = await select(a.recv(), b.recv())
        await (b if index == 0 else a).send(token + 1)
    received += [channel.recv_nowait() for channel in (a, b) if len(channel)]


async def produce(n: int, out: Sender[int]) -> None:
    for value in range(n):
        await out.send(value)


async def merge(a: Receiver[int] | None, b: Receiver[int] | None, totals: list[int]) -> None:
    """Receives from both until both are closed."""
    total = 0
    while a is not None or b is not None:
        match await select(a.recv() if a else None, b.recv() if b else None):
            case (0, Closed()):
                a = None
            case (1, Closed()):
                b = None
            case (_, value):
                total += value
    totals.append(total)


async def uncontended(n: int) -> int:
    a, b = Channel[int](1), Channel[int](1)
    received: list[int] = []
    async with Group() as go:
        go(pass_on, n, a, b, received)
    return received[0]


async def contended(n: int) -> int:
    a, b = Channel[int](), Channel[int]()
    totals: list[int] = []
    async with Group() as go:
        go(produce, n // 2, a)
        go(produce, n // 2, b)
        go(merge, a, b, totals)
    return checked(totals[0], n)


async def uncontended_tasks(n: int) -> int:
    received: list[int] = []
    await asyncio.create_task(pass_on(n, Channel[int](1), Channel[int](1), received))
    return received[0]


async def contended_tasks(n: int) -> int:
    async def produce_all(out: Channel[int]) -> None:
        await produce(n // 2, out)
        out.close()

    a, b = Channel[int](), Channel[int]()
    totals: list[int] = []
    await asyncio.gather(produce_all(a), produce_all(b), merge(a, b, totals))
    return checked(totals[0], n)


# --- asyncio.wait -------------------------------------------------------------------------------

Queue = asyncio.Queue[int]


async def received_from(n: int, a: Queue, b: Queue) -> AsyncIterator[tuple[Queue, int]]:
    """n times: from which queue, and what."""
    waiting = {asyncio.create_task(queue.get()): queue for queue in (a, b)}
    while n:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            queue = waiting.pop(task)
            waiting[asyncio.create_task(queue.get())] = queue
            yield queue, task.result()
            n -= 1
    for task in waiting:
        task.cancel()


async def uncontended_wait(n: int) -> int:
    a, b = Queue(1), Queue(1)
    await a.put(0)
    token = 0
    async for queue, received in received_from(n, a, b):
        token = received + 1
        await (b if queue is a else a).put(token)
    return token


async def contended_wait(n: int) -> int:
    a, b = Queue(1), Queue(1)

    async def put_all(out: Queue) -> None:
        for value in range(n // 2):
            await out.put(value)

    producers = [asyncio.create_task(put_all(out)) for out in (a, b)]
    total = 0
    async for _, value in received_from(n, a, b):
        total += value
    await asyncio.gather(*producers)
    return checked(total, n)


SELECTS = Benchmark(
    key="selects",
    title="Select on a receive from either of two channels",
    unit="ns per select",
    columns=(UNCONTENDED, CONTENDED),
    heading="",
    n=3_000,
    peers=(
        Peer("tailrace, actors", {UNCONTENDED: uncontended, CONTENDED: contended}, share=2 * OURS),
        Peer(
            "tailrace, plain tasks",
            {UNCONTENDED: uncontended_tasks, CONTENDED: contended_tasks},
            share=OURS,
        ),
        Peer(WAIT, {UNCONTENDED: uncontended_wait, CONTENDED: contended_wait}, share=0.5),
    ),
    go=GoProgram("selects.go", (UNCONTENDED, CONTENDED), share=100),
    baselines=(WAIT, GO),
)

if __name__ == "__main__":
    main(SELECTS)
