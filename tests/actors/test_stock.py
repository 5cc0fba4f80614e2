"""The stock actors: what each does, and that every message that enters comes to an end."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from tailrace.actors import Hub, Tee, batch, each, expand, in_order, partition, tee, throttle
from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Abort, Closed, Reject
from tailrace.group import Group
from tailrace.message import Message, Outcome, Settlement, submit

virtual_time = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


class Store:
    """Acks what it receives, and keeps the data; some data ends otherwise."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.stored: list[Any] = []
        self.ids: list[str] = []

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            if message.data == "bad":
                message.fail(OSError("disk full"))
            elif message.data == "unwanted":
                message.abort("unwanted")
            else:
                self.stored.append(message.data)
                self.ids.append(message.id)
                message.ack()
            del message


async def run(
    actor: Any, *data: Any, outs: int = 1, stores: list[Store] | None = None
) -> list[Outcome]:
    """Send all data through `actor` into stores; how each message ended."""
    inbox = Channel[Message[Any]](name="inbox")
    channels = [Channel[Message[Any]](name=f"out{i}") for i in range(outs)]
    stores = stores or [Store() for _ in channels]
    ends: list[Any] = []
    async with Group() as go:
        go(actor, inbox, *channels)
        for store, channel in zip(stores, channels, strict=True):
            go(store, channel)
        with inbox.sending() as sender:
            for index, value in enumerate(data):
                message = Message(value, id=f"m{index}")
                ends.append(message.settled())
                await sender.send(message)
                del message
    return [await end for end in ends]


