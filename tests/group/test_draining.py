"""Group rules 4 and 5: sources, `finish`, groups inside actors, and `wait`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tailrace import Channel, Closed, Group, Message, Receiver, Sender, collect, emit, together

pytestmark = pytest.mark.virtual_time


async def receive_all(inbox: Receiver[Any]) -> None:
    async for _ in inbox:
        pass


async def count(out: Sender[int]) -> None:
    n = 0
    while True:
        await out.send(n)
        n += 1
        await asyncio.sleep(1)


# Stopping a source: once, and so that it can clean up.


class Source:
    """Counts how often it is asked to drain, and ends when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Event()

    async def __call__(self, out: Sender[int]) -> None:
        await self.let.wait()

    async def drain(self) -> None:
        self.asked += 1
        await asyncio.sleep(1)
        self.let.set()


async def test_group_4_a_second_drain_asks_no_source_again_and_interrupts_no_clean_up() -> None:
    source = Source()
    cleaned: list[str] = []

    async def cleans_up(out: Sender[int]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned.append("up")

    async with Group() as go:
        go(source, Channel[int]())
        go(cleans_up, Channel[int]())
        await asyncio.sleep(1)
        go.drain()
        await asyncio.sleep(0.5)
        go.drain()
    assert source.asked == 1
    assert cleaned == ["up"]


async def test_group_4_a_plain_drain_method_will_do() -> None:
    class Plain(Source):
        def drain(self) -> None:  # type: ignore[override]
            self.let.set()

    async with asyncio.timeout(1):
        async with Group(on_exit="drain") as go:
            go(Plain(), Channel[int]())
            await asyncio.sleep(0)


async def test_group_4_a_drain_that_ends_after_its_actor_keeps_no_block_waiting() -> None:
    class Late(Source):
        async def drain(self) -> None:
            self.let.set()
            await asyncio.sleep(5)

    channel = Channel[int]()
    async with asyncio.timeout(6):
        async with Group() as go:
            go(Late(), channel)
            await asyncio.sleep(0)
            go.drain()
            await asyncio.sleep(1)
            assert not channel.closed  # its stage has not ended
    assert channel.closed


async def test_group_4_a_drain_that_hangs_is_cancelled_with_its_group() -> None:
    class Hangs(Source):
        async def drain(self) -> None:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with Group() as go:
            go(Hangs(), Channel[int]())
            await asyncio.sleep(0)
            go.drain()
            await asyncio.sleep(1)
            go.cancel()


async def test_group_2_the_clean_up_of_background_actors_is_interrupted_by_nobody() -> None:
    cleaned: list[float] = []

    async def reports(seconds: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(seconds)
            cleaned.append(seconds)

    async with Group() as go:
        go(reports, 1.0, background=True)
        go(reports, 2.0, background=True)
        go(asyncio.sleep, 1)
    assert cleaned == [1.0, 2.0]


async def test_group_3_a_cancelled_group_says_nothing_of_values_that_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never_looks(inbox: Receiver[int]) -> None:
        await asyncio.Event().wait()

    for end in ("cancel", "drain"):
        channel = Channel[int](10)
        async with Group() as go:
            go(never_looks, channel)
            go(emit([1, 2, 3]), channel)
            await asyncio.sleep(1)
            if end == "drain":
                go.drain()
            go.cancel()
    assert caplog.messages == []


# finish: after the stage has let go of its ends.


class Acknowledged:
    """A source whose messages are settled by a stage that holds them until end-of-stream."""

    def __init__(self, messages: int) -> None:
        self.messages = [Message(n) for n in range(messages)]
        self.endings = [message.settled() for message in self.messages]
        self.statuses: list[str] = []

    async def __call__(self, out: Sender[Message[int]]) -> None:
        while self.messages:
            await out.send(self.messages.pop(0))

    async def finish(self) -> None:
        for ending in self.endings:
            self.statuses.append((await ending).status)


async def hold_until_the_end(inbox: Receiver[Message[int]]) -> None:
    for message in await collect(inbox):
        message.ack()


async def test_group_4_finish_is_awaited_once_the_ends_are_let_go() -> None:
    source = Acknowledged(3)
    channel = Channel[Message[int]]()
    async with asyncio.timeout(5):
        async with Group() as go:
            go(source, channel)
            go(hold_until_the_end, channel)
    assert source.statuses == ["stored"] * 3


async def test_group_4_finish_is_awaited_once_for_all_actors_of_a_stage_and_may_be_plain() -> None:
    finished: list[bool] = []
    channel = Channel[int](5)

    class Actor:
        async def __call__(self, out: Sender[int]) -> None:
            await out.send(1)

        def finish(self) -> None:
            finished.append(channel.closed)

    async with Group() as go:
        go(Actor(), channel, actors=3)
    assert finished == [True]


async def test_group_4_what_finish_raises_is_a_failure_of_the_group() -> None:
    class Fails:
        async def __call__(self) -> None:
            pass

        async def finish(self) -> None:
            raise ValueError("unfinished")

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(Fails(), name="source")
            go(receive_all, Channel[int]())
    (error,) = caught.value.exceptions
    assert str(error) == "unfinished"
    assert error.__notes__ == ["in actor 'source.finish' of stage 'source'"]


@pytest.mark.parametrize("when", ["before it ends", "while it finishes"])
async def test_group_4_a_cancelled_group_finishes_nothing(when: str) -> None:
    seen: list[str] = []

    class Actor:
        async def __call__(self) -> None:
            if when == "before it ends":
                await asyncio.Event().wait()

        async def finish(self) -> None:
            seen.append("begun")
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with Group() as go:
            go(Actor())
            await asyncio.sleep(1)
            if when == "while it finishes":
                (state,) = go.actors()
                assert state.name == "Actor.finish"
            go.cancel()
    assert seen == ([] if when == "before it ends" else ["begun"])


# Groups inside actors are drained with them.


class Inner:
    """Runs a pipeline of its own, and `body` in its block."""

    def __init__(self, body: Callable[[Group], Awaitable[None]] | None = None) -> None:
        self.body = body
        self.got: list[int] = []
        self.ended: str = ""

    async def __call__(self) -> None:
        try:
            await self.pipeline()
            self.ended = "well"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise

    async def pipeline(self) -> None:
        async with Group() as go:
            numbers = Channel[int]()
            go(count, numbers)
            go(self.sink, numbers)
            if self.body is not None:
                await self.body(go)

    async def sink(self, inbox: Receiver[int]) -> None:
        self.got += await collect(inbox)


async def stay(go: Group) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("body", [None, stay, Group.wait])
@pytest.mark.parametrize("depth", [1, 2])
async def test_group_4_groups_entered_inside_an_actor_are_drained_with_it(
    body: Callable[[Group], Awaitable[None]] | None, depth: int
) -> None:
    inner = Inner(body)

    async def nest(levels: int) -> None:
        async with Group() as go:
            go(inner) if levels == 1 else go(nest, levels - 1)

    async with asyncio.timeout(20):
        async with Group() as go:
            go(nest, depth)
            await asyncio.sleep(3.5)
            go.drain()
    assert inner.got == [0, 1, 2, 3]
    assert inner.ended == ("cancelled" if body is stay else "well")


async def test_group_4_a_group_in_a_task_that_an_actor_started_is_drained_too() -> None:
    inner = Inner()

    async def starts_tasks() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inner())

    async with asyncio.timeout(20):
        async with Group() as go:
            go(starts_tasks)
            await asyncio.sleep(3.5)
            go.drain()
    assert (inner.got, inner.ended) == ([0, 1, 2, 3], "well")


async def test_group_4_a_source_that_enters_one_group_after_another_begins_no_more() -> None:
    rounds: list[int] = []

    async def forever() -> None:
        while True:
            rounds.append(1)
            inner = Inner()
            await inner.pipeline()

    async with asyncio.timeout(20):
        async with Group() as go:
            go(forever)
            await asyncio.sleep(3.5)
            go.drain()
    assert len(rounds) == 2


async def test_group_4_a_drain_leaves_the_groups_of_those_that_receive_alone() -> None:
    done: list[int] = []

    async def handles(inbox: Receiver[int]) -> None:
        async for n in inbox:
            async with Group() as go:
                parts = Channel[int]()
                go(emit(range(3)), parts)

                async def part(inbox: Receiver[int], n: int = n) -> None:
                    async for m in inbox:
                        await asyncio.sleep(1)
                        done.append(10 * n + m)

                go(part, parts)

    async with Group() as go:
        numbers = Channel[int]()
        go(count, numbers)
        go(handles, numbers)
        await asyncio.sleep(1.5)
        go.drain()
    assert done[-1] % 10 == 2  # none was cut short


async def test_group_4_a_cancelled_actor_cancels_its_groups_even_after_a_drain() -> None:
    inner = Inner()

    async def hangs(inbox: Receiver[int]) -> None:
        await asyncio.Event().wait()

    async def nest() -> None:
        async with Group() as go:
            go(inner)
            go(hangs, Channel[int]())

    async with asyncio.timeout(20):
        async with Group() as go:
            go(nest)
            await asyncio.sleep(1)
            go.drain()
            await asyncio.sleep(1)
            go.cancel()


async def goes_on(out: Sender[int], inner: Inner) -> None:
    await inner.pipeline()
    await out.send(-1)  # what it has in hand is sent
    await asyncio.Event().wait()


async def goes_on_in_a_group(out: Sender[int], inner: Inner) -> None:
    async with Group():
        await goes_on(out, inner)


async def goes_on_beside_a_group(out: Sender[int], inner: Inner) -> None:
    task = asyncio.create_task(inner())
    while True:
        await out.send(-1)
        await asyncio.wait([task], timeout=0.5)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("source", [goes_on, goes_on_in_a_group, goes_on_beside_a_group])
@pytest.mark.parametrize("actors", [1, 3])
async def test_group_4_a_source_that_goes_on_after_its_group_was_drained_is_stopped_then(
    source: Callable[[Sender[int], Inner], Awaitable[None]], actors: int
) -> None:
    inners = [Inner() for _ in range(actors)]
    left = iter(inners)
    got: list[int] = []

    async def start(out: Sender[int]) -> None:
        await source(out, next(left))

    async def sink(inbox: Receiver[int]) -> None:
        got.extend(await collect(inbox))

    async with asyncio.timeout(20):
        async with Group() as go:
            results = Channel[int]()
            go(start, results, actors=actors)
            go(sink, results)
            await asyncio.sleep(3.5)
            go.drain()
    assert [inner.got for inner in inners] == [[0, 1, 2, 3]] * actors
    assert len(got) >= actors


async def test_group_4_a_source_is_cancelled_once_whatever_groups_it_leaves() -> None:
    cleaned: list[int] = []

    async def cleans(out: Sender[int]) -> None:
        try:
            async with Group():
                try:
                    async with Group():
                        await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(1)
                    cleaned.append(1)
        finally:
            await asyncio.sleep(1)
            cleaned.append(2)

    async with asyncio.timeout(20):
        async with Group() as go:
            results = Channel[int]()
            go(cleans, results)
            go(receive_all, results)
            await asyncio.sleep(1)
            go.drain()
    assert cleaned == [1, 2]


# wait.


@pytest.mark.parametrize("until", [Group.wait, Group.idle])
async def test_group_5_a_drain_method_that_still_runs_is_waited_for(
    until: Callable[[Group], Awaitable[None]],
) -> None:
    class Answers:
        def __init__(self) -> None:
            self.done: list[str] = []

        async def __call__(self, out: Sender[int]) -> None: ...

        async def drain(self) -> None:
            await asyncio.sleep(5)
            self.done.append("drained")

        async def finish(self) -> None:
            await asyncio.sleep(5)
            self.done.append("finished")

    answers = Answers()
    async with Group() as go:
        numbers = Channel[int]()
        go(answers, numbers)
        go(receive_all, numbers)
        go.drain()
        await asyncio.sleep(1)  # its actor has ended
        assert [each.name for each in go.actors()][:1] == ["Answers.drain"]
        await until(go)
    assert answers.done == ["drained", "finished"]


async def test_group_5_wait_returns_when_all_but_the_background_have_ended() -> None:
    loop = asyncio.get_running_loop()
    async with Group() as go:
        await go.wait()  # for nobody
        go(asyncio.sleep, 3)
        go(asyncio.sleep, 5)
        go(asyncio.Event().wait, background=True)  # type: ignore[arg-type]
        begun = loop.time()
        await go.wait()
        assert loop.time() - begun == 5
        go(asyncio.sleep, 1)
        await go.wait()
        assert loop.time() - begun == 6
    await go.wait()


async def test_group_5_wait_outlasts_a_finish() -> None:
    source = Acknowledged(3)
    channel = Channel[Message[int]]()
    async with Group() as go:
        go(source, channel)
        go(hold_until_the_end, channel)
        await go.wait()
        assert len(source.statuses) == 3


async def test_group_5_actors_that_wait_wait_for_the_others() -> None:
    order: list[str] = []

    async def waits(name: str) -> None:
        await go.wait()
        order.append(name)

    async def works() -> None:
        await asyncio.sleep(1)
        order.append("works")

    async with asyncio.timeout(5):
        async with Group() as go:
            go(waits, "first")
            go(works)
            go(waits, "second")
            await go.wait()
    assert order[0] == "works"
    assert sorted(order[1:]) == ["first", "second"]


@pytest.mark.parametrize("actors", [2, 3])
async def test_group_5_actors_of_one_stage_that_wait_all_return(actors: int) -> None:
    order: list[str] = []

    async def waits(seconds: int) -> None:
        await asyncio.sleep(seconds)
        await go.wait()
        order.append("waits")
        await asyncio.sleep(seconds)

    async def works() -> None:
        await asyncio.sleep(5)
        order.append("works")

    for seconds in (0, 1):
        order.clear()
        async with asyncio.timeout(30), Group() as go:
            go(waits, seconds, actors=actors)
            go(works)
        assert order == ["works"] + actors * ["waits"]


async def test_group_5_an_actor_that_waits_while_another_of_its_stage_works_returns() -> None:
    order: list[str] = []

    async def waits_or_works(inbox: Receiver[str]) -> None:
        match await inbox.recv():
            case "wait":
                await go.wait()
                order.append("returned")
            case _:
                await asyncio.sleep(5)
                order.append("worked")

    inbox = Channel[str](2)
    async with asyncio.timeout(30), Group() as go:
        go(waits_or_works, inbox, actors=2)
        await inbox.send("wait")
        await inbox.send("work")
    assert order == ["worked", "returned"]


Wait = Callable[[], Coroutine[Any, Any, None]]


async def by_gather(wait: Wait) -> None:
    await asyncio.gather(asyncio.sleep(1), wait())


async def by_task(wait: Wait) -> None:
    await asyncio.create_task(wait())


async def by_tasks(wait: Wait) -> None:
    await asyncio.create_task(by_task(wait))


async def by_wait(wait: Wait) -> None:
    await asyncio.wait([asyncio.create_task(wait())])


async def by_wait_for(wait: Wait) -> None:
    await asyncio.wait_for(by_shield(wait), 1000)


async def by_shield(wait: Wait) -> None:
    await asyncio.shield(wait())


async def by_task_group(wait: Wait) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait())
        tasks.create_task(asyncio.sleep(1))


