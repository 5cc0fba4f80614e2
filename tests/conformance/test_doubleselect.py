"""Go's test/chan/doubleselect.go: no two cases of one select both happen."""

from __future__ import annotations

import pytest

from tailrace import (
    Channel,
    Closed,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    collect,
    select,
)

N = 5_000
N_THREADED = 1_000  # a value takes two turns of a thread


async def count_out(n: int, *outs: Sender[int]) -> None:
    """Each number goes to whichever of `outs` is ready; it would go to two if two cases ran."""
    for i in range(n):
        await select(*(out.send(i) for out in outs))


async def forward(out: Sender[int], inbox: Receiver[int]) -> None:
    """One channel for each case: cases on the same channel could not show the fault."""
    async for value in inbox:
        await out.send(value)


def forward_in_thread(out: SyncSender[int], inbox: SyncReceiver[int]) -> None:
    for value in inbox:
        out.send(value)


@pytest.mark.parametrize("capacity", [0, 1])
async def test_of_four_sends_in_a_select_exactly_one_happens(capacity: int) -> None:
    channels = [Channel[int](capacity) for _ in range(4)]
    merged = Channel[int](capacity)
    async with Group() as go:
        go(count_out, N, *channels)
        for channel in channels:
            go(forward, merged, channel)
        got = await collect(merged)
    assert sorted(got) == list(range(N))


async def test_of_four_sends_to_threads_in_a_select_exactly_one_happens() -> None:
    channels = [Channel[int]() for _ in range(4)]
    merged = Channel[int]()
    async with Group() as go:
        go(count_out, N_THREADED, *channels)
        for channel in channels:
            go(forward_in_thread, merged.sync, channel.sync)
        got = await collect(merged)
    assert sorted(got) == list(range(N_THREADED))


@pytest.mark.parametrize("capacity", [0, 1])
async def test_of_four_receives_in_a_select_exactly_one_happens(capacity: int) -> None:
    """The mirror of it: a receive that happened without being chosen would lose its value."""
    channels = [Channel[int](capacity) for _ in range(4)]
    got: list[int] = []

    async def count(out: Sender[int], first: int) -> None:
        for value in range(first, N, 4):
            await out.send(value)

    async def receive_all() -> None:
        open_channels: list[Channel[int] | None] = [*channels]
        while any(open_channels):
            index, value = await select(*(ch.recv() if ch else None for ch in open_channels))
            assert index is not None
            if isinstance(value, Closed):
                open_channels[index] = None
            else:
                got.append(value)

    async with Group() as go:
        for first, channel in enumerate(channels):
            go(count, channel.sender, first)
        go(receive_all, actors=2)
    assert sorted(got) == list(range(N))