def statuses(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


# --- expand ---------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    return text.split()


async def words_later(text: str) -> list[str]:
    await asyncio.sleep(1)
    return text.split()


def words_yielded(text: str) -> Iterable[str]:
    yield from text.split()


async def words_streamed(text: str) -> AsyncIterator[str]:
    for word in text.split():
        await asyncio.sleep(1)
        yield word


@virtual_time
@pytest.mark.parametrize("fn", [words, words_later, words_yielded, words_streamed])
async def test_a_message_becomes_several_and_ends_with_the_last_of_them(
    fn: Callable[[str], Any],
) -> None:
    store = Store()
    outcomes = await run(expand(fn), "a b c", "d", stores=[store])
    assert statuses(outcomes) == ["stored", "stored"]
    assert store.stored == ["a", "b", "c", "d"]
    assert store.ids == ["m0.0", "m0.1", "m0.2", "m1.0"]


@virtual_time
async def test_the_worst_part_decides_how_an_expanded_message_ends() -> None:
    assert statuses(await run(expand(words), "a bad c", "a unwanted")) == ["failed", "aborted"]


@virtual_time
async def test_what_expands_to_nothing_is_aborted() -> None:
    assert await run(expand(words), " ") == [Outcome("aborted", "expanded to nothing")]


@virtual_time
async def test_an_expansion_that_raises_fails_after_the_parts_that_were_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def halfway(text: str) -> Iterable[str]:
        yield text
        raise ValueError("torn")

    store = Store(seconds=5)
    [torn, fine] = await run(expand(halfway), "a", "b", stores=[store])
    assert (torn.status, torn.reason, fine.status) == ("failed", "ValueError: torn", "failed")
    assert store.stored == ["a", "b"]
    assert now() >= 10
    assert "expand(halfway) failed for message m0" in caplog.text


@virtual_time
@pytest.mark.parametrize(
    ("error", "status"), [(Abort("no"), "aborted"), (Reject("no"), "rejected")]
)
async def test_an_expansion_ends_its_message_by_abort_and_reject(
    error: Exception, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(text: str) -> list[str]:
        raise error

    assert statuses(await run(expand(refuse), "a")) == [status]
    assert not caplog.records


@virtual_time
@pytest.mark.parametrize("value", ["text", b"bytes", 7, None])
async def test_what_cannot_be_taken_apart_fails_its_message_alone(value: object) -> None:
    def odd(data: str) -> Any:
        return value if data == "odd" else [data]

    assert statuses(await run(expand(odd), "odd", "a")) == ["failed", "stored"]


@virtual_time
async def test_a_cancellation_that_is_not_the_actors_fails_the_message_alone() -> None:
    async def cut(data: str) -> list[str]:
        raise asyncio.CancelledError

    assert statuses(await run(expand(cut), "a", "b")) == ["failed", "failed"]


async def test_a_generator_is_drawn_from_as_its_parts_are_taken_and_closed_at_the_end() -> None:
    drawn: list[int] = []
    closed: list[str] = []

    async def endless(data: str) -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                drawn.append(number)
                yield number
        finally:
            closed.append(data)

    inbox, out = Channel[Message[str]](), Channel[Message[int]]()
    message = Message("a")
    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            go(expand(endless), inbox, out)
            await inbox.send(message)
            with out.receiving() as received:
                assert [(await received.recv()).data for _ in range(3)] == [0, 1, 2]
                raise OSError("enough")
    assert drawn == [0, 1, 2, 3] or drawn == [0, 1, 2]
    assert closed == ["a"]


def test_expand_takes_a_function() -> None:
    with pytest.raises(TypeError, match="expand takes a function"):
        expand(7)  # type: ignore[call-overload]  # wrong on purpose


# --- batch ----------------------------------------------------------------------------------------


@virtual_time
async def test_a_batch_goes_out_when_it_is_full_and_the_rest_at_the_end() -> None:
    store = Store()
    outcomes = await run(batch(2, 60.0), 1, 2, 3, 4, 5, stores=[store])
    assert store.stored == [[1, 2], [3, 4], [5]]
    assert statuses(outcomes) == ["stored"] * 5
    assert now() == 0


@virtual_time
async def test_a_batch_waits_no_longer_than_it_may() -> None:
    inbox, out = Channel[Message[int]](), Channel[Message[list[int]]]()
    store = Store()
    async with Group() as go:
        go(batch(100, 2.0), inbox, out)
        go(store, out)
        ends = [asyncio.create_task(submit(inbox, n)) for n in range(3)]
        await ends[0]
        assert now() == pytest.approx(2)
        await asyncio.sleep(10)
        assert (await submit(inbox, 3)).ok
        assert now() == pytest.approx(14)
        await asyncio.wait(ends)
        inbox.close()
    assert store.stored == [[0, 1, 2], [3]]


@virtual_time
async def test_the_outcome_of_a_batch_is_that_of_each_of_its_messages() -> None:
    async def refuse(inbox: Receiver[Message[list[int]]]) -> None:
        async for message in inbox:
            message.reject(f"{sum(message.data)} is too much")

    inbox, out = Channel[Message[int]](3), Channel[Message[list[int]]]()
    messages = [Message(n) for n in range(3)]
    await inbox.send_many(messages)
    inbox.close()
    async with Group() as go:
        go(batch(3), inbox, out)
        go(refuse, out)
    assert {message.outcome for message in messages} == {Outcome("rejected", "3 is too much")}


@virtual_time
async def test_a_message_that_was_settled_meanwhile_is_left_out_of_its_batch() -> None:
    inbox, out = Channel[Message[int]](), Channel[Message[list[int]]]()
    store = Store()
    first, second = Message(1), Message(2)
    async with Group() as go:
        go(batch(10, 1.0), inbox, out)
        go(store, out)
        with inbox.sending() as sender:
            await sender.send(first)
            await sender.send(second)
            first.abort("taken back")
    assert store.stored == [[2]]


@virtual_time
async def test_a_group_is_not_idle_while_a_batch_holds_messages() -> None:
    inbox, out = Channel[Message[int]](), Channel[Message[list[int]]]()
    store = Store()
    async with Group(on_exit="cancel") as go:
        go(batch(10, 5.0), inbox, out)
        go(store, out)
        await inbox.send(Message(1))
        await go.idle()
        assert now() == pytest.approx(5)
        assert store.stored == [[1]]


@pytest.mark.parametrize(
    ("items", "seconds", "error"),
    [(0, 1, ValueError), (1.5, 1, TypeError), (True, 1, TypeError), (1, -1, ValueError),
     (1, float("inf"), ValueError), (1, float("nan"), ValueError), (1, "1", TypeError)],
)  # fmt: skip
def test_a_batch_of_no_sensible_size_is_refused(
    items: Any, seconds: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="batch: max_"):
        batch(items, seconds)


# --- tee ------------------------------------------------------------------------------------------


@virtual_time
async def test_every_branch_has_each_message_and_all_of_them_decide() -> None:
    stores = [Store(), Store(seconds=3), Store()]
    outcomes = await run(tee, "a", "bad", "unwanted", outs=3, stores=stores)
    assert statuses(outcomes) == ["stored", "failed", "aborted"]
    assert [store.stored for store in stores] == [["a"]] * 3
    assert [store.ids for store in stores] == [["m0"]] * 3


@virtual_time
async def test_a_slow_branch_does_not_keep_a_message_from_the_others() -> None:
    inbox = Channel[Message[int]]()
    slow, quick = Channel[Message[int]](), Channel[Message[int]]()
    async with Group(on_exit="cancel") as go:
        go(tee, inbox, slow, quick)
        await inbox.send(Message(1))
        assert (await quick.recv()).data == 1
        assert (await slow.recv()).data == 1


@virtual_time
async def test_branches_share_the_data_unless_each_is_to_have_a_copy() -> None:
    async def marked(actor: Any) -> list[Any]:
        stores = [Store(), Store()]
        await run(actor, [1], outs=2, stores=stores)
        return [store.stored[0] for store in stores]

    first, second = await marked(tee)
    assert first is second
    first, second = await marked(Tee(copy=copy.deepcopy))
    assert first == second
    assert first is not second


@virtual_time
async def test_data_that_cannot_be_copied_fails_its_message_alone() -> None:
    def picky(data: str) -> str:
        if data == "odd":
            raise TypeError("no copies")
        return data

    assert statuses(await run(Tee(copy=picky), "odd", "a", outs=2)) == ["failed", "stored"]


async def test_a_branch_that_closes_ends_the_tee_and_fails_the_message_in_hand() -> None:
    inbox = Channel[Message[int]]()
    shut, open_ = Channel[Message[int]](), Channel[Message[int]](1)
    shut.close()
    message = Message(1)
    task = asyncio.create_task(tee(inbox, open_, shut))
    await inbox.send(message)
    with pytest.raises(Closed):
        await task
    assert message.outcome is None  # a branch has it still
    (await open_.recv()).ack()
    assert message.outcome is not None
    assert message.outcome.status == "failed"


async def test_a_tee_without_branches_and_a_partition_without_lanes_are_refused() -> None:
    for actor in (tee, partition(len)):
        with pytest.raises(ValueError, match="at least one channel"):
            await actor(Channel[Message[str]]())


# --- partition ------------------------------------------------------------------------------------


@virtual_time
async def test_a_key_keeps_to_its_lane_and_its_order() -> None:
    stores = [Store() for _ in range(3)]
    data = [(key, number) for number in range(10) for key in "abcdefgh"]
    actor = partition[tuple[str, int]](lambda item: item[0])
    assert set(statuses(await run(actor, *data, outs=3, stores=stores))) == {"stored"}
    assert Counter(item for store in stores for item in store.stored) == Counter(data)
    homes = [{key for key, _ in store.stored} for store in stores]
    assert sum(map(len, homes)) == 8  # no key in two lanes
    for store in stores:
        for key in "abcdefgh":
            mine = [item for item in store.stored if item[0] == key]
            assert mine == sorted(mine)


@virtual_time
async def test_a_key_that_raises_or_cannot_be_hashed_fails_its_message_alone() -> None:
    outcomes = await run(partition[Any](lambda item: item["key"]), {}, {"key": []}, {"key": 1})
    assert statuses(outcomes) == ["failed", "failed", "stored"]


@pytest.mark.parametrize("key", [words_later, words_streamed, 7])
def test_a_key_is_a_plain_function(key: Any) -> None:
    with pytest.raises(TypeError, match="partition"):
        partition(key)


# --- throttle -------------------------------------------------------------------------------------


class Times(Store):
    """Keeps when each message came."""

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            self.stored.append(now())
            message.ack()
            del message


@virtual_time
async def test_messages_pass_at_the_rate_and_no_faster() -> None:
    times = Times()
    await run(throttle(10.0), *range(5), stores=[times])
    assert times.stored == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@virtual_time
async def test_after_a_pause_as_many_as_the_burst_pass_at_once() -> None:
    inbox, out = Channel[Message[int]](), Channel[Message[int]]()
    times = Times()
    async with Group() as go:
        go(throttle(1.0, burst=3), inbox, out)
        go(times, out)
        with inbox.sending() as sender:
            for _ in range(2):
                for n in range(5):
                    await sender.send(Message(n))
                await asyncio.sleep(100)
    first = times.stored[:5]
    assert first == pytest.approx([0, 0, 0, 1, 2])
    assert [t - times.stored[5] for t in times.stored[5:]] == pytest.approx(first)


@virtual_time
async def test_all_actors_of_a_throttle_keep_one_rate() -> None:
    inbox, out = Channel[Message[int]](), Channel[Message[int]]()
    times = Times()
    async with Group() as go:
        go(throttle(10.0), inbox, out, actors=4)
        go(times, out)
        with inbox.sending() as sender:
            for n in range(8):
                await sender.send(Message(n))
    assert times.stored == pytest.approx([n / 10 for n in range(8)])


async def test_a_timer_that_is_late_does_not_lower_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    sleeps: list[float] = []

    async def late(seconds: float) -> None:
        sleeps.append(seconds)
        clock[0] += seconds + 0.003

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: clock[0], raising=False)
    monkeypatch.setattr(asyncio, "sleep", late)
    actor = throttle(1000.0)
    for n in range(1000):
        await actor._wait(Message(n))
    assert clock[0] == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    ("rate", "burst", "error"),
    [(0, 1, ValueError), (-1, 1, ValueError), (float("inf"), 1, ValueError), ("1", 1, TypeError),
     (1, 0, ValueError), (1, 1.5, TypeError)],
)  # fmt: skip
def test_a_rate_that_is_none_is_refused(rate: Any, burst: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="throttle: "):
        throttle(rate, burst)