async def by_together(wait: Wait) -> None:
    await together(asyncio.sleep(1), wait())


WAYS = [by_gather, by_task, by_tasks, by_wait, by_wait_for, by_shield, by_task_group, by_together]


@pytest.mark.parametrize("until", ["wait", "idle"])
@pytest.mark.parametrize("way", WAYS)
async def test_group_5_an_actor_may_wait_through_tasks_that_it_started(
    way: Callable[[Wait], Coroutine[Any, Any, None]], until: str
) -> None:
    async def waits() -> None:
        await way(go.wait if until == "wait" else go.idle)

    async with asyncio.timeout(100), Group() as go:
        go(waits, actors=2)
        go(asyncio.sleep, 5)


async def test_group_5_a_task_that_waits_for_something_else_beside_one_that_waits_does_not() -> (
    None
):
    async def works() -> None:
        helper = asyncio.create_task(go.wait())
        await asyncio.sleep(5)
        worked.append(go.loop.time())
        helper.cancel()

    worked: list[float] = []
    async with Group() as go:
        go(works)
        go(asyncio.sleep, 1)
        await go.wait()
        assert worked == [5]


async def test_group_5_a_failure_interrupts_wait() -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise ValueError("x")

    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            go(fails)
            go(receive_all, Channel[int]())
            await go.wait()
            pytest.fail("it went on")


