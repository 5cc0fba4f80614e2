"""Channel, semantics 1 and 2: operations are lazy and used once; one algorithm, in order."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from typing import Any

import pytest

from tailrace.errors import Closed, WouldBlock

CAPACITIES = [0, 1, 2, 64, math.inf]
FALSY: list[Any] = [None, 0, "", False, [], (), 0.0, Ellipsis, NotImplemented, Closed("a value")]


# 1: lazy, once, never dropped in silence, no future.


def test_channel_1_an_operation_does_nothing_until_awaited(core: Any) -> None:
    channel = core.Channel(4)
    channel.send_nowait(1)
    before = channel.statistics()
    operations = [channel.send(2), channel.recv(), channel.recv_many(3), channel.send_many([4])]
    assert channel.statistics() == before
    with pytest.warns(RuntimeWarning):
        del operations
        gc.collect()
    assert channel.statistics() == before


def make(channel: Any, kind: str) -> Any:
    return {
        "send": lambda: channel.send(1),
        "recv": lambda: channel.recv(),
        "send_many": lambda: channel.send_many([1]),
        "recv_many": lambda: channel.recv_many(1),
    }[kind]()


KINDS = ["send", "recv", "send_many", "recv_many"]


@pytest.mark.parametrize("kind", KINDS)
def test_channel_1_an_operation_never_awaited_warns_as_a_coroutine_does(
    core: Any, kind: str
) -> None:
    with pytest.warns(RuntimeWarning, match=f"Channel.{kind} was never awaited"):
        make(core.Channel(1), kind)
        gc.collect()


@pytest.mark.parametrize("kind", [*KINDS, "select"])
@pytest.mark.filterwarnings("ignore:.*was never awaited")
async def test_channel_1_asyncio_wait_refuses_an_operation_and_says_what_would_be_right(
    core: Any, kind: str
) -> None:
    a = core.Channel(name="a")
    operation = core.select(a.recv()) if kind == "select" else make(a, kind)
    named = "select among receiving from a" if kind == "select" else f"Channel.{kind} on a"
    with pytest.raises(TypeError, match=rf"^<{named}.*is no future: await it, or give it to"):
        await asyncio.wait([operation])


@pytest.mark.parametrize("kind", KINDS)
async def test_channel_1_an_operation_is_used_once(core: Any, kind: str) -> None:
    channel = core.Channel(3)
    channel.send_nowait(0)
    operation = make(channel, kind)
    await operation
    after = channel.statistics()
    with pytest.raises(RuntimeError, match="used once"):
        await operation
    with pytest.raises((RuntimeError, TypeError)):
        await core.select(operation)
    with pytest.raises((RuntimeError, TypeError)):
        core.select_nowait(operation)
    assert channel.statistics() == after


async def test_channel_1_an_operation_that_was_selected_is_used(core: Any) -> None:
    channel, other = core.Channel(1), core.Channel()
    chosen, left = channel.send(1), other.recv()
    assert await core.select(chosen, left) == (0, None)
    for operation in (chosen, left):
        with pytest.raises(RuntimeError, match="used once"):
            await operation


async def test_channel_1_an_operation_awaited_by_two_at_once_happens_once(core: Any) -> None:
    channel = core.Channel(4)
    operation = channel.send(1)
    ends = await asyncio.gather(operation, operation, return_exceptions=True)
    assert channel.statistics().sent == 1
    assert ends == [None, None] or isinstance(ends[1], RuntimeError)


async def test_channel_1_an_operation_that_failed_is_used_too(core: Any) -> None:
    channel = core.Channel()
    channel.close()
    operation = channel.recv()
    with pytest.raises(Closed):
        await operation
    with pytest.raises(RuntimeError, match="used once"):
        await operation


@pytest.mark.parametrize("kind", KINDS)
def test_channel_1_an_operation_is_no_future_until_it_parks(core: Any, kind: str) -> None:
    operation = make(core.Channel(), kind)
    assert not asyncio.isfuture(operation)
    assert getattr(operation, "_asyncio_future_blocking", None) is None
    with pytest.warns(RuntimeWarning):
        del operation
        gc.collect()


async def test_channel_1_gather_takes_operations(core: Any) -> None:
    channel = core.Channel()
    assert await asyncio.gather(channel.send(1), channel.recv()) == [None, 1]


async def test_channel_1_shield_takes_an_operation(core: Any, settle: Any) -> None:
    channel = core.Channel()
    receiving = asyncio.ensure_future(asyncio.shield(channel.recv()))
    await settle()
    receiving.cancel()
    await asyncio.wait([receiving])
    assert channel.statistics().waiting_receivers == 1  # what was shielded still waits
    channel.send_nowait(1)
    await settle()
    assert channel.statistics().received == 1


async def test_channel_1_ensure_future_takes_an_operation(core: Any, settle: Any) -> None:
    channel = core.Channel()
    future = asyncio.ensure_future(channel.recv())
    await settle()
    await channel.send(1)
    assert await future == 1


@pytest.mark.parametrize("seconds", [None, 60, 0.01])
async def test_channel_1_wait_for_takes_an_operation(core: Any, seconds: float | None) -> None:
    channel = core.Channel(1)
    assert await asyncio.wait_for(channel.send(1), seconds) is None
    assert await asyncio.wait_for(channel.recv(), seconds) == 1


async def test_channel_1_wait_for_that_times_out_leaves_nothing_parked(core: Any) -> None:
    channel = core.Channel()
    for operation in (channel.recv(), channel.send(1)):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(operation, 0.001)
    statistics = channel.statistics()
    assert statistics.waiting_senders == statistics.waiting_receivers == 0


async def test_channel_1_wait_and_as_completed_take_tasks_of_operations(core: Any) -> None:
    channel = core.Channel()
    tasks = [asyncio.ensure_future(channel.recv()) for _ in range(2)]
    pending = set(tasks)
    await asyncio.sleep(0)
    await channel.send("first")
    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == ["first"]
    await channel.send("second")
    assert [await each for each in asyncio.as_completed(pending)] == ["second"]


async def test_channel_1_anext_with_a_default_takes_the_default_at_the_end(core: Any) -> None:
    channel = core.Channel(1)
    channel.send_nowait(1)
    channel.close()
    assert await anext(channel, "end") == 1
    assert await anext(channel, "end") == "end"
    with pytest.raises(StopAsyncIteration):
        await anext(channel)


# 2: a waiting peer, else the buffer, else park; in order.


@pytest.mark.parametrize("capacity", CAPACITIES)
async def test_channel_2_all_values_arrive_in_order(core: Any, capacity: float) -> None:
    channel = core.Channel(capacity)

    async def produce() -> None:
        for n in range(500):
            await channel.send(n)
        channel.close()

    producer = asyncio.create_task(produce())
    assert [value async for value in channel] == list(range(500))
    await producer
    assert channel.statistics().sent == channel.statistics().received == 500


async def test_channel_2_a_rendezvous_returns_when_the_value_was_taken(
    core: Any, settle: Any
) -> None:
    channel = core.Channel()
    sending = asyncio.ensure_future(channel.send(1))
    await settle()
    assert not sending.done()
    assert len(channel) == 0
    assert channel.recv_nowait() == 1
    await settle()
    assert sending.done()


async def test_channel_2_a_buffered_send_returns_when_it_is_in_the_buffer(core: Any) -> None:
    channel = core.Channel(1)
    await channel.send(1)
    assert len(channel) == 1


async def test_channel_2_a_value_goes_to_a_waiting_receiver_and_not_through_the_buffer(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(1)
    receiving = asyncio.ensure_future(channel.recv())
    await settle()
    channel.send_nowait("handed over")
    assert len(channel) == 0
    channel.send_nowait("buffered")
    assert await receiving == "handed over"


async def test_channel_2_receivers_are_served_first_in_first_out(core: Any, settle: Any) -> None:
    channel = core.Channel()
    served: list[int] = []

    async def receive(n: int) -> None:
        assert await channel.recv() == n
        served.append(n)

    tasks = [asyncio.create_task(receive(n)) for n in range(200)]
    await settle()
    for n in range(200):
        channel.send_nowait(n)
    await asyncio.gather(*tasks)
    assert served == list(range(200))


@pytest.mark.parametrize("capacity", [0, 1, 3])
async def test_channel_2_senders_are_served_first_in_first_out(
    core: Any, settle: Any, capacity: int
) -> None:
    channel = core.Channel(capacity)
    tasks = [asyncio.ensure_future(channel.send(n)) for n in range(50)]
    await settle()
    assert [channel.recv_nowait() for _ in range(50)] == list(range(50))
    await asyncio.gather(*tasks)


async def test_channel_2_a_running_sender_never_overtakes_a_parked_one(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(1)
    channel.send_nowait("buffered")
    parked = asyncio.ensure_future(channel.send("parked"))
    await settle()
    assert channel.recv_nowait() == "buffered"
    with pytest.raises(WouldBlock):  # the room that was made is the parked sender's already
        channel.send_nowait("running")
    assert channel.recv_nowait() == "parked"
    await parked


async def test_channel_2_a_running_receiver_never_overtakes_a_parked_one(
    core: Any, settle: Any
) -> None:
    for capacity in (0, 1):
        channel = core.Channel(capacity)
        parked = asyncio.ensure_future(channel.recv())
        await settle()
        channel.send_nowait("for the parked")
        with pytest.raises(WouldBlock):
            channel.recv_nowait()
        assert await parked == "for the parked"


@pytest.mark.parametrize("capacity", [0, 1, math.inf])
@pytest.mark.parametrize("value", FALSY, ids=repr)
async def test_channel_2_none_and_falsy_values_are_values(
    core: Any, settle: Any, capacity: float, value: Any
) -> None:
    channel = core.Channel(capacity)
    for receive, wanted in (
        (channel.recv, value),
        (lambda: channel.recv_many(2), [value]),
        (channel.__anext__, value),
        (lambda: core.select(channel.recv()), (0, value)),
    ):
        sending = asyncio.ensure_future(channel.send(value))  # the sender first
        await settle()
        assert await receive() == wanted
        await sending
        receiving = asyncio.ensure_future(receive())  # the receiver first
        await settle()
        await channel.send(value)
        assert await receiving == wanted
    assert len(channel) == 0


async def test_channel_2_recv_many_takes_the_buffer_then_the_parked_senders(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(2)
    senders = [asyncio.ensure_future(channel.send(n)) for n in range(5)]
    await settle()
    assert await channel.recv_many(4) == [0, 1, 2, 3]
    assert await channel.recv_many(4) == [4]
    await asyncio.gather(*senders)


async def test_channel_2_recv_many_waits_for_one_then_takes_what_is_there(
    core: Any, settle: Any
) -> None:
    channel = core.Channel(4)
    receiving = asyncio.ensure_future(channel.recv_many(3))
    await settle()
    for n in range(4):
        channel.send_nowait(n)
    assert await receiving == [0, 1, 2]
    assert await channel.recv_many(100) == [3]


async def test_channel_2_send_many_sends_all_in_order(core: Any) -> None:
    for capacity in CAPACITIES:
        channel = core.Channel(capacity)
        sending = channel.send_many(iter(range(300)))

        async def send(sending: Any = sending) -> None:
            await sending

        task = asyncio.create_task(send())
        assert [await channel.recv() for _ in range(300)] == list(range(300))
        await task
        assert sending.sent == 300


class _Tracked:
    """A value of which it can be told whether it is still there."""


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "given away"])
@pytest.mark.parametrize("capacity", [1, 3, 5, 8])
async def test_channel_2_send_many_neither_changes_a_list_nor_keeps_what_was_received(
    core: Any, settle: Any, capacity: int, kept: bool
) -> None:
    channel = core.Channel(capacity)
    values = [_Tracked() for _ in range(8)]
    expected = [id(value) for value in values]
    refs = [weakref.ref(value) for value in values]
    sending = channel.send_many(values if kept else values.copy())
    if not kept:
        values.clear()

    async def send(sending: Any) -> None:
        await sending

    task = asyncio.create_task(send(sending))
    await settle()
    received = [id(channel.recv_nowait()) for _ in range(2)]
    await settle()
    assert received == expected[:2]
    assert [id(value) for value in values] == (expected if kept else [])
    rest = [await channel.recv() for _ in range(6)]
    await task
    assert [id(value) for value in rest] == expected[2:]
    assert sending.sent == 8
    del rest, sending, task
    await settle()  # a step may keep what it was handed last
    gc.collect()
    assert [ref() is not None for ref in refs] == [kept] * 8


async def test_channel_2_send_many_of_an_iterable_that_fails_keeps_count(core: Any) -> None:
    def values() -> Any:
        yield 1
        yield 2
        raise LookupError("no more")

    channel = core.Channel(5)
    sending = channel.send_many(values())
    with pytest.raises(LookupError):
        await sending
    assert sending.sent == len(channel) == 2


async def test_channel_parked_on_says_what_a_task_waits_for(core: Any, settle: Any) -> None:
    channel = core.Channel(name="q")
    loop = asyncio.get_running_loop()

    async def await_it(make: Any) -> None:
        await make()

    async def iterate() -> None:
        async for _ in channel:
            pass

    for make, said in (
        (lambda: channel.send(1), "sending to q"),
        (lambda: channel.send_many([1]), "sending to q"),
        (channel.recv, "receiving from q"),
        (lambda: channel.recv_many(2), "receiving from q"),
        (lambda: core.select(channel.recv()), "receiving from q"),
        (iterate, "receiving from q"),
    ):
        before = loop.time()
        task = asyncio.create_task(await_it(make))
        await settle()
        parked = core.parked_on(task)
        assert parked.describe() == said
        assert before <= parked.since <= loop.time()
        task.cancel()
        await asyncio.wait([task])
        assert core.parked_on(task) is None
    assert core.parked_on(asyncio.current_task()) is None


async def test_channel_parked_on_tells_what_can_end_the_wait(core: Any, settle: Any) -> None:
    a, b, future = core.Channel(), core.Channel(), asyncio.get_running_loop().create_future()
    for make, waits, timed in (
        (lambda: a.send(1), [("send", a)], False),
        (lambda: a.send_many([1]), [("send", a)], False),
        (a.recv, [("receive", a)], False),
        (lambda: a.recv_many(2), [("receive", a)], False),
        (lambda: core.select(a.recv(), None, b.send(1)), [("receive", a), ("send", b)], False),
        (lambda: core.select(a.recv(), timeout=9), [("receive", a)], True),
        (lambda: core.select(a.recv(), timeout=float("inf")), [("receive", a)], False),
        (lambda: core.select(core.done(future)), [("done", future)], False),
    ):

        async def wait(make: Any = make) -> None:
            await make()

        task = asyncio.create_task(wait())
        await settle()
        parked = core.parked_on(task)
        assert (list(parked.waits), parked.timed) == (waits, timed)
        task.cancel()
        await asyncio.wait([task])


async def test_channel_when_resumed_calls_after_that_step_beside_when_sent(
    core: Any, settle: Any
) -> None:
    channel, log = core.Channel(), []

    async def sends() -> None:
        await channel.send(1)
        log.append("stepped")
        await channel.send(2)

    (task,) = core.spawn([sends()], "sends", 0, lambda task: None)
    assert not core.when_resumed(task, lambda: log.append("early"))
    await settle()
    assert core.when_resumed(task, lambda: log.append("resumed"))
    assert core.when_sent(task, lambda: log.append("sent"))
    await channel.recv()
    await settle()
    assert log[0] == "stepped"
    assert sorted(log[1:]) == ["resumed", "sent"]
    await channel.recv()
    await settle()
    assert len(log) == 3


async def test_channel_when_quiet_calls_once_all_that_were_woken_have_had_their_turn(
    core: Any, settle: Any
) -> None:
    loop = asyncio.get_running_loop()
    channels, log = [core.Channel() for _ in range(40)], []
    assert not core.when_quiet(loop, lambda: log.append("nothing is on its way"))

    async def pass_on(at: int) -> None:
        value = await channels[at].recv()
        log.append(at)
        if at + 1 < len(channels):
            await channels[at + 1].send(value)

    tasks = [asyncio.create_task(pass_on(at)) for at in range(len(channels))]
    await settle()
    core.seed(0)  # the budget anew: who yields for it is resumed by the loop itself
    channels[0].send_nowait(1)
    assert core.when_quiet(loop, lambda: log.append("quiet"))
    assert core.when_quiet(loop, lambda: log.append("quiet again"))
    await asyncio.wait(tasks)
    await settle()
    assert log == [*range(40), "quiet", "quiet again"]
