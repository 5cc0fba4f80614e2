"""The talk's own set-up, whose answer is known: three backends, one after the other, at once, and
with 3, 2 and 5 replicas. Each takes a whole number of milliseconds below 100, all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.tail.closed_form import sum_survival, talk_quantile, talk_survival
from benchmarks.tail.load import QUANTILES, Ask, Goal, Table, in_turn, interval, simulate
from benchmarks.tail.world import Free, Query
from tailrace import Replicas, query_all

__all__ = ["run"]

REPLICAS = (3, 2, 5)


def run(seeds: int, queries: int) -> tuple[list[Table], list[Goal]]:
    table = Table("talk", "the talk's backends, ms")
    goals = []
    for name, program, beyond in (
        ("naive", naive, sum_survival(3)),
        ("concurrent", concurrent, talk_survival(1, 1, 1)),
        ("replicas of 3, 2, 5", replicas, talk_survival(*REPLICAS)),
    ):
        table.add(name, simulate(f"talk, {name}", _asking(program, queries), seeds))
        table.known[f"{name}, closed form"] = {
            "mean": sum(beyond),
            **{metric: talk_quantile(target, beyond) for metric, target in QUANTILES.items()},
        }
        mean, half = interval([each["mean"] for each in table.rows[name]])
        text = f"{name}: mean within ±{half:.2f} (95 %) of {sum(beyond):.2f} ms"
        goals.append(Goal(text, mean, abs(mean - sum(beyond)) <= half))
        table.curves[name] = [[float(t), left] for t, left in enumerate(beyond)]
    return [table], goals


def _asking(
    program: Callable[[Callable[[], Free]], Ask], queries: int
) -> Callable[[int], Coroutine[Any, Any, list[Query]]]:
    async def work(seed: int) -> list[Query]:
        dice = random.Random(f"service {seed}")

        def server() -> Free:
            return Free("server", lambda _: dice.randrange(100) / 1000)

        return await in_turn(program(server), queries)

    return work


def naive(server: Callable[[], Free]) -> Ask:
    servers = [server() for _ in REPLICAS]

    async def ask(query: Query) -> list[str]:
        return [await each.query(query) for each in servers]

    return ask


def concurrent(server: Callable[[], Free]) -> Ask:
    servers = [server() for _ in REPLICAS]
    return lambda query: query_all(query, *servers)


def replicas(server: Callable[[], Free]) -> Ask:
    groups = [Replicas(*(server() for _ in range(n))) for n in REPLICAS]
    return lambda query: query_all(query, *groups)
