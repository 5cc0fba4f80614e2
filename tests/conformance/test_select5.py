"""Go's test/chan/select5.go: one ready case in every surrounding, phrased in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import permutations
from typing import Any

import pytest

from tailrace import Channel, Operation, WouldBlock, select, select_nowait

pytestmark = pytest.mark.virtual_time

Cases = tuple[Operation[Any] | None, ...]
Way = Callable[..., Awaitable[Any]]


async def at_once(*cases: Operation[Any] | None, priority: bool = False) -> Any:
    return select_nowait(*cases, priority=priority)


WAYS: dict[str, Way] = {
    "select": select,
    "select, by priority": lambda *cases: select(*cases, priority=True),
    "select, with a timeout": lambda *cases: select(*cases, timeout=1),
    "select_nowait": at_once,
    "select_nowait, by priority": lambda *cases: at_once(*cases, priority=True),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())

READY, DUMMY_SEND, DUMMY_RECV, NIL = "ready", "dummy send", "dummy recv", "nil"


def surroundings(*others: str) -> Iterator[tuple[str, ...]]:
    """The ready case alone, and in every place among one to four that are not ready."""
    places = [*others, DUMMY_SEND, DUMMY_RECV, NIL, NIL]
    for size in range(5):
        yield from sorted(set(permutations([*others, READY, *places[:size]])))


class Phrase:
    """Makes the cases of one select, and notes in which order their arguments were made."""

    def __init__(self) -> None:
        self.channel = Channel[int](1)
        self.dummy = Channel[int]()
        self.made: list[int] = []

    def cases(self, words: tuple[str, ...], ready: Callable[[], Operation[Any]]) -> Cases:
        makers: dict[str, Callable[[], Operation[Any] | None]] = {
            READY: ready,
            DUMMY_SEND: lambda: self.dummy.send(1),
            DUMMY_RECV: self.dummy.recv,
            NIL: lambda: None,
        }
        return tuple(makers[word]() for word in words)

    def check_that_only_one_case_happened(self) -> None:
        statistics = self.dummy.statistics()
        assert (statistics.sent, statistics.received) == (0, 0)
        assert (statistics.waiting_senders, statistics.waiting_receivers) == (0, 0)
        assert len(self.channel) == 0


@each_way
async def test_the_ready_receive_is_found_wherever_it_stands(way: Way) -> None:
    phrase = Phrase()
    for n, words in enumerate(surroundings()):
        await phrase.channel.send(n)
        chosen = await way(*phrase.cases(words, phrase.channel.recv))
        assert chosen == (words.index(READY), n), words
        phrase.check_that_only_one_case_happened()


@each_way
async def test_the_ready_send_is_found_wherever_it_stands(way: Way) -> None:
    phrase = Phrase()
    for n, words in enumerate(surroundings()):
        chosen = await way(*phrase.cases(words, lambda: phrase.channel.send(n)))  # noqa: B023  # called at once
        assert chosen == (words.index(READY), None), words
        assert await phrase.channel.recv() == n
        phrase.check_that_only_one_case_happened()


@pytest.mark.parametrize("receives", [True, False], ids=["receive", "send"])
async def test_a_case_that_gets_ready_later_is_found_wherever_it_stands(receives: bool) -> None:
    """The same for selects that have to park, with a peer who comes when they have."""
    phrase = Phrase()
    phrase.channel = channel = Channel[int]()
    for n, words in enumerate(surroundings()):
        peer: Operation[Any] = channel.send(n) if receives else channel.recv()

        async def come_later(peer: Operation[Any] = peer) -> Any:
            await asyncio.sleep(1)
            return await peer

        later = asyncio.create_task(come_later())
        ready = channel.recv if receives else (lambda: channel.send(n))  # noqa: B023  # called at once
        chosen = await select(*phrase.cases(words, ready))
        assert chosen == (words.index(READY), n if receives else None), words
        assert await later == (None if receives else n)
        phrase.check_that_only_one_case_happened()


@each_way
async def test_among_cases_that_cannot_run_the_default_or_the_timeout_is_taken(way: Way) -> None:
    phrase = Phrase()
    await phrase.channel.send(7)
    for words in surroundings():
        cases = phrase.cases(words, lambda: phrase.channel.send(8))  # there is no room for it
        if way is WAYS["select_nowait"] or way is WAYS["select_nowait, by priority"]:
            with pytest.raises(WouldBlock):
                await way(*cases)
        else:
            assert await select(*cases, timeout=1) == (None, None)
    assert await phrase.channel.recv() == 7
    phrase.check_that_only_one_case_happened()