async def test_group_5_a_wait_that_is_cancelled_changes_nothing() -> None:
    async with Group() as go:
        go(asyncio.sleep, 3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await go.wait()
        await go.wait()


async def test_group_5_wait_outside_the_block_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="enter its block first"):
        await Group().wait()


def test_group_4_a_group_in_a_thread_with_a_loop_of_its_own_is_drained_too() -> None:
    inner = Inner()
    running = threading.Event()

    async def begin(go: Group) -> None:
        running.set()

    inner.body = begin

    def thread() -> None:
        asyncio.run(inner())

    async def outer() -> None:
        async with asyncio.timeout(20):
            async with Group() as go:
                go(thread)
                while not running.is_set():
                    await asyncio.sleep(0.01)
                go.drain()

    asyncio.run(outer())
    assert inner.ended == "well"


# What a stopped source holds by hand.


async def test_group_4_a_drained_source_ends_the_stream_that_it_sends_inside_a_block() -> None:
    channel = Channel[int]()
    received: list[int] = []

    async def main() -> None:
        with channel.sending() as out:
            await count(out)

    async def sink(inbox: Receiver[int]) -> None:
        received.extend(await collect(inbox))

    async with Group() as go:
        go(main, source=True)
        go(sink, channel)
        await asyncio.sleep(2.5)
        go.drain()
    assert received == [0, 1, 2]


