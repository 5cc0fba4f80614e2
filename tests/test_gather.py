"""query_all, query_some, query_each, together, Replicas, remaining: what they promise.

All on virtual time, so durations are exact and a copy that is left behind is seen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tailrace import testing
from tailrace.deadline import within
from tailrace.gather import (
    Hedged,
    Replicas,
    backend,
    query_all,
    query_each,
    query_some,
    remaining,
    together,
)
from tailrace.gather.backends import FunctionBackend

virtual_time = pytest.mark.virtual_time


@dataclass
class Fake:
    """A backend that answers, or fails, after `seconds`, and says what became of it."""

    name: str
    seconds: float = 0.0
    error: Exception | None = None
    cleanup: float = 0.0
    events: list[str] = field(default_factory=list)
    running: int = 0

    async def query(self, query: str, /) -> str:
        self.running += 1
        self.events.append("asked")
        try:
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            return f"{query}@{self.name}"
        except asyncio.CancelledError:
            self.events.append("cancelled")
            await asyncio.sleep(self.cleanup)
            raise
        finally:
            self.events.append("over")
            self.running -= 1


class Stubborn(Fake):
    """Goes on when it is cancelled, and answers all the same."""

    async def query(self, query: str, /) -> str:
        self.running += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.events.append("ignored")
            await asyncio.sleep(self.cleanup)
        self.running -= 1
        return f"{query}@{self.name}"


def now() -> float:
    return asyncio.get_running_loop().time()


def nothing_is_left(*backends: Fake) -> None:
    assert [b.name for b in backends if b.running] == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- query_all ------------------------------------------------------------------------------


@virtual_time
async def test_answers_come_in_the_order_of_the_backends_and_at_the_pace_of_the_slowest() -> None:
    slow, fast, middling = Fake("slow", 0.3), Fake("fast", 0.1), Fake("middling", 0.2)
    assert await query_all("q", slow, fast, middling) == ["q@slow", "q@fast", "q@middling"]
    assert now() == pytest.approx(0.3)
    nothing_is_left(slow, fast, middling)


@virtual_time
async def test_the_first_failure_cancels_the_rest_and_names_its_backend() -> None:
    good, bad, slow = (
        Fake("good", 0.1),
        Fake("bad", 0.2, OSError("gone")),
        Fake("slow", 9, None, 0.5),
    )
    with pytest.raises(ExceptionGroup, match="1 of 3 backends failed") as caught:
        await query_all("q", good, bad, slow)
    (error,) = caught.value.exceptions
    assert isinstance(error, OSError)
    assert error.__notes__ == ["backend 2 of 3: bad"]
    assert now() == pytest.approx(0.7), "waits for the clean-up of the cancelled"
    assert slow.events == ["asked", "cancelled", "over"]
    nothing_is_left(good, bad, slow)


@virtual_time
async def test_failures_during_the_cancellation_are_reported_too() -> None:
    async def fails_when_cancelled(query: str) -> str:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise ValueError("clean-up failed") from None
        return query

    with pytest.raises(ExceptionGroup, match="2 of 2") as caught:
        await query_all("q", Fake("bad", 0.1, OSError()), backend(fails_when_cancelled))
    assert [type(e) for e in caught.value.exceptions] == [OSError, ValueError]


@virtual_time
async def test_one_error_object_raised_twice_is_not_annotated_twice() -> None:
    same = OSError("always me")
    for _ in range(2):
        with pytest.raises(ExceptionGroup):
            await query_all("q", Fake("bad", error=same))
    assert same.__notes__ == ["backend 1 of 1: bad"]


@virtual_time
async def test_at_the_timeout_those_that_have_not_answered_are_named_and_cancelled() -> None:
    good, slow, slower = Fake("good", 0.1), Fake("slow", 2), Fake("slower", 3)
    with pytest.raises(TimeoutError, match=r"within 0.5 s from slow, slower$"):
        await query_all("q", good, slow, slower, timeout=0.5)
    assert now() == pytest.approx(0.5)
    nothing_is_left(good, slow, slower)


@virtual_time
async def test_a_timeout_of_the_backend_itself_is_a_failure_and_not_ours() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await query_all("q", Fake("b", 0.1, TimeoutError("mine")), timeout=5)
    assert isinstance(caught.value.exceptions[0], TimeoutError)


@virtual_time
async def test_a_backend_cancelled_by_somebody_else_is_a_failure_not_a_cancellation() -> None:
    async def cancels_itself(query: str) -> str:
        raise asyncio.CancelledError

    with pytest.raises(ExceptionGroup) as caught:
        await query_all("q", backend(cancels_itself))
    (error,) = caught.value.exceptions
    assert isinstance(error, RuntimeError)
    assert error.__notes__ == ["backend 1 of 1: cancels_itself"]


@virtual_time
async def test_a_cancellation_reaches_every_copy_and_is_not_swallowed() -> None:
    backends = [Fake("a", 5, None, 0.3), Fake("b", 6, OSError(), 0.1), Fake("c", 0.1)]
    task = asyncio.create_task(query_all("q", *backends))
    await asyncio.sleep(1)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert now() == pytest.approx(1.3)
    nothing_is_left(*backends)


@virtual_time
async def test_a_second_cancellation_does_not_cut_the_cleanup_short() -> None:
    slow = Fake("slow", 5, None, 0.5)
    task = asyncio.create_task(query_all("q", slow))
    await asyncio.sleep(1)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == pytest.approx(1.5)
    nothing_is_left(slow)


@virtual_time
async def test_a_cancellation_during_the_cleanup_after_a_failure_wins() -> None:
    bad, slow = Fake("bad", 0.1, OSError()), Fake("slow", 9, None, 0.5)
    task = asyncio.create_task(query_all("q", bad, slow))
    await asyncio.sleep(0.3)
    assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_is_left(bad, slow)


@virtual_time
@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_at_any_turn_of_the_beginning_leaves_no_copy(turns: int) -> None:
    fake = Fake("fake", 1)
    task = asyncio.create_task(query_all("q", fake))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 0
    nothing_is_left(fake)


@virtual_time
async def test_asyncio_timeout_around_it_times_out_and_nothing_else() -> None:
    slow = Fake("slow", 5, None, 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await query_all("q", slow)
    assert now() == pytest.approx(1.2)
    await asyncio.sleep(1)  # no stray cancellation arrives
    nothing_is_left(slow)


@virtual_time
async def test_a_copy_that_ignores_its_cancellation_is_named_and_left_after_a_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn("stubborn", 5, None, 60)
    with caplog.at_level(logging.WARNING, "tailrace"), pytest.raises(ExceptionGroup):
        await query_all("q", Fake("bad", 1, OSError()), stubborn)
    assert now() == pytest.approx(2), "one second of grace"
    assert [r.getMessage() for r in caplog.records] == [
        "query_all: stubborn has not ended within 1 s of its cancellation; no longer waiting for it"
    ]
    await asyncio.sleep(60)
    nothing_is_left(stubborn)


@virtual_time
async def test_closing_the_coroutine_cancels_the_copies_without_awaiting() -> None:
    fake = Fake("fake", 5)

    async def never_awaits_again() -> None:
        coroutine = query_all("q", fake)
        coroutine.send(None)
        await asyncio.sleep(0)
        coroutine.close()

    await never_awaits_again()
    await asyncio.sleep(0)
    assert fake.events == ["asked", "cancelled"]
    await asyncio.sleep(0.1)
    nothing_is_left(fake)


@virtual_time
async def test_an_error_is_not_kept_alive_by_a_reference_cycle() -> None:
    class Marked(Exception):
        pass

    gc.collect()
    gc.disable()
    try:
        try:
            await query_all("q", Fake("ok", 1), backend(_raiser(Marked)))
        except* Marked:
            pass
        try:
            await Replicas(backend(_raiser(Marked)), backend(_raiser(Marked))).query("q")
        except* Marked:
            pass
        await query_some("q", Fake("ok"), backend(_raiser(Marked)))

        class AtOnce:
            def query(self, query: str) -> Any:
                raise Marked

        try:
            await query_all("q", AtOnce())
        except* Marked:
            pass
        for first in (Replicas(AtOnce(), AtOnce()), Hedged(AtOnce(), AtOnce())):
            try:
                await first.query("q")
            except* Marked:
                pass
        await query_some("q", Fake("ok"), AtOnce())
        del first
        await asyncio.sleep(0)
        assert [o for o in gc.get_objects() if isinstance(o, Marked)] == []
    finally:
        gc.enable()


def _raiser(error: type[Exception]) -> Callable[[str], Any]:
    async def fails(query: str) -> str:
        raise error

    return fails


# --- arguments ------------------------------------------------------------------------------


@virtual_time
async def test_no_backends_is_a_value_error_that_says_so() -> None:
    nothing: list[Fake] = []
    for call in (query_all("q", *nothing), query_some("q", *nothing), together()):
        with pytest.raises(ValueError, match=r"no backends to ask|nothing to await"):
            await call
    with pytest.raises(ValueError, match="query_each: no backends"):
        query_each("q")
    with pytest.raises(ValueError, match="Replicas: no backends"):
        Replicas()


@virtual_time
async def test_what_is_not_a_backend_is_named_before_anything_is_asked() -> None:
    good = Fake("good")

    async def plain(query: str) -> str:
        return query

    for wrong, text in (
        (plain, r"backend 2 of 2 has no `query` method: <function .*; backend\(\) makes one"),
        (Fake, "it is a class: pass an instance"),
        (plain("q"), "it is a coroutine, which could be awaited only once"),
        (42, "has no `query` method: 42$"),
    ):
        bad: Any = wrong
        with pytest.raises(TypeError, match=text):
            await query_all("q", good, bad)
    number: Any = 42
    with pytest.raises(TypeError, match="Replicas: backend 1 of 1"):
        Replicas(number)
    with pytest.raises(TypeError, match="not an async function: 42"):
        backend(number)
    assert good.events == []


@virtual_time
async def test_coroutines_given_for_backends_are_closed_and_do_not_warn() -> None:
    wrong: Any = [Fake("a").query("q"), Fake("b").query("q")]
    with pytest.raises(TypeError):
        await query_all("q", *wrong)
    gc.collect()  # a coroutine never awaited would warn here, and warnings are errors


@virtual_time
async def test_a_backend_that_is_not_async_fails_with_its_name() -> None:
    class Plain:
        def query(self, query: str, /) -> str:
            return query

    plain: Any = Plain()
    with pytest.raises(ExceptionGroup) as caught:
        await query_all("q", plain)
    assert isinstance(caught.value.exceptions[0], TypeError)
    assert caught.value.exceptions[0].__notes__ == ["backend 1 of 1: Plain"]


@virtual_time
async def test_a_backend_made_of_a_plain_function_says_so_when_it_is_asked() -> None:
    def search(query: str) -> Any:
        return query

    with pytest.raises(TypeError, match=r"backend search.*not async.*returned a str.*async def"):
        await backend(search).query("q")
    assert await backend(lambda query: asyncio.sleep(0, query)).query("q") == "q"


@virtual_time
async def test_backends_of_one_function_are_told_apart_by_their_names() -> None:
    async def get(url: str, query: str) -> str:
        raise OSError(url)

    @backend(name="images")
    async def of_images(query: str) -> str:
        return query

    shards = [backend(partial(get, url), name=url) for url in ("one", "two")]
    assert [shard.name for shard in shards] == ["one", "two"]
    assert backend(partial(get, "one")).name == "get"
    assert (of_images.name, await of_images.query("q")) == ("images", "q")
    with pytest.raises(ExceptionGroup) as caught:
        await Replicas(*shards).query("q")
    notes = [error.__notes__ for error in caught.value.exceptions]
    assert notes == [["backend 1 of 2: one"], ["backend 2 of 2: two"]]
    assert [each.name for each in Hedged(*shards).statistics().backends] == ["one", "two"]
    wrong: Any = 7
    with pytest.raises(TypeError, match="backend: name must be a str, not 7"):
        backend(get, name=wrong)


def test_a_backend_made_of_a_generator_function_is_refused() -> None:
    def plain(query: str) -> Any:
        yield query

    async def on_the_loop(query: str) -> Any:
        yield query

    for fn in (plain, on_the_loop, partial(on_the_loop)):
        with pytest.raises(TypeError, match="backend: a generator function answers nothing"):
            backend(fn)


def test_a_backend_made_of_a_function_carries_its_name() -> None:
    @backend
    async def web(query: str) -> str:
        return query

    assert isinstance(web, FunctionBackend)
    assert (web.name, repr(web), repr(Replicas(web, web))) == (
        "web",
        "backend(web)",
        "Replicas(web, web)",
    )


# --- query_some -----------------------------------------------------------------------------


@virtual_time
async def test_query_some_takes_what_came_in_time() -> None:
    backends = [Fake("fast", 0.1), Fake("slow", 9), Fake("bad", 0.2, OSError("x"))]
    await asyncio.sleep(5)  # no moment is taken for a duration
    fast, slow, bad = await query_some("q", *backends, timeout=0.5)
    assert (fast.ok, fast.value, fast.backend) == (True, "q@fast", backends[0])
    assert fast.seconds == pytest.approx(0.1)
    assert isinstance(slow.error, TimeoutError)
    assert "no answer within 0.5 s" in str(slow.error)
    assert slow.seconds == pytest.approx(0.5)
    assert isinstance(bad.error, OSError)
    with pytest.raises(OSError, match="x"):
        _ = bad.value
    assert bad.seconds == pytest.approx(0.2)
    assert now() == pytest.approx(5.5)
    nothing_is_left(*backends)


@virtual_time
async def test_query_some_returns_early_when_all_have_come() -> None:
    answers = await query_some("q", Fake("a", 0.1), Fake("b", 0.2), timeout=9)
    assert [a.value for a in answers] == ["q@a", "q@b"]
    assert now() == pytest.approx(0.2)


@virtual_time
async def test_a_quorum_returns_with_the_first_k_and_cancels_the_rest() -> None:
    backends = [Fake("slow", 9), Fake("b", 0.2), Fake("bad", 0.1, OSError()), Fake("d", 0.3)]
    answers = await query_some("q", *backends, first=2)
    assert [a.ok for a in answers] == [False, True, False, True]
    assert "as 2 others had answered" in str(answers[0].error)
    assert now() == pytest.approx(0.3)
    nothing_is_left(*backends)


@virtual_time
async def test_a_quorum_not_reached_in_time_is_an_error_unless_less_will_do() -> None:
    backends = [Fake("a", 0.1), Fake("slow", 9), Fake("slower", 9), Fake("bad", 0.2, OSError())]
    with pytest.raises(
        TimeoutError, match=r"1 of 4 answered, at least 2 wanted.*slow, slower"
    ) as e:
        await query_some("q", *backends, first=2, timeout=1)
    assert isinstance(e.value.__cause__, ExceptionGroup), "with what had failed till then"
    answers = await query_some("q", *backends, first=2, at_least=1, timeout=1)
    assert [a.ok for a in answers] == [True, False, False, False]
    nothing_is_left(*backends)


@virtual_time
async def test_query_some_gives_up_as_soon_as_too_many_have_failed() -> None:
    backends = [Fake("a", 0.1, OSError()), Fake("b", 0.2, KeyError()), Fake("c", 9)]
    with pytest.raises(ExceptionGroup, match="at least 2 wanted") as caught:
        await query_some("q", *backends, at_least=2, timeout=5)
    assert [e.__notes__ for e in caught.value.exceptions] == [
        ["backend 1 of 3: a"],
        ["backend 2 of 3: b"],
    ]
    assert now() == pytest.approx(0.2)
    nothing_is_left(*backends)


@virtual_time
async def test_at_least_none_is_content_with_failures_only() -> None:
    answers = await query_some("q", Fake("a", 0.1, OSError()), Fake("b", 9), at_least=0, timeout=1)
    assert [type(a.error) for a in answers] == [OSError, TimeoutError]


@virtual_time
@pytest.mark.parametrize(
    "wrong",
    [{"first": 0}, {"first": 3}, {"at_least": 3}, {"at_least": -1}, {"first": 1, "at_least": 2}],
)
async def test_impossible_numbers_are_value_errors(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"query_some: (first|at_least)(=| must)"):
        await query_some("q", Fake("a"), Fake("b"), **wrong)


# --- query_each -----------------------------------------------------------------------------


@virtual_time
async def test_query_each_yields_in_order_of_arrival_and_the_late_at_the_end() -> None:
    backends = [Fake("c", 0.3), Fake("late", 9), Fake("a", 0.1), Fake("b", 0.2, OSError())]
    came = [(a.backend.name, a.ok, now()) async for a in query_each("q", *backends, timeout=1)]
    assert came == [
        ("a", True, pytest.approx(0.1)),
        ("b", False, pytest.approx(0.2)),
        ("c", True, pytest.approx(0.3)),
        ("late", False, pytest.approx(1.0)),
    ]
    nothing_is_left(*backends)


@virtual_time
async def test_leaving_query_each_early_cancels_and_awaits_the_others() -> None:
    fast, slow = Fake("fast", 0.1), Fake("slow", 9, None, 0.5)
    async with contextlib.aclosing(query_each("q", fast, slow)) as answers:
        async for answer in answers:
            assert answer.value == "q@fast"
            break
    assert now() == pytest.approx(0.6)
    nothing_is_left(fast, slow)


@virtual_time
async def test_leaving_query_each_without_aclose_still_cancels_the_others() -> None:
    fast, slow = Fake("fast", 0.1), Fake("slow", 9)
    async for _ in query_each("q", fast, slow):
        break
    gc.collect()
    await testing.wait_all_parked()
    assert slow.events == ["asked", "cancelled", "over"]
    nothing_is_left(fast, slow)


def test_an_iteration_that_outlives_its_loop_ends_with_nothing_to_wait_for() -> None:
    async def pending() -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def fast() -> str:
        return "fast"

    async def ask() -> Any:
        answers = query_each("q", backend(lambda _: fast()), backend(lambda _: pending()))
        assert (await anext(answers)).value == "fast"
        return answers

    loop = asyncio.new_event_loop()
    answers = loop.run_until_complete(ask())
    loop.close()
    (left,) = asyncio.all_tasks(loop)
    left._log_destroy_pending = False  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        answers.aclose().send(None)


@virtual_time
async def test_an_iteration_that_never_begins_asks_nobody() -> None:
    fake = Fake("fake")
    await query_each("q", fake).aclose()
    assert fake.events == []


@virtual_time
async def test_cancelling_whoever_iterates_query_each_ends_the_copies() -> None:
    fake = Fake("fake", 9, None, 0.2)

    async def consume() -> None:
        async for _ in query_each("q", fake):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == pytest.approx(1.2)
    nothing_is_left(fake)


# --- together -------------------------------------------------------------------------------


@virtual_time
async def test_together_gives_each_its_own_answer() -> None:
    async def number() -> int:
        await asyncio.sleep(0.2)
        return 7

    async def fails() -> str:
        raise OSError("no")

    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, future.set_result, b"now")
    one, two, three = await together(number(), fails(), future)
    assert (one.value, three.value) == (7, b"now")
    assert isinstance(two.error, OSError)
    assert [one.seconds, two.seconds, three.seconds] == pytest.approx([0.2, 0, 0.1])
    assert "number" in repr(one)


@virtual_time
async def test_together_cancels_what_is_not_done_in_time() -> None:
    fake = Fake("fake", 9)
    late, good = await together(fake.query("q"), asyncio.sleep(0.1, "good"), timeout=1)
    assert isinstance(late.error, TimeoutError)
    assert good.value == "good"
    nothing_is_left(fake)


@virtual_time
async def test_together_leaves_no_coroutine_unawaited() -> None:
    wrong: Any = 42
    with pytest.raises(TypeError, match="argument 2 is not awaitable: 42"):
        await together(asyncio.sleep(1), wrong)
    task = asyncio.create_task(together(asyncio.sleep(1), Fake("f").query("q")))
    await asyncio.sleep(0)
    task.cancel()  # before the copies have begun
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()  # a coroutine never awaited would warn here, and warnings are errors


# --- Replicas -------------------------------------------------------------------------------


@virtual_time
async def test_the_first_answer_wins_and_the_losers_are_cancelled_and_awaited() -> None:
    slow, fast, failing = Fake("slow", 9, None, 0.2), Fake("fast", 0.1), Fake("x", 0.05, OSError())
    assert await Replicas(slow, fast, failing).query("q") == "q@fast"
    assert now() == pytest.approx(0.3)
    assert slow.events == ["asked", "cancelled", "over"]
    nothing_is_left(slow, fast, failing)


@virtual_time
async def test_an_error_never_beats_a_healthy_copy_however_late() -> None:
    assert await Replicas(Fake("x", 0, OSError()), Fake("y", 60)).query("q") == "q@y"


@virtual_time
async def test_when_all_replicas_fail_each_failure_names_its_backend() -> None:
    pair = Replicas(Fake("a", 0.1, OSError()), Fake("b", 0.2, KeyError()), name="pair")
    with pytest.raises(ExceptionGroup) as caught:
        await query_all("q", pair, Fake("c", 9))
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert group.__notes__ == ["backend 1 of 2: pair"]
    assert [e.__notes__ for e in group.exceptions] == [
        ["backend 1 of 2: a"],
        ["backend 2 of 2: b"],
    ]


@virtual_time
async def test_a_second_winner_in_the_same_instant_is_discarded() -> None:
    twins = [Fake("a", 0.1), Fake("b", 0.1), Stubborn("c", 9, None, 0.1)]
    assert await Replicas(*twins).query("q") == "q@a"
    nothing_is_left(*twins)


@virtual_time
async def test_the_talks_replicas_take_the_fastest_of_each() -> None:
    def copies(*seconds: float) -> Replicas[str, str]:
        return Replicas(*(Fake(f"after {s}", s) for s in seconds))

    assert await query_all("q", copies(0.3, 0.1), copies(0.2, 0.4, 0.5), Fake("c", 0.15)) == [
        "q@after 0.1",
        "q@after 0.2",
        "q@c",
    ]
    assert now() == pytest.approx(0.2)


@virtual_time
async def test_a_keyboard_interrupt_in_a_copy_is_not_dressed_up() -> None:
    class Halt(BaseException):
        pass

    async def halts(query: str) -> str:
        raise Halt

    slow = Fake("slow", 9)
    with pytest.raises(Halt):
        await Replicas(backend(halts), slow).query("q")
    nothing_is_left(slow)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 and later")
@virtual_time
async def test_eager_tasks_change_nothing() -> None:
    eager: Any = vars(asyncio)["eager_task_factory"]
    asyncio.get_running_loop().set_task_factory(eager)

    @backend
    async def at_once(query: str) -> str:
        return query

    slow = Fake("slow", 9)
    assert await query_all("q", at_once, Fake("a", 1)) == ["q", "q@a"]
    assert await Replicas(slow, at_once).query("q") == "q"
    with pytest.raises(ExceptionGroup):
        await query_all("q", backend(_raiser(OSError)), slow)
    nothing_is_left(slow)


# --- deadlines ------------------------------------------------------------------------------


class Clock:
    """A backend that says how much time it was given."""

    def __init__(self, name: str, *nested: Any, timeout: float | None = None) -> None:
        self.name, self.nested, self.timeout = name, nested, timeout

    async def query(self, query: str, /) -> Any:
        await asyncio.sleep(0.25)
        if not self.nested:
            return remaining()
        return await query_all(query, *self.nested, timeout=self.timeout)


@virtual_time
async def test_nested_calls_share_the_earliest_deadline() -> None:
    assert remaining() is None
    assert await query_all("q", Clock("a")) == [None]
    assert await query_all("q", Clock("a"), timeout=1) == [pytest.approx(0.75)]
    through = Replicas(Clock("outer", Clock("inner"), timeout=60))
    assert await query_all("q", through, timeout=1) == [[pytest.approx(0.5)]]
    earlier = Clock("outer", Clock("inner"), timeout=0.5)
    assert await query_all("q", earlier, timeout=60) == [[pytest.approx(0.25)]]
    assert remaining() is None


@virtual_time
async def test_the_deadline_around_one_that_is_over_is_the_nearest_again() -> None:
    with within(60):
        with within(1):
            assert remaining() == pytest.approx(1)
        assert remaining() == pytest.approx(60)
    assert remaining() is None


@virtual_time
async def test_one_deadline_ends_everything_under_it() -> None:
    slow = Fake("slow", 60)

    class Nested:
        async def query(self, query: str, /) -> list[str]:
            return await query_all(query, Replicas(slow), timeout=30)

    with pytest.raises(TimeoutError, match="within 1 s from Nested"):
        await query_all("q", Nested(), timeout=1)
    assert now() == pytest.approx(1)
    nothing_is_left(slow)


@virtual_time
async def test_what_outlives_a_deadline_is_not_held_to_it() -> None:
    later: list[asyncio.Task[float | None]] = []

    async def look_later() -> float | None:
        await asyncio.sleep(5)
        return remaining()

    async def starts_a_task(query: str) -> str:
        later.append(asyncio.create_task(look_later()))
        return query

    with within(60):
        await query_all("q", backend(starts_a_task), timeout=1)
        assert await later[0] == pytest.approx(55), "the deadline around the one that is over"
    await query_all("q", backend(starts_a_task), timeout=1)
    assert await later[1] is None


@virtual_time
async def test_remaining_is_known_in_threads_and_never_negative() -> None:
    with within(2):
        assert await asyncio.to_thread(remaining) == pytest.approx(2)
        await asyncio.sleep(3)
        assert remaining() == 0.0
    outside: list[float | None] = []
    thread = threading.Thread(target=lambda: outside.append(remaining()))
    thread.start()
    thread.join()
    assert outside == [None]
    with within(None):
        assert remaining() is None


# --- any schedule ---------------------------------------------------------------------------


@dataclass
class Chaos:
    """Backends, calls and interruptions drawn from one seed; and a count of what still runs."""

    dice: random.Random
    running: int = 0

    def seconds(self) -> float:
        return self.dice.choice([0.0, 0.0, 0.1, 0.2, 0.2, 0.3, self.dice.uniform(0, 0.5)])

    async def leaf(self, query: str) -> str:
        """Answers or fails, soon or late; takes its cancellation well, badly or not at all."""
        dice = self.dice
        self.running += 1
        try:
            try:
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(self.seconds())
                match dice.randrange(8):
                    case 0 | 1:
                        raise OSError("failed")
                    case 2:
                        raise TimeoutError("of its own")
                    case 3:
                        raise asyncio.CancelledError
                return query
            except asyncio.CancelledError:
                match dice.randrange(5):
                    case 0:
                        await asyncio.sleep(dice.uniform(0, 0.3))  # cleans up
                    case 1:
                        raise ValueError("failed to clean up") from None
                    case 2:
                        return "too late"
                    case 3:
                        await asyncio.sleep(dice.uniform(0, 0.3))
                        return "much too late"
                raise
        finally:
            self.running -= 1

    def backend(self, depth: int) -> Any:
        kind = self.dice.randrange(6) if depth else 0
        if kind == 1:
            return Replicas(*self.backends(depth - 1))
        if kind == 2:
            below, call = self.backends(depth - 1), self.call
            return backend(partial(call, backends=below))
        return backend(self.leaf)

    def backends(self, depth: int) -> list[Any]:
        return [self.backend(depth) for _ in range(self.dice.randrange(1, 5))]

    def timeout(self) -> float | None:
        return self.dice.choice([None, None, 0.0, self.seconds(), 0.4])

    async def call(self, query: str, backends: list[Any]) -> Any:
        timeout, n = self.timeout(), len(backends)
        match self.dice.randrange(6):
            case 0 | 1:
                return await query_all(query, *backends, timeout=timeout)
            case 2:
                first = self.dice.choice([None, self.dice.randint(1, n)])
                return await query_some(query, *backends, timeout=timeout, first=first)
            case 3:
                return [a.ok async for a in query_each(query, *backends, timeout=timeout)]
            case 4:
                stop = self.dice.randrange(n)
                async with contextlib.aclosing(query_each(query, *backends)) as answers:
                    return [await anext(answers) for _ in range(stop)]
            case _:
                return await together(*(b.query(query) for b in backends), timeout=timeout)


async def _one_schedule(seed: int) -> str:
    """Run it; the text says what is wrong, if anything."""
    chaos = Chaos(random.Random(seed))
    dice = chaos.dice
    backends = chaos.backends(2)
    left: list[str] = []
    limit = dice.choice([None, None, chaos.seconds()])
    fired = False

    async def top() -> None:
        nonlocal fired
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit) as scope:
                try:
                    await chaos.call("q", backends)
                except* (OSError, TimeoutError, ValueError, RuntimeError):
                    pass
                finally:
                    if chaos.running:
                        left.append(f"{chaos.running} copies")
                    if others := asyncio.all_tasks() - known - {asyncio.current_task()}:
                        left.append(f"tasks: {others}")
            fired = scope.expired()
        await asyncio.sleep(0)  # a cancellation that was put off arrives here
        await asyncio.sleep(0)

    known = asyncio.all_tasks()
    task = asyncio.create_task(top())
    cancelled = False
    for _ in range(dice.choice([0, 0, 1, 2])):
        await asyncio.sleep(chaos.seconds())
        cancelled |= task.cancel()
    await asyncio.wait([task])
    if task.cancelled() != cancelled:
        left.append("swallowed a cancellation" if cancelled else "cancelled by nobody")
    elif not cancelled and task.exception() is not None:
        left.append(f"ended with {task.exception()!r}")
    return "; ".join(left)


@pytest.mark.timeout(300)
def test_no_schedule_leaks_a_task_or_an_exception_or_swallows_a_cancellation() -> None:
    reported: list[str] = []
    wrong: dict[int, str] = {}

    async def all_schedules() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(str(context)))
        for seed in range(2000):
            if text := await _one_schedule(seed):
                wrong[seed] = text
            if seed % 200 == 0:
                gc.collect()
        gc.collect()
        await asyncio.sleep(0)

    testing.run(all_schedules())
    assert wrong == {}
    assert reported == []
