"""Who asks, and what is counted: Poisson arrivals, figures for each seed, intervals over seeds."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, stdev
from typing import Any

from benchmarks.report import progress
from benchmarks.tail.world import Query
from tailrace import testing

__all__ = ["METRICS", "Goal", "Table", "figures", "in_turn", "interval", "offer", "simulate"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
METRICS = ("mean", *QUANTILES, "extra", "work")
"""Milliseconds; then how many more requests than queries, and how much more work, in per cent."""

Ask = Callable[[Query], Awaitable[object]]


async def offer(
    ask: Ask, *, rate: float, queries: int, dice: random.Random, warm_up: int = 0
) -> list[Query]:
    """Ask so many times a second, whether or not earlier ones are answered; those after
    `warm_up`, in order, when all that they began has ended."""
    loop = asyncio.get_running_loop()
    asked: list[Query] = []
    running: set[asyncio.Task[None]] = set()

    async def one(query: Query) -> None:
        await ask(query)
        query.seconds = loop.time() - query.began

    arrival = loop.time()
    for number in range(warm_up + queries):
        arrival += dice.expovariate(rate)
        await _until(loop, arrival)
        query = Query(loop.time())
        if number >= warm_up:
            asked.append(query)
        task = loop.create_task(one(query))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    await asyncio.sleep(60)  # for what servers still do that do not heed a cancellation
    return asked


async def _until(loop: asyncio.AbstractEventLoop, when: float) -> None:
    woken = loop.create_future()
    loop.call_at(when, woken.set_result, None)
    await woken


async def in_turn(ask: Ask, queries: int) -> list[Query]:
    """Ask again when the answer is there."""
    loop = asyncio.get_running_loop()
    asked = [Query(math.nan) for _ in range(queries)]
    for query in asked:
        query.began = loop.time()
        await ask(query)
        query.seconds = loop.time() - query.began
    return asked


def simulate(
    what: str, work: Callable[[int], Coroutine[Any, Any, list[Query]]], seeds: int
) -> list[list[Query]]:
    """`work(seed)` on a fresh virtual clock for each seed; the library's dice have it too."""
    runs = []
    for seed in range(1, seeds + 1):
        progress(f"{what}: seed {seed} of {seeds}")
        state = random.getstate()
        random.seed(seed)
        try:
            runs.append(testing.run(partial(work, seed), seed=seed))
        finally:
            random.setstate(state)
    progress("")
    return runs


def quantile(ordered: Sequence[float], target: float) -> float:
    """The least value that so large a share does not exceed."""
    return ordered[max(0, math.ceil(target * len(ordered) - 1e-9) - 1)]


def figures(asked: Sequence[Query]) -> dict[str, float]:
    """What one seed gave."""
    took = sorted(1000 * query.seconds for query in asked)
    parts = [part for query in asked for part in (query.parts or (query,))]
    return {
        "mean": fmean(took),
        **{name: quantile(took, target) for name, target in QUANTILES.items()},
        "extra": 100 * (sum(part.copies for part in parts) / len(parts) - 1),
        "work": 100 * (sum(part.work for part in parts) / sum(part.alone for part in parts) - 1),
    }


# Student's t for 95 %, by degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean over the seeds, and half the width of its 95 % confidence interval."""
    n = len(values)
    if n < 2:
        return values[0], math.inf
    t = _T[n - 2] if n - 2 < len(_T) else 2.0
    return fmean(values), t * stdev(values) / math.sqrt(n)


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was."""

    text: str
    value: float
    met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.text}: {self.value:.4g}"


@dataclass
class Table:
    """The figures of one experiment: for each row a list with those of each seed, and lines of
    known values below."""

    key: str
    title: str
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    known: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, name: str, runs: Iterable[Sequence[Query]]) -> None:
        self.rows[name] = [figures(run) for run in runs]

    def mean(self, name: str, metric: str) -> float:
        return interval([each[metric] for each in self.rows[name]])[0]

    def __str__(self) -> str:
        wide = max(len(name) for name in (*self.rows, *self.known, self.title))
        lines = [f"{self.title:{wide}} │" + "".join(f"{metric:>15}" for metric in METRICS)]
        lines.append("─" * (wide + 1) + "┼" + "─" * 15 * len(METRICS))
        for name, runs in self.rows.items():
            cells = (_cell(*interval([each[m] for each in runs])) for m in METRICS)
            lines.append(f"{name:{wide}} │" + "".join(f"{cell:>15}" for cell in cells))
        for name, values in self.known.items():
            cells = (f"{values[m]:.4g}" if m in values else "" for m in METRICS)
            lines.append(f"{name:{wide}} │" + "".join(f"{cell:>15}" for cell in cells))
        return "\n".join(lines)


def _cell(value: float, half: float) -> str:
    fine = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:z.{fine}f}" + ("" if math.isinf(half) else f" ±{half:.{fine}f}")
