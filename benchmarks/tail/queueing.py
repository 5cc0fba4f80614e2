"""Twenty servers that serve one copy at a time, under Poisson arrivals: where a copy costs those
who wait behind it. Service times as in `alone`; what is varied is said by each scenario.

Rows: one copy to a random server; one copy by the power of two choices (`Hedged` that sends a
second only on failure); `Hedged` with a random server for each copy; `Hedged` as it comes, which
does both; and, where it matters, a second copy after what was the 95th percentile on an idle
server, without a budget.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.tail.closed_form import MEAN, straggling
from benchmarks.tail.load import Ask, Goal, Table, offer, quantile, simulate
from benchmarks.tail.world import Query, Server, Service
from tailrace import Hedged, query_all
from tailrace.gather.hedging.pool import BURST

__all__ = ["WAYS", "Scenario", "run", "run_fan_out", "run_slowdown", "run_sweep", "work"]

SERVERS = 20
BUDGET = 0.05
P95 = 0.017  # seconds: of one copy on an idle server
LATE = 0.010  # seconds that a cancellation takes, where it comes late

Make = Callable[[list[Server]], Ask]


def one_random(servers: list[Server]) -> Ask:
    dice = random.Random("balance")
    return lambda query: dice.choice(servers).query(query)


def _hedged(**options: Any) -> Make:
    def make(servers: list[Server]) -> Ask:
        given = {"budget": BUDGET, "random": random.Random("hedged"), **options}
        return Hedged(*servers, **given).query

    return make


ONE, P2C, RANDOM, BOTH, UNBOUND = (
    "one copy, random",
    "one copy, P2C",
    "Hedged, random",
    "Hedged, P2C",
    "at p95, no budget",
)
WAYS: dict[str, Make] = {
    ONE: one_random,
    P2C: _hedged(delay=math.inf),
    RANDOM: _hedged(balance="random"),
    BOTH: _hedged(),
    UNBOUND: _hedged(delay=P95, budget=1.0, balance="random"),
}


@dataclass(frozen=True)
class Scenario:
    """How busy the servers are, what a cancellation does, and what ails them."""

    rho: float
    heeds: float = 0.0
    correlated: bool = False
    slow: float = 1.0  # how many times longer the first server takes
    warm_up: int = 12_000  # queries that are not counted


def _service(dice: random.Random, times: float = 1.0) -> Service:
    return lambda _: times * straggling(dice) / 1000


def _correlated(dice: random.Random) -> Service:
    def service(query: Query) -> float:
        if query.service is None:
            query.service = straggling(dice) / 1000
        return query.service

    return service


async def work(make: Make, scenario: Scenario, queries: int, seed: int) -> list[Query]:
    dice = random.Random(f"service {seed}")
    service = _correlated(dice) if scenario.correlated else _service(dice)
    servers = [Server(f"{i}", service, scenario.heeds) for i in range(SERVERS)]
    if scenario.slow != 1:
        servers[0] = Server("0", _service(dice, scenario.slow), scenario.heeds)
    return await offer(
        make(servers),
        rate=scenario.rho * SERVERS / MEAN * 1000,
        queries=queries,
        dice=random.Random(f"arrivals {seed}"),
        warm_up=scenario.warm_up,
    )


def _rows(
    table: Table, ways: list[str], scenario: Scenario, seeds: int, queries: int, suffix: str = ""
) -> None:
    for name in ways:
        runs = simulate(
            f"{table.title}: {name}{suffix}", partial(work, WAYS[name], scenario, queries), seeds
        )
        table.add(name + suffix, runs)


# --- One state of affairs after the other -------------------------------------------------------


def run(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    """The published comparison, and what makes hedging hard."""
    tables, goals = [], []

    table = Table("rho 0.7", "ρ = 0.7, ms")
    _rows(table, [ONE, P2C, RANDOM, BOTH], Scenario(0.7), seeds, queries)
    table.known = {
        "one copy, random, published": {"p99": 203, "p99.9": 360},
        "one copy, P2C, published": {"p99": 90.5, "p99.9": 137},
        "hedge p95, published": {"p99": 113, "p99.9": 168},
        "hedge + P2C, published": {"p99": 57.7, "p99.9": 91.6, "extra": 4.4},
    }
    tables.append(table)
    for metric, limit in (("p99", 60.0), ("p99.9", 95.0)):
        value = table.mean(BOTH, metric)
        text = f"ρ = 0.7, {BOTH}: {metric} at most {limit:g} ms"
        goals.append(Goal(text, value, value <= limit))
    extra = table.mean(BOTH, "extra")
    goals.append(Goal(f"ρ = 0.7, {BOTH}: at most 5 % extra", extra, extra <= 100 * BUDGET))

    table = Table("cancellation", "ρ = 0.85, when a cancellation frees the server, ms")
    for heeds, suffix in (
        (0.0, ": at once"),
        (LATE, f": {1000 * LATE:.0f} ms later"),
        (math.inf, ": never"),
    ):
        ways = [P2C, BOTH] if heeds == 0 else [BOTH]
        _rows(table, ways, Scenario(0.85, heeds), seeds, queries, suffix)
    _rows(table, [RANDOM, UNBOUND], Scenario(0.85, math.inf), seeds, queries, ": never")
    tables.append(table)
    name = f"{BOTH}: never"
    for metric, limit, unit in (("p50", 12.0, "ms"), ("extra", 6.0, "%")):
        value = table.mean(name, metric)
        text = f"ρ = 0.85, {name} frees the server: {metric} at most {limit:g} {unit}"
        goals.append(Goal(text, value, value <= limit))

    table = Table("hard", "ρ = 0.5, ms")
    _rows(table, [P2C, BOTH], Scenario(0.5), seeds, queries)
    for scenario, suffix in (
        (Scenario(0.5, correlated=True), ", copies alike"),
        (Scenario(0.5, slow=5), ", a server 5 × slower"),
    ):
        _rows(table, [P2C, BOTH], scenario, seeds, queries, suffix)
    tables.append(table)
    for suffix in (", copies alike", ", a server 5 × slower"):
        extra = table.mean(BOTH + suffix, "extra")
        goals.append(Goal(f"ρ = 0.5{suffix}: at most 5 % extra", extra, extra <= 100 * BUDGET))
    return tables, goals


# --- From idle to busy --------------------------------------------------------------------------

RHOS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)


def run_sweep(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    """p99 by ρ, where a cancellation works at once and where it does nothing."""
    tables = []
    for key, heeds, ways in (
        ("at once", 0.0, [ONE, P2C, RANDOM, BOTH]),
        ("never", math.inf, [P2C, BOTH, UNBOUND]),
    ):
        table = Table(f"sweep {key}", f"a cancellation frees the server {key}, ms")
        for rho in RHOS:
            scenario = Scenario(rho, heeds, warm_up=3000)
            _rows(table, ways, scenario, seeds, queries, f", ρ = {rho}")
        for name in ways:
            table.curves[name] = [
                [rho, *(table.mean(f"{name}, ρ = {rho}", m) for m in ("p50", "p99", "extra"))]
                for rho in RHOS
            ]
        tables.append(table)
    return tables, []


# --- Everything ten times slower, for a minute --------------------------------------------------

SLOW_FROM, SLOW_UNTIL, UNTIL = 60.0, 120.0, 210.0  # seconds
TIMES = 10.0
QUIET = 0.07  # ρ: ten times slower it is 0.7
BIN = 5.0  # seconds
WINDOW = 10_000  # latencies that the plan is made of


def run_slowdown(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    """A global slowdown: no hedging helps, so it must not cost more than its budget."""
    rate = QUIET * SERVERS / MEAN * 1000
    shrink = min(1.0, queries / 20_000)  # a quick run has a shorter minute
    moments = [shrink * t for t in (SLOW_FROM, SLOW_UNTIL, UNTIL)]
    began, ended, until = (t + 12_000 / rate for t in moments)

    async def asked(make: Make, seed: int) -> list[Query]:
        dice = random.Random(f"service {seed}")

        def service(query: Query) -> float:
            times = TIMES if began <= query.began < ended else 1.0
            return times * straggling(dice) / 1000

        servers = [Server(f"{i}", service) for i in range(SERVERS)]
        arrivals = random.Random(f"arrivals {seed}")
        return await offer(make(servers), rate=rate, queries=int(rate * until), dice=arrivals)

    table = Table("slowdown", "10 × slower for a minute, ms")
    goals = []
    for name in (P2C, BOTH):
        runs = simulate(f"slowdown: {name}", partial(asked, WAYS[name]), seeds)
        phases = (
            ("before", 12_000 / rate, began),
            ("slow", began, ended),
            ("after", ended, until),
        )
        for phase, start, end in phases:
            of_it = [[q for q in run if start <= q.began < end] for run in runs]
            table.add(f"{name}, {phase}", of_it)
        table.curves[name] = _timeline([q for run in runs for q in run], seeds, until, began)
        if name != BOTH:
            continue
        for phase, start, end in phases:
            extra = table.mean(f"{name}, {phase}", "extra")
            saved = 100 * BURST / (rate * (end - start))  # what the bucket held when it began
            text = f"slowdown, {phase}: at most 5 % extra, and {saved:.2f} % that were saved"
            goals.append(Goal(text, extra, extra <= 100 * BUDGET + saved))
        before = table.mean(f"{name}, before", "p99")
        window = WINDOW / rate
        late = [[q for q in run if q.began >= ended + window] for run in runs]
        if not all(late):
            continue
        table.add(f"{name}, a window after", late)
        value = table.mean(f"{name}, a window after", "p99")
        text = f"slowdown: a window ({window:.0f} s) later p99 within 10 % of {before:.1f} ms"
        goals.append(Goal(text, value, value <= 1.1 * before))
    return [table], goals


def _timeline(asked: list[Query], seeds: int, until: float, began: float) -> list[list[float]]:
    """For each `BIN` seconds, with the slowdown at 0: p50, p99, and per cent of extra requests."""
    bins: dict[int, list[Query]] = {}
    for query in asked:
        bins.setdefault(math.floor((query.began - began) / BIN), []).append(query)
    lines = []
    for number, queries in sorted(bins.items()):
        if (number + 1) * BIN + began > until or (number * BIN) + began < 0:
            continue
        took = sorted(1000 * query.seconds for query in queries)
        extra = 100 * (sum(query.copies for query in queries) / len(queries) - 1)
        lines.append([(number + 0.5) * BIN, quantile(took, 0.5), quantile(took, 0.99), extra])
    return lines


# --- The slowest of many ------------------------------------------------------------------------

FAN_OUTS = (1, 10, 100)
SHARD = 3  # replicas of each
FAN_RHO = 0.3


class _Shard:
    """Asks its part of a query of those who know it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def query(self, query: Query, /) -> None:
        part = Query(query.began)
        query.parts.append(part)
        await self._ask(part)


