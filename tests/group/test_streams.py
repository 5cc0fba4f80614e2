"""emit, collect and amap: what they promise of order, bounds, failures and leaving early."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any

import pytest

from tailrace import Channel, Closed, Group, Receiver, amap, collect, emit

pytestmark = pytest.mark.virtual_time


class Work:
    """A function that takes 1 to 3 s, and counts how many of it run."""

    def __init__(self) -> None:
        self.running = self.peak = 0

    async def __call__(self, n: int) -> int:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(1 + -n % 3)
        finally:
            self.running -= 1
        if n < 0:
            raise ValueError(n)
        return n


@pytest.fixture(params=[False, True], ids=["as they come", "ordered"])
def ordered(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_amap_runs_as_many_as_it_may_and_never_more(ordered: bool) -> None:
    work = Work()
    async with aclosing(amap(work, itertools.count(), concurrency=5, ordered=ordered)) as results:
        got = [await anext(results) for _ in range(50)]
    assert work.peak == 5
    assert work.running == 0  # leaving early cancelled the rest and waited for it
    assert (got == sorted(got)) == ordered


async def test_amap_gives_results_as_they_come_unless_ordered() -> None:
    seconds = [3.0, 1.0, 2.0]
    items = [(s, s) for s in seconds]

    async def sleep(item: tuple[float, float]) -> float:
        return await asyncio.sleep(*item)

    assert [r async for r in amap(sleep, items, concurrency=3)] == [1, 2, 3]
    assert [r async for r in amap(sleep, items, concurrency=3, ordered=True)] == seconds


async def test_amap_bounds_what_is_started_and_not_yet_taken(ordered: bool) -> None:
    started: list[int] = []

    async def note(n: int) -> int:
        started.append(n)
        return n

    async with aclosing(amap(note, itertools.count(), concurrency=3, ordered=ordered)) as results:
        await anext(results)
        await asyncio.sleep(100)  # nobody takes any
        assert len(started) <= 4  # the one that was given, and three


async def test_amap_takes_functions_that_are_done_at_once(ordered: bool) -> None:
    def done(n: int) -> Awaitable[int]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(n)
        return future

    got: list[int] = []
    async for result in amap(done, range(50), concurrency=2, ordered=ordered):
        got.append(result)
        await asyncio.sleep(0)
    assert sorted(got) == list(range(50))


async def test_amap_raises_a_failure_of_the_function_at_once_and_cancels_the_rest(
    ordered: bool,
) -> None:
    work = Work()
    with pytest.raises(ValueError, match="-4"):
        async for _ in amap(work, [-4, 1, 2, 3], concurrency=4, ordered=ordered):
            pass
    assert work.running == 0


async def test_amap_raises_a_failure_of_the_items_after_the_results_before_it(
    ordered: bool,
) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise KeyError

    got: list[int] = []
    with pytest.raises(KeyError):
        async for result in amap(Work(), items(), concurrency=3, ordered=ordered):
            got.append(result)
    assert sorted(got) == [1, 2]


async def test_amap_whose_consumer_is_cancelled_leaves_nothing_running(ordered: bool) -> None:
    work = Work()

    async def consume() -> None:
        async for _ in amap(work, itertools.count(), concurrency=3, ordered=ordered):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(10.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # the loop closes a generator that was left behind
    await asyncio.sleep(0.1)
    assert work.running == 0


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_amap_refuses_a_bad_concurrency_before_it_is_iterated(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="concurrency must be"):
        amap(Work(), [1], concurrency=wrong)


async def test_amap_raises_what_calling_the_function_raises() -> None:
    def raises(n: int) -> Awaitable[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        [r async for r in amap(raises, [1], concurrency=1)]
    with pytest.raises(TypeError):
        [r async for r in amap(abs, [1], concurrency=1)]  # type: ignore[arg-type]  # on purpose
    assert [r async for r in amap(raises, [], concurrency=1)] == []


async def test_emit_closes_an_async_generator_that_it_does_not_finish() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1)
            ended.append("closed")

    async def one(inbox: Receiver[int]) -> None:
        await inbox.recv()

    a = Channel[int]()
    async with Group() as go:
        go(emit(numbers()), a)
        go(one, a)
    assert ended == ["closed"]


async def test_emit_refuses_what_cannot_be_iterated() -> None:
    with pytest.raises(TypeError, match="emit takes an iterable"):
        emit(3)  # type: ignore[arg-type]  # on purpose


async def test_collect_raises_when_the_channel_closed_for_a_cause() -> None:
    a = Channel[int](3)
    a.send_nowait(1)
    a.close(ValueError("boom"))
    with pytest.raises(Closed) as closed:
        await collect(a)
    assert str(closed.value.__cause__) == "boom"