async def test_group_4_a_task_of_a_drained_source_ends_its_stream_too() -> None:
    channel = Channel[int]()

    async def feed() -> None:
        with channel.sending() as out:
            await count(out)

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed())

    async with Group() as go:
        go(main, source=True)
        go(receive_all, channel)
        await asyncio.sleep(2.5)
        go.drain()
    assert channel.closed


async def test_group_4_a_thread_that_is_drained_ends_its_stream_too() -> None:
    channel = Channel[int]()
    received: list[int] = []

    def main() -> None:
        with channel.sending():
            for n in range(10**6):
                channel.sync.send(n)

    async def sink(inbox: Receiver[int]) -> None:
        async for n in inbox:
            received.append(n)
            if n == 2:
                go.drain()

    async with Group() as go:
        go(main, source=True)
        go(sink, channel)
    assert received[:3] == [0, 1, 2]


async def test_a_stream_that_a_cancelled_block_was_sending_is_cut_off() -> None:
    channel = Channel[int]()

    async def main() -> None:
        with channel.sending() as out:
            await count(out)

    sending = asyncio.create_task(main())
    assert await channel.recv() == 0
    sending.cancel()
    with pytest.raises(Closed) as raised:
        await channel.recv()
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


async def test_a_cancelled_block_that_receives_stops_its_senders_well() -> None:
    channel = Channel[int]()

    async def main() -> None:
        with channel.receiving() as inbox:
            await collect(inbox)

    async with Group() as go:
        receiving = asyncio.create_task(main())
        go(count, channel)
        await asyncio.sleep(2.5)
        receiving.cancel()
    assert channel.closed
