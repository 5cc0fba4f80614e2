"""Go's test/closedchan.go: what a closed channel gives, and what it refuses, said in every way."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import pytest

from tailrace import Channel, Closed, Group, select, select_nowait
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time


class Way(Protocol):
    """A way to send and to receive; each raises `Closed` when the channel is."""

    async def send(self, ch: Channel[int], value: int) -> None: ...

    async def recv(self, ch: Channel[int]) -> int: ...


def chosen(answer: tuple[int | None, Any]) -> Any:
    """The value of a select's first case, raised if it is `Closed`."""
    index, value = answer
    assert index == 0
    if isinstance(value, Closed):
        raise value
    return value


class Directly:
    async def send(self, ch: Channel[int], value: int) -> None:
        await ch.send(value)

    async def recv(self, ch: Channel[int]) -> int:
        return await ch.recv()


class AtOnce:
    async def send(self, ch: Channel[int], value: int) -> None:
        ch.send_nowait(value)

    async def recv(self, ch: Channel[int]) -> int:
        return ch.recv_nowait()


class InBulk:
    async def send(self, ch: Channel[int], value: int) -> None:
        await ch.send_many([value])

    async def recv(self, ch: Channel[int]) -> int:
        (value,) = await ch.recv_many(1)
        return value


class BySelect:
    async def send(self, ch: Channel[int], value: int) -> None:
        chosen(await select(ch.send(value)))

    async def recv(self, ch: Channel[int]) -> int:
        return chosen(await select(ch.recv()))


class ByLargerSelect:
    def __init__(self) -> None:
        self.dummy = Channel[int]()

    async def send(self, ch: Channel[int], value: int) -> None:
        chosen(await select(ch.send(value), self.dummy.recv()))

    async def recv(self, ch: Channel[int]) -> int:
        return chosen(await select(ch.recv(), self.dummy.recv(), None))


class BySelectAtOnce:
    def __init__(self) -> None:
        self.dummy = Channel[int]()

    async def send(self, ch: Channel[int], value: int) -> None:
        chosen(select_nowait(ch.send(value), self.dummy.recv()))

    async def recv(self, ch: Channel[int]) -> int:
        return chosen(select_nowait(ch.recv(), self.dummy.recv()))


class InAThread:
    async def send(self, ch: Channel[int], value: int) -> None:
        await asyncio.to_thread(ch.sync.send, value)

    async def recv(self, ch: Channel[int]) -> int:
        return await asyncio.to_thread(ch.sync.recv)


each_way = pytest.mark.parametrize(
    "way",
    [Directly, AtOnce, InBulk, BySelect, ByLargerSelect, BySelectAtOnce, InAThread],
)


async def check_closed(way: Way, ch: Channel[int]) -> None:
    for _ in range(3):
        with pytest.raises(Closed) as caught:
            await way.recv(ch)
        assert caught.value.channel is ch
        assert caught.value.__cause__ is None
        with pytest.raises(Closed):
            await way.send(ch, 1)
    assert [value async for value in ch] == []
    statistics = ch.statistics()
    assert statistics.closed
    assert statistics.buffered == 0
    assert statistics.sent == statistics.received  # what was refused was not sent


@each_way
async def test_a_closed_channel_refuses_both_ways_however_often(way: type[Way]) -> None:
    ch = Channel[int]()
    ch.close()
    await check_closed(way(), ch)


@each_way
async def test_what_was_buffered_when_it_closed_is_still_received_in_order(way: type[Way]) -> None:
    how = way()
    ch = Channel[int](3)
    for value in (1, 2, 3):
        ch.send_nowait(value)
    ch.close()
    for value in (1, 2, 3):
        with pytest.raises(Closed):
            await how.send(ch, 4)
        assert await how.recv(ch) == value
    await check_closed(how, ch)


@pytest.mark.parametrize("way", [Directly, InBulk, BySelect, ByLargerSelect, InAThread])
async def test_a_close_ends_those_who_wait(way: type[Way]) -> None:
    """Go's own program leaves this out."""
    how = way()
    ended: list[str] = []

    async def wait_to_receive(ch: Channel[int]) -> None:
        with pytest.raises(Closed):
            await how.recv(ch)
        ended.append("receiver")

    async def wait_to_send(ch: Channel[int]) -> None:
        with pytest.raises(Closed):
            await how.send(ch, 1)
        ended.append("sender")

    empty, full = Channel[int](), Channel[int]()
    async with Group() as go:
        go(wait_to_receive, empty, actors=2)
        go(wait_to_send, full, actors=2)
        await wait_all_parked()
        assert ended == []
        empty.close()
        full.close()
    assert sorted(ended) == ["receiver", "receiver", "sender", "sender"]
    await check_closed(how, empty)
    await check_closed(how, full)


@each_way
async def test_a_close_with_a_cause_says_it_to_receivers(way: type[Way]) -> None:
    how = way()
    ch = Channel[int](1)
    ch.send_nowait(1)
    cause = ValueError("the well is dry")
    ch.close(cause)
    assert await how.recv(ch) == 1
    with pytest.raises(Closed) as caught:
        await how.recv(ch)
    assert caught.value.__cause__ is cause
    with pytest.raises(Closed):
        await how.send(ch, 2)


async def test_closing_twice_is_fine_and_the_first_cause_stays() -> None:
    """In Go it panics."""
    ch = Channel[int]()
    cause = ValueError("first")
    ch.close(cause)
    ch.close(ValueError("second"))
    ch.close()
    with pytest.raises(Closed) as caught:
        await ch.recv()
    assert caught.value.__cause__ is cause