# --- hub ------------------------------------------------------------------------------------------


@virtual_time
async def test_subscribers_come_and_go_and_hear_what_comes_meanwhile() -> None:
    hub = Hub[int]()
    inbox = Channel[Message[int]]()
    async with Group() as go:
        go(hub, inbox)
        with inbox.sending() as sender:
            assert await submit(sender, 0) == Outcome("aborted", "nobody listens")
            with hub.subscribe(10) as first:
                assert (await submit(sender, 1)).ok
                with hub.subscribe(10) as second:
                    assert (await submit(sender, 2)).ok
                assert (await submit(sender, 3)).ok
                assert [first.recv_nowait() for _ in range(3)] == [1, 2, 3]
                assert second.recv_nowait() == 2
            assert not (await submit(sender, 4)).ok


@virtual_time
async def test_a_slow_subscriber_that_drops_delays_nobody() -> None:
    hub = Hub[int]()
    inbox = Channel[Message[int]]()
    async with Group() as go:
        go(hub, inbox)
        with inbox.sending() as sender, hub.subscribe(1, "drop_oldest") as slow:
            for n in range(5):
                assert (await submit(sender, n)).ok
            assert now() == 0
            assert slow.recv_nowait() == 4


@virtual_time
async def test_a_message_is_acked_when_the_slowest_subscriber_has_taken_it() -> None:
    hub = Hub[int]()
    inbox = Channel[Message[int]]()
    async with Group() as go:
        go(hub, inbox)
        with inbox.sending() as sender, hub.subscribe() as first, hub.subscribe() as second:
            ending = asyncio.create_task(submit(sender, 1))
            assert await first.recv() == 1
            await asyncio.sleep(3)
            assert not ending.done()
            assert await second.recv() == 1
            assert (await ending).ok


