"""select: each sentence of the design's section, in its order."""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from typing import Any

import pytest

from tailrace.errors import Closed, WouldBlock

CAUSE = ValueError("upstream broke")


def full(core: Any, *values: Any, capacity: int | None = None) -> Any:
    channel = core.Channel(max(len(values), 1) if capacity is None else capacity)
    for value in values:
        channel.send_nowait(value)
    return channel


def shut(core: Any, cause: BaseException | None = None) -> Any:
    channel = core.Channel(name="shut")
    channel.close(cause)
    return channel


# (index, value)


async def test_select_returns_index_and_value(core: Any) -> None:
    empty = core.Channel()
    assert await core.select(empty.recv(), full(core, "a").recv()) == (1, "a")
    assert await core.select(full(core).send("b"), empty.recv()) == (0, None)
    assert await core.select(empty.recv(), empty.recv(), timeout=0.001) == (None, None)


async def test_select_waits_until_a_case_can_happen(core: Any, settle: Any) -> None:
    a, b = core.Channel(), core.Channel()
    selecting = asyncio.ensure_future(core.select(a.recv(), b.send("b")))
    await settle()
    assert not selecting.done()
    assert b.recv_nowait() == "b"
    assert await selecting == (1, None)
    selecting = asyncio.ensure_future(core.select(a.recv(), b.send("b")))
    await settle()
    a.send_nowait("a")
    assert await selecting == (0, "a")
    assert b.statistics().waiting_senders == 0


async def test_select_in_a_match_reads_as_in_the_design(core: Any) -> None:
    async def which(select: Any) -> str:
        match await select:
            case 0, Closed():
                return "closed"
            case 0, value:
                return f"value {value}"
            case 1, _:
                return "sent"
            case None, _:
                return "timed out"
        raise AssertionError

    quiet = core.Channel()
    assert await which(core.select(shut(core).recv(), quiet.send(1))) == "closed"
    assert await which(core.select(full(core, 5).recv(), quiet.send(1))) == "value 5"
    assert await which(core.select(quiet.recv(), full(core).send(1))) == "sent"
    assert await which(core.select(quiet.recv(), quiet.send(1), timeout=0)) == "timed out"


@pytest.mark.parametrize("cases", range(1, 9))
async def test_select_takes_any_number_of_cases(core: Any, cases: int, settle: Any) -> None:
    for ready in range(cases):
        channels = [core.Channel() for _ in range(cases)]
        selecting = asyncio.ensure_future(core.select(*[channel.recv() for channel in channels]))
        await settle()
        channels[ready].send_nowait(ready)
        assert await selecting == (ready, ready)


# "Uniformly random among the ready unless priority=True (first listed wins)."


@pytest.mark.parametrize("parked", [False, True], ids=["ready at once", "parked first"])
async def test_select_is_uniformly_random_among_the_ready(
    core: Any, settle: Any, parked: bool
) -> None:
    core.seed(12345)
    chosen: Counter[int] = Counter()
    rounds = 1500
    for _ in range(rounds):
        channel, idle = core.Channel(3), core.Channel()
        if not parked:
            channel.send_nowait(1)
        selecting = asyncio.ensure_future(
            core.select(channel.recv(), idle.recv(), channel.recv(), channel.recv())
        )
        if parked:  # one value, three lines to be first in
            while not channel.statistics().waiting_receivers:
                await asyncio.sleep(0)
            channel.send_nowait(1)
        chosen[(await selecting)[0]] += 1
    assert set(chosen) == {0, 2, 3}
    for count in chosen.values():  # 500 expected, deviation 18: five of them
        assert abs(count - rounds / 3) < 92


async def test_select_is_random_among_sends_and_receives_alike(core: Any) -> None:
    core.seed(1)
    buffered = core.Channel(4)
    for n in range(2):
        buffered.send_nowait(n)
    chosen = Counter()
    for _ in range(400):
        index, _ = await core.select(buffered.recv(), buffered.send(9))
        chosen[index] += 1
        if len(buffered) == 0:
            buffered.send_nowait(9)
        elif len(buffered) == 4:
            buffered.recv_nowait()
    assert min(chosen[0], chosen[1]) > 120


def test_select_repeats_when_its_dice_are_seeded(core: Any) -> None:
    async def choose() -> list[int]:
        core.seed(7)
        ready = full(core, *range(60))
        return [(await core.select(ready.recv(), ready.recv(), ready.recv()))[0] for _ in range(60)]

    first = asyncio.run(choose())
    assert first == asyncio.run(choose())
    assert len(set(first)) == 3


