"""Channel, semantic 3: what close means to values, receivers and senders."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from tailrace.errors import Closed, TailraceError

CAUSE = ValueError("upstream broke")


def filled(core: Any, capacity: float, *values: Any) -> Any:
    channel = core.Channel(capacity, name="c")
    for value in values:
        channel.send_nowait(value)
    return channel


@pytest.mark.parametrize("cause", [None, CAUSE])
async def test_channel_3_buffered_values_stay_receivable_in_order_after_a_close(
    core: Any, cause: Exception | None
) -> None:
    channel = filled(core, 5, 1, 2, 3, 4)
    channel.close(cause)
    assert channel.closed
    assert await channel.recv() == 1
    assert channel.recv_nowait() == 2
    assert await core.select(channel.recv()) == (0, 3)
    assert await channel.recv_many(9) == [4]


@pytest.mark.parametrize("capacity", [0, 1, math.inf])
async def test_channel_3_receiving_on_a_closed_drained_channel_raises_closed(
    core: Any, capacity: float
) -> None:
    channel = filled(core, capacity)
    channel.close()
    for receive in (channel.recv, lambda: channel.recv_many(2)):
        with pytest.raises(Closed) as caught:
            await receive()
        assert caught.value.channel is channel
        assert caught.value.__cause__ is None
        assert isinstance(caught.value, TailraceError)
    with pytest.raises(Closed):
        channel.recv_nowait()


async def test_channel_3_the_cause_of_a_close_is_the_cause_of_closed(core: Any) -> None:
    channel = filled(core, 0)
    channel.close(CAUSE)
    for operation in (channel.recv(), channel.recv_many(2), channel.send(1), channel.__anext__()):
        with pytest.raises(Closed) as caught:
            await operation
        assert caught.value.__cause__ is CAUSE
    with pytest.raises(Closed) as caught:
        channel.send_nowait(1)
    assert caught.value.__cause__ is CAUSE


async def test_channel_3_each_closed_error_is_one_of_its_own(core: Any) -> None:
    """A shared exception would collect the tracebacks of everybody who ever saw it."""
    channel = filled(core, 0)
    channel.close(CAUSE)
    errors = await asyncio.gather(channel.recv(), channel.recv(), return_exceptions=True)
    assert errors[0] is not errors[1]


async def test_channel_3_iteration_ends_when_closed_and_drained(core: Any) -> None:
    channel = filled(core, 3, 1, None, 2)
    channel.close()
    assert [value async for value in channel] == [1, None, 2]
    assert [value async for value in channel] == []


async def test_channel_3_iteration_raises_closed_when_there_is_a_cause(core: Any) -> None:
    channel = filled(core, 3, 1, 2)
    channel.close(CAUSE)
    seen: list[int] = []

    async def consume() -> None:
        seen.extend([value async for value in channel])

    async def consume_slowly() -> None:
        async for value in channel:
            seen.append(value)

    with pytest.raises(Closed) as caught:
        await consume_slowly()
    assert seen == [1, 2]
    assert caught.value.__cause__ is CAUSE
    with pytest.raises(Closed):
        await consume()


async def test_channel_3_sending_on_a_closed_channel_raises_closed(core: Any) -> None:
    for capacity, overflow in ((0, "block"), (2, "block"), (2, "drop_oldest"), (0, "drop_newest")):
        channel = core.Channel(capacity, overflow=overflow)
        channel.close()
        with pytest.raises(Closed):
            await channel.send(1)
        with pytest.raises(Closed):
            channel.send_nowait(1)
        sending = channel.send_many([1, 2])
        with pytest.raises(Closed):
            await sending
        assert sending.sent == 0
        assert channel.statistics().sent == channel.statistics().dropped == 0


@pytest.mark.parametrize("capacity", [0, 1])
async def test_channel_3_parked_senders_get_closed_and_did_not_send(
    core: Any, settle: Any, outcome: Any, capacity: int
) -> None:
    channel = filled(core, capacity, *range(capacity))
    ends: list[Any] = []
    many = channel.send_many(["a", "b"])
    chosen = core.select(channel.send("c"))
    tasks = [
        asyncio.create_task(outcome(operation, ends))
        for operation in (channel.send("d"), many, chosen)
    ]
    await settle()
    channel.close()
    await asyncio.wait(tasks)
    assert ends == [Closed, Closed, Closed]
    assert many.sent == 0
    assert channel.statistics().sent == capacity
    assert [value async for value in channel] == list(range(capacity))


async def test_channel_3_send_many_that_is_closed_halfway_says_how_many_were_sent(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(2)
    sending = channel.send_many("abcdef")
    task = asyncio.ensure_future(sending)
    await settle()
    assert [channel.recv_nowait() for _ in range(2)] == ["a", "b"]
    await settle()
    channel.close()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], Closed)
    rest = [value async for value in channel]
    assert rest == list("abcdef"[2 : sending.sent])
    assert sending.sent == 4


async def test_channel_3_parked_receivers_are_woken_by_a_close(
    core: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []

    async def iterate() -> list[Any]:
        return [value async for value in channel]

    tasks = [
        asyncio.create_task(outcome(awaitable, ends))
        for awaitable in (channel.recv(), channel.recv_many(3), iterate())
    ]
    await settle()
    channel.close()
    await asyncio.wait(tasks)
    assert ends == [Closed, Closed, []]


async def test_channel_3_closing_twice_is_fine_and_the_first_cause_counts(core: Any) -> None:
    channel = core.Channel()
    channel.close(CAUSE)
    channel.close()
    channel.close(LookupError("later"))
    with pytest.raises(Closed) as caught:
        await channel.recv()
    assert caught.value.__cause__ is CAUSE
    other = core.Channel()
    other.close()
    other.close(CAUSE)
    with pytest.raises(Closed) as caught:
        await other.recv()
    assert caught.value.__cause__ is None


async def test_channel_3_a_receiver_woken_by_a_close_looks_again(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    """It may find a value that a cancelled receiver has given back meanwhile."""
    channel = core.Channel()
    first: list[Any] = []
    second: list[Any] = []
    cancelled = start(outcome(channel.recv(), first))
    woken = start(outcome(channel.recv(), second))
    await settle()
    channel.send_nowait("given back")
    cancelled.cancel()
    channel.close()
    await settle()
    assert (first, second) == ([asyncio.CancelledError], ["given back"])
    assert woken.done()


async def test_channel_3_a_value_given_back_after_the_close_stays_receivable(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    tasks = [start(outcome(channel.recv(), ends)) for _ in range(3)]
    await settle()
    for n in range(3):
        channel.send_nowait(n)
    for task in tasks:
        task.cancel()
    channel.close()
    await settle()
    assert ends == [asyncio.CancelledError] * 3
    assert [value async for value in channel] == [0, 1, 2]
    with pytest.raises(Closed):
        await channel.recv()


async def test_channel_3_a_receiver_woken_by_a_close_can_still_be_cancelled(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    tasks = [start(outcome(op, ends)) for op in (channel.recv(), core.select(channel.recv()))]
    await settle()
    channel.close()
    for task in tasks:
        task.cancel()
    await settle()
    assert ends == [asyncio.CancelledError] * 2
    assert all(task.cancelled() for task in tasks)


async def test_channel_3_a_sender_woken_by_a_close_can_still_be_cancelled(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel()
    ends: list[Any] = []
    task = start(outcome(channel.send(1), ends))
    await settle()
    channel.close()
    task.cancel()
    await settle()
    assert ends == [asyncio.CancelledError]
    assert channel.statistics().sent == 0


async def test_channel_3_an_exception_is_a_value_and_no_cause(core: Any) -> None:
    channel = filled(core, 2, CAUSE, asyncio.CancelledError())
    assert await channel.recv() is CAUSE
    assert isinstance(await channel.recv(), asyncio.CancelledError)


class Waited:
    """A value for which somebody waits."""

    def __init__(self, told: list[tuple[int, str]], number: int) -> None:
        self.told = told
        self.number = number

    def __abandoned__(self, channel: str) -> None:
        self.told.append((self.number, channel))


async def test_values_left_when_nobody_holds_the_receiving_end_are_told_and_stay(
    core: Any,
) -> None:
    told: list[tuple[int, str]] = []
    values = [Waited(told, n) for n in range(4)]
    channel = core.Channel(3, name="c")
    early = asyncio.ensure_future(channel.recv())
    await asyncio.sleep(0)
    await channel.send(values[0])
    early.cancel()  # it gives the first value back
    await asyncio.sleep(0)
    for value in values[1:3]:
        await channel.send(value)
    with channel.receiving(), channel.receiving():
        pass
    assert told == [(0, "c"), (1, "c"), (2, "c")]
    assert [channel.recv_nowait() for _ in range(3)] == values[:3]


async def test_values_left_are_not_told_while_somebody_can_receive(core: Any) -> None:
    told: list[tuple[int, str]] = []
    channel = filled(core, 5, Waited(told, 1), 2, Waited(told, 3))
    with channel.receiving():
        with channel.receiving():
            pass
        assert told == []
        with channel.sending():
            pass
        assert channel.closed
        assert told == []
        channel.recv_nowait()
    assert told == [(3, "c")]