@virtual_time
async def test_a_subscriber_that_leaves_amid_a_message_is_not_waited_for() -> None:
    hub = Hub[int]()
    inbox = Channel[Message[int]]()
    async with Group() as go:
        go(hub, inbox)
        with inbox.sending() as sender, hub.subscribe() as first:
            with hub.subscribe():
                ending = asyncio.create_task(submit(sender, 1))
                assert await first.recv() == 1
                await asyncio.sleep(1)
            assert (await ending).ok


@virtual_time
async def test_subscribers_see_the_end_of_the_hub_and_why_it_failed() -> None:
    hub = Hub[int]()
    inbox = Channel[Message[int]]()
    with hub.subscribe(10) as early:
        async with Group() as go:
            go(hub, inbox)
            with inbox.sending() as sender:
                await submit(sender, 1)
        assert [value async for value in early] == [1]
    with hub.subscribe() as late:
        assert [value async for value in late] == []

    failing: Hub[int] = Hub()
    bad = Channel[Any](1)
    bad.send_nowait("no message")
    with failing.subscribe() as subscriber:
        with pytest.raises(TypeError):
            await failing(bad)
        with pytest.raises(Closed) as closed:
            await subscriber.recv()
        assert isinstance(closed.value.__cause__, TypeError)


# --- all of them ----------------------------------------------------------------------------------

