"""What an actor costs that waits: 100 000 of them, each parked in a receive on one channel.

    python benchmarks/spawn.py [--rounds 5] [--n 100000] [--only NAMES] [--json FILE] [--uvloop]

- start, µs: from before the first is started until the last has parked, per actor.
- end, µs: from the close of the channel until all have ended, per actor. An asyncio.Queue cannot
  be closed everywhere: each of its tasks is sent a None.
- bytes: by how much the process's resident memory (RSS) has grown while all are parked, per actor;
  /proc/self/statm before and after, each time after a full garbage collection. The same for all,
  Go included. So it needs Linux.

Each competitor does it once in each of its processes, cold: an actor's memory comes from the
system, and that is part of the price. "The last has parked" is heard from one more actor, which is
started after all others (in Go from a WaitGroup), and then checked.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import GO, Benchmark, GoProgram, Peer, main
from tailrace import Channel, Group, Receiver, Sender

START, END, BYTES = "start", "end", "bytes"
TASKS = "asyncio.Task, Queue.get"


class Stopwatch:
    """Time and memory from here on, per actor."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._figures: dict[str, float] = {}
        self._memory = _resident()
        self._began = time.perf_counter_ns()

    def all_parked(self) -> None:
        self._figures[START] = self._lap()

    def measure_memory(self) -> None:
        self._figures[BYTES] = (_resident() - self._memory) / self._n
        self._began = time.perf_counter_ns()

    def all_ended(self) -> dict[str, float]:
        self._figures[END] = self._lap()
        return self._figures

    def _lap(self) -> float:
        return (time.perf_counter_ns() - self._began) / self._n / 1000


def _resident() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def check(parked: int, n: int) -> None:
    if parked != n:
        raise SystemExit(f"{parked} are parked, not {n}")


# --- tailrace -----------------------------------------------------------------------------------


async def park(inbox: Receiver[None]) -> None:
    await inbox.recv()  # until Closed, which ends an actor well


async def report(out: Sender[None]) -> None:
    await out.send(None)


async def actors(n: int) -> dict[str, float]:
    channel, last = Channel[None](), Channel[None]()
    watch = Stopwatch(n)
    async with Group() as go:
        go(park, channel, actors=n)
        go(report, last)
        await last.recv()
        watch.all_parked()
        check(channel.statistics().waiting_receivers, n)
        watch.measure_memory()
        channel.close()
    figures = watch.all_ended()
    check(len(go.actors()), 0)
    return figures


# --- asyncio and trio ---------------------------------------------------------------------------


async def tasks(n: int) -> dict[str, float]:
    queue = asyncio.Queue[None]()
    last = asyncio.Event()

    async def park_task() -> None:
        await queue.get()

    async def report_task() -> None:
        last.set()

    watch = Stopwatch(n)
    parked = [asyncio.create_task(park_task()) for _ in range(n)]
    reporter = asyncio.create_task(report_task())
    await last.wait()
    watch.all_parked()
    check(sum(not task.done() for task in parked), n)
    watch.measure_memory()
    for _ in range(n):
        queue.put_nowait(None)
    await asyncio.gather(*parked, reporter)
    return watch.all_ended()


async def trio_tasks(n: int) -> dict[str, float]:
    import trio
    import trio.testing

    send, receive = trio.open_memory_channel(0)

    async def park_task() -> None:
        try:
            await receive.receive()
        except trio.EndOfChannel:
            pass

    watch = Stopwatch(n)
    async with trio.open_nursery() as nursery:
        for _ in range(n):
            nursery.start_soon(park_task)
        # trio runs a batch of tasks in random order, so there is no last one to ask.
        await trio.testing.wait_all_tasks_blocked()
        watch.all_parked()
        check(receive.statistics().tasks_waiting_receive, n)
        watch.measure_memory()
        send.close()
    return watch.all_ended()


SPAWN = Benchmark(
    key="spawn",
    title="100 000 actors that park on one channel",
    unit="µs or bytes per actor",
    columns=(START, END, BYTES),
    heading="",
    n=100_000,
    peers=(
        Peer("tailrace, actors", once=actors),
        Peer(TASKS, once=tasks),
        Peer("trio tasks", once=trio_tasks, needs="trio", share=0.2, trio=True),
    ),
    go=GoProgram("spawn.go", share=1.0),
    baselines=(TASKS, GO),
    fine=2,
)

if __name__ == "__main__":
    main(SPAWN)
