"""Channel, semantic 4: cancellation is exact, in plain tasks and in actors."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
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


# Before anything happened.


@pytest.mark.parametrize("kind", ["recv", "recv_many", "send", "send_many", "select", "anext"])
async def test_channel_4_a_cancelled_operation_that_waited_did_not_happen(
    core: Any, start: Any, settle: Any, outcome: Any, kind: str
) -> None:
    channel = core.Channel()
    operation = {
        "recv": channel.recv,
        "recv_many": lambda: channel.recv_many(3),
        "send": lambda: channel.send(1),
        "send_many": lambda: channel.send_many([1]),
        "select": lambda: core.select(channel.recv(), core.Channel().send(1)),
        "anext": channel.__anext__,
    }[kind]()
    ends: list[Any] = []
    task = start(outcome(operation, ends))
    await settle()
    task.cancel()
    await settle()
    assert ends == [Cancelled]
    assert task.cancelled()
    with pytest.raises(WouldBlock):  # nobody is there any more
        channel.send_nowait(2) if kind not in ("send", "send_many") else channel.recv_nowait()
    statistics = channel.statistics()
    assert statistics.sent == statistics.received == statistics.buffered == 0
    assert statistics.waiting_senders == statistics.waiting_receivers == 0


async def test_channel_4_the_message_of_a_cancellation_arrives(core: Any, settle: Any) -> None:
    channel = core.Channel()
    task = asyncio.ensure_future(channel.recv())
    await settle()
    task.cancel("the reason")
    with pytest.raises(Cancelled, match="the reason"):
        await task


# A send whose value was taken.


@pytest.mark.parametrize("capacity", [0, 1])
async def test_channel_4_a_send_that_was_taken_returns_and_the_task_ends_normally(
    core: Any, start: Any, settle: Any, outcome: Any, capacity: int
) -> None:
    channel = core.Channel(capacity)
    for n in range(capacity):
        channel.send_nowait(n)
    ends: list[Any] = []
    task = start(outcome(channel.send("value"), ends))
    await settle()
    taken = [channel.recv_nowait() for _ in range(capacity + 1)]
    task.cancel()
    await settle()
    assert taken[-1] == "value"
    assert ends == [None]
    assert task.done()
    assert not task.cancelled()


@pytest.mark.parametrize("next_await", ["sleep(0)", "sleep", "recv", "send", "select", "future"])
async def test_channel_4_after_a_taken_send_the_cancellation_comes_at_the_next_await(
    core: Any, start: Any, settle: Any, next_await: str
) -> None:
    channel, other = core.Channel(), core.Channel()
    steps: list[Any] = []

    async def actor() -> None:
        await channel.send(1)
        steps.append("sent")
        try:
            await {
                "sleep(0)": lambda: asyncio.sleep(0),
                "sleep": lambda: asyncio.sleep(3600),
                "recv": other.recv,
                "send": lambda: other.send(2),
                "select": lambda: core.select(other.recv(), timeout=3600),
                "future": asyncio.get_running_loop().create_future,
            }[next_await]()
        except Cancelled as error:
            steps.append(error.args)
            raise

    task = start(actor())
    await settle()
    assert channel.recv_nowait() == 1
    task.cancel("why")
    await settle()
    assert steps == ["sent", ("why",)]
    assert task.cancelled()
    assert other.statistics().waiting_receivers == other.statistics().waiting_senders == 0


async def test_channel_4_the_cancellation_after_a_taken_send_comes_once(
    core: Any, start: Any, settle: Any
) -> None:
    channel = core.Channel()
    steps: list[str] = []

    async def actor() -> None:
        await channel.send(1)
        for _ in range(5):
            try:
                await asyncio.sleep(0)
                steps.append("slept")
            except Cancelled:
                steps.append("cancelled")

    task = start(actor())
    await settle()
    channel.recv_nowait()
    task.cancel()
    await settle()
    assert steps == ["cancelled", "slept", "slept", "slept", "slept"]
    assert task.done()


async def test_channel_4_operations_that_do_not_park_go_on_until_the_next_await_that_does(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel, buffered = core.Channel(), core.Channel(10)
    ends: list[Any] = []

    async def actor() -> None:
        await channel.send(1)
        await buffered.send("goes on")
        await outcome(channel.recv(), ends)

    task = start(actor())
    await settle()
    channel.recv_nowait()
    task.cancel()
    await settle()
    assert drained(buffered) == ["goes on"]
    assert ends == [Cancelled]
    assert task.cancelled()


async def test_channel_4_several_sends_taken_in_the_instant_of_several_cancellations(
    core: Any, start: Any, settle: Any
) -> None:
    channel = core.Channel()
    sent: list[int] = []

    async def actor() -> None:
        for n in range(5):
            await channel.send(n)
            sent.append(n)

    task = start(actor())
    await settle()
    received = [channel.recv_nowait()]
    task.cancel()
    await asyncio.sleep(0)  # resumed, has sent 0, is parked with 1, and is about to be cancelled
    try:
        received.append(channel.recv_nowait())
    except WouldBlock:
        pass
    task.cancel()
    await settle()
    assert sent == received
    assert task.cancelled()


# asyncio.timeout


async def expire(deadline: asyncio.Timeout) -> None:
    """Let `deadline` cancel its task before anything that was woken meanwhile resumes."""
    deadline.reschedule(asyncio.get_running_loop().time() - 1)


@pytest.mark.parametrize("more", [False, True], ids=["nothing after", "another await inside"])
async def test_channel_4_a_taken_send_at_the_end_of_a_timeout(
    core: Any, start: Any, settle: Any, more: bool
) -> None:
    channel = core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []

    async def actor() -> None:
        try:
            async with asyncio.timeout(None) as deadline:
                deadlines.append(deadline)
                await channel.send(1)
                steps.append("sent")
                if more:
                    await asyncio.sleep(3600)
        except TimeoutError:
            steps.append(TimeoutError)
        for _ in range(5):
            await asyncio.sleep(0)  # no cancellation was left behind
        steps.append("free")

    task = start(actor())
    await settle()
    await expire(deadlines[0])
    assert channel.recv_nowait() == 1
    await settle()
    assert steps == (["sent", TimeoutError, "free"] if more else ["sent", "free"])
    assert task.done()
    assert not task.cancelled()


async def test_channel_4_a_timeout_in_the_cleanup_of_a_cancelled_task_leaves_nothing_behind(
    core: Any, start: Any, settle: Any
) -> None:
    """The cancellation that began the cleanup was heard already: it does not come twice."""
    channel = core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []

    async def actor() -> None:
        try:
            await asyncio.sleep(3600)
        except Cancelled:
            async with asyncio.timeout(None) as deadline:
                deadlines.append(deadline)
                await channel.send("bye")
            for _ in range(5):
                await asyncio.sleep(0)
            steps.append("cleaned up")
            raise

    task = start(actor())
    await settle()
    task.cancel()
    await settle()
    await expire(deadlines[0])
    assert channel.recv_nowait() == "bye"
    await settle()
    assert steps == ["cleaned up"]
    assert task.cancelled()


async def test_channel_4_of_two_timeouts_at_once_the_outer_is_still_heard(
    core: Any, start: Any, settle: Any
) -> None:
    channel = core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []

    async def actor() -> None:
        try:
            async with asyncio.timeout(None) as outer:
                async with asyncio.timeout(None) as inner:
                    deadlines.extend([outer, inner])
                    await channel.send(1)
                steps.append("inner block ended")
                await asyncio.sleep(3600)
        except TimeoutError:
            steps.append(TimeoutError)

    task = start(actor())
    await settle()
    for deadline in deadlines:
        await expire(deadline)
    channel.recv_nowait()
    await settle()
    assert steps == ["inner block ended", TimeoutError]
    assert task.done()


async def test_channel_4_a_receive_that_times_out_as_it_is_served_gives_back(
    core: Any, start: Any, settle: Any
) -> None:
    channel = core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []

    async def actor() -> None:
        try:
            async with asyncio.timeout(None) as deadline:
                deadlines.append(deadline)
                steps.append(await channel.recv())
        except TimeoutError:
            steps.append(TimeoutError)
        await asyncio.sleep(0)
        steps.append("free")

    start(actor())
    await settle()
    await expire(deadlines[0])
    channel.send_nowait(1)
    await settle()
    assert steps == [TimeoutError, "free"]
    assert drained(channel) == [1]


# anyio


@pytest.mark.parametrize("more", [False, True], ids=["nothing after", "another await inside"])
async def test_channel_4_a_taken_send_in_a_cancelled_anyio_scope(
    core: Any, start: Any, settle: Any, more: bool
) -> None:
    channel = core.Channel()
    steps: list[Any] = []
    scopes: list[anyio.CancelScope] = []

    async def actor() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await channel.send(1)
            steps.append("sent")
            if more:
                await anyio.sleep(3600)
                steps.append("not reached")
        for _ in range(5):
            await asyncio.sleep(0)
        steps.append("free")

    task = start(actor())
    await settle()
    assert channel.recv_nowait() == 1
    scopes[0].cancel()
    await settle()
    assert steps == ["sent", "free"]
    assert task.done()
    assert not task.cancelled()


async def test_channel_4_a_served_receive_in_a_cancelled_anyio_scope_gives_back(
    core: Any, start: Any, settle: Any
) -> None:
    channel = core.Channel()
    steps: list[Any] = []
    scopes: list[anyio.CancelScope] = []

    async def actor() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            steps.append(await channel.recv())
        await asyncio.sleep(0)
        steps.append("free")

    start(actor())
    await settle()
    channel.send_nowait(1)
    scopes[0].cancel()
    await settle()
    assert steps == ["free"]
    assert drained(channel) == [1]


async def test_channel_4_a_cancellation_that_was_put_off_does_not_speak_for_a_newer_one(
    core: Any, start: Any, settle: Any
) -> None:
    """Here the older one is a timeout's, which has taken it back; the newer is anyio's, which
    knows its own by their message."""
    channel, other = core.Channel(), core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []
    scopes: list[anyio.CancelScope] = []

    async def actor() -> None:
        async with asyncio.timeout(None) as deadline:
            deadlines.append(deadline)
            await channel.send(1)
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            steps.append(await other.recv())
        for _ in range(5):
            await asyncio.sleep(0)
        steps.append("free")

    def serve_and_cancel() -> None:
        other.send_nowait("given back")
        scopes[0].cancel()

    task = start(actor())
    await settle()
    await expire(deadlines[0])
    channel.recv_nowait()
    asyncio.get_running_loop().call_soon(serve_and_cancel)  # the send has resumed by then
    await settle()
    assert steps == ["free"]
    assert not task.cancelled()
    assert drained(other) == ["given back"]


async def test_channel_4_two_cancellations_put_off_in_one_turn_arrive_as_the_newer(
    core: Any, start: Any, settle: Any
) -> None:
    """Both sends were taken before the first could be made anew; and that one is taken back."""
    channel, other, gate = core.Channel(), core.Channel(), core.Channel()
    steps: list[Any] = []
    deadlines: list[asyncio.Timeout] = []
    scopes: list[anyio.CancelScope] = []

    async def actor() -> None:
        async with asyncio.timeout(None) as deadline:
            deadlines.append(deadline)
            await channel.send(1)
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await other.send(2)
            steps.append("sent both")
            await asyncio.sleep(3600)
        for _ in range(5):
            await asyncio.sleep(0)
        steps.append("free")

    async def taker() -> None:
        await gate.recv()
        steps.append(other.recv_nowait())
        scopes[0].cancel()

    task = start(actor())
    start(taker())
    await settle()
    await expire(deadlines[0])
    channel.recv_nowait()
    gate.send_nowait("go")  # the taker resumes right after the actor, in the same turn
    await settle()
    assert steps == [2, "sent both", "free"]
    assert not task.cancelled()


# send_many


async def test_channel_4_send_many_is_exact_when_cancelled_at_any_point(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    values = list(range(6))
    for taken in range(7):
        for turns in range(3):
            channel = core.Channel(1)
            sending = channel.send_many(values)
            ends: list[Any] = []
            task = start(outcome(sending, ends))
            await settle()
            received = []
            for _ in range(taken):
                if len(channel):
                    received.append(channel.recv_nowait())
                for _ in range(turns):
                    await asyncio.sleep(0)
            task.cancel()
            await settle()
            received += drained(channel)
            await settle()
            received += drained(channel)
            assert received == values[: sending.sent]
            assert ends == [None if sending.sent == 6 else Cancelled]


# After everything that happened.


@pytest.mark.parametrize("capacity", [0, 1, 2, 4, 5, 64])
@pytest.mark.parametrize("verb", ["send", "select", "send_many"])
async def test_channel_4_a_task_that_only_sends_hears_of_its_cancellation(
    core: Any, start: Any, capacity: int, verb: str
) -> None:
    """Each turn of the loop may find the send done in which the task is parked."""
    for turns in (1, 2, 3, 5, 10, 11):
        channel = core.Channel(capacity)
        sent: list[int] = []
        received: list[int] = []

        async def produce(channel: Any = channel, sent: list[int] = sent) -> None:
            while True:
                value = len(sent)
                if verb == "send":
                    await channel.send(value)
                elif verb == "select":
                    await core.select(channel.send(value))
                else:
                    await channel.send_many([value])
                sent.append(value)

        async def consume(channel: Any = channel, received: list[int] = received) -> None:
            async for value in channel:
                received.append(value)

        producer, consumer = start(produce()), start(consume())
        for _ in range(turns):
            await asyncio.sleep(0)
        producer.cancel()
        done, _ = await asyncio.wait([producer], timeout=10)
        assert done
        channel.close()
        await consumer
        assert received == sent
