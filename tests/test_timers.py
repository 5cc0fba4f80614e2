"""after and ticker: time as channels."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from typing import Any

import pytest

from tailrace import Channel, Closed, Receiver, WouldBlock, after, select, ticker

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_after_gives_the_time_once() -> None:
    timer = after(2.5)
    assert await timer.recv() == pytest.approx(2.5)
    assert now() == pytest.approx(2.5)
    assert await select(timer.recv(), timeout=100) == (None, None)


async def test_after_counts_from_its_call_and_waits_for_nobody() -> None:
    timer = after(1)
    await asyncio.sleep(5)
    assert await timer.recv() == pytest.approx(1)
    assert now() == 5


async def test_after_zero_is_due_at_once() -> None:
    assert await after(0).recv() == now() == 0


async def test_after_is_a_case_of_select() -> None:
    quiet = Channel[int]()
    timer = after(3)
    match await select(quiet.recv(), timer.recv()):
        case 1, at:
            assert at == pytest.approx(3)
        case other:
            raise AssertionError(other)


async def test_ticker_ticks_on_the_clock() -> None:
    ticks = ticker(0.5)
    assert [await ticks.recv() for _ in range(4)] == pytest.approx([0.5, 1.0, 1.5, 2.0])


async def test_ticker_keeps_to_the_clock_however_late_it_is_heard() -> None:
    ticks = ticker(1)
    heard = []
    for _ in range(3):
        await ticks.recv()
        await asyncio.sleep(0.7)
        heard.append(now())
    assert heard == pytest.approx([1.7, 2.7, 3.7])


async def test_ticker_drops_ticks_that_nobody_heard() -> None:
    ticks = ticker(1)
    await asyncio.sleep(5.5)
    assert await ticks.recv() == pytest.approx(1)  # the one that waited
    assert await ticks.recv() == pytest.approx(6)
    with pytest.raises(WouldBlock):
        ticks.recv_nowait()


async def test_ticker_skips_what_it_missed_while_the_loop_was_stalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop: Any = asyncio.get_running_loop()
    ticks = ticker(1)
    loop._advance(10.25)  # as one callback that took ten seconds would
    assert await ticks.recv() == pytest.approx(10.25)
    assert await ticks.recv() == pytest.approx(11)
    assert await ticks.recv() == pytest.approx(12)


async def test_ticker_is_iterated() -> None:
    count = 0
    async for at in ticker(2):
        count += 1
        if count == 3:
            assert at == pytest.approx(6)
            break


async def test_timers_are_receiving_ends_only() -> None:
    for timer in (after(1), ticker(1)):
        assert isinstance(timer, Receiver)
        assert not hasattr(timer, "send")
        assert not hasattr(timer, "close")


async def test_timers_say_what_they_are() -> None:
    assert "after(1.5)" in repr(after(1.5))
    assert "ticker(0.25)" in repr(ticker(0.25))


@pytest.mark.parametrize("make", [after, ticker])
async def test_a_timer_that_nobody_holds_stops(make: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    for _ in range(100):
        make(1000)
    gc.collect()
    await asyncio.sleep(0.001)  # the finalisers posted
    await asyncio.sleep(0.001)
    assert sum(not timer.cancelled() for timer in loop._scheduled) <= 1


async def test_a_timer_somebody_waits_on_goes_on_though_nobody_else_holds_it() -> None:
    heard: list[float] = []

    async def wait() -> None:
        heard.append(await after(5).recv())

    task = asyncio.create_task(wait())
    await asyncio.sleep(1)
    gc.collect()
    await task
    assert heard == pytest.approx([5])


async def test_a_ticker_is_let_go_after_a_select_that_used_it() -> None:
    ticks = ticker(1)
    channel = weakref.ref(ticks.__aiter__())
    await select(ticks.recv(), timeout=3)
    del ticks
    gc.collect()
    await asyncio.sleep(0)
    assert channel() is None


@pytest.mark.parametrize("make", [after, ticker])
@pytest.mark.parametrize("seconds", ["1", None, [], True])
async def test_timers_refuse_what_is_no_number(make: Any, seconds: Any) -> None:
    with pytest.raises(TypeError, match="seconds"):
        make(seconds)


@pytest.mark.parametrize("make", [after, ticker])
@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, -math.inf])
async def test_timers_refuse_what_is_no_duration(make: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        make(seconds)


async def test_ticker_refuses_zero() -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        ticker(0)


@pytest.mark.parametrize("make", [after, ticker])
async def test_timers_need_a_running_loop(make: Any) -> None:
    def outside() -> None:
        with pytest.raises(RuntimeError):
            make(1)

    await asyncio.get_running_loop().run_in_executor(None, outside)


async def test_a_timer_whose_channel_was_closed_is_quiet() -> None:
    ticks: Any = ticker(1)
    channel = ticks.__aiter__()
    await ticks.recv()
    channel.close()
    await asyncio.sleep(10)
    with pytest.raises(Closed):
        await ticks.recv()
