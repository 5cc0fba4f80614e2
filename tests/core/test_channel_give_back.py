"""Channel, semantic 4: a cancelled receiver gives back what it was handed, in its place."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest

from tailrace.errors import WouldBlock

Cancelled = asyncio.CancelledError


@pytest.fixture(autouse=True)
def on_each_loop(any_loop: Any) -> None:
    """All of this on each event loop."""


def drained(channel: Any) -> list[Any]:
    values = []
    while len(channel):
        values.append(channel.recv_nowait())
    return values


def receiving(core: Any, channel: Any, kind: str) -> Any:
    return {
        "recv": channel.recv,
        "recv_many": lambda: channel.recv_many(5),
        "anext": channel.__anext__,
        "select": lambda: core.select(core.Channel().recv(), channel.recv()),
    }[kind]()


KINDS = ["recv", "recv_many", "anext", "select"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [0, 1, math.inf])
async def test_channel_4_a_cancelled_receiver_gives_back(
    core: Any, start: Any, settle: Any, outcome: Any, kind: str, capacity: float
) -> None:
    channel = core.Channel(capacity)
    ends: list[Any] = []
    task = start(outcome(receiving(core, channel, kind), ends))
    await settle()
    channel.send_nowait("value")
    task.cancel()
    await settle()
    assert ends == [Cancelled]
    assert task.cancelled()
    statistics = channel.statistics()
    assert (statistics.sent, statistics.received, statistics.buffered) == (1, 0, 1)
    assert drained(channel) == ["value"]
    assert channel.statistics().received == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("kind", KINDS)
async def test_channel_4_three_cancelled_receivers_give_back_in_order(
    core: Any, start: Any, settle: Any, outcome: Any, kind: str, order: tuple[int, ...]
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    tasks = [start(outcome(receiving(core, channel, kind), ends)) for _ in range(3)]
    await settle()
    for value in (1, 2, 3):
        channel.send_nowait(value)
    for n in order:
        tasks[n].cancel()
    await settle()
    assert ends == [Cancelled] * 3
    assert drained(channel) == [1, 2, 3]


async def test_channel_4_what_is_given_back_goes_to_the_next_waiting_receiver(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[list[Any]] = [[], [], []]
    tasks = [start(outcome(channel.recv(), mine)) for mine in ends]
    await settle()
    channel.send_nowait("value")
    tasks[0].cancel()
    await settle()
    assert ends == [[Cancelled], ["value"], []]
    channel.send_nowait("next")
    await settle()
    assert ends == [[Cancelled], ["value"], ["next"]]
    assert channel.statistics().received == 2


async def test_channel_4_what_is_given_back_twice_is_received_once(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    tasks = [start(outcome(channel.recv(), ends)) for _ in range(4)]
    await settle()
    channel.send_nowait("value")
    for task in tasks[:3]:
        task.cancel()
    await settle()
    assert ends == [Cancelled] * 3 + ["value"] or max(map(str, ends)) == "value"
    assert ends.count("value") == 1
    assert len(channel) == 0


async def test_channel_4_returned_values_are_received_before_the_buffer(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel(4)
    ends: list[Any] = []
    tasks = [start(outcome(channel.recv(), ends)) for _ in range(2)]
    await settle()
    for value in (1, 2, 3, 4):  # 1 and 2 are handed over, 3 and 4 buffered
        channel.send_nowait(value)
    for task in reversed(tasks):
        task.cancel()
    await settle()
    assert len(channel) == 4
    assert await channel.recv_many(9) == [1, 2, 3, 4]


async def test_channel_4_recv_many_puts_what_was_given_back_meanwhile_in_its_place(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel(8)
    ends: list[Any] = []
    cancelled = [start(outcome(channel.recv(), [])) for _ in range(2)]
    start(outcome(channel.recv_many(3), ends))
    await settle()
    for value in (1, 2, 3, 4):  # 3 is handed to recv_many, 4 is buffered
        channel.send_nowait(value)
    for task in cancelled:
        task.cancel()
    await settle()
    assert ends == [[1, 2, 3]]
    assert drained(channel) == [4]


@pytest.mark.parametrize("capacity", [0, 1, 2])
async def test_channel_4_no_send_completes_while_returned_and_buffered_fill_the_capacity(
    core: Any, start: Any, settle: Any, outcome: Any, capacity: int
) -> None:
    channel = core.Channel(capacity)
    ends: list[Any] = []
    tasks = [start(outcome(channel.recv(), [])) for _ in range(2)]
    await settle()
    for value in range(2 + capacity):
        channel.send_nowait(value)
    for task in tasks:
        task.cancel()
    await settle()
    assert len(channel) == 2 + capacity  # the returned ones may exceed it
    sender = start(outcome(channel.send("late"), ends))
    await settle()
    for left in range(1 + capacity, capacity - 1, -1):
        with pytest.raises(WouldBlock):
            channel.send_nowait("running")
        channel.recv_nowait()
        await settle()
        assert ends == []
        assert len(channel) == left
    if capacity:
        channel.recv_nowait()  # now there is room for one
        await settle()
        assert ends == [None]
        assert len(channel) == capacity
    else:
        assert await channel.recv() == "late"
        await settle()
    assert sender.done()
    rest = drained(channel)
    await settle()
    assert [*rest, *drained(channel)][-1:] == (["late"] if capacity else [])


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_channel_4_overflow_never_drops_a_returned_value(
    core: Any, start: Any, settle: Any, outcome: Any, overflow: str
) -> None:
    channel = core.Channel(2, overflow=overflow)
    tasks = [start(outcome(channel.recv(), [])) for _ in range(3)]
    await settle()
    for value in ("a", "b", "c"):
        channel.send_nowait(value)
    for task in tasks:
        task.cancel()
    await settle()
    for n in range(5):
        await channel.send(n)
    assert channel.statistics().dropped == 5
    assert drained(channel) == ["a", "b", "c"]


async def test_channel_4_drop_oldest_beside_a_returned_value_drops_the_oldest_buffered(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel(3, overflow="drop_oldest")
    task = start(outcome(channel.recv(), []))
    await settle()
    for value in ("returned", 1, 2):
        channel.send_nowait(value)
    task.cancel()
    await settle()
    await channel.send(3)
    assert drained(channel) == ["returned", 2, 3]
    assert channel.statistics().dropped == 1


async def test_channel_4_a_running_receiver_takes_a_returned_value_before_a_parked_sender(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    receiver = start(outcome(channel.recv(), []))
    await settle()
    channel.send_nowait("first")
    receiver.cancel()
    sender = start(outcome(channel.send("second"), ends))
    await settle()
    assert ends == []
    assert channel.recv_nowait() == "first"
    assert channel.recv_nowait() == "second"
    await settle()
    assert sender.done()


@pytest.mark.parametrize("value", [None, 0, False, (), Cancelled()], ids=repr)
async def test_channel_4_falsy_values_are_given_back_too(
    core: Any, start: Any, settle: Any, outcome: Any, value: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    tasks = [start(outcome(channel.recv(), mine)) for mine in ([], ends)]
    await settle()
    channel.send_nowait(value)
    tasks[0].cancel()
    await settle()
    assert len(ends) == 1
    assert ends[0] is value


async def test_channel_4_values_that_cannot_be_compared_are_given_back_in_order(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    values = [object() for _ in range(20)]
    tasks = [start(outcome(channel.recv(), [])) for _ in values]
    await settle()
    for value in values:
        channel.send_nowait(value)
    for task in reversed(tasks):
        task.cancel()
    await settle()
    assert drained(channel) == values


async def test_channel_4_a_coroutine_closed_after_the_hand_off_gives_back(
    core: Any, settle: Any
) -> None:
    """Not only cancellation: whatever ends the coroutine at its await."""
    channel = core.Channel()

    class Stop(Exception):
        pass

    for stop in (Stop(), GeneratorExit()):
        ours: list[Any] = []

        async def receive(ours: list[Any] = ours) -> None:
            ours.append(await channel.recv())

        coroutine = receive()
        task = asyncio.create_task(coroutine)
        await settle()
        channel.send_nowait("value")
        with pytest.raises((Stop, GeneratorExit)):
            coroutine.throw(stop)
        assert drained(channel) == ["value"]
        await asyncio.wait([task])
        assert ours == []
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            task.result()


class Awaiting:
    def __init__(self, step: Any) -> None:
        self.step = step

    def __await__(self) -> Any:
        return self.step


async def test_channel_4_what_was_given_back_stays_when_its_operation_is_closed(
    core: Any, start: Any, settle: Any
) -> None:
    """Whoever drives the operation by hand may close it, or throw into it, after it has ended."""
    channel = core.Channel()
    step = channel.recv().__await__()

    async def receive() -> None:
        await Awaiting(step)

    task = start(receive())
    await settle()
    channel.send_nowait("value")
    task.cancel()
    await settle()
    assert task.cancelled()
    step.close()
    with pytest.raises(LookupError):
        step.throw(LookupError())
    assert drained(channel) == ["value"]


async def test_channel_4_closing_a_case_by_hand_takes_nothing_from_its_select(
    core: Any, start: Any, settle: Any
) -> None:
    channel, other = core.Channel(), core.Channel()
    case = channel.send("value")

    async def choose() -> Any:
        return await core.select(case, other.recv())

    task = start(choose())
    await settle()
    if hasattr(case, "close"):  # in the Python core an operation is not what drives it
        case.close()
    assert channel.recv_nowait() == "value"
    assert await task == (0, None)