@pytest.mark.parametrize("parked", [False, True])
async def test_select_with_priority_takes_the_first_listed(
    core: Any, settle: Any, parked: bool
) -> None:
    for _ in range(50):
        channel = core.Channel(3)
        if not parked:
            channel.send_nowait(1)
        cases = (core.Channel().recv(), channel.recv(), channel.recv())
        selecting = asyncio.ensure_future(core.select(*cases, priority=True))
        await settle()
        if parked:
            channel.send_nowait(1)
        assert await selecting == (1, 1)
    ready = full(core, 1)
    assert core.select_nowait(ready.recv(), full(core).send(2), priority=True) == (0, 1)


# "Exactly one case takes effect."


async def test_select_does_exactly_one_case(core: Any, settle: Any) -> None:
    for _ in range(100):
        ready = [full(core, n, capacity=2) for n in range(3)]
        index, _ = await core.select(ready[0].recv(), ready[1].recv(), ready[2].send("sent"))
        happened = [len(ready[0]) == 0, len(ready[1]) == 0, len(ready[2]) == 2]
        assert happened == [n == index for n in range(3)]


async def test_select_does_exactly_one_case_when_several_become_ready_at_once(
    core: Any, settle: Any
) -> None:
    a, b, c = core.Channel(1), core.Channel(1), core.Channel()
    selecting = asyncio.ensure_future(core.select(a.recv(), b.recv(), c.send("c")))
    await settle()
    b.send_nowait("b")
    a.send_nowait("a")
    with pytest.raises(WouldBlock):
        c.recv_nowait()
    assert await selecting == (1, "b")
    assert (len(a), len(b)) == (1, 0)


async def test_select_among_selects_pairs_each_once(core: Any, settle: Any) -> None:
    channels = [core.Channel() for _ in range(3)]
    received: list[Any] = []
    sent: list[Any] = []

    async def sender(n: int) -> None:
        await core.select(*[channel.send(n) for channel in channels])
        sent.append(n)

    async def receiver() -> None:
        received.append((await core.select(*[channel.recv() for channel in channels]))[1])

    tasks = [asyncio.create_task(sender(n)) for n in range(50)]
    await settle()
    tasks += [asyncio.create_task(receiver()) for _ in range(50)]
    await asyncio.gather(*tasks)
    assert sorted(received) == sorted(sent) == list(range(50))
    for channel in channels:
        statistics = channel.statistics()
        assert statistics.sent == statistics.received
        assert statistics.waiting_senders == statistics.waiting_receivers == 0


# Closed channels.


async def test_select_a_receive_on_a_closed_drained_channel_is_ready_with_closed_as_its_value(
    core: Any, settle: Any
) -> None:
    channel = shut(core)
    index, value = await core.select(core.Channel().recv(), channel.recv())
    assert index == 1
    assert isinstance(value, Closed)
    assert value.channel is channel
    assert isinstance(core.select_nowait(channel.recv())[1], Closed)
    late = core.Channel()
    selecting = asyncio.ensure_future(core.select(late.recv()))
    await settle()
    late.close()
    assert isinstance((await selecting)[1], Closed)


async def test_select_a_receive_takes_what_is_buffered_before_it_says_closed(core: Any) -> None:
    channel = full(core, 1)
    channel.close()
    assert await core.select(channel.recv()) == (0, 1)
    assert isinstance((await core.select(channel.recv()))[1], Closed)


async def test_select_a_receive_on_a_channel_closed_with_a_cause_raises(
    core: Any, settle: Any
) -> None:
    late = core.Channel()
    selecting = asyncio.ensure_future(core.select(late.recv(), core.Channel().recv()))
    await settle()
    late.close(CAUSE)
    for awaitable in (selecting, core.select(shut(core, CAUSE).recv())):
        with pytest.raises(Closed) as caught:
            await awaitable
        assert caught.value.__cause__ is CAUSE
    with pytest.raises(Closed):
        core.select_nowait(late.recv())


async def test_select_a_send_on_a_closed_channel_raises_when_it_is_chosen(
    core: Any, settle: Any
) -> None:
    with pytest.raises(Closed):
        await core.select(shut(core).send(1), core.Channel().recv())
    with pytest.raises(Closed):
        core.select_nowait(shut(core).send(1))
    ready = full(core, "a")
    assert await core.select(ready.recv(), shut(core).send(1), priority=True) == (0, "a")
    late = core.Channel()
    selecting = asyncio.ensure_future(core.select(core.Channel().recv(), late.send(1)))
    await settle()
    late.close()
    with pytest.raises(Closed):
        await selecting


