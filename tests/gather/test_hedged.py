"""Hedged: its contract, point by point, and what else it promises. All on virtual time."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tailrace import Eject, Hedged, Replicas, backend, hedged, query_all, query_some, remaining
from tailrace.gather.hedging.pool import BURST

virtual_time = pytest.mark.virtual_time


@dataclass
class Fake:
    """Answers after `seconds`, or what `script` says for each time that it is asked."""

    name: str
    seconds: float = 0.0
    error: Exception | None = None
    cleanup: float = 0.0
    ignores: bool = False  # goes on when it is cancelled, and answers all the same
    asked: list[float] = field(default_factory=list)
    running: int = 0
    busiest: int = 0

    async def query(self, query: str, /) -> str:
        self.running += 1
        self.busiest = max(self.busiest, self.running)
        self.asked.append(now())
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(self.cleanup)
            if not self.ignores:
                raise
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return f"{query}@{self.name}"


def now() -> float:
    return asyncio.get_running_loop().time()


def nothing_is_left(*backends: Fake) -> None:
    assert [b.name for b in backends if b.running] == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Results:
    """What was disposed of."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.disposed: list[str] = []
        self._seconds = seconds

    async def later(self, result: str) -> None:
        await asyncio.sleep(self._seconds)
        self.disposed.append(result)


# --- the contract ---------------------------------------------------------------------------


@virtual_time
async def test_1_backends_are_asked_through_factories_once_for_each_copy() -> None:
    slow, fast = Fake("slow", 1), Fake("fast", 0.1)
    pair = Hedged(slow, fast, delay=0.5, balance="in_order")
    assert [await pair.query("q"), await pair.query("q")] == ["q@fast", "q@fast"]
    assert (slow.asked, fast.asked) == (
        pytest.approx([0, 0.6]),
        pytest.approx([0.5, 1.1]),
    )
    nothing_is_left(slow, fast)


@virtual_time
async def test_1_what_goes_wrong_in_asking_is_a_failure_of_the_copy() -> None:
    class Plain:
        def query(self, query: str, /) -> Awaitable[str]:
            raise OSError("not even a coroutine")

    assert await Hedged(Plain(), Fake("b"), balance="in_order").query("q") == "q@b"


@virtual_time
async def test_2_a_failure_sends_the_next_copy_at_once_and_never_beats_a_healthy_one() -> None:
    bad, good = Fake("bad", 0.1, OSError()), Fake("good", 1)
    pair = Hedged(bad, good, delay=60, balance="in_order")
    assert await pair.query("q") == "q@good"
    assert good.asked == pytest.approx([0.1])
    primary, hedge = Fake("primary", 1), Fake("hedge", 0, OSError())
    assert await Hedged(primary, hedge, delay=0.1, balance="in_order").query("q") == "q@primary"
    nothing_is_left(bad, good, primary, hedge)


@virtual_time
async def test_2_a_failover_takes_nothing_from_the_budget_and_is_counted_apart() -> None:
    bad, good = Fake("bad", 0, OSError()), Fake("good")
    pair = Hedged(bad, good, budget=0, balance="in_order", eject=None)
    for _ in range(20):
        assert await pair.query("q") == "q@good"
    said = pair.statistics()
    assert (said.queries, said.copies, said.hedges, said.failovers) == (20, 40, 0, 20)
    assert (said.extra_load, said.budget_denials, said.wins) == (0, 0, (0, 20))


@virtual_time
async def test_2_no_more_than_max_copies_whatever_fails() -> None:
    backends = [Fake(name, 0.1, OSError(name)) for name in "abcd"]
    with pytest.raises(ExceptionGroup, match="all 3 copies failed") as caught:
        await Hedged(*backends, max_copies=3, delay=0.05, balance="in_order").query("q")
    assert [e.__notes__ for e in caught.value.exceptions] == [
        ["backend 1 of 4: a"],
        ["backend 2 of 4: b"],
        ["backend 3 of 4: c"],
    ]
    assert backends[3].asked == []


@virtual_time
async def test_2_a_fatal_failure_ends_the_race_and_is_raised_itself() -> None:
    slow, lost = Fake("slow", 9), Fake("lost", 0.1, KeyError("no such thing"))
    pair = Hedged(
        slow, lost, delay=0.2, balance="in_order", fatal=lambda e: isinstance(e, LookupError)
    )
    with pytest.raises(KeyError, match="no such thing") as caught:
        await pair.query("q")
    assert caught.value.__notes__ == ["backend 2 of 2: lost"]
    assert now() == pytest.approx(0.3)
    assert pair.statistics().failovers == 0
    nothing_is_left(slow, lost)