def run_fan_out(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    """A query that asks a part of each of many shards, of three servers each, and needs all."""
    table = Table("fan-out", f"all of so many shards, ρ = {FAN_RHO}, ms")
    ways = {
        P2C: WAYS[P2C],
        "Hedged, target 0.99": _hedged(),
        "Hedged, target 0.999": _hedged(target=0.999),
    }
    for name, make in ways.items():
        for width in FAN_OUTS:
            count = max(queries // 50, queries // max(4, width))
            row = f"{name}, {width} shards"
            asking = partial(_fan_out, make, width, count)
            table.add(row, simulate(f"fan-out: {row}", asking, seeds))
        table.curves[name] = [
            [width, *(table.mean(f"{name}, {width} shards", m) for m in ("p50", "p99"))]
            for width in FAN_OUTS
        ]
    return [table], []


async def _fan_out(make: Make, width: int, queries: int, seed: int) -> list[Query]:
    dice = random.Random(f"service {seed}")
    service = _service(dice)
    shards = [
        _Shard(make([Server(f"{shard}-{i}", service) for i in range(SHARD)]))
        for shard in range(width)
    ]
    return await offer(
        lambda query: query_all(query, *shards),
        rate=FAN_RHO * SHARD / MEAN * 1000,
        queries=queries,
        dice=random.Random(f"arrivals {seed}"),
        warm_up=500,
    )