async def test_select_woken_by_a_close_takes_one_case_only(core: Any, settle: Any) -> None:
    a, b = core.Channel(), core.Channel(1)
    selecting = asyncio.ensure_future(core.select(a.recv(), b.recv(), priority=True))
    await settle()
    a.close()
    b.send_nowait("b")  # nobody stands in this line any more, or will be served by it
    index, value = await selecting
    assert index == 0
    assert isinstance(value, Closed)
    assert b.recv_nowait() == "b"


# What is no case.


@pytest.mark.parametrize("case", [5, "recv", object(), [], asyncio.sleep, True])
async def test_select_a_case_that_is_no_operation_is_named(core: Any, case: Any) -> None:
    channel = core.Channel(1)
    with pytest.raises(TypeError, match="case 1 of select"):
        await core.select(channel.recv(), case)
    with pytest.raises(TypeError, match="case 0 of select"):
        core.select_nowait(case, channel.recv())


@pytest.mark.parametrize("kind", ["send_many", "recv_many"])
async def test_channel_4_send_many_and_recv_many_are_no_select_cases(core: Any, kind: str) -> None:
    channel = full(core, 1, capacity=2)
    case = channel.send_many([1]) if kind == "send_many" else channel.recv_many(1)
    before = channel.statistics()
    with pytest.raises(TypeError, match="case 0 of select"):
        await core.select(case)
    assert channel.statistics() == before


async def test_select_a_coroutine_as_a_case_is_a_type_error(core: Any) -> None:
    async def coroutine() -> None: ...

    case = coroutine()
    with pytest.raises(TypeError, match="coroutine"):
        await core.select(case)
    case.close()


async def test_select_a_refusal_uses_no_case_up_in_silence(core: Any) -> None:
    """No effect, and no "never awaited" for operations that the caller did pass on."""
    channel = full(core, 1)
    with pytest.raises(TypeError):
        await core.select(channel.recv(), "no case")
    with pytest.raises((TypeError, ValueError), match="timeout"):
        await core.select(channel.recv(), timeout="soon")
    gc.collect()
    assert len(channel) == 1


async def test_select_an_operation_used_before_is_refused(core: Any) -> None:
    channel = full(core, 1, 2, 3)
    used = channel.recv()
    await used
    with pytest.raises(RuntimeError, match="used"):
        await core.select(used)
    twice = channel.recv()
    with pytest.raises(RuntimeError, match="used"):
        await core.select(twice, twice)
    assert len(channel) == 2


