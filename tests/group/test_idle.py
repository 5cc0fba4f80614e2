"""Group rule 5, further: what counts as idle."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tailrace import (
    Channel,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    after,
    done,
    select,
    ticker,
    together,
)
from tailrace.group import idle
from tailrace.group.activity import Activity

pytestmark = pytest.mark.virtual_time


async def forward(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await asyncio.sleep(1)
        await out.send(value)


async def test_results_that_wait_for_somebody_outside_do_not_keep_a_group_busy() -> None:
    todo, results = Channel[int](), Channel[int](10)
    async with asyncio.timeout(5), Group() as go:
        go(forward, todo, results)
        await todo.send(1)
        await go.idle()
        assert results.recv_nowait() == 1
        go.cancel()


async def test_a_value_that_an_actor_has_yet_to_receive_keeps_it_busy() -> None:
    todo, results = Channel[int](10), Channel[int](10)
    async with Group() as go:
        go(forward, todo, results)
        for n in range(3):
            await todo.send(n)
        await go.idle()
        assert len(results) == 3
        assert go.loop.time() == 3
        go.cancel()


async def test_two_actors_that_wait_for_idleness_do_not_wait_for_each_other() -> None:
    a, b = Channel[int](), Channel[int](10)

    async def waits(go: Group, out: Sender[int]) -> None:
        await go.idle()

    async with asyncio.timeout(5), Group() as go:
        go(forward, a, b)
        go(waits, go, a, actors=2)


async def test_a_sender_that_is_parked_is_not_idle() -> None:
    a, b = Channel[int](), Channel[int]()
    async with Group() as go:
        go(forward, a, b)
        await a.send(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await go.idle()
        go.cancel()


# What ends without a value is not idle.


@pytest.mark.parametrize("how", ["timeout", "after", "ticker", "done", "deadline", "wait_for"])
async def test_an_actor_that_holds_work_until_a_timer_or_event_is_not_idle(how: str) -> None:
    a, b = Channel[int](math.inf), Channel[list[int]](math.inf)
    flush = asyncio.Event()
    stored: list[list[int]] = []

    async def within(inbox: Receiver[int]) -> int:
        async with asyncio.timeout(1):
            return await inbox.recv()

    async def one_more(inbox: Receiver[int], timer: Receiver[float]) -> int | None:
        try:
            match how:
                case "timeout":
                    value = (await select(inbox.recv(), timeout=1))[1]
                    return value if isinstance(value, int) else None
                case "deadline":
                    return await within(inbox)
                case "wait_for":
                    return await asyncio.wait_for(inbox.recv(), 1)
                case "done":
                    match await select(inbox.recv(), done(flush), priority=True):
                        case 0, int(value):
                            return value
                        case _:
                            return None
                case _:
                    match await select(inbox.recv(), timer.recv(), priority=True):
                        case 0, int(value):
                            return value
                        case _:
                            return None
        except TimeoutError:
            return None

    async def batch(inbox: Receiver[int], out: Sender[list[int]]) -> None:
        while True:
            held = [await inbox.recv()]
            timer = ticker(1) if how == "ticker" else after(1)
            while (value := await one_more(inbox, timer)) is not None:
                held.append(value)
            await out.send(held)

    async def sink(inbox: Receiver[list[int]]) -> None:
        async for each in inbox:
            stored.append(each)

    async with Group() as go:
        go(batch, a, b)
        go(sink, b)
        for n in range(3):
            await a.send(n)
        go.loop.call_later(2, flush.set)
        await go.idle()
        assert stored == [[0, 1, 2]]
        go.cancel()


async def test_a_timer_that_has_fired_and_a_timeout_that_is_over_keep_nobody_busy() -> None:
    async def patient(inbox: Receiver[int]) -> None:
        timer = after(1)
        await timer.recv()
        async with asyncio.timeout(5) as over:
            await asyncio.sleep(1)
        match await select(timer.recv(), inbox.recv()):
            case _:
                assert not over.expired()

    async with Group() as go:
        go(patient, Channel[int]())
        await go.idle()
        assert go.loop.time() == 2
        go.cancel()


async def test_a_thread_that_works_or_waits_with_a_timeout_is_not_idle() -> None:
    todo, results = Channel[int](math.inf), Channel[int](math.inf)

    def work(inbox: SyncReceiver[int], out: SyncSender[int]) -> None:
        for value in inbox:
            if value:
                out.send(value - 1)

    def hesitate(inbox: SyncReceiver[int], out: SyncSender[int]) -> None:
        try:
            inbox.recv(timeout=0.05)
        except TimeoutError:
            out.send(50)
        inbox.recv()

    async with Group() as go:
        go(work, todo.sync, results.sync, name="there")
        go(work, results.sync, todo.sync, name="back")
        go(hesitate, Channel[int]().sync, todo.sync)
        await todo.send(100)
        await go.idle()
        assert (todo.statistics().received, results.statistics().received) == (77, 75)
        go.cancel()


async def test_a_group_inside_an_actor_counts_while_the_actor_waits_for_its_end() -> None:
    todo, inner_todo, results = (Channel[int](math.inf) for _ in range(3))

    async def nested(inbox: Receiver[int], out: Sender[int]) -> None:
        async with Group() as inner:
            inner(forward, inbox, out, actors=2)

    async with Group() as go:
        go(nested, todo, inner_todo)
        go(nested, inner_todo, results)
        for n in range(4):
            await todo.send(n)
        await go.idle()
        assert (len(results), go.loop.time()) == (4, 3)
        go.cancel()


async def test_groups_that_pass_values_to_each_other_are_idle_each_for_itself() -> None:
    a, b, c = (Channel[int](math.inf) for _ in range(3))
    async with Group() as first, Group() as second:
        first(forward, a, b)
        second(forward, b, c)
        for n in range(3):
            await a.send(n)
        await first.idle()
        assert first.loop.time() == 3
        await second.idle()
        assert second.loop.time() == 4
        first.cancel()
        second.cancel()


async def test_an_actor_that_asks_backends_goes_on_while_somebody_waits_for_idleness() -> None:
    asked: list[float] = []

    async def asks(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            await together(asyncio.sleep(1), asyncio.sleep(2))
            asked.append(go.loop.time())

    todo = Channel[int](2)
    async with asyncio.timeout(50), Group() as go:
        go(asks, todo)
        await todo.send(1)
        await todo.send(2)
        await go.idle()
        assert asked == [2, 4]
        go.cancel()


async def test_all_that_wait_for_idleness_are_told_and_one_that_gives_up_stops_nobody() -> None:
    a, b = Channel[int](math.inf), Channel[int](math.inf)
    told: list[float] = []

    async def waits(go: Group) -> None:
        await go.idle()
        told.append(go.loop.time())

    async with Group() as go:
        go(forward, a, b)
        go(waits, go, actors=3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                for n in range(4):
                    await a.send(n)
                await go.idle()
        helper = asyncio.create_task(waits(go))
        await go.idle()
        await helper
        assert told == [4, 4, 4, 4]
        go.cancel()


async def test_an_actor_that_was_told_and_has_not_run_yet_is_not_idle() -> None:
    todo = Channel[int](math.inf)
    seen: list[int] = []

    async def once_more(go: Group, out: Sender[int]) -> None:
        await go.idle()
        await out.send(1)

    async def work(inbox: Receiver[int]) -> None:
        async for value in inbox:
            await asyncio.sleep(value)
            seen.append(value)

    async with Group() as go:
        go(work, todo)
        go(once_more, go, todo)
        await asyncio.sleep(0)
        await go.idle()
        await go.idle()
        assert seen == [1]


async def test_idle_looks_at_nobody_while_one_actor_stays_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[object] = []
    activity_of = idle.activity_of

    def looking(task: asyncio.Task[object]) -> Activity:
        looked.append(task)
        return activity_of(task)

    monkeypatch.setattr(idle, "activity_of", looking)
    todo, never = Channel[int](), Channel[int]()

    async def wait(inbox: Receiver[int]) -> None:
        await inbox.recv()

    async def busy(out: Sender[int]) -> None:
        for n in range(1000):
            await out.send(n)
        await asyncio.sleep(1000)

    async def take(inbox: Receiver[int]) -> None:
        for _ in range(1000):
            await inbox.recv()

    async with Group() as go:
        go(wait, never, actors=500)
        go(busy, todo)
        go(take, todo)
        await go.idle()
        assert go.loop.time() == 1000
        assert len(looked) < 500 * 5
        go.cancel()


def test_idle_returns_promptly_beside_a_relay_that_gives_the_loop_no_quiet_moment(
    any_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def ping(a: Channel[int], b: Channel[int]) -> None:
        while True:
            await a.send(await b.recv())

    async def main() -> None:
        relay, todo, results = [Channel[int](1) for _ in range(2)], Channel[int](), Channel[int](9)
        async with Group() as other, Group() as go:
            other(ping, relay[0], relay[1])
            other(ping, relay[1], relay[0])
            await relay[0].send(1)
            go(forward_at_once, todo, results)
            for n in range(3):
                await todo.send(n)
                async with asyncio.timeout(5):
                    await go.idle()
                assert len(results) == n + 1
            go.cancel()
            other.cancel()

    with asyncio.Runner(loop_factory=any_loop) as runner:
        runner.run(main())


async def forward_at_once(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value)


class Proxy:
    """Stands for something that is not there yet, as werkzeug's LocalProxy."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("unbound")

    @__class__.setter
    def __class__(self, _: type) -> None: ...


