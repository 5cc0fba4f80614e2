"""Go's src/runtime/chan_test.go, its tests of select: NonblockSelectRace, SelfSelect, SelectStress,
SelectFairness, PseudoRandomSend, SelectDuplicateChannel.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tailrace import (
    Channel,
    Group,
    Receiver,
    Sender,
    WouldBlock,
    select,
    select_nowait,
)
from tailrace.testing import wait_all_parked

virtual_time = pytest.mark.virtual_time

# Three games of dice that repeat exactly, and the real loop with dice of its own.
each_game = pytest.mark.parametrize(
    "game",
    [
        *(pytest.param(f"seed {n}", marks=pytest.mark.virtual_time(seed=n)) for n in range(3)),
        "real time",
    ],
)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns far more often than they otherwise would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# NonblockSelectRace, NonblockSelectRace2


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("by_close", [False, True], ids=["by a value", "by a close"])
def test_a_select_sees_all_its_channels_at_one_instant(by_close: bool) -> None:
    """The second gets ready before the first ceases to be: at every instant one is. A select that
    looked at them one after the other could find neither."""
    together = Barrier(2)

    def choose(first: Channel[int], second: Channel[int]) -> Any:
        together.wait()
        try:
            return select_nowait(first.recv(), second.recv())
        except WouldBlock:
            return "neither"

    outcomes: Counter[object] = Counter()
    with ThreadPoolExecutor(1) as other:
        for _ in range(3_000):
            first, second = Channel[int](1), Channel[int](1)
            first.send_nowait(1)
            chosen = other.submit(choose, first, second)
            together.wait()
            if by_close:
                second.close()
            else:
                second.send_nowait(2)
            try:
                first.recv_nowait()
            except WouldBlock:
                pass
            result = chosen.result()
            outcomes[result if result == "neither" else result[0]] += 1
    assert outcomes.keys() <= {0, 1}


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("hasty")
def test_a_select_among_many_always_finds_the_one_value_that_keeps_moving() -> None:
    """The same with a longer look: the value is put into the next channel before it is taken out
    of the last, again and again, while another thread looks for it once."""
    channels = [Channel[int](1) for _ in range(500)]
    with ThreadPoolExecutor(1) as other:
        for _ in range(50):
            here = 0
            channels[here].send_nowait(1)
            chosen = other.submit(lambda: select_nowait(*(ch.recv() for ch in channels)))
            try:
                while not chosen.done():
                    there = (here + 1) % len(channels)
                    channels[there].send_nowait(1)
                    channels[here].recv_nowait()
                    here = there
            except WouldBlock:
                pass  # found, and taken
            assert chosen.result()[1] == 1
            for channel in channels:
                if len(channel):
                    channel.recv_nowait()


# SelfSelect


@pytest.mark.parametrize("capacity", [0, 10])
@each_game
async def test_a_select_never_pairs_with_itself_and_two_of_them_never_hang(
    capacity: int, game: str
) -> None:
    rounds = 1_000
    ch = Channel[int](capacity)

    async def play(me: int) -> None:
        for i in range(rounds):
            if me == 0 or i % 2:
                index, value = await select(ch.send(me), ch.recv())
                received = index == 1
            else:
                index, value = await select(ch.recv(), ch.send(me))
                received = index == 0
            if received and capacity == 0:
                assert value == 1 - me, "it received from itself"

    async with Group() as go:
        go(play, 0)
        go(play, 1)
    statistics = ch.statistics()
    assert statistics.sent + statistics.received == 2 * rounds
    assert statistics.sent - statistics.received == len(ch)


# SelectStress


@each_game
async def test_sends_receives_and_selects_on_the_same_channels_lose_nothing_and_never_hang(
    game: str,
) -> None:
    """On each of four channels: one that sends, one that receives, and a case each of one select
    that sends and one that receives."""
    n = 1_500
    channels = [Channel[int](), Channel[int](), Channel[int](2), Channel[int](3)]
    received: Counter[int] = Counter()

    async def send(which: int) -> None:
        for _ in range(n):
            await channels[which].send(which)

    async def receive(which: int) -> None:
        for _ in range(n):
            received[await channels[which].recv()] += 1

    async def send_on_all() -> None:
        left = [n] * 4
        while any(left):
            index, _ = await select(
                *(ch.send(which) if left[which] else None for which, ch in enumerate(channels))
            )
            assert index is not None
            left[index] -= 1

    async def receive_on_all() -> None:
        left = [n] * 4
        while any(left):
            index, value = await select(
                *(ch.recv() if left[which] else None for which, ch in enumerate(channels))
            )
            assert index is not None
            assert index == value
            left[index] -= 1
            received[index] += 1

    async with Group() as go:
        for which in range(4):
            go(send, which)
            go(receive, which)
        go(send_on_all)
        go(receive_on_all)

    assert received == dict.fromkeys(range(4), 2 * n)
    for ch in channels:
        statistics = ch.statistics()
        assert (statistics.sent, statistics.received, statistics.buffered) == (2 * n, 2 * n, 0)
        assert (statistics.waiting_senders, statistics.waiting_receivers) == (0, 0)


# SelectFairness


def within_ten_sigma(count: int, trials: int, share: float = 0.5) -> bool:
    """Go's bound: even a slight bias is let pass, starvation is not."""
    sigma = math.sqrt(trials * share * (1 - share))
    return abs(count - trials * share) <= 10 * sigma


