"""The tail simulations of `benchmarks/tail`, small: what `Replicas` and `Hedged` promise, held
against what can be computed, in virtual time and with known seeds."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
try:
    from benchmarks.tail import alone, queueing, talk
    from benchmarks.tail.closed_form import (
        single_r,
        survival,
        talk_mean,
        talk_quantile,
        talk_survival,
    )
    from benchmarks.tail.load import figures, simulate
finally:
    sys.path.remove(str(ROOT))


def test_the_closed_forms_are_those_of_the_talk_and_of_single_r() -> None:
    assert 3 * 49.5 == 148.5
    assert talk_mean(1, 1, 1) == pytest.approx(74.4975)
    assert talk_mean(3, 2, 5) == pytest.approx(43.31, abs=0.01)
    beyond = talk_survival(3, 2, 5)
    assert [talk_quantile(q, beyond) for q in (0.5, 0.95, 0.99, 0.999)] == [42, 79, 90, 96]
    assert single_r(survival, 0.99, 0.05).value == pytest.approx(20.5, abs=0.1)
    assert single_r(survival, 0.999, 0.05).value == pytest.approx(48.0, abs=0.1)


def test_the_talks_backends_take_as_long_as_computed() -> None:
    (table,), _ = talk.run(1, 800)
    spread = 3.5 / math.sqrt(800)  # standard errors of the mean, of a spread below 50, 20 and 20
    assert table.mean("naive", "mean") == pytest.approx(148.5, abs=50 * spread)
    assert table.mean("concurrent", "mean") == pytest.approx(74.5, abs=20 * spread)
    replicas = "replicas of 3, 2, 5"
    assert table.mean(replicas, "mean") == pytest.approx(43.31, abs=21 * spread)
    assert table.mean(replicas, "p50") == pytest.approx(42, abs=6)
    assert table.mean(replicas, "p99") == pytest.approx(90, abs=6)
    assert table.mean(replicas, "extra") == 900  # ten copies, and not one more


@pytest.mark.parametrize(
    ("target", "metric", "alone_ms"), [(0.99, "p99", 64.0), (0.999, "p99.9", 102.0)]
)
def test_hedged_comes_near_the_optimum_within_its_budget(
    target: float, metric: str, alone_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "WARM_UP", 1500)
    (asked,) = simulate("", partial(alone.work, partial(alone.hedged, target), 4000), 1)
    found = figures(asked)
    best = single_r(survival, target, 0.05).value
    assert best * 0.7 < found[metric] < min(1.4 * best, 0.75 * alone_ms)
    assert 2 < found["extra"] < 6
    assert found["work"] < 0  # a straggler that is cancelled saves more than the copies cost


def queued(way: str, rho: float, heeds: float, queries: int) -> dict[str, float]:
    scenario = queueing.Scenario(rho, heeds, warm_up=1000)
    (asked,) = simulate("", partial(queueing.work, queueing.WAYS[way], scenario, queries), 1)
    return figures(asked)


def test_hedging_helps_busy_servers_and_does_not_bury_them() -> None:
    one, hedged = (queued(way, 0.7, 0.0, 2500) for way in (queueing.P2C, queueing.BOTH))
    assert hedged["p99"] < 0.9 * one["p99"]
    assert hedged["extra"] < 6
    in_vain = queued(queueing.BOTH, 0.85, math.inf, 2500)
    assert in_vain["p50"] < 25
    assert in_vain["extra"] < 7
    unbound = queued(queueing.UNBOUND, 0.85, math.inf, 1000)
    assert unbound["p50"] > 10 * in_vain["p50"]  # which is what a budget is for