@virtual_time
async def test_2_a_predicate_that_fails_ends_the_query_with_its_own_error() -> None:
    def fatal(error: Exception) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Hedged(Fake("bad", 0, OSError()), Fake("b"), fatal=fatal).query("q")


@virtual_time
async def test_2_a_copy_cancelled_by_somebody_else_is_a_failure() -> None:
    async def cancels_itself(query: str) -> str:
        raise asyncio.CancelledError

    odd = backend(cancels_itself)
    assert await Hedged(odd, Fake("b"), balance="in_order").query("q") == "q@b"
    with pytest.raises(ExceptionGroup) as caught:
        await Hedged(odd).query("q")
    assert [str(e) for e in caught.value.exceptions] == ["cancelled, and not by Hedged"] * 2


@virtual_time
@pytest.mark.parametrize("fails", [False, True])
async def test_3_the_losers_are_cancelled_and_awaited(fails: bool) -> None:
    slow, other = Fake("slow", 9, None, 0.3), Fake("other", 0.1, KeyError() if fails else None)
    pair = Hedged(slow, other, delay=0.1, balance="in_order", fatal=lambda _: True)
    try:
        assert await pair.query("q") == "q@other"
    except KeyError:
        assert fails
    assert now() == pytest.approx(0.5)
    nothing_is_left(slow, other)


@virtual_time
async def test_3_a_loser_that_ignores_its_cancellation_is_left_after_a_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wedged, fast = Fake("wedged", 9, None, 60, ignores=True), Fake("fast")
    results = Results()
    pair = Hedged(wedged, fast, delay=0.1, balance="in_order", dispose=results.disposed.append)
    assert await pair.query("q") == "q@fast"
    assert now() == pytest.approx(1.1)
    assert [r.getMessage() for r in caplog.records] == [
        "Hedged: wedged has not ended within 1 s of its cancellation; no longer waiting for it"
    ]
    await asyncio.sleep(60)
    assert results.disposed == ["q@wedged"], "however late"
    nothing_is_left(wedged, fast)


@virtual_time
@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.15, 1.0])
async def test_3_an_outer_cancellation_reaches_every_copy_and_is_never_swallowed(
    after: float,
) -> None:
    slow, slower = Fake("slow", 5, None, 0.3), Fake("slower", 6, None, 0.2)
    task = asyncio.create_task(Hedged(slow, slower, delay=0.1).query("q"))
    await asyncio.sleep(after)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    nothing_is_left(slow, slower)
    assert now() <= after + 0.31


