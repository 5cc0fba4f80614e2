"""Channel, semantic 8: what an overflow policy drops is counted and told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.errors import WouldBlock


def drained(channel: Any) -> list[Any]:
    values = []
    while len(channel):
        values.append(channel.recv_nowait())
    return values


class Told:
    """A value that notes when it is discarded, as a Message does."""

    def __init__(self, name: Any, told: list[Any]) -> None:
        self.name = name
        self.told = told

    def __discarded__(self, why: str) -> None:
        self.told.append((self.name, why))


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_newest", [0, 1, 2]), ("drop_oldest", [7, 8, 9])]
)
@pytest.mark.parametrize("how", ["send", "send_nowait", "send_many", "select", "select_nowait"])
async def test_channel_8_a_full_channel_drops_by_its_policy_and_never_waits(
    core: Any, overflow: str, kept: list[int], how: str
) -> None:
    channel = core.Channel(3, overflow=overflow)
    if how == "send_many":
        sending = channel.send_many(range(10))
        await sending
        assert sending.sent == 10
    for n in range(10 if how != "send_many" else 0):
        if how == "send":
            await channel.send(n)
        elif how == "send_nowait":
            channel.send_nowait(n)
        elif how == "select":
            assert await core.select(channel.send(n)) == (0, None)
        else:
            assert core.select_nowait(channel.send(n)) == (0, None)
    statistics = channel.statistics()
    assert (statistics.sent, statistics.dropped, statistics.buffered) == (10, 7, 3)
    assert statistics.sent == statistics.received + statistics.buffered + statistics.dropped
    assert drained(channel) == kept


async def test_channel_8_drop_newest_at_a_rendezvous_drops_what_nobody_waits_for(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(0, overflow="drop_newest")
    channel.send_nowait("dropped")
    receiving = asyncio.ensure_future(channel.recv())
    await settle()
    channel.send_nowait("received")
    channel.send_nowait("dropped")
    assert await receiving == "received"
    statistics = channel.statistics()
    assert (statistics.sent, statistics.received, statistics.dropped) == (3, 1, 2)


@pytest.mark.parametrize("how", ["send", "send_nowait", "send_many", "select"])
async def test_channel_8_a_discarded_value_is_told_once(core: Any, how: str) -> None:
    for overflow, discarded in (("drop_newest", [2, 3]), ("drop_oldest", [0, 1])):
        told: list[Any] = []
        channel = core.Channel(2, overflow=overflow)
        values = [Told(n, told) for n in range(4)]
        if how == "send_many":
            await channel.send_many(values)
        for value in values if how != "send_many" else []:
            if how == "send":
                await channel.send(value)
            elif how == "send_nowait":
                channel.send_nowait(value)
            else:
                await core.select(channel.send(value))
        assert told == [(n, "overflow") for n in discarded]
        assert channel.statistics().dropped == 2
        drained(channel)
        assert len(told) == 2


async def test_channel_8_a_discarded_value_may_use_the_channel_when_told(core: Any) -> None:
    """It is told outside the lock, when the channel is consistent."""
    channel = core.Channel(1, overflow="drop_oldest")
    seen: list[Any] = []

    class Curious:
        def __discarded__(self, why: str) -> None:
            seen.append(channel.recv_nowait())
            seen.append(channel.statistics().dropped)
            channel.send_nowait("put back")

    channel.send_nowait(Curious())
    await channel.send("newer")
    assert seen == ["newer", 1]
    assert drained(channel) == ["put back"]


@pytest.mark.parametrize("value", [None, 0, False, ""])
async def test_channel_8_falsy_values_are_dropped_and_counted(core: Any, value: Any) -> None:
    channel = core.Channel(1, overflow="drop_oldest")
    for _ in range(3):
        await channel.send(value)
    assert channel.statistics().dropped == 2
    assert drained(channel) == [value]


async def test_channel_8_a_value_with_an_attribute_of_that_name_is_left_alone(core: Any) -> None:
    """The hook is looked up on the type, as Python's own are."""
    channel = core.Channel(0, overflow="drop_newest")

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    await channel.send(Proxy())
    assert channel.statistics().dropped == 1


async def test_channel_8_block_never_drops(core: Any) -> None:
    channel = core.Channel(1)
    channel.send_nowait(1)
    with pytest.raises(WouldBlock):
        channel.send_nowait(2)
    assert channel.statistics().dropped == 0
    assert channel.statistics().sent == 1


async def test_channel_8_what_cannot_be_received_is_not_told_while_it_is_buffered(
    core: Any,
) -> None:
    told: list[Any] = []
    channel = core.Channel(2, overflow="drop_oldest")
    channel.send_nowait(Told("kept", told))
    channel.close()
    assert [value.name async for value in channel] == ["kept"]
    assert told == []
