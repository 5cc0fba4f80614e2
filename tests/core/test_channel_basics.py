"""The channel's surface: arguments, properties, ends, ownership, counters, reprs."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import pytest

from tailrace import ChannelStatistics
from tailrace.channel import Receiver, Sender, SyncReceiver, SyncSender
from tailrace.errors import Closed, WouldBlock

SENDS = {"send", "send_nowait", "send_many"}
RECEIVES = {"recv", "recv_nowait", "recv_many", "__aiter__"}


def methods(end: object) -> set[str]:
    return {name for name in SENDS | RECEIVES if hasattr(end, name)}


@pytest.mark.parametrize("capacity", [1.5, 1.0, "1", None, True, -math.inf, math.nan, [1]])
def test_channel_a_capacity_of_the_wrong_type_is_named(core: Any, capacity: Any) -> None:
    with pytest.raises(TypeError, match="capacity must be a whole number"):
        core.Channel(capacity)


def test_channel_a_negative_capacity_is_refused(core: Any) -> None:
    with pytest.raises(ValueError, match="capacity must be 0 or more, not -1"):
        core.Channel(-1)


@pytest.mark.parametrize("capacity", [0, 1, 1000, math.inf])
def test_channel_says_its_capacity(core: Any, capacity: float) -> None:
    assert core.Channel(capacity).capacity == capacity
    assert core.Channel().capacity == 0


@pytest.mark.parametrize("overflow", ["drop", "", None, ["block"], 0])
def test_channel_an_unknown_overflow_policy_is_refused_with_the_known_ones(
    core: Any, overflow: Any
) -> None:
    with pytest.raises(ValueError, match="'block', 'drop_newest', 'drop_oldest'"):
        core.Channel(1, overflow=overflow)


def test_channel_8_drop_oldest_of_nothing_is_refused(core: Any) -> None:
    with pytest.raises(ValueError, match="drop_oldest"):
        core.Channel(0, overflow="drop_oldest")


def test_channel_name_and_overflow_are_keywords(core: Any) -> None:
    with pytest.raises(TypeError):
        core.Channel(1, "name")


def test_channel_keeps_the_element_type_where_written(core: Any) -> None:
    assert core.Channel[int]().element is int
    assert core.Channel[list[str]](3).element == list[str]
    assert core.Channel().element is None
    assert core.Channel[int]().sender.element is int
    assert core.Channel[int]().receiver.element is int


def test_channel_that_is_empty_is_still_true(core: Any) -> None:
    channel = core.Channel(2)
    assert channel
    assert len(channel) == 0
    channel.send_nowait(1)
    assert len(channel) == 1


@pytest.mark.parametrize("n", [0, -1, 1.5, None, True, "2"])
def test_channel_recv_many_refuses_a_count_that_is_none(core: Any, n: Any) -> None:
    with pytest.raises(ValueError, match="recv_many"):
        core.Channel().recv_many(n)


def test_channel_nowait_raises_would_block_and_names_the_channel(core: Any) -> None:
    channel = core.Channel(1, name="jobs")
    with pytest.raises(WouldBlock, match="jobs"):
        channel.recv_nowait()
    channel.send_nowait(1)
    with pytest.raises(WouldBlock, match="jobs"):
        channel.send_nowait(2)
    assert channel.recv_nowait() == 1
    assert channel.statistics().sent == 1


# The two ends.


def test_channel_ends_have_only_their_half_of_the_methods(core: Any) -> None:
    channel = core.Channel()
    assert methods(channel) == SENDS | RECEIVES
    assert methods(channel.sender) == SENDS
    assert methods(channel.receiver) == RECEIVES
    for end in (channel.sender, channel.receiver):
        assert not hasattr(end, "close")
    assert hasattr(channel.sync.sender, "send")
    assert not hasattr(channel.sync.sender, "recv")
    assert not hasattr(channel.sync.sender, "__iter__")
    assert hasattr(channel.sync.receiver, "recv")
    assert not hasattr(channel.sync.receiver, "send")


def test_channel_is_both_a_sender_and_a_receiver(core: Any) -> None:
    channel = core.Channel()
    assert isinstance(channel, Sender)
    assert isinstance(channel, Receiver)
    assert isinstance(channel.sender, Sender)
    assert not isinstance(channel.sender, Receiver)
    assert isinstance(channel.receiver, Receiver)
    assert not isinstance(channel.receiver, Sender)
    assert isinstance(channel.sync, SyncSender)
    assert isinstance(channel.sync, SyncReceiver)
    assert not isinstance(channel.sync.sender, SyncReceiver)
    assert not isinstance(channel.sync.receiver, SyncSender)


async def test_channel_ends_carry_values(core: Any) -> None:
    channel = core.Channel(8)
    sender, receiver = channel.sender, channel.receiver
    await sender.send(1)
    sender.send_nowait(2)
    await sender.send_many([3, 4, 5])
    assert await receiver.recv() == 1
    assert receiver.recv_nowait() == 2
    assert await receiver.recv_many(2) == [3, 4]
    channel.close()
    assert [value async for value in receiver] == [5]


def test_channel_ends_of_one_channel_are_equal(core: Any) -> None:
    channel = core.Channel()
    assert channel.sender == channel.sender
    assert hash(channel.receiver) == hash(channel.receiver)
    assert channel.sender != channel.receiver
    assert channel.sender != core.Channel().sender
    assert channel.sender != channel.sync.sender


# Ownership from outside an actor.


def test_channel_closing_by_hand_while_the_sending_end_is_held_is_an_error(core: Any) -> None:
    channel = core.Channel(1, name="held")
    with channel.sending(), pytest.raises(RuntimeError, match="held"):
        channel.close()
    assert channel.closed  # by its holder, which let go
    channel.close()  # and closing twice is fine


async def test_channel_sending_closes_when_the_last_holder_leaves(core: Any) -> None:
    channel = core.Channel(4)
    with channel.sending() as first:
        with channel.sending() as second:
            await second.send(2)
        assert not channel.closed
        await first.send(1)
    assert channel.closed
    assert [value async for value in channel] == [2, 1]


async def test_channel_sending_that_fails_is_the_cause_of_the_close(core: Any) -> None:
    channel = core.Channel(1)
    failure = LookupError("upstream")
    with pytest.raises(LookupError), channel.sending() as out:
        await out.send(1)
        raise failure
    assert await channel.recv() == 1
    with pytest.raises(Closed) as caught:
        await channel.recv()
    assert caught.value.__cause__ is failure


async def test_channel_receiving_stops_the_senders_when_the_last_holder_leaves(
    core: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    sender = asyncio.create_task(outcome(channel.send(1), ends))
    with channel.receiving() as inbox:
        await settle()
        assert await inbox.recv() == 1
        second = asyncio.create_task(outcome(channel.send(2), ends))
        await settle()
    await asyncio.wait([sender, second])
    assert ends == [None, Closed]
    assert channel.closed


def test_channel_holding_an_end_that_its_owners_closed_is_an_error(core: Any) -> None:
    channel = core.Channel(name="gone")
    with channel.sending():
        pass
    with pytest.raises(ValueError, match=r"gone.*sending"), channel.sending():
        pass
    with channel.receiving():  # the other end has never been held
        pass
    with pytest.raises(ValueError, match=r"gone.*receiving"), channel.receiving():
        pass


# Counters.


def test_channel_statistics_are_a_frozen_snapshot(core: Any) -> None:
    channel = core.Channel(3)
    channel.send_nowait("a")
    before = channel.statistics()
    channel.send_nowait("b")
    assert (before.sent, before.buffered) == (1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.sent = 7
    assert channel.statistics() == ChannelStatistics(
        buffered=2,
        capacity=3,
        sent=2,
        received=0,
        dropped=0,
        waiting_senders=0,
        waiting_receivers=0,
        closed=False,
    )


async def test_channel_statistics_count_who_waits(core: Any, settle: Any) -> None:
    full, empty = core.Channel(), core.Channel(1)
    tasks = [asyncio.ensure_future(full.send(n)) for n in range(3)]
    tasks += [asyncio.ensure_future(empty.recv()) for _ in range(2)]
    select = asyncio.ensure_future(core.select(full.send(9), empty.recv()))
    await settle()
    assert full.statistics().waiting_senders == 4
    assert empty.statistics().waiting_receivers == 3
    tasks[0].cancel()
    select.cancel()
    await settle()
    assert full.statistics().waiting_senders == 2
    assert empty.statistics().waiting_receivers == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait([*tasks, select])
    assert full.statistics().sent == full.statistics().received == 0


# Reprs.


async def test_channel_repr_says_name_room_who_waits_and_the_end(core: Any, settle: Any) -> None:
    channel = core.Channel(2, name="jobs")
    assert repr(channel) == "<Channel jobs: 0/2 buffered>"
    waiting = [asyncio.ensure_future(channel.recv()) for _ in range(2)]
    await settle()
    assert repr(channel) == "<Channel jobs: 0/2 buffered, 2 receiving waiting>"
    channel.close(ValueError("why"))
    assert repr(channel) == "<Channel jobs: 0/2 buffered, closed by ValueError('why')>"
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [
        Closed,
        Closed,
    ]
    assert "closed" in repr(closed(core))
    assert "Channel[int]" in repr(core.Channel[int]())
    assert "inf" in repr(core.Channel(math.inf))


def closed(core: Any) -> Any:
    channel = core.Channel(name="done")
    channel.close()
    return channel


def test_channel_reprs_of_ends_name_the_channel(core: Any) -> None:
    channel = core.Channel(name="jobs")
    for thing in (channel.sender, channel.receiver, channel.sync, channel.sync.sender):
        assert "jobs" in repr(thing)


async def test_channel_repr_of_an_operation_says_what_it_is_and_whether_it_was_used(
    core: Any,
) -> None:
    channel = core.Channel(5, name="jobs")
    many = channel.send_many([1, 2])
    for operation, kind in (
        (many, "send_many"),
        (channel.send(3), "send"),
        (channel.recv(), "recv"),
        (channel.recv_many(9), "recv_many"),
    ):
        assert f"Channel.{kind} on jobs" in repr(operation)
        assert "not awaited yet" in repr(operation)
        await operation
        assert "used" in repr(operation)
    assert "2 sent" in repr(many)


def test_channel_closed_error_names_the_channel(core: Any) -> None:
    with pytest.raises(Closed, match="'done' is closed") as caught:
        closed(core).send_nowait(1)
    assert caught.value.channel.name == "done"
