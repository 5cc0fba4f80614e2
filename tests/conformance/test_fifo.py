"""Go's test/chan/fifo.go: a channel is a pure fifo."""

from __future__ import annotations

import pytest

from tailrace import Channel, Group, Receiver, Sender
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time

N = 10


async def test_a_buffered_channel_gives_values_in_the_order_of_their_sends() -> None:
    ch = Channel[int](N)
    for i in range(N):
        await ch.send(i)
    assert [await ch.recv() for _ in range(N)] == list(range(N))


async def test_a_rendezvous_gives_values_in_the_order_of_their_sends() -> None:
    """A daisy chain of receivers, each of which begins when its neighbour has its value."""
    ch = Channel[int]()
    got: list[tuple[int, int]] = []

    async def link(number: int, turn: Receiver[None], next_turn: Sender[None]) -> None:
        await turn.recv()
        got.append((number, await ch.recv()))
        await next_turn.send(None)

    async with Group() as go:
        start = turn = Channel[None]()
        for number in range(N):
            next_turn = Channel[None]()
            go(link, number, turn, next_turn)
            turn = next_turn
        await start.send(None)
        for value in range(N):
            await ch.send(value)
        await turn.recv()

    assert got == [(i, i) for i in range(N)]


@pytest.mark.parametrize("capacity", [0, 1, 3])
async def test_parked_senders_and_parked_receivers_are_served_in_their_order(capacity: int) -> None:
    ch = Channel[int](capacity)
    got: list[int] = []

    async def sender(value: int) -> None:
        await ch.send(value)

    async def receiver() -> None:
        got.append(await ch.recv())

    async with Group() as go:  # the senders come first, and all that find no room park
        for value in range(N):
            go(sender, value)
            await wait_all_parked()
        for _ in range(N):
            go(receiver)
            await wait_all_parked()
    async with Group() as go:  # the receivers come first, and all of them park
        for _ in range(N):
            go(receiver)
            await wait_all_parked()
        for value in range(N):
            go(sender, value)
            await wait_all_parked()

    assert got == [*range(N), *range(N)]
