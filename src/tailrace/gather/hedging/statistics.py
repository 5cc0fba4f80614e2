"""What `Hedged.statistics` returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tailrace.gather.hedging.pool import Pool

__all__ = ["BackendStatistics", "HedgedStatistics", "snapshot"]


@dataclass(frozen=True, slots=True)
class BackendStatistics:
    """One backend of a `Hedged`. `ewma` is its mean latency for balancing, in seconds."""

    backend: Any
    name: str
    queries: int
    failures: int
    pending: int
    ewma: float
    ejected: bool


@dataclass(frozen=True, slots=True)
class HedgedStatistics:
    """What a `Hedged` has done so far, and when it hedges now.

    `copies` is how many times a backend was asked: once for each query (unless it was cancelled in
    a queue), and `hedges` and `failovers` more. `extra_load` is hedges per query. `wins` counts
    the answers of the first copy, of the second, and so on; `budget_denials` the copies that the
    budget did not pay for. The quantiles are of the time until a query was answered, in seconds,
    over the last ten thousand; nan before the first. After `delay` seconds another copy is sent
    with `probability`: inf and 0 if none is, for now.
    """

    queries: int
    copies: int
    hedges: int
    failovers: int
    extra_load: float
    wins: tuple[int, ...]
    budget_denials: int
    p50: float
    p90: float
    p99: float
    p999: float
    delay: float
    probability: float
    backends: tuple[BackendStatistics, ...]


def snapshot(pool: Pool) -> HedgedStatistics:
    """The statistics of a pool at this moment."""
    now = 0.0 if pool.loop is None else pool.loop.time()
    known = sorted(pool.latencies)
    p50, p90, p99, p999 = (
        known[int(q * len(known))] if known else math.nan for q in (0.5, 0.9, 0.99, 0.999)
    )
    return HedgedStatistics(
        queries=pool.queries,
        copies=pool.copies,
        hedges=pool.hedges,
        failovers=pool.failovers,
        extra_load=pool.hedges / pool.queries if pool.queries else 0.0,
        wins=tuple(pool.wins),
        budget_denials=pool.budget.denied,
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        delay=pool.delay,
        probability=pool.probability,
        backends=tuple(
            BackendStatistics(
                backend=replica.backend,
                name=replica.name,
                queries=replica.queries,
                failures=replica.failures,
                pending=replica.pending,
                ewma=replica.cost,
                ejected=replica.health is not None and now < replica.health.ejected_until,
            )
            for replica in pool.replicas
        ),
    )
