"""select and cancellation: exactly one case happened, or none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.errors import WouldBlock

Cancelled = asyncio.CancelledError


@pytest.fixture(autouse=True)
def on_each_loop(any_loop: Any) -> None:
    """All of this on each event loop."""


def empty(*channels: Any) -> bool:
    return not any(
        channel.statistics().waiting_senders or channel.statistics().waiting_receivers
        for channel in channels
    )


async def test_channel_4_a_cancelled_select_did_nothing_and_left_every_line(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    a, b = core.Channel(), core.Channel()
    ends: list[Any] = []
    task = start(outcome(core.select(a.recv(), b.send(1), a.recv(), timeout=3600), ends))
    await settle()
    task.cancel()
    await settle()
    assert ends == [Cancelled]
    assert empty(a, b)
    with pytest.raises(WouldBlock):
        a.send_nowait(1)
    with pytest.raises(WouldBlock):
        b.recv_nowait()


async def test_channel_4_a_cancelled_select_gives_back_what_it_received(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    a, b = core.Channel(), core.Channel(1)
    ends: list[Any] = []
    task = start(outcome(core.select(b.recv(), a.recv(), b.recv()), ends))
    await settle()
    a.send_nowait("value")
    task.cancel()
    await settle()
    assert ends == [Cancelled]
    assert empty(a, b)
    assert a.recv_nowait() == "value"
    assert a.statistics().received == 1


async def test_channel_4_a_select_whose_send_was_taken_returns(
    core: Any, start: Any, settle: Any
) -> None:
    a, b = core.Channel(), core.Channel()
    steps: list[Any] = []

    async def actor() -> None:
        steps.append(await core.select(b.recv(), a.send("value")))
        try:
            await asyncio.sleep(0)
        except Cancelled as cancelled:
            steps.append(cancelled.args)
            raise

    task = start(actor())
    await settle()
    assert a.recv_nowait() == "value"
    task.cancel("why")
    await settle()
    assert steps == [(1, None), ("why",)]
    assert task.cancelled()
    assert empty(a, b)


async def test_channel_4_a_select_that_timed_out_and_is_cancelled_did_nothing(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    a = core.Channel()
    ends: list[Any] = []
    task = start(outcome(core.select(a.recv(), timeout=0), ends))
    await asyncio.sleep(0)
    task.cancel()
    await settle()
    assert ends == [Cancelled]
    assert empty(a)


@pytest.mark.parametrize("first", ["timeout", "value"])
async def test_channel_4_a_select_that_is_served_as_it_times_out_is_exact(
    core: Any, start: Any, settle: Any, outcome: Any, first: str
) -> None:
    a = core.Channel()
    ends: list[Any] = []
    start(outcome(core.select(a.recv(), timeout=0.005), ends))
    await asyncio.sleep(0)
    if first == "timeout":
        await asyncio.sleep(0.02)
        with pytest.raises(WouldBlock):
            a.send_nowait("value")
    else:
        a.send_nowait("value")
        await asyncio.sleep(0.02)
    assert ends == ([(None, None)] if first == "timeout" else [(0, "value")])


async def test_channel_4_selects_that_are_cancelled_as_they_are_served_keep_the_order(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    a, b = core.Channel(), core.Channel()
    tasks = [start(outcome(core.select(b.recv(), a.recv()), [])) for _ in range(4)]
    await settle()
    for value in range(4):
        a.send_nowait(value)
    for task in reversed(tasks):
        task.cancel()
    await settle()
    assert [a.recv_nowait() for _ in range(4)] == [0, 1, 2, 3]
    assert empty(a, b)


async def test_channel_4_a_select_that_gave_back_serves_the_next_select(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    a, b = core.Channel(), core.Channel()
    ends: list[Any] = []
    first = start(outcome(core.select(a.recv(), b.recv()), []))
    start(outcome(core.select(b.recv(), a.recv()), ends))
    await settle()
    a.send_nowait("value")
    first.cancel()
    await settle()
    assert ends == [(1, "value")]
    assert empty(a, b)