class HasAny:
    """Has every attribute, as a mock; that of a running timeout too."""

    def __getattr__(self, name: str) -> str:
        return name


class OfNoModule(HasAny):
    __module__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Proxy, HasAny, OfNoModule], ids=lambda kind: kind.__name__)
async def test_variables_of_actors_are_asked_nothing(kind: type[Any]) -> None:
    async def holds(inbox: Receiver[int]) -> None:
        proxy = kind()
        async for _ in inbox:
            del proxy

    numbers = Channel[int]()
    async with Group(stall_after=4) as go, asyncio.timeout(20):
        go(holds, numbers)
        with numbers.sending():
            await go.idle()
            await asyncio.sleep(10)  # the watch looks, too
            await go.idle()


async def test_to_join_no_group_is_nothing() -> None:
    with idle.joining(None):
        joined = True
    assert joined


@pytest.mark.parametrize("sends", [0, 3])
async def test_a_group_is_idle_once_its_last_busy_actor_a_thread_has_ended(sends: int) -> None:
    def thread(out: SyncSender[int], resume: threading.Event) -> None:
        for n in range(sends):
            out.send(n)
        resume.wait(10)

    async def waits(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            pass

    values = Channel[int](name="values")
    resume = threading.Event()
    async with Group(on_exit="cancel") as go:
        go(waits, values)
        with values.sending():
            go(thread, values.sync, resume)
            idle = asyncio.create_task(go.idle())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not idle.done()
            resume.set()
            await asyncio.wait_for(idle, 10)