@virtual_time
async def test_3_a_cancellation_while_the_losers_end_is_raised_and_the_answer_disposed_of() -> None:
    slow, fast, results = Fake("slow", 9, None, 0.5), Fake("fast"), Results(0.1)
    pair = Hedged(slow, fast, delay=0.1, balance="in_order", dispose=results.later)
    task = asyncio.create_task(pair.query("q"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert results.disposed == ["q@fast"]
    nothing_is_left(slow, fast)


@virtual_time
async def test_3_an_asyncio_timeout_around_it_times_out_and_nothing_else() -> None:
    slow = Fake("slow", 5, None, 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await Hedged(slow, slow, delay=0.1).query("q")
    assert now() == pytest.approx(1.2)
    await asyncio.sleep(1)
    nothing_is_left(slow)


@virtual_time
async def test_4_a_second_success_is_disposed_of_before_the_query_returns() -> None:
    twins, results = [Fake("a", 0.2), Fake("b", 0.1)], Results(0.3)
    pair = Hedged(*twins, delay=0.1, balance="in_order", dispose=results.later)
    assert await pair.query("q") == "q@a"
    assert (results.disposed, now()) == (["q@b"], pytest.approx(0.5))
    nothing_is_left(*twins)


@virtual_time
@pytest.mark.parametrize("turns", range(6))
async def test_4_a_success_in_the_instant_of_the_cancellation_is_disposed_of(turns: int) -> None:
    answers: list[str] = []
    disposed: list[str] = []

    async def answer(query: str) -> str:
        await asyncio.sleep(0)
        answers.append(query)
        return query

    task = asyncio.create_task(Hedged(backend(answer), dispose=disposed.append).query("q"))
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
        assert disposed == answers
    else:
        assert (task.result(), disposed) == ("q", [])


@virtual_time
async def test_4_a_result_is_closed_by_default_but_never_the_one_that_is_returned() -> None:
    class Stream:
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    shared, streams = Stream(), [Stream(), Stream()]

    async def opens(_: str) -> Stream:
        await asyncio.sleep(0.1)
        return streams.pop()

    async def shares(_: str) -> Stream:
        await asyncio.sleep(0.1)
        return shared

    both = list(streams)
    won = await Hedged(backend(opens), delay=0).query("q")
    assert [(s.closed, s is won) for s in both].count((1, False)) == 1
    assert won.closed == 0
    assert await Hedged(backend(shares), delay=0).query("q") is shared
    assert await Replicas(backend(shares), backend(shares)).query("q") is shared
    assert shared.closed == 0


@virtual_time
async def test_4_a_dispose_that_fails_is_logged_and_the_answer_returned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def later(result: str) -> None:
        raise OSError("later")

    def at_once(result: str) -> None:
        raise OSError("at once")

    for dispose in (later, at_once):
        assert await Hedged(Fake("a"), Fake("b"), delay=0, dispose=dispose).query("q") == "q@a"
    assert [str(r.exc_info and r.exc_info[1]) for r in caplog.records] == ["later", "at once"]


@virtual_time
async def test_5_a_denied_budget_neither_kills_nor_delays_a_copy_nor_uses_up_a_slot() -> None:
    slow, other = Fake("slow", 1), Fake("other", 0.1)
    pair = Hedged(slow, other, delay=0.4, budget=0, balance="in_order")
    assert await pair.query("q") == "q@slow"
    assert now() == pytest.approx(1)
    assert (pair.statistics().budget_denials, other.asked) == (1, [])
    slow.error = OSError()
    assert await pair.query("q") == "q@other", "the second copy is still to be had"


@virtual_time
async def test_5_the_budget_is_fed_by_queries_and_never_by_the_clock() -> None:
    slow, other = Fake("slow", 1), Fake("other", 1)
    pair = Hedged(slow, other, delay=0.9, budget=0.1, eject=None)
    for _ in range(300):
        await pair.query("q")
        await asyncio.sleep(1000)
    assert 50 + 30 - 1 <= pair.statistics().hedges <= 50 + 30, "its burst, and a tenth"


@virtual_time
async def test_6_a_delay_of_0_asks_all_at_once() -> None:
    backends = [Fake(name, seconds) for name, seconds in zip("abc", (3, 1, 2), strict=True)]
    assert await Hedged(*backends, delay=0, max_copies=3).query("q") == "q@b"
    assert [b.asked for b in backends] == [[0], [0], [0]]
    nothing_is_left(*backends)


@virtual_time
async def test_6_an_infinite_delay_asks_another_only_on_failure() -> None:
    slow, other = Fake("slow", 1000), Fake("other")
    pair = Hedged(slow, other, delay=math.inf, balance="in_order")
    assert await pair.query("q") == "q@slow"
    slow.error = OSError()
    assert await pair.query("q") == "q@other"


@virtual_time
async def test_6_with_more_copies_each_waits_the_delay_after_the_one_before() -> None:
    backends = [Fake(name, 9) for name in "abcd"]
    backends[2].seconds = 0.5
    assert await Hedged(*backends, delay=1, max_copies=4, balance="in_order").query("q") == "q@c"
    assert [b.asked for b in backends] == [[0], [1], [2], []]


@virtual_time
async def test_7_nothing_is_hedged_until_enough_was_learnt() -> None:
    steady = _Lognormal(seed=1)
    alone = Hedged(steady)
    for _ in range(150):
        await alone.query("q")
    assert (alone.statistics().hedges, alone.statistics().delay) == (0, math.inf)
    for _ in range(1850):
        await alone.query("q")
    said = alone.statistics()
    assert 0.008 < said.delay < 0.02
    assert 0 < said.hedges <= 0.05 * 2000
    assert said.wins[1] > said.hedges / 2


@virtual_time
async def test_7_losers_are_censored_and_do_not_make_the_backends_look_faster() -> None:
    steady = _Lognormal(seed=2)
    eager = Hedged(steady, budget=1.0, delay=0.006)
    for _ in range(5000):
        await eager.query("q")
    known = eager._pool.sketch.curve()
    seen = _Lognormal(seed=3).sample()
    for q in (0.5, 0.9, 0.97):
        assert known.quantile(q) == pytest.approx(seen[int(q * 20_000)], rel=0.15)


@virtual_time
async def test_7_fast_failures_are_no_latencies() -> None:
    flaky = _Lognormal(seed=4, fails=0.3)
    pair = Hedged(flaky, flaky, eject=None, max_copies=9, budget=0)
    for _ in range(2000):
        await pair.query("q")
    seen = _Lognormal(seed=5).sample()
    assert pair._pool.sketch.curve().quantile(0.5) == pytest.approx(seen[10_000], rel=0.1)


@virtual_time
async def test_7_a_global_slowdown_hedges_no_more_than_the_budget() -> None:
    steady = _Lognormal(seed=6)
    pair = Hedged(steady, steady, random=random.Random(1))
    for _ in range(3000):
        await pair.query("q")
    before, steady.factor = pair.statistics(), 10.0
    assert before.budget_denials < 20, "no more is planned for than is paid for"
    for _ in range(3000):
        await pair.query("q")
    during, steady.factor = pair.statistics(), 1.0
    assert during.hedges - before.hedges <= 0.05 * 3000 + 25
    for _ in range(11_000):
        await pair.query("q")
    after = pair.statistics()
    assert after.extra_load <= 0.05
    assert 0.008 < after.delay < 0.02, "recovered within one window"


@virtual_time
async def test_8_the_copy_that_gets_a_slot_first_cancels_its_siblings_in_line() -> None:
    a, b = Fake("a", 1), Fake("b", 0.4)
    tied = Hedged(a, b, delay=0.1, limit=1, balance="in_order", budget=1)
    busy = [asyncio.create_task(Hedged.query(tied, f"busy {n}")) for n in range(2)]
    await asyncio.sleep(0)  # a is asked; the second waits in line there, and at b later
    assert await tied.query("q") == "q@b"
    await asyncio.gather(*busy)
    nothing_is_left(a, b)
    assert (a.busiest, b.busiest) == (1, 1)


@virtual_time
async def test_8_tied_copies_at_once_run_only_where_there_is_a_slot() -> None:
    a, b = Fake("a", 1), Fake("b", 1)
    tied = Hedged(a, b, delay=0, limit=1, balance="in_order", budget=1)
    holder = asyncio.create_task(Hedged.query(tied, "first"))
    await asyncio.sleep(0.5)
    assert (len(a.asked), len(b.asked)) == (1, 1), "both free: both run"
    assert await tied.query("second") == "second@a"
    assert await holder == "first@a"
    assert (len(a.asked), len(b.asked)) == (2, 1), "the sibling in line was withdrawn"
    said = tied.statistics()
    assert (said.queries, said.copies, said.hedges) == (2, 3, 1)
    assert [b.pending for b in said.backends] == [0, 0]
    nothing_is_left(a, b)


@virtual_time
async def test_8_a_query_cancelled_in_line_gives_up_its_places() -> None:
    a = Fake("a", 1)
    single = Hedged(a, limit=1, delay=0.1)
    holder = asyncio.create_task(single.query("first"))
    await asyncio.sleep(0.05)
    waits = asyncio.create_task(single.query("waits"))
    await asyncio.sleep(0.05)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert await holder == "first@a"
    assert await single.query("last") == "last@a"
    assert len(a.asked) == 2
    nothing_is_left(a)


@virtual_time
async def test_8_a_hedge_whose_first_copy_is_withdrawn_costs_nothing() -> None:
    a, b = Fake("a", 1), Fake("b", 0.4)
    tied = Hedged(a, b, delay=0.1, limit=1, balance="in_order", budget=1)
    holder = asyncio.create_task(tied.query("holder"))
    await asyncio.sleep(0.7)  # b has answered the hedge of the first query, and is free
    await holder
    before = tied.statistics()
    blocked = asyncio.create_task(Hedged.query(tied, "blocked"))  # asks a, and b after 0.1 s
    await asyncio.sleep(0.05)
    waits = asyncio.create_task(Hedged.query(tied, "waits"))  # in line at a
    await asyncio.gather(blocked, waits)
    said = tied.statistics()
    assert said.hedges == said.copies - said.queries, "each copy more than one a query, no other"
    assert said.hedges > before.hedges
    nothing_is_left(a, b)


@virtual_time
async def test_8_a_hedge_that_takes_the_place_of_the_first_copy_is_paid_back() -> None:
    let_go = asyncio.Event()

    class Clings(Fake):
        async def query(self, query: str, /) -> str:
            try:
                return await super().query(query)
            finally:
                await let_go.wait()

    a, b = Clings("a", 1), Fake("b", 0.4)
    tied = Hedged(a, b, delay=0, limit=1, balance="in_order", budget=1e-6, eject=None)
    await tied.query("first")  # a has its slot for ever: the first copy of others waits in line
    for n in range(2 * int(BURST)):
        assert await tied.query(f"{n}") == f"{n}@b"
    said = tied.statistics()
    assert (said.copies - said.queries, said.hedges, said.budget_denials) == (1, 1, 0)

    b.error = OSError("down")
    waits = asyncio.create_task(tied.query("waits"))  # what replaces the hedge is in line at a
    await asyncio.sleep(1)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    said = tied.statistics()
    assert (said.failovers, said.hedges) == (1, 1), "it was paid back once"
    let_go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    nothing_is_left(a, b)


@virtual_time
async def test_8_a_hedge_that_is_withdrawn_from_its_line_is_paid_back() -> None:
    a, b = Fake("a", 1), Fake("b", 1)
    tied = Hedged(a, b, delay=0, limit=1, balance="in_order", budget=1e-6)
    for _ in range(int(BURST) - 1):  # each second query finds both asked, and is in both lines
        await asyncio.gather(tied.query("one"), tied.query("other"))
    said = tied.statistics()
    assert said.budget_denials == 0
    assert said.hedges == said.copies - said.queries


@virtual_time
async def test_9_no_backend_is_asked_twice_while_another_is_free() -> None:
    dice = random.Random(1)
    for count in (2, 3, 5):
        for copies in (count, count + 1, 2 * count):
            backends = [Fake(str(n), 9, cleanup=0) for n in range(count)]
            many = Hedged(*backends, delay=1, max_copies=copies, budget=9, random=dice)
            await many.query("q")
            times = sorted(len(b.asked) for b in backends)
            assert sum(times) in (copies, 9)
            assert times[-1] - times[0] <= 1


# --- one deadline, one context --------------------------------------------------------------


@virtual_time
async def test_one_deadline_for_all_that_is_nested() -> None:
    left: list[float | None] = []

    async def look(query: str) -> str:
        left.append(remaining())
        await asyncio.sleep(60)
        return query

    nested = Hedged(Replicas(backend(look), backend(look)), Hedged(backend(look)), delay=0.25)
    with pytest.raises(TimeoutError):
        await query_all("q", nested, timeout=1)
    assert left == pytest.approx([1, 1, 0.75])
    assert now() == pytest.approx(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtual_time
async def test_every_copy_runs_in_the_context_of_its_query() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def look(query: str) -> str:
        seen.append(user.get())
        user.set("somebody else")
        await asyncio.sleep(1)
        if len(seen) < 3:
            raise OSError
        return query

    async def asks(name: str) -> None:
        user.set(name)
        await group.query("q")

    group = Hedged(backend(look), delay=0.3, max_copies=3, limit=2)
    await asyncio.gather(asks("ann"), asks("ann"))
    assert set(seen) == {"ann"}


@virtual_time
async def test_the_caller_goes_on_in_its_own_context() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    for servers in (Hedged(Fake("a", 1)), Replicas(Fake("a", 1), Fake("b", 2))):
        user.set("before")
        await servers.query("q")
        user.set("after")
        await asyncio.sleep(1)
        assert user.get() == "after"


@virtual_time
async def test_the_winner_has_returned_and_what_it_gave_lives_on() -> None:
    class Response:
        """Closed when the task that opened it is cancelled, as an httpx stream would be."""

        def __init__(self) -> None:
            self.owner = asyncio.current_task()

        async def read(self) -> bytes:
            assert self.owner is not None
            assert self.owner.done()
            assert not self.owner.cancelled()
            await asyncio.sleep(0.1)
            return b"body"

    async def opens(seconds: float) -> Response:
        await asyncio.sleep(seconds)
        return Response()

    response = await Hedged(backend(opens), delay=0.1).query(1.0)
    assert await response.read() == b"body"
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- backends that fail ---------------------------------------------------------------------


@virtual_time
async def test_a_backend_that_fails_is_left_alone_for_a_growing_time_and_tried_again() -> None:
    bad, good = Fake("bad", 0, OSError()), Fake("good")
    pair = Hedged(bad, good, balance="in_order", eject=Eject(failures=3, seconds=10, longest=40))
    for _ in range(400):
        assert await pair.query("q") == "q@good"
        await asyncio.sleep(0.5)
    assert bad.asked == [0, 0.5, 1.0, 11.0, 31.0, 71.0, 111.0, 151.0, 191.0]
    assert pair.statistics().backends[0].ejected
    bad.error = None
    await asyncio.sleep(40)
    assert await pair.query("q") == "q@bad"
    assert await pair.query("q") == "q@bad"
    assert not pair.statistics().backends[0].ejected


@virtual_time
@pytest.mark.parametrize("end", ["cancelled", "fatal"])
async def test_a_backend_whose_trial_says_nothing_is_tried_by_the_next_query(end: str) -> None:
    back, other = Fake("back", 0, OSError()), Fake("other")
    pair = Hedged(
        back,
        other,
        balance="in_order",
        eject=Eject(failures=1, seconds=1),
        fatal=lambda error: isinstance(error, KeyError),
    )
    assert await pair.query("q") == "q@other"
    await asyncio.sleep(1)
    back.error, back.seconds = (KeyError() if end == "fatal" else None), 1
    trial = asyncio.create_task(pair.query("q"))
    await asyncio.sleep(0.5)
    assert await pair.query("q") == "q@other", "one query at a time tries it"
    if end == "cancelled":
        trial.cancel()
    with pytest.raises((KeyError, asyncio.CancelledError)):
        await trial
    back.error = None
    assert await pair.query("q") == "q@back"


@virtual_time
async def test_never_more_than_half_of_the_backends_are_left_alone() -> None:
    backends = [Fake(name, 0, OSError()) for name in "abc"]
    trio = Hedged(*backends, eject=Eject(failures=1), max_copies=3)
    for _ in range(50):
        with pytest.raises(ExceptionGroup):
            await trio.query("q")
    assert [b.ejected for b in trio.statistics().backends].count(True) == 1
    alone = Hedged(backends[0], eject=Eject(failures=1))
    with pytest.raises(ExceptionGroup):
        await alone.query("q")
    assert not alone.statistics().backends[0].ejected


@virtual_time
async def test_the_rate_of_success_ejects_too_and_fatal_failures_speak_against_nobody() -> None:
    class Flaky(Fake):
        async def query(self, query: str, /) -> str:
            self.error = OSError() if len(self.asked) % 2 else None
            return await super().query(query)

    flaky = Flaky("flaky")
    pair = Hedged(flaky, Fake("good"), balance="in_order", eject=Eject(success_rate=0.6))
    for _ in range(100):
        await pair.query("q")
    assert pair.statistics().backends[0].ejected
    lost = Hedged(Fake("bad", 0, KeyError()), Fake("b"), balance="in_order", fatal=lambda _: True)
    for _ in range(20):
        with pytest.raises(KeyError):
            await lost.query("q")
    assert [b.failures for b in lost.statistics().backends] == [0, 0]


@virtual_time
async def test_the_quick_backend_gets_most_of_the_queries() -> None:
    quick, slow = Fake("quick", 0.01), Fake("slow", 0.1)
    pair = Hedged(quick, slow)
    for _ in range(200):
        await pair.query("q")
    assert len(quick.asked) > 150
    assert slow.asked, "and the other is tried"


# --- the rest -------------------------------------------------------------------------------


def test_wrong_arguments_are_named() -> None:
    def make(**wrong: Any) -> Callable[[], object]:
        return lambda: Hedged(Fake("a"), **wrong)

    for wrong, error in (
        ({"target": 1}, ValueError),
        ({"target": "p99"}, TypeError),
        ({"budget": -0.1}, ValueError),
        ({"budget": math.nan}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": "1"}, TypeError),
        ({"max_copies": 0}, ValueError),
        ({"max_copies": 1.5}, TypeError),
        ({"limit": 0}, ValueError),
        ({"balance": "best"}, ValueError),
        ({"eject": 3}, TypeError),
        ({"fatal": OSError("x")}, TypeError),
        ({"dispose": None}, TypeError),
        ({"random": 1}, TypeError),
    ):
        with pytest.raises(error, match=f"Hedged: {next(iter(wrong))}(=| must be )"):
            make(**wrong)()
    with pytest.raises(ValueError, match="Hedged: no backends"):
        Hedged()
    for unfit in ({"failures": 0}, {"success_rate": 1.0}, {"seconds": 0.0}, {"longest": 0.5}):
        with pytest.raises(ValueError, match="Eject: "):
            Eject(**unfit)


@virtual_time
async def test_a_decorated_function_is_called_as_before_and_is_a_backend() -> None:
    @hedged(delay=0.1)
    async def search(query: str) -> str:
        """Look it up."""
        await asyncio.sleep(1 if len(search.statistics().backends) and not calls else 0)
        return query.upper()

    calls: list[str] = []
    assert await search("foo") == "FOO"
    assert await query_all("foo", search, search) == ["FOO", "FOO"]
    assert (search.__name__, search.__doc__, search.name) == ("search", "Look it up.", "search")
    assert search.statistics().queries == 3


@virtual_time
async def test_statistics_say_what_was_done() -> None:
    slow, fast = Fake("slow", 1), Fake("fast", 0.1)
    pair = Hedged(slow, fast, delay=0.5, balance="in_order", name="pair")
    assert math.isnan(pair.statistics().p50)
    for _ in range(4):
        await pair.query("q")
    said = pair.statistics()
    assert (said.queries, said.copies, said.hedges, said.extra_load) == (4, 8, 4, 1.0)
    assert said.wins == (0, 4)
    assert [said.p50, said.p90, said.p99, said.p999] == pytest.approx([0.6] * 4, rel=0.02)
    assert (said.delay, said.probability) == (0.5, 1.0)
    assert [(b.name, b.queries, b.failures) for b in said.backends] == [
        ("slow", 4, 0),
        ("fast", 4, 0),
    ]
    assert repr(pair) == "Hedged(slow, fast, name='pair')"


@virtual_time
async def test_statistics_are_of_the_last_ten_thousand_answers() -> None:
    loop = asyncio.get_running_loop()

    async def slower_each_time(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    await asyncio.sleep(5)  # no moment is taken for a duration
    servers = Hedged(backend(slower_each_time), budget=0)
    began = loop.time()
    for n in range(10_100):
        await servers.query(n / 1000)
    said = servers.statistics()
    assert loop.time() - began == pytest.approx(sum(range(10_100)) / 1000)
    assert [said.p50, said.p90, said.p99, said.p999] == pytest.approx(
        [5.1, 9.1, 10.0, 10.09], abs=1e-6
    )


@virtual_time
async def test_answers_of_a_hedged_backend_among_others() -> None:
    pair = Hedged(Fake("slow", 9), Fake("fast", 0.1), delay=0.1, balance="in_order")
    one, two = await query_some("q", pair, Fake("late", 9), timeout=1)
    assert (one.value, two.ok) == ("q@fast", False)


def test_one_object_may_be_used_by_one_loop_after_another() -> None:
    async def quick(query: str) -> str:
        await asyncio.sleep(0)
        return query

    pair = Hedged(backend(quick), limit=1, delay=60)
    for _ in range(3):
        assert asyncio.run(pair.query("q")) == "q"
    assert pair.statistics().queries == 3


class _Lognormal:
    """Mean 5 ms, deviation 2 ms; one in twenty takes ten times as long."""

    def __init__(self, seed: int, fails: float = 0.0) -> None:
        self._dice = random.Random(seed)
        self._fails = fails
        self.factor = 1.0

    def draw(self) -> float:
        seconds = self._dice.lognormvariate(1.535, 0.385) / 1000
        return self.factor * seconds * (10 if self._dice.random() < 0.05 else 1)

    def sample(self) -> list[float]:
        return sorted(self.draw() for _ in range(20_000))

    async def query(self, query: str, /) -> str:
        if self._fails and self._dice.random() < self._fails:
            raise OSError
        await asyncio.sleep(self.draw())
        return query
