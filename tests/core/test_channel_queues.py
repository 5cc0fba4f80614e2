"""Channel, semantic 7: a waiter leaves its queue in O(1), and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any

import pytest


async def leaving(core: Any, n: int, settle: Any) -> float:
    """Seconds for `n` parked receivers to leave one queue, in an order that is not theirs."""
    channel = core.Channel()
    tasks = [asyncio.ensure_future(channel.recv()) for _ in range(n)]
    await asyncio.sleep(0)
    while channel.statistics().waiting_receivers < n:
        await asyncio.sleep(0)
    order = tasks[::2] + tasks[1::2][::-1]
    began = time.process_time()
    for task in order:
        task.cancel()
    await asyncio.wait(tasks)
    seconds = time.process_time() - began
    assert channel.statistics().waiting_receivers == 0
    return seconds


async def test_channel_7_leaving_a_queue_costs_the_same_however_long_it_is(
    core: Any, settle: Any
) -> None:
    gc.disable()  # its cost grows with the heap, not with the queue
    try:
        few = min([await leaving(core, 1000, settle) for _ in range(3)])
        many = await leaving(core, 20_000, settle)
    finally:
        gc.enable()
    assert many < 20 * few * 4  # 20 times as many; 400 times as long if each were O(n)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("how", ["timeout", "other case"])
async def test_channel_7_a_hundred_thousand_selects_leave_nothing_behind(
    core: Any, how: str
) -> None:
    quiet, busy = core.Channel(), core.Channel()

    async def feed() -> None:
        while True:
            await busy.send(1)
            await asyncio.sleep(0)  # so that the select is there first, and parks

    async def selects(n: int) -> None:
        for _ in range(n):
            if how == "timeout":
                assert await core.select(quiet.recv(), busy.send(1), timeout=0) == (None, None)
            else:
                index, _ = await core.select(quiet.recv(), busy.recv(), quiet.send(1))
                assert index == 1

    feeding = asyncio.create_task(feed()) if how == "other case" else None
    await selects(5_000)
    gc.collect()
    before = sys.getallocatedblocks()
    await selects(95_000 if core.__name__.endswith("native") else 15_000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 2_000
    for channel in (quiet, busy):
        statistics = channel.statistics()
        assert statistics.waiting_receivers + statistics.waiting_senders <= 1  # the feeder
    if feeding is not None:
        feeding.cancel()
        await asyncio.wait([feeding])


async def test_channel_7_those_who_stay_keep_their_places(core: Any, settle: Any) -> None:
    channel = core.Channel()
    tasks = [asyncio.ensure_future(channel.recv()) for _ in range(1000)]
    await settle()
    stay = [task for n, task in enumerate(tasks) if n % 7 == 0]
    for task in tasks:
        if task not in stay:
            task.cancel()
    await settle()
    for n in range(len(stay)):
        channel.send_nowait(n)
    assert await asyncio.gather(*stay) == list(range(len(stay)))
    assert channel.statistics().waiting_receivers == 0
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_channel_7_a_value_that_was_not_sent_is_let_go(core: Any, settle: Any) -> None:
    """A queue that still held it would keep it alive as long as the channel."""

    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    channel = core.Channel()
    tasks = [asyncio.ensure_future(channel.send(Value())) for _ in range(10)]
    await settle()
    keeper = asyncio.ensure_future(channel.send("keeps the queue in use"))
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    del tasks, task
    gc.collect()
    assert Value.alive == 0
    assert await channel.recv() == "keeps the queue in use"
    await keeper