@each_game
async def test_two_that_are_always_ready_are_chosen_equally_often(game: str) -> None:
    trials = 5_000
    first, second = Channel[int](trials + 1), Channel[int](trials + 1)
    for _ in range(trials + 1):
        first.send_nowait(1)
        second.send_nowait(2)
    silent, mute = Channel[int](), Channel[int]()
    out, quit_ = Channel[int](), Channel[None]()

    async def choose() -> None:
        while True:
            _, value = await select(silent.recv(), mute.recv(), first.recv(), second.recv())
            assert isinstance(value, int)
            if await select(out.send(value), quit_.recv()) != (0, None):
                return

    async with Group() as go:
        go(choose)
        chosen = Counter([await out.recv() for _ in range(trials)])
        quit_.close()
    assert chosen.keys() == {1, 2}
    assert within_ten_sigma(chosen[1], trials), chosen


@virtual_time
@pytest.mark.parametrize("cases", [2, 3, 4, 6, 9])
async def test_every_case_that_is_ready_has_the_same_chance_wherever_it_stands(cases: int) -> None:
    trials = 2_000
    channels = [Channel[int](1) for _ in range(cases)]
    for channel in channels:
        channel.send_nowait(0)
    chosen: Counter[int | None] = Counter()
    for _ in range(trials):
        index, _ = await select(*(channel.recv() for channel in channels))
        assert index is not None
        chosen[index] += 1
        channels[index].send_nowait(0)
    assert all(within_ten_sigma(chosen[i], trials, 1 / cases) for i in range(cases)), chosen


@virtual_time
async def test_with_priority_the_first_that_is_ready_always_wins() -> None:
    channels = [Channel[int](1) for _ in range(4)]
    for channel in channels[1:]:
        channel.send_nowait(0)
    for _ in range(100):
        index, _ = await select(*(channel.recv() for channel in channels), priority=True)
        assert index == 1
        channels[1].send_nowait(0)


# PseudoRandomSend


@pytest.mark.parametrize("capacity", [0, 100])
@each_game
async def test_of_two_sends_on_one_channel_neither_starves(capacity: int, game: str) -> None:
    n = 400
    ch = Channel[int](capacity)
    got: list[int] = []

    async def receive(inbox: Receiver[int]) -> None:
        for _ in range(n):
            await asyncio.sleep(0)
            got.append(await inbox.recv())

    async def send(out: Sender[int]) -> None:
        for _ in range(n):
            await select(out.send(1), out.send(0))

    async with Group() as go:
        go(receive, ch)
        go(send, ch)
    assert len(got) == n
    assert got.count(0) > n / 10
    assert got.count(1) > n / 10


# SelectDuplicateChannel


@virtual_time
async def test_a_select_may_name_a_channel_twice_and_leaves_its_line_in_good_order() -> None:
    doubled, other, told = Channel[int](), Channel[int](), Channel[int]()
    got: list[int] = []

    async def choose() -> None:
        index, value = await select(doubled.recv(), doubled.recv(), other.recv())
        assert (index, value) == (2, 7)
        await told.send(9)

    async def receive() -> None:
        got.append(await doubled.recv())

    async with Group() as go:
        go(choose)
        await wait_all_parked()  # it is first in the line of `doubled`, twice
        go(receive)
        await wait_all_parked()  # and this is behind it
        await other.send(7)
        assert await told.recv() == 9
        await doubled.send(8)
    assert got == [8]
    assert doubled.statistics().waiting_receivers == 0


@virtual_time
async def test_a_channel_named_twice_gives_one_value_only() -> None:
    ch = Channel[int](3)
    for value in range(3):
        ch.send_nowait(value)
    _, value = await select(ch.recv(), ch.recv(), ch.recv())
    assert value == 0
    assert len(ch) == 2

    parked = asyncio.create_task(_choose_between_two_receives(empty := Channel[int]()))
    await wait_all_parked()
    empty.send_nowait(1)
    with pytest.raises(WouldBlock):
        empty.send_nowait(2)  # it has had its value, though it has not run since
    assert (await parked)[1] == 1


async def _choose_between_two_receives(ch: Channel[int]) -> Any:
    return await select(ch.recv(), ch.recv())