ACTORS: dict[str, Callable[[], Any]] = {
    "each": lambda: each(lambda data: data),
    "in_order": lambda: in_order(lambda data: data, 2),
    "expand": lambda: expand(lambda data: [data, data]),
    "batch": lambda: batch(3, 0.5),
    "tee": lambda: tee,
    "partition": lambda: partition(lambda data: data),
    "throttle": lambda: throttle(10.0, 2),
    "hub": Hub,
}


def wire(name: str, go: Group, inbox: Channel[Any], store: Callable[..., Any]) -> None:
    outs = [
        Channel[Message[Any]](n, name=f"out{n}") for n in range(2 if name in "tee partition" else 1)
    ]
    if name == "hub":
        outs.clear()
    go(ACTORS[name](), inbox, *outs)
    for out in outs:
        go(store, out)


@pytest.mark.parametrize("name", ACTORS)
@virtual_time
async def test_a_value_that_is_no_message_ends_the_actor_with_a_clear_error(name: str) -> None:
    inbox = Channel[Any](1)
    inbox.send_nowait("text")
    with pytest.raises(ExceptionGroup) as failed:
        async with Group() as go:
            wire(name, go, inbox, Store())
    assert "takes messages, but was sent 'text'" in str(failed.value.exceptions[0])


@pytest.mark.parametrize("name", ACTORS)
@virtual_time
async def test_a_message_that_is_settled_already_is_not_passed_on(name: str) -> None:
    message = Message("a")
    message.abort("before")
    inbox = Channel[Any](1)
    inbox.send_nowait(message)
    inbox.close()
    store = Store()
    async with Group() as go:
        wire(name, go, inbox, store)
    assert store.stored == []


class Source:
    """Sends six messages, and keeps how each ends."""

    def __init__(self) -> None:
        self.ends: list[Settlement] = []

    async def __call__(self, out: Sender[Message[int]]) -> None:
        for n in range(6):
            message = Message(n)
            self.ends.append(message.settled())
            await out.send(message)
            del message

    async def all_ended(self) -> None:
        async with asyncio.timeout(1):
            for end in self.ends:
                await end


@pytest.mark.parametrize("turns", range(24))
@pytest.mark.parametrize("name", ACTORS)
@virtual_time
async def test_a_cancellation_at_any_turn_leaves_no_message_open(
    name: str, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    source = Source()

    async def pipeline() -> None:
        inbox = Channel[Any](name="inbox")
        async with Group() as go:
            wire(name, go, inbox, Store(seconds=0.3))
            go(source, inbox)

    task = asyncio.create_task(pipeline())
    for _ in range(turns):
        await asyncio.sleep(0)
    if turns > 12:
        await asyncio.sleep((turns - 12) / 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    await source.all_ended()


@pytest.mark.parametrize("name", ACTORS)
@virtual_time
async def test_a_neighbour_that_dies_leaves_no_message_open(name: str) -> None:
    async def dies(inbox: Receiver[Message[Any]]) -> None:
        (await inbox.recv()).ack()
        raise OSError("gone")

    source = Source()
    inbox = Channel[Any](name="inbox")
    with suppress(ExceptionGroup):
        async with Group() as go:
            wire(name, go, inbox, dies)
            go(source, inbox)
    await source.all_ended()
