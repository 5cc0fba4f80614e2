"""Go's test/chan/goroutines.go: a great many actors, threaded together and torn down cleanly."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Channel, Group, Receiver, Sender

N = 10_000


async def pass_on(left: Sender[int], right: Receiver[int]) -> None:
    await left.send(await right.recv())


@pytest.mark.virtual_time
async def test_a_value_passes_through_ten_thousand_actors_and_nothing_of_them_stays() -> None:
    leftmost = right = Channel[int]()
    channels = [leftmost]
    async with Group() as go:
        for _ in range(N):
            left, right = right, Channel[int]()
            channels.append(right)
            go(pass_on, left, right)
        await right.send(1)
        assert await leftmost.recv() == 1

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(channel.closed for channel in channels)
    for channel in channels:
        statistics = channel.statistics()
        assert (statistics.sent, statistics.received, statistics.buffered) == (1, 1, 0)
        assert (statistics.waiting_senders, statistics.waiting_receivers) == (0, 0)
