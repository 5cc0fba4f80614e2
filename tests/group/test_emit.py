"""`emit` and `drain`: every item that is drawn is sent, whatever kind of iterable it comes from."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)

import pytest

from tailrace import Channel, Group, Receiver, Sender, emit

pytestmark = pytest.mark.virtual_time


class Numbers:
    """0, 1, 2, … as an iterator of a class; `drawn` says how many were taken."""

    def __init__(self, then: Callable[[int], object] = lambda n: None) -> None:
        self.drawn = 0
        self.then = then

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.drawn += 1
        self.then(self.drawn)
        return self.drawn - 1

    def generator(self) -> Generator[int]:
        yield from self

    async def slowly(self) -> AsyncGenerator[int]:
        for n in self:
            yield n
            await asyncio.sleep(1)

    async def at_once(self) -> AsyncGenerator[int]:
        for n in self:
            yield n


class AsyncNumbers:
    """The same, as an asynchronous iterator of a class."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0.7)
        return next(self.numbers)


KINDS: dict[str, Callable[[Numbers], Iterable[int] | AsyncIterable[int]]] = {
    "iterator": lambda numbers: numbers,
    "generator": Numbers.generator,
    "asynchronous generator": Numbers.slowly,
    "asynchronous generator that never waits": Numbers.at_once,
    "asynchronous iterator": AsyncNumbers,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Numbers], Iterable[int]]:
    return KINDS[request.param]  # type: ignore[return-value]


@pytest.mark.parametrize("capacity", [0, 1, 100])
async def test_group_4_drain_draws_no_further_item_from_emit(
    kind: Callable[[Numbers], Iterable[int]], capacity: int
) -> None:
    numbers = Numbers()
    channel = Channel[int](capacity)
    got: list[int] = []

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)
            await asyncio.sleep(1)

    async with Group() as go:
        go(emit(kind(numbers)), channel)
        go(work, channel)
        await asyncio.sleep(5.5)
        drawn = numbers.drawn
        go.drain()
    assert numbers.drawn == drawn
    assert got == list(range(drawn))


@pytest.mark.parametrize("capacity", [0, 1, 1000])
async def test_group_4_an_item_whose_iterable_drains_the_group_is_sent(
    kind: Callable[[Numbers], Iterable[int]], capacity: int
) -> None:
    numbers = Numbers(lambda n: go.drain() if n == 300 else None)  # some budgets later
    channel = Channel[int](capacity)
    got: list[int] = []

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)
            if n % 7 == 0:
                await asyncio.sleep(0.1)

    async with Group() as go:
        go(emit(kind(numbers)), channel)
        go(work, channel)
    assert numbers.drawn == 300
    assert got == list(range(300))


@pytest.mark.parametrize("sent", [[], [1]])
async def test_group_4_emit_is_not_kept_waiting_by_an_iterable_that_waits(sent: list[int]) -> None:
    async def these_and_no_more() -> AsyncGenerator[int]:
        for n in sent:
            yield n
        go.drain()
        await asyncio.Event().wait()
        yield 2

    got: list[int] = []

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)

    channel = Channel[int]()
    async with asyncio.timeout(1):
        async with Group() as go:
            go(emit(these_and_no_more()), channel)
            go(work, channel)
    assert got == sent


async def test_group_4_a_drained_emit_ends_the_source_that_it_is_part_of() -> None:
    numbers, others = Numbers(), Numbers()
    got: list[int] = []

    async def source(out: Sender[int]) -> None:
        await emit(numbers)(out)
        await emit(others)(out)

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)
            await asyncio.sleep(1)

    channel = Channel[int]()
    async with Group() as go:
        go(source, channel)
        go(work, channel)
        await asyncio.sleep(2.5)
        go.drain()
    assert got == list(range(numbers.drawn))
    assert others.drawn == 0


async def test_group_4_several_actors_that_emit_one_iterator_lose_nothing() -> None:
    numbers = Numbers()
    got: list[int] = []

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)
            await asyncio.sleep(1)

    channel = Channel[int]()
    async with Group() as go:
        go(emit(numbers), channel, actors=3)
        go(work, channel)
        await asyncio.sleep(9.5)
        go.drain()
    assert sorted(got) == list(range(numbers.drawn))


async def test_group_4_an_emit_that_was_drained_goes_on_where_it_stopped() -> None:
    source = emit(itertools.count())
    got: list[int] = []

    async def work(inbox: Receiver[int]) -> None:
        async for n in inbox:
            got.append(n)
            await asyncio.sleep(1)

    for _ in range(2):
        channel = Channel[int]()
        async with Group() as go:
            go(source, channel)
            go(work, channel)
            await asyncio.sleep(2.5)
            go.drain()
    assert got == list(range(len(got)))
    assert len(got) > 6