@pytest.mark.parametrize("timeout", ["1", [], True, math.nan])
async def test_select_a_timeout_that_is_no_duration_is_named(core: Any, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout"):
        await core.select(core.Channel().recv(), timeout=timeout)


async def test_select_is_used_once_and_warns_when_never_awaited(core: Any) -> None:
    channel = full(core, 1, 2)
    select = core.select(channel.recv())
    await select
    with pytest.raises(RuntimeError, match="used once"):
        await select
    with pytest.warns(RuntimeWarning, match="select was never awaited") as warned:
        core.select(channel.recv())
        gc.collect()
    assert len(warned) == 1  # one for the select, none for its cases
    assert len(channel) == 1


async def test_select_is_no_future(core: Any, settle: Any) -> None:
    select = core.select(core.Channel().recv(), timeout=0)
    assert not asyncio.isfuture(select)
    assert await asyncio.wait_for(select, 10) == (None, None)
    ready = full(core, 1, 2, 3)
    assert await asyncio.gather(core.select(ready.recv()), core.select(ready.recv())) == [
        (0, 1),
        (0, 2),
    ]
    assert await asyncio.shield(core.select(ready.recv())) == (0, 3)


# "Select never pairs with itself; the same channel may appear in several cases."


@pytest.mark.parametrize("capacity", [0, 1])
async def test_select_never_pairs_with_itself(core: Any, settle: Any, capacity: int) -> None:
    channel = core.Channel()
    selecting = asyncio.ensure_future(core.select(channel.recv(), channel.send("mine")))
    other = asyncio.ensure_future(core.select(channel.send("other"), channel.recv()))
    await settle()
    assert selecting.done()
    assert other.done()  # with each other they do
    ends = {selecting.result(), other.result()}
    assert ends in ({(0, "other"), (0, None)}, {(1, None), (1, "mine")})
    alone = asyncio.ensure_future(core.select(channel.recv(), channel.send("mine")))
    await settle()
    assert not alone.done()
    assert channel.recv_nowait() == "mine"
    assert await alone == (1, None)


async def test_select_the_same_channel_may_appear_in_several_cases(core: Any, settle: Any) -> None:
    channel = core.Channel()
    selecting = asyncio.ensure_future(core.select(*[channel.send(n) for n in range(5)]))
    await settle()
    assert channel.statistics().waiting_senders == 5
    value = channel.recv_nowait()
    assert await selecting == (value, None)
    assert channel.statistics().waiting_senders == 0
    with pytest.raises(WouldBlock):
        channel.recv_nowait()
    assert channel.statistics().sent == 1


# select_nowait, None cases, waiting for ever.


async def test_select_nowait_raises_would_block_when_nothing_is_ready(core: Any) -> None:
    channel = core.Channel()
    with pytest.raises(WouldBlock):
        core.select_nowait(channel.recv(), channel.send(1))
    with pytest.raises(WouldBlock):
        core.select_nowait(None, None)
    with pytest.raises(WouldBlock):
        core.select_nowait()
    statistics = channel.statistics()
    assert statistics.waiting_senders == statistics.waiting_receivers == 0
    assert core.select_nowait(channel.recv(), full(core, 1).recv()) == (1, 1)


async def test_select_a_none_case_never_happens(core: Any) -> None:
    assert await core.select(None, full(core, 1).recv(), None) == (1, 1)
    assert core.select_nowait(None, full(core, 1).recv()) == (1, 1)
    assert await core.select(None, timeout=0) == (None, None)
    assert await core.select(timeout=0) == (None, None)


@pytest.mark.parametrize("timeout", [None, math.inf])
@pytest.mark.parametrize("cases", [(), (None,), (None, None)])
async def test_select_that_would_wait_forever_is_an_error(
    core: Any, cases: Any, timeout: float | None
) -> None:
    with pytest.raises(ValueError, match="would wait forever"):
        await core.select(*cases, timeout=timeout)


# Timeouts.


async def test_select_a_timeout_of_zero_takes_what_is_ready(core: Any) -> None:
    ready = full(core, 1)
    assert await core.select(ready.recv(), timeout=0) == (0, 1)
    assert await core.select(ready.recv(), timeout=0) == (None, None)
    assert await core.select(ready.recv(), timeout=-5) == (None, None)


@pytest.mark.virtual_time
async def test_select_times_out_on_time_and_only_if_nothing_happened(core: Any) -> None:
    loop = asyncio.get_running_loop()
    channel = core.Channel()
    assert await core.select(channel.recv(), timeout=2.5) == (None, None)
    assert loop.time() == pytest.approx(2.5)
    loop.call_later(1, channel.close)
    index, _ = await core.select(core.Channel().recv(), channel.recv(), timeout=2)
    assert index == 1
    assert loop.time() == pytest.approx(3.5)
    await asyncio.sleep(10)  # the timer of a select that ended does nothing more


@pytest.mark.virtual_time
async def test_select_woken_by_a_close_that_another_took_keeps_its_deadline(core: Any) -> None:
    loop = asyncio.get_running_loop()
    channel = core.Channel(1)
    channel.close()
    assert (await core.select(channel.recv(), timeout=5))[0] == 0
    assert await core.select(core.Channel().recv(), timeout=5) == (None, None)
    assert loop.time() == pytest.approx(5)


async def test_select_repr_and_description_name_the_cases(core: Any) -> None:
    a, b = core.Channel(name="a"), core.Channel(name="b")
    select = core.select(a.recv(), None, b.send(1), timeout=0)
    assert "receiving from a or sending to b" in repr(select)
    await select


async def test_select_names_the_first_case_that_it_refuses(core: Any) -> None:
    case = core.Channel().recv()
    with pytest.raises(RuntimeError, match="case 1 of select was used already"):
        core.select(case, case, None, case)


@pytest.mark.parametrize("kind", ["future", "event"])
async def test_select_favours_neither_of_two_cases_that_are_done_at_one_instant(
    core: Any, kind: str
) -> None:
    loop = asyncio.get_running_loop()
    chosen: set[int] = set()
    for _ in range(64):
        source: Any = loop.create_future() if kind == "future" else asyncio.Event()
        parked = asyncio.ensure_future(core.select(core.done(source), core.done(source)))
        await asyncio.sleep(0)
        source.set_result(True) if kind == "future" else source.set()
        chosen.add((await parked)[0])
    assert chosen == {0, 1}
