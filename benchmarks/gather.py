"""What it costs to ask backends that answer at once: the price of asking, and of nothing else.

    python benchmarks/gather.py [--rounds 9] [--n 3000]

Three pairs, each of ours beside what people write by hand with asyncio:

- query_all of 3 backends, against asyncio.gather of their coroutines;
- Replicas of 3, of which one answers at once and two never do, against asyncio.wait for the first
  and a cancel of the rest (which does not wait until they have ended, as Replicas does: a second
  line has that too);
- Hedged, of which the first copy answers, against a bare await of one task: as it is, and with a
  delay by hand, so that each query is put on the schedule for a second copy.

All in one process, one after the other in each round; CPU time, since none of them waits. A figure
is the median over the rounds, a ratio the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import load_warnings, machine
from tailrace import Hedged, Replicas, query_all

Program = Callable[[int], Awaitable[None]]


class Instant:
    """Answers at once."""

    name = "instant"

    async def query(self, query: int, /) -> int:
        return query


class Never:
    """Does not answer."""

    name = "never"

    async def query(self, query: int, /) -> int:
        answer: int = await asyncio.get_running_loop().create_future()
        return answer


A, B, C = Instant(), Instant(), Instant()
N1, N2 = Never(), Never()
REPLICAS = Replicas(A, N1, N2)


async def all_of_ours(n: int) -> None:
    for i in range(n):
        assert await query_all(i, A, B, C) == [i, i, i]


async def gather(n: int) -> None:
    for i in range(n):
        assert await asyncio.gather(A.query(i), B.query(i), C.query(i))


async def replicas(n: int) -> None:
    for i in range(n):
        assert await REPLICAS.query(i) == i


async def wait_first(n: int) -> None:
    for i in range(n):
        tasks = [asyncio.create_task(each.query(i)) for each in (A, N1, N2)]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        assert done.pop().result() == i


async def wait_first_and_others(n: int) -> None:
    for i in range(n):
        tasks = [asyncio.create_task(each.query(i)) for each in (A, N1, N2)]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        assert done.pop().result() == i


async def hedged(n: int) -> None:
    pair = Hedged(A, B)
    for i in range(n):
        assert await pair.query(i) == i


async def hedged_by_hand(n: int) -> None:
    pair = Hedged(A, B, delay=0.05)
    for i in range(n):
        assert await pair.query(i) == i


async def bare(n: int) -> None:
    for i in range(n):
        assert await asyncio.create_task(A.query(i)) == i


PAIRS: dict[str, tuple[Program, Program, float | None]] = {
    "query_all of 3 / asyncio.gather": (all_of_ours, gather, 1.0),
    "Replicas of 3 / asyncio.wait, cancel": (replicas, wait_first, 1.5),
    "Replicas of 3 / the same, awaiting the cancelled": (replicas, wait_first_and_others, None),
    "Hedged / await of a task": (hedged, bare, 2.0),
    "Hedged with a delay by hand / the same": (hedged_by_hand, bare, None),
}


async def _cpu(program: Program, n: int) -> float:
    began = time.process_time_ns()
    await program(n)
    return (time.process_time_ns() - began) / n / 1000


async def _measure(rounds: int, n: int) -> dict[Program, list[float]]:
    programs = {program: None for ours, peer, _ in PAIRS.values() for program in (ours, peer)}
    figures: dict[Program, list[float]] = {program: [] for program in programs}
    for program in programs:
        await program(n // 10 + 1)  # warm
    for _ in range(rounds):
        for program, of in figures.items():
            of.append(await _cpu(program, n))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Hedged, Replicas and query_all against asyncio")
    parser.add_argument("--rounds", type=int, default=9, help="default 9; figures are medians")
    parser.add_argument("--n", type=int, default=3000, help="queries in each (default 3000)")
    arguments = parser.parse_args()
    for key, value in machine(set(), uvloop=False, go=None).items():
        print(f"{key}: {value}")
    for warning in load_warnings():
        print(warning)
    figures = asyncio.run(_measure(arguments.rounds, arguments.n))
    print(f"\n{'µs of CPU for a query':50} {'ours':>6} {'peer':>6} {'ratio':>6}  goal")
    for name, (ours, peer, goal) in PAIRS.items():
        pairs = list(zip(figures[ours], figures[peer], strict=True))
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        medians = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"{name:50}", *(f"{figure:6.1f}" for figure in medians), f"{ratio:6.2f}", end="")
        print("" if goal is None else f"  {goal}")


if __name__ == "__main__":
    main()
