"""Go's test/chan/zerosize.go and sendstmt.go: whatever can be a value can be sent.

A value of no size is, in Python, one that says nothing: `None`, and all that is false. Nothing in a
channel may take it for "there is no value". And a channel is a value too.
"""

from __future__ import annotations

import pytest

from tailrace import Channel, Closed, Group, WouldBlock, collect, emit, select, select_nowait
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time

NOTHINGS: list[object] = [None, False, 0, 0.0, "", b"", (), [], {}, frozenset()]
each_nothing = pytest.mark.parametrize("nothing", NOTHINGS, ids=repr)
capacities = pytest.mark.parametrize("capacity", [0, 1])


@each_nothing
@capacities
async def test_a_value_that_says_nothing_is_a_value(nothing: object, capacity: int) -> None:
    ch = Channel[object](capacity)
    got: list[object] = []

    async def receive() -> None:
        got.append(await ch.recv())
        index, value = await select(ch.recv(), Channel[int]().recv())
        assert index == 0
        got.append(value)
        got.extend(await ch.recv_many(10))
        got.extend([value async for value in ch])

    async with Group() as go:
        go(receive)
        for _ in range(5):
            await ch.send(nothing)
        await select(ch.send(nothing))
        ch.close()
    assert len(got) == 6
    assert all(value is nothing for value in got)


@each_nothing
async def test_a_value_that_says_nothing_is_found_without_blocking(nothing: object) -> None:
    ch = Channel[object](2)
    with pytest.raises(WouldBlock):
        ch.recv_nowait()
    ch.send_nowait(nothing)
    ch.send_nowait(nothing)
    assert ch.recv_nowait() is nothing
    index, value = select_nowait(ch.recv())
    assert (index, value) == (0, nothing)
    with pytest.raises(WouldBlock):
        ch.recv_nowait()


@capacities
async def test_a_stream_of_nothing_ends_only_when_it_is_closed(capacity: int) -> None:
    ch = Channel[None](capacity)
    async with Group() as go:
        go(emit([None] * 100), ch)
        assert await collect(ch) == [None] * 100
    with pytest.raises(Closed):
        await ch.recv()


async def test_a_value_that_says_nothing_can_be_given_back() -> None:
    """A receiver that is cancelled when the value was handed to it leaves it for the next."""
    ch = Channel[None]()

    async def receive() -> None:
        await ch.recv()

    async with Group() as go:
        go(receive)
        await wait_all_parked()
        ch.send_nowait(None)
        go.cancel()
    assert len(ch) == 1
    assert ch.recv_nowait() is None


async def test_a_channel_can_be_sent_on_a_channel_and_used_in_one_expression() -> None:
    channels, ch = Channel[Channel[int]](1), Channel[int](1)
    await channels.send(ch)
    select_nowait((await channels.recv()).send(2))
    assert await ch.recv() == 2


async def test_a_channel_can_be_sent_on_itself() -> None:
    ch = Channel[object](1)
    await ch.send(ch)
    assert await ch.recv() is ch
