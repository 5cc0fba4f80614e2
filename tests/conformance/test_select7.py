"""Go's test/chan/select7.go: a value that its receiver discards is still received."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tailrace import Channel, Group, select, select_nowait
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time

Act = Callable[[Channel[int]], Awaitable[None]]


async def receive(ch: Channel[int]) -> None:
    await ch.recv()


async def receive_by_select(ch: Channel[int]) -> None:
    await select(ch.recv())


async def receive_by_select_of_two(ch: Channel[int]) -> None:
    await select(ch.recv(), Channel[int]().recv())


async def receive_by_iteration(ch: Channel[int]) -> None:
    async for _ in ch:
        break


async def send(ch: Channel[int]) -> None:
    await ch.send(1)


async def send_by_select(ch: Channel[int]) -> None:
    await select(ch.send(1))


async def send_by_select_of_two(ch: Channel[int]) -> None:
    await select(ch.send(1), Channel[int]().send(1))


async def send_now(ch: Channel[int]) -> None:
    ch.send_nowait(1)


async def send_now_by_select(ch: Channel[int]) -> None:
    select_nowait(ch.send(1), Channel[int]().send(1))


@pytest.mark.parametrize(
    "receiver", [receive, receive_by_select, receive_by_select_of_two, receive_by_iteration]
)
@pytest.mark.parametrize(
    "sender", [send, send_by_select, send_by_select_of_two, send_now, send_now_by_select]
)
async def test_a_discarded_value_ends_both_sides(receiver: Act, sender: Act) -> None:
    ch = Channel[int]()
    async with Group() as go:
        go(receiver, ch)
        await wait_all_parked()
        await sender(ch)
    statistics = ch.statistics()
    assert (statistics.sent, statistics.received) == (1, 1)
    assert (statistics.waiting_senders, statistics.waiting_receivers) == (0, 0)
