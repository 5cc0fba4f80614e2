"""The parts that `Hedged` is made of, each for itself."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field

import pytest

from tailrace import Hedged
from tailrace.gather.hedging.delay import NEVER, Curve, Plan, Sketch, plan
from tailrace.gather.hedging.pool import BURST, Budget, Schedule
from tailrace.gather.hedging.replica import BALANCERS, Eject, Health, Replica
from tailrace.gather.race import Race

# --- the sketch


def straggling(rng: random.Random) -> float:
    seconds = rng.lognormvariate(1.535, 0.385) / 1000
    return seconds * 10 if rng.random() < 0.05 else seconds


def test_quantiles_are_within_one_per_cent_of_the_sample_s() -> None:
    rng = random.Random(1)
    sketch, values = Sketch(100_000), []
    for _ in range(20_000):
        values.append(rng.lognormvariate(0, 2))
        sketch.record(values[-1])
    values.sort()
    curve = sketch.curve()
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert curve.quantile(q) == pytest.approx(values[math.ceil(q * 20_000) - 1], rel=0.0101)
    assert curve.samples == 20_000


def test_the_window_forgets_what_is_older() -> None:
    sketch = Sketch(1000)
    for _ in range(1000):
        sketch.record(1.0)
    for _ in range(1000):
        sketch.record(0.001)
    assert sketch.curve().quantile(0.9999) == pytest.approx(0.001, rel=0.02)
    assert 900 <= sketch.curve().samples <= 1000
    assert sketch.count == 2000
    for _ in range(1000):
        sketch.record(0.001, censored=True)
    assert sketch.curve().samples <= 100, "what is only known to take longer has its place too"


def test_censored_samples_are_counted_as_longer_than_they_were() -> None:
    rng = random.Random(2)
    naive, right, truth = Sketch(10**6), Sketch(10**6), []
    for _ in range(20_000):
        x, c = rng.expovariate(1), rng.expovariate(0.5)
        truth.append(x)
        if x <= c:
            naive.record(x)
            right.record(x)
        else:
            right.record(c, censored=True)
    truth.sort()
    for q in (0.5, 0.9, 0.95):
        assert right.curve().quantile(q) == pytest.approx(truth[int(20_000 * q)], rel=0.06)
    assert naive.curve().quantile(0.9) < 0.8 * truth[18_000]


def test_what_is_beyond_every_answer_is_not_known() -> None:
    sketch = Sketch(10_000)
    assert sketch.curve().quantile(0.5) == math.inf
    for _ in range(50):
        sketch.record(1.0)
        sketch.record(2.0, censored=True)
    assert sketch.curve().quantile(0.4) == pytest.approx(1, rel=0.02)
    assert sketch.curve().quantile(0.6) == math.inf
    sketch.record(0.0)
    assert sketch.curve().quantile(0.001) < 2e-6


# --- the plan


def curve_of(draw: Callable[[random.Random], float], n: int = 40_000, seed: int = 1) -> Curve:
    rng = random.Random(seed)
    sketch = Sketch(10 * n)
    for _ in range(n):
        sketch.record(draw(rng))
    return sketch.curve()


def quantile_after(made: Plan, target: float, n: int = 100_000) -> tuple[float, float]:
    """The quantile that a plan leads to, and its extra load, by simulation."""
    rng = random.Random(7)
    times, extra = [], 0
    for _ in range(n):
        x = straggling(rng)
        if x > made.delay and rng.random() < made.probability:
            extra += 1
            x = min(x, made.delay + straggling(rng))
        times.append(x)
    return sorted(times)[int(target * n)], extra / n


@pytest.mark.parametrize(("target", "optimum"), [(0.99, 0.0205), (0.999, 0.048)])
def test_the_plan_is_near_the_optimum_of_singler(target: float, optimum: float) -> None:
    made = plan(curve_of(straggling), target, 0.05)
    reached, extra = quantile_after(made, target)
    assert reached <= 1.05 * optimum
    assert extra <= 0.052


def test_a_uniform_distribution_is_not_hedged() -> None:
    assert plan(curve_of(lambda rng: rng.uniform(0.001, 0.1)), 0.99, 0.05) == NEVER


def test_equal_latencies_are_not_hedged() -> None:
    assert plan(curve_of(lambda rng: 0.01, 1000), 0.99, 0.05) == NEVER


def test_with_money_enough_two_are_asked_at_once() -> None:
    made = plan(curve_of(straggling), 0.99, 1.0)
    assert made.delay < 0.003
    assert made.probability > 0.9


def test_nothing_known_is_no_reason_to_hedge() -> None:
    assert plan(Sketch(10_000).curve(), 0.99, 0.05) == NEVER


def the_best_of_all(curve: Curve, target: float, budget: float) -> tuple[int, int | None]:
    """The least bucket of t that any policy reaches, and the earliest delay that does, by trying
    all: P(X > t) (1 - q P(Y <= t - d)) <= 1 - target, where q P(X > d) <= budget."""
    survival = curve.survival
    alone = next((i for i, s in enumerate(survival) if s <= 1 - target), len(survival) - 1)
    best: tuple[int, int | None] = (alone, None)
    for d in range(-1, alone):
        alive = survival[d] if d >= 0 else 1.0
        q = min(1.0, budget / alive)
        for t in range(d + 1, best[0]):
            left = curve.seconds(t) - (curve.seconds(d) if d >= 0 else 0.0)
            ended = [i for i in range(len(survival)) if curve.seconds(i) <= left * (1 + 1e-9)]
            answered = 1 - survival[ended[-1]] if ended else 0.0
            if survival[t] * (1 - q * answered) <= 1 - target:
                best = (t, d)
                break
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_policy_is_better_than_the_plan(seed: int) -> None:
    rng = random.Random(seed)
    survival, alive = [], 1.0
    for _ in range(rng.randrange(2, 60)):
        alive *= rng.choice((1.0, 0.99, 0.9, 0.5))
        survival.append(alive)
    curve = Curve(rng.choice((360, 400, 500)), survival, 1000)
    target, budget = rng.choice((0.5, 0.9, 0.99)), rng.choice((0.02, 0.05, 0.3, 1.0, 5.0))
    reached, delay = the_best_of_all(curve, target, budget)
    made = plan(curve, target, budget)
    if delay is None:
        assert made == NEVER
    else:
        assert made.delay == (curve.seconds(delay) if delay >= 0 else 0.0)
        assert made.probability == min(1.0, budget / (survival[delay] if delay >= 0 else 1.0))
    assert reached <= len(survival)


def test_a_plan_that_saves_a_single_bucket_is_made() -> None:
    assert plan(Curve(500, [0.2, 0.05, 0.0], 1000), 0.9, 1.0) == Plan(0.0, 1.0)


def test_latencies_below_a_millisecond_are_not_hedged() -> None:
    assert plan(curve_of(lambda rng: straggling(rng) / 100), 0.99, 0.05) == NEVER
    assert plan(curve_of(lambda rng: straggling(rng) / 10), 0.99, 0.05) != NEVER


def test_a_plan_is_made_in_less_than_two_milliseconds() -> None:
    curve = curve_of(lambda rng: rng.lognormvariate(0, 1.2))
    assert len(curve.survival) > 400
    took = []
    for _ in range(7):
        began = time.thread_time()
        plan(curve, 0.99, 0.05)
        took.append(time.thread_time() - began)
    assert min(took) < 0.006, "three times as much for slow machines"


# --- the budget


def test_the_budget_pays_for_a_share_of_the_queries() -> None:
    budget = Budget(0.05, full=True)
    assert sum(budget.take(0) for _ in range(100)) == BURST
    assert budget.denied == 100 - BURST
    assert sum(budget.take(n) for n in range(1000)) == pytest.approx(50, abs=1)
    budget = Budget(0.05, full=True)
    for _ in range(int(BURST)):
        assert budget.take(0)
    assert [budget.take(n) for n in (19, 20)] == [False, True]
    budget.give_back()
    assert budget.take(20)
    begins_empty = Budget(0.05, full=False)
    assert [begins_empty.take(n) for n in (0, 19, 20)] == [False, False, True]


def test_nothing_buys_nothing_and_infinity_everything() -> None:
    assert not Budget(0, full=True).take(1000)
    endless = Budget(math.inf, full=True)
    assert all(endless.take(n // 10) for n in range(1000))


def test_what_share_of_the_wanted_copies_was_paid_for_is_told_since_the_last_time() -> None:
    budget = Budget(0.1, full=False)
    assert budget.paid_share() == 1
    assert [budget.take(n) for n in (10, 10, 10, 20)] == [True, False, False, True]
    assert budget.paid_share() == 0.5
    assert budget.take(30)
    assert budget.paid_share() == 1
    never_asked_before = Budget(0.1, full=False)
    assert not never_asked_before.take(0)
    assert never_asked_before.paid_share() == 0


def test_what_comes_back_to_the_budget_is_saved_up_to_its_size() -> None:
    budget = Budget(0.05, full=True)
    assert budget.take(0)
    budget.give_back()
    budget.give_back()
    assert sum(budget.take(0) for _ in range(100)) == BURST
    budget.give_back()
    assert [budget.take(0), budget.take(0)] == [True, False]


def test_the_clock_alone_brings_nothing_to_the_budget() -> None:
    budget = Budget(1.0, full=False)
    assert not budget.take(0)
    assert [budget.take(1), budget.take(1)] == [True, False]
    assert [budget.take(0), budget.take(2)] == [False, True], "an older count feeds nothing"


# --- when it learns


@pytest.mark.virtual_time
async def test_plans_are_made_at_ten_over_the_budget_and_then_when_as_much_is_known_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counts(curve: Curve, target: float, budget: float) -> Plan:
        made.append(curve.samples)
        return NEVER

    monkeypatch.setattr("tailrace.gather.hedging.pool.plan", counts)
    servers = Hedged(_Nobody(), budget=0.05)
    for _ in range(4700):
        await servers.query("foo")
    assert made == [200, 400, 800, 1600, 2600, 3600, 4600]


@pytest.mark.virtual_time
async def test_another_copy_is_sent_with_the_probability_of_the_plan() -> None:
    class Slow:
        async def query(self, query: str, /) -> str:
            await asyncio.sleep(1)
            return query

    servers = Hedged(Slow(), Slow(), budget=math.inf, random=random.Random(1), eject=None)
    servers._pool.next_plan = math.inf
    for probability, least, most in ((0.0, 0, 0), (0.25, 75, 125), (1.0, 400, 400)):
        servers._pool.delay, servers._pool.probability = 0.5, probability
        before = servers.statistics().hedges
        for _ in range(400):
            await servers.query("foo")
        assert least <= servers.statistics().hedges - before <= most


# --- health


def test_a_backend_is_ejected_for_longer_each_time_until_it_answers() -> None:
    health = Health(Eject(failures=2, seconds=1, longest=5))
    assert [health.failed(), health.failed()] == [False, True]
    for now, until in ((0, 1), (1, 3), (3, 7), (7, 12)):
        health.eject(now)
        assert not health.usable(until - 0.1)
        assert health.usable(until)
        health.probing = True
        assert not health.usable(until), "by one query at a time"
        assert health.failed(), "one more failure is enough"
    health.succeeded()
    assert not health.failed()


def test_the_rate_of_success_counts_once_twenty_queries_are_known() -> None:
    health = Health(Eject(failures=99, success_rate=0.9))
    assert [health.failed() for _ in range(20)] == [False] * 19 + [True]
    mixed = Health(Eject(failures=99, success_rate=0.9))
    said = []
    for _ in range(11):
        said.append(mixed.failed())
        mixed.succeeded()
    assert said == [False] * 10 + [True], "the answers between them count too"


def test_a_backend_without_blemish_forgets_its_failures() -> None:
    health = Health(Eject(failures=3))
    for _ in range(5):
        assert [health.failed(), health.failed()] == [False, False]
        health.succeeded()
    assert health.suspect
    for _ in range(200):
        health.succeeded()
    assert not health.suspect


def test_the_time_to_be_left_alone_may_be_always_the_same() -> None:
    health = Health(Eject(failures=1, seconds=60, longest=60))
    for now in (0.0, 60.0, 120.0):
        assert health.failed()
        health.eject(now)
        assert health.ejected_until == now + 60


# --- the balance


def replicas(*costs: float) -> list[Replica]:
    made = []
    for position, cost in enumerate(costs, 1):
        replica = Replica(_Nobody(), position, None, None)
        replica.cost = cost
        made.append(replica)
    return made


class _Nobody:
    async def query(self, query: str, /) -> str:
        return query


def test_of_two_choices_the_less_loaded_is_taken() -> None:
    rng, of = random.Random(1), replicas(0.1, 0.1, 0.1)
    counts = [0, 0, 0]
    for _ in range(3000):
        chosen = BALANCERS["p2c"](of, 0.0, rng)
        chosen.pending += 1
        counts[chosen.position - 1] += 1
    assert max(counts) - min(counts) < 30
    assert BALANCERS["p2c"](replicas(0.2, 0.1), 0.0, rng).position == 2
    assert BALANCERS["p2c"](replicas(0.0, 0.0), 0.0, rng).position == 1
    unknown, known = replicas(0.0, 9.0)
    assert BALANCERS["p2c"]([unknown, known], 0.0, rng) is unknown
    unknown.pending = 1
    assert BALANCERS["p2c"]([unknown, known], 0.0, rng) is known, "it is being found out"
    assert BALANCERS["in_order"](of, 0.0, rng) is of[0]
    assert {BALANCERS["random"](of, 0.0, rng).position for _ in range(99)} == {1, 2, 3}


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("least_first", [True, False])
def test_any_two_are_chosen_alike(count: int, least_first: bool) -> None:
    loads = range(1, count + 1) if least_first else range(count, 0, -1)
    rng, of = random.Random(1), replicas(*loads)
    counts = dict.fromkeys(loads, 0)
    for _ in range(6000):
        counts[BALANCERS["p2c"](of, 0.0, rng).cost] += 1
    pairs = count * (count - 1) / 2  # in count - n of them the n-th is the less loaded one
    assert counts == pytest.approx({n: 6000 * (count - n) / pairs for n in loads}, abs=150)


def test_what_was_slow_long_ago_is_tried_again() -> None:
    slow, quick = replicas(10.0, 0.1)
    slow.updated = quick.updated = 0.0
    quick.record(0.1, 60.0)
    assert slow.load(60.0) < quick.load(60.0)
    assert slow.load(60.0) == pytest.approx(10.0 * math.exp(-6.0))


def test_latencies_are_averaged_and_the_older_count_less() -> None:
    (one,) = replicas(0.0)
    one.record(1.0, 0.0)
    assert one.cost == 1.0
    one.record(2.0, 10.0)
    assert one.cost == pytest.approx(1 / math.e + 2 * (1 - 1 / math.e))
    before = one.cost
    one.censored(before / 2, 20.0)
    assert (one.cost, one.updated) == (before, 10.0), "it would have taken longer: nothing is known"
    one.censored(5.0, 20.0)
    assert one.cost == pytest.approx(before / math.e + 5 * (1 - 1 / math.e))
    (fresh,) = replicas(0.0)
    fresh.censored(3.0, 7.0)
    assert (fresh.cost, fresh.updated) == (3.0, 7.0)


# --- the race


class Endless(Race[object]):
    def over(self) -> bool:
        return False


async def test_whoever_waits_for_a_race_goes_on_in_the_context_it_waits_in() -> None:
    name = ContextVar("name", default="outside")
    race, heard = Endless("race"), list[str]()

    def wait(called: str) -> None:
        name.set(called)
        race.add_done_callback(lambda _: heard.append(name.get()))

    for called in ("the task", "a watcher", "another"):
        copy_context().run(wait, called)
    race.add_done_callback(lambda _: heard.append(name.get()), context=copy_context())
    race.check()
    assert heard == []
    race.decided = True
    race.check()
    await asyncio.sleep(0)
    assert heard == ["the task", "a watcher", "another", "outside"]


# --- the schedule


@dataclass
class Waits:
    name: str
    log: list[tuple[str, float]]
    decided: bool = False
    again: list[float] = field(default_factory=list)
    schedule: Schedule | None = None

    def due(self) -> None:
        now = asyncio.get_running_loop().time()
        self.log.append((self.name, now))
        if self.again and self.schedule is not None:
            self.schedule.add(now + self.again.pop(), self)
        if self.name == "raises":
            raise OSError(self.name)


@pytest.mark.virtual_time
async def test_one_timer_serves_all_in_the_order_of_their_moments() -> None:
    log: list[tuple[str, float]] = []
    schedule = Schedule(asyncio.get_running_loop())
    schedule.add(2.0, Waits("b", log))
    schedule.add(1.0, Waits("a", log, again=[0.5, 0.5], schedule=schedule))
    gone = Waits("gone", log)
    schedule.add(1.5, gone)
    gone.decided = True
    await asyncio.sleep(5)
    assert log == [("a", 1.0), ("a", 1.5), ("b", 2.0), ("a", 2.0)]
    schedule.add(6.0, Waits("c", log))
    await asyncio.sleep(5)
    assert log[-1] == ("c", 6.0)


@pytest.mark.virtual_time
async def test_one_that_fails_does_not_stop_the_others() -> None:
    log: list[tuple[str, float]] = []
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    schedule = Schedule(loop)
    for name in ("raises", "next"):
        schedule.add(1.0, Waits(name, log))
    await asyncio.sleep(2)
    assert log == [("raises", 1.0), ("next", 1.0)]
    assert [str(error) for error in reported] == ["raises"]
