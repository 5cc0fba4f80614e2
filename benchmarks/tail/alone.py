"""Copies that take independent times, on backends with as many hands as are needed: lognormal with
5 % of stragglers. What two targets reach within a budget of 5 %, beside the optimum of one more
copy after a delay, with a probability, and what others have published."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from benchmarks.tail.closed_form import (
    MEAN,
    TARGETS,
    both_at_once,
    quantile_of,
    single_r,
    straggling,
    survival,
)
from benchmarks.tail.load import QUANTILES, Ask, Goal, Table, offer, quantile, simulate
from benchmarks.tail.world import Free, Query
from tailrace import Hedged, Replicas

__all__ = ["hedged", "run", "work"]

BUDGET = 0.05
BACKENDS = 3
RATE = 1000.0  # a second
WARM_UP = 12_000  # queries that are not counted: the window that is learnt from, and more
WITHIN = 1.10  # of the optimum
POINTS = 60

PUBLISHED = {"bhope/hedge, published": {"p99": 17.0, "p99.9": 59.4, "extra": 8.9}}


def run(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    table = Table("alone", "independent copies, budget 5 %, ms")
    goals = []
    rows: dict[str, Callable[[list[Free]], Ask]] = {
        "one copy": lambda servers: servers[0].query,
        **{f"Hedged, target {t}": partial(hedged, t) for t in TARGETS},
        "both at once": lambda servers: Replicas(*servers[:2]).query,
    }
    for name, build in rows.items():
        runs = simulate(f"independent copies, {name}", partial(work, build, queries), seeds)
        table.add(name, runs)
        pooled = sorted(1000 * query.seconds for run in runs for query in run)
        beyond = [10 ** (-3.3 * i / POINTS) for i in range(1, POINTS + 1)]
        table.curves[name] = [[quantile(pooled, 1 - left), left] for left in beyond]
    for metric, target in (("p99", 0.99), ("p99.9", 0.999)):
        best = single_r(survival, target, BUDGET)
        table.known[f"SingleR optimum for {target}"] = {metric: best.value, "extra": 100 * BUDGET}
        name = f"Hedged, target {target}"
        value, extra = table.mean(name, metric), table.mean(name, "extra")
        text = f"{name}: {metric} within 10 % of {best.value:.1f} ms"
        goals.append(Goal(text, value, value <= WITHIN * best.value))
        goals.append(Goal(f"{name}: at most 5 % extra", extra, extra <= 100 * BUDGET))
    for metric, target in QUANTILES.items():
        table.known.setdefault("one copy, exact", {})[metric] = quantile_of(survival, target)
        table.known.setdefault("both at once, exact", {})[metric] = both_at_once(survival, target)
    table.known["one copy, exact"]["mean"] = MEAN
    table.known.update(PUBLISHED)
    return [table], goals


async def work(build: Callable[[list[Free]], Ask], queries: int, seed: int) -> list[Query]:
    dice = random.Random(f"service {seed}")
    servers = [Free(f"{i}", lambda _: straggling(dice) / 1000) for i in range(BACKENDS)]
    arrivals = random.Random(f"arrivals {seed}")
    return await offer(build(servers), rate=RATE, queries=queries, dice=arrivals, warm_up=WARM_UP)


def hedged(target: float, servers: list[Free]) -> Ask:
    return Hedged(*servers, target=target, budget=BUDGET, random=random.Random("hedged")).query
