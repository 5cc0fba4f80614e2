"""Channel, semantic 5: no actor starves the loop, however much of its work is ready."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tailrace.errors import Closed

MANY = 20_000


@pytest.fixture(autouse=True)
def on_each_loop(any_loop: Any) -> None:
    """All of this on each event loop."""


def busy(core: Any, kind: str) -> tuple[Any, Callable[[], Awaitable[Any]]]:
    """A channel on which operations of that kind never have to wait, and how to do `MANY`."""
    if kind in ("recv", "iterate", "recv_many", "select recv"):
        channel = core.Channel(math.inf)
        for n in range(MANY):
            channel.send_nowait(n)
        channel.close()
    else:
        overflow = "block" if kind != "dropping send" else "drop_oldest"
        channel = core.Channel(math.inf if overflow == "block" else 1, overflow=overflow)

    async def repeat(operation: Callable[[], Awaitable[Any]]) -> None:
        for _ in range(MANY):
            await operation()

    async def iterate() -> None:
        async for _ in channel:
            pass

    async def send_many() -> None:
        await channel.send_many(range(MANY))

    async def hear_closed(operation: Callable[[], Awaitable[Any]]) -> None:
        closed.close()
        for _ in range(MANY):
            with contextlib.suppress(Closed):
                await operation()

    closed = core.Channel()
    return channel, {
        "recv closed": lambda: hear_closed(closed.recv),
        "send closed": lambda: hear_closed(lambda: closed.send(1)),
        "send_many closed": lambda: hear_closed(lambda: closed.send_many([1])),
        "send": lambda: repeat(lambda: channel.send(1)),
        "dropping send": lambda: repeat(lambda: channel.send(1)),
        "recv": lambda: repeat(channel.recv),
        "recv_many": lambda: repeat(lambda: channel.recv_many(1)),
        "iterate": iterate,
        "send_many": send_many,
        "select recv": lambda: repeat(lambda: core.select(channel.recv())),
        "select send": lambda: repeat(lambda: core.select(channel.send(1))),
    }[kind]


KINDS = [
    "send", "dropping send", "recv", "recv_many", "iterate", "send_many",
    "select recv", "select send", "recv closed", "send closed", "send_many closed",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_channel_5_an_actor_that_never_parks_does_not_starve_the_loop(
    core: Any, start: Any, kind: str
) -> None:
    _, work = busy(core, kind)
    # Of the 512 steps of a turn the scheduler takes 33 for a spent budget and the step after it.
    budgets_in_a_turn = 17
    turns = 0

    async def actor() -> None:
        await work()

    task = start(actor())
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= MANY / core.BUDGET / budgets_in_a_turn
    task.result()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith("closed")])
async def test_channel_5_a_pending_cancellation_arrives_within_the_budget(
    core: Any, start: Any, kind: str
) -> None:
    channel, work = busy(core, kind)
    before = channel.statistics()

    async def actor() -> None:
        await work()

    task = start(actor())
    task_began = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(task_began.set_result, None)
    await task_began
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    after = channel.statistics()
    happened = (after.sent - before.sent) + (after.received - before.received)
    assert happened <= 3 * 17 * core.BUDGET  # how far it may get in its first turns


async def test_channel_5_a_spent_budget_means_the_back_of_the_line_of_the_ready(
    core: Any, start: Any, settle: Any
) -> None:
    """Not a turn of the loop: who was ready has its step, and nobody who comes later before it."""
    channel, parked = core.Channel(math.inf), core.Channel()
    order: list[str] = []

    async def busy() -> None:
        for _ in range(core.BUDGET - 1):
            await channel.send(1)
        await parked.send(1)
        order.append("before")
        await channel.send(1)
        await channel.send(1)  # the budget is spent here
        order.append("after")

    async def woken() -> None:
        await parked.recv()
        asyncio.get_running_loop().call_soon(order.append, "loop")
        order.append("woken")

    tasks = [start(woken())]
    await settle()
    tasks.append(start(busy()))
    await asyncio.wait(tasks)
    assert order == ["before", "woken", "after", "loop"]


async def test_channel_5_the_yield_comes_before_the_effect(core: Any, start: Any) -> None:
    """A cancellation that arrives there finds an operation that has not happened."""
    for _ in range(20):
        channel = core.Channel(math.inf)
        sent = 0

        async def actor(channel: Any = channel) -> None:
            nonlocal sent
            while True:
                await channel.send(sent)
                sent += 1

        task = start(actor())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert channel.statistics().sent == sent


async def test_channel_5_two_actors_that_hand_to_each_other_leave_time_for_others(
    core: Any, start: Any
) -> None:
    """They park at each step, but each always finds the other ready."""
    ping, pong = core.Channel(), core.Channel()

    async def one() -> None:
        for n in range(MANY):
            await ping.send(n)
            await pong.recv()

    async def other() -> None:
        for n in range(MANY):
            await ping.recv()
            await pong.send(n)

    turns = 0
    tasks = [start(one()), start(other())]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4 * MANY / 1000  # no turn of the loop ran a thousand steps


async def test_channel_5_a_timer_is_served_beside_a_busy_relay(core: Any, start: Any) -> None:
    channel = core.Channel()
    stop = False

    async def produce() -> None:
        while not stop:
            await channel.send(1)
        channel.close()

    async def consume() -> None:
        async for _ in channel:
            pass

    tasks = [start(produce()), start(consume())]
    for _ in range(20):
        await asyncio.sleep(0.001)
    stop = True
    await asyncio.wait(tasks)
    assert channel.statistics().sent > 0
