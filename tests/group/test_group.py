"""Group rules 1, 2, 4, 5, 7 and 8: actors, failures, sources, idle, the wait-for graph."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from tailrace import (
    Channel,
    Closed,
    Deadlock,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    after,
    collect,
    emit,
    select,
    ticker,
)
from tailrace.testing import run as run_virtually

pytestmark = pytest.mark.virtual_time


# Rule 1: what an actor is.


async def test_group_1_go_returns_none_and_starts_coroutine_functions_and_objects() -> None:
    seen: list[str] = []

    class Actor:
        async def __call__(self, word: str) -> None:
            seen.append(word)

    async def function(word: str) -> None:
        seen.append(word)

    async with Group() as go:
        assert cast(object, go(Actor(), "object")) is None
        go(function, "function", actors=2)
        assert not seen  # nothing runs before the caller waits
    assert seen == ["object", "function", "function"]


async def test_group_1_a_plain_function_runs_on_a_thread_of_its_own() -> None:
    squares = Channel[int](name="squares")
    threads: set[str] = set()

    def square(numbers: SyncReceiver[int], out: SyncSender[int]) -> None:
        threads.add(threading.current_thread().name)
        for number in numbers:
            out.send(number * number)

    numbers = Channel[int]()
    async with Group() as go:
        go(emit(range(5)), numbers)
        go(square, numbers.sync, squares.sync, actors=2)
        assert sorted(await collect(squares)) == [0, 1, 4, 9, 16]
    assert threads == {"square#1", "square#2"}


async def test_group_1_a_plain_function_that_returns_an_awaitable_is_an_error() -> None:
    async def work() -> None: ...

    def looks_plain() -> Awaitable[None]:
        return work()

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(looks_plain)
    assert "returned an awaitable" in str(caught.value.exceptions[0])
    assert isinstance(caught.value.exceptions[0], TypeError)


async def test_group_1_cancelling_a_thread_wakes_its_parked_operation() -> None:
    never = Channel[int]()
    heard: list[BaseException] = []

    def wait(inbox: SyncReceiver[int]) -> None:
        try:
            inbox.recv()
        except BaseException as error:
            heard.append(error)
            raise

    async with Group() as go:
        go(wait, never.sync)
        go.loop.call_later(1.0, go.cancel)
    assert isinstance(heard[0], asyncio.CancelledError)


async def test_group_1_cancelling_a_thread_fails_its_next_operation() -> None:
    out = Channel[int](1)
    let_it_go_on = threading.Event()
    running = Channel[None](1)

    def work(out: SyncSender[int], running: SyncSender[None]) -> None:
        running.send(None)
        let_it_go_on.wait(5)
        out.send(1)

    async with Group() as go:
        go(work, out.sync, running.sync)
        await running.recv()
        go.cancel()
        let_it_go_on.set()
    assert len(out) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda go, a: go(3), "go takes a function and its arguments"),
        (lambda go, a: go(emit([1])), r"emit.* cannot be called so: missing a required argument"),
        (lambda go, a: go(emit([1]), a, a), r"emit.*cannot be called so: too many"),
        (lambda go, a: go(emit([1]), a, actors=0), "actors must be a whole number"),
        (lambda go, a: go(emit([1]), a, actors=True), "actors must be a whole number"),
    ],
)
async def test_group_1_wrong_arguments_are_named_before_anything_starts(
    call: Any, message: str
) -> None:
    a = Channel[int]()
    async with Group() as go:
        with pytest.raises((TypeError, ValueError), match=message):
            call(go, a)
        assert go.actors() == []
    assert not a.closed  # nobody has ever held it


async def test_group_1_go_outside_the_block_is_an_error() -> None:
    go = Group()
    with pytest.raises(RuntimeError, match="before its block"):
        go(collect, Channel[int]())  # type: ignore[arg-type]  # gives a list; never called
    async with go:
        pass
    with pytest.raises(RuntimeError, match="after its block has ended"):
        go(collect, Channel[int]())  # type: ignore[arg-type]  # as above
    with pytest.raises(RuntimeError, match="entered once"):
        await go.__aenter__()


async def test_group_1_names_are_made_unique_and_given_ones_must_be() -> None:
    async def work() -> None: ...

    async with Group() as go:
        go(work)
        go(work)
        go(work, name="other")
        with pytest.raises(ValueError, match="'other' already"):
            go(work, name="other")
        assert [stage.name for stage in go.graph().stages] == ["work", "work-2", "other"]


# Rule 2: the block and its failures.


async def test_group_2_the_first_failure_cancels_the_others_and_is_noted() -> None:
    ended: list[str] = []
    a = Channel[int](name="a")

    async def fails(inbox: Receiver[int]) -> None:
        await inbox.recv()
        raise ValueError("boom")

    async def sleeps() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("sleeps")

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(sleeps)
            go(fails, a, actors=2)
            await a.send(1)
            await asyncio.sleep(1e6)  # the block itself is interrupted too
    (error,) = caught.value.exceptions
    assert str(error) == "boom"
    assert error.__notes__ == ["in actor 'fails#1' of stage 'fails', receiving from a"]
    assert ended == ["sleeps"]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # there is one


async def test_group_2_all_failures_of_the_same_instant_are_raised() -> None:
    async def fails(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fails, 1)
            go(fails, 2)
    assert [error.args for error in caught.value.exceptions] == [(1,), (2,)]


async def test_group_2_an_exception_of_the_block_cancels_and_joins_the_failures() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(1e6)

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(sleeps)
            raise KeyError("block")
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


async def test_group_2_outer_cancellation_passes_through_once_all_have_ended() -> None:
    ended: list[int] = []

    async def sleeps() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(1)
            ended.append(1)

    async def block() -> None:
        async with Group() as go:
            go(sleeps, actors=3)

    task = asyncio.create_task(block())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1, 1, 1]


async def test_group_2_a_timeout_around_the_block_works() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(1e6)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5), Group() as go:
            go(sleeps)
    assert asyncio.get_running_loop().time() == 5


async def test_group_2_cancel_ends_all_and_the_block_without_an_error() -> None:
    async def stops_everything(go: Group) -> None:
        await asyncio.sleep(1)
        go.cancel()

    async with Group() as go:
        go(stops_everything, go)
        await asyncio.sleep(1e6)
    assert asyncio.get_running_loop().time() == 1
    await asyncio.sleep(0)  # and nothing is left behind


async def test_group_2_interrupting_a_block_that_ends_at_once_leaves_no_stray_cancellation() -> (
    None
):
    async def fails(wake: asyncio.Event) -> None:
        wake.set()
        raise ValueError

    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            wake = asyncio.Event()
            go(fails, wake)
            await wake.wait()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # there is one
    await asyncio.sleep(0)


async def test_group_2_background_actors_are_cancelled_once_the_others_have_ended() -> None:
    ticks: list[float] = []

    async def report(clock: Receiver[float]) -> None:
        async for now in clock:
            ticks.append(now)

    async def work() -> None:
        await asyncio.sleep(3.5)

    async with Group() as go:
        go(report, ticker(1), background=True)
        go(work)
    assert ticks == [1, 2, 3]


async def test_group_2_a_swallowed_cancellation_does_not_hang_the_block() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async with Group() as go:
        go(stubborn)
        go.loop.call_later(1, go.cancel)
    assert asyncio.get_running_loop().time() == 2


@pytest.mark.parametrize(("on_exit", "got"), [("wait", 5), ("drain", 1), ("cancel", 0)])
async def test_group_2_on_exit_says_what_leaving_does(on_exit: Any, got: int) -> None:
    out = Channel[int](10)

    async def source(out: Sender[int]) -> None:
        for i in range(5):
            await out.send(i)
            await asyncio.sleep(1)

    async with Group(on_exit=on_exit) as go:
        go(source, out)
        if on_exit == "drain":
            await asyncio.sleep(0)
    assert len(out) == got


def test_group_2_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="on_exit must be 'wait', 'drain' or 'cancel'"):
        Group(on_exit="later")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="stall_after must be seconds"):
        Group(stall_after=-1)


# Rule 4: sources and draining.


async def test_group_4_drain_finishes_the_parked_send_and_stops_at_the_next_await() -> None:
    a = Channel[int]()
    got: list[int] = []
    after_send: list[str] = []

    async def source(out: Sender[int]) -> None:
        try:
            await out.send(1)
            after_send.append("returned")
            await asyncio.sleep(1e6)
        finally:
            after_send.append("ended")

    async def slow(inbox: Receiver[int]) -> None:
        await asyncio.sleep(10)
        async for value in inbox:
            got.append(value)

    async with Group() as go:
        go(source, a)
        go(slow, a)
        await asyncio.sleep(1)
        go.drain()
        go.drain()
    assert got == [1]
    assert after_send == ["returned", "ended"]
    assert asyncio.get_running_loop().time() == 10


async def test_group_4_drain_leaves_what_receives_to_end_by_itself() -> None:
    a, b = Channel[int](3), Channel[int](3)
    got: list[int] = []

    async def source(out: Sender[int]) -> None:
        for i in range(1000):
            await out.send(i)
            await asyncio.sleep(1)

    async def slow(inbox: Receiver[int], out: Sender[int]) -> None:
        async for value in inbox:
            await asyncio.sleep(5)
            await out.send(value)

    async def store(inbox: Receiver[int]) -> None:
        async for value in inbox:
            got.append(value)

    async with Group() as go:
        go(source, a)
        go(slow, a, b)
        go(store, b)
        await asyncio.sleep(10.5)
        sent = a.statistics().sent
        go.drain()
    assert got == list(range(len(got)))
    assert len(got) >= sent


async def test_group_4_an_object_with_drain_is_asked_by_that() -> None:
    asked: list[str] = []

    class Server:
        def __init__(self) -> None:
            self.stopped = asyncio.Event()

        async def __call__(self, out: Sender[int]) -> None:
            await self.stopped.wait()
            await out.send(7)

        async def drain(self) -> None:
            asked.append("drain")
            await asyncio.sleep(1)
            self.stopped.set()

    a = Channel[int](1)
    async with Group() as go:
        go(Server(), a)
        await asyncio.sleep(0)
        go.drain()
        assert await collect(a) == [7]
    assert asked == ["drain"]


async def test_group_4_a_drain_that_fails_is_logged_and_the_actor_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def __call__(self, out: Sender[int]) -> None:
            await asyncio.sleep(1e6)

        async def drain(self) -> None:
            raise OSError("cannot")

    async with Group() as go:
        go(Broken(), Channel[int]())
        await asyncio.sleep(0)
        go.drain()
    assert "Broken: drain() failed" in caplog.text


async def test_group_4_source_can_be_said() -> None:
    requests = Channel[int]()

    async def looks_like_a_worker(inbox: Receiver[int]) -> None:
        await asyncio.sleep(1e6)

    async with Group() as go:
        go(looks_like_a_worker, requests, source=True)
        await asyncio.sleep(0)
        go.drain()
    assert asyncio.get_running_loop().time() < 1


async def test_group_4_a_source_started_while_draining_is_stopped() -> None:
    async def source(out: Sender[int]) -> None:
        await asyncio.sleep(1e6)

    async with Group() as go:
        go.drain()
        go(source, Channel[int]())


async def test_group_4_a_thread_source_finishes_its_send() -> None:
    a = Channel[int]()
    got: list[int] = []

    def source(out: SyncSender[int]) -> None:
        for i in range(1_000_000):
            out.send(i)

    async with Group() as go:
        go(source, a.sync)
        got.append(await a.recv())
        while not a.statistics().waiting_senders:  # it is another thread's
            await asyncio.sleep(0.001)
        go.drain()
        got += [value async for value in a]
    assert got == [0, 1]


# Rule 5: idle.


async def test_group_5_idle_is_how_a_crawler_knows_that_it_is_done() -> None:
    links = {1: [2, 3], 2: [4], 3: [4, 5], 4: [1], 5: []}
    todo = Channel[int](100)
    seen: set[int] = set()

    async def crawl(pages: Receiver[int], found: Sender[int]) -> None:
        async for page in pages:
            await asyncio.sleep(1)
            for link in links[page]:
                if link not in seen:
                    seen.add(link)
                    await found.send(link)

    async with Group() as go:
        go(crawl, todo, todo, actors=3)
        seen.add(1)
        await todo.send(1)
        await go.idle()
        assert seen == {1, 2, 3, 4, 5}
        go.drain()
        go.cancel()


async def test_group_5_idle_may_be_awaited_by_an_actor_and_ignores_background() -> None:
    a = Channel[int]()
    ended: list[float] = []

    async def worker(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            await asyncio.sleep(2)

    async def closer(go: Group, out: Sender[int]) -> None:
        await out.send(1)
        await go.idle()
        ended.append(go.loop.time())

    async def reporter() -> None:
        await asyncio.sleep(1e6)

    async with Group() as go:
        go(worker, a)
        go(closer, go, a)
        go(reporter, background=True)
    assert 2 <= ended[0] < 3


# Rules 7 and 8: what can be seen.


async def test_group_7_actors_tell_what_each_is_doing_and_for_how_long_it_is_parked() -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")

    async def sends(out: Sender[int]) -> None:
        await out.send(1)

    async def selects(x: Receiver[int], y: Receiver[int]) -> None:
        await select(x.recv(), y.recv())

    async def sleeps() -> None:
        await asyncio.sleep(100)

    def threaded(inbox: SyncReceiver[int]) -> None:
        inbox.recv()

    async with Group() as go:
        go(sends, a)
        go(selects, Channel[int](name="x"), Channel[int](name="y"))
        go(sleeps)
        go(threaded, b.sync)
        await asyncio.sleep(0)
        await asyncio.sleep(5)
        assert [str(actor) for actor in go.actors()] == [
            "sends: sending to a for 5 s",
            "selects: receiving from x or receiving from y for 5 s",
            "sleeps: waiting",
            "threaded: receiving from b, in thread for 5 s",
        ]
        go.cancel()


def test_group_7_a_true_deadlock_raises_the_wait_for_graph_on_virtual_time() -> None:
    async def main() -> None:
        a, b = Channel[int](name="a"), Channel[int](name="b")

        async def swap(inbox: Receiver[int], out: Sender[int]) -> None:
            await out.send(1)
            await inbox.recv()

        async with Group() as go:
            go(swap, a, b, name="left")
            go(swap, b, a, name="right")

    with pytest.raises(Deadlock) as caught:
        run_virtually(main())
    assert "left" in str(caught.value)
    assert "sending to b" in str(caught.value)
    assert "sending to a" in str(caught.value)


async def test_group_8_graph_is_known_before_and_while_it_runs() -> None:
    a, b = Channel[int](name="a"), Channel[int](4, name="b")

    async def double(inbox: Receiver[int], out: Sender[int]) -> None:
        async for value in inbox:
            await out.send(2 * value)

    async with Group() as go:
        go(emit([1]), a)
        go(double, a, b, actors=3)
        graph = go.graph()
        assert [(edge.source, edge.target) for edge in graph.edges] == [
            ("emit", "a"), ("a", "double"), ("double", "b")
        ]  # fmt: skip
        assert graph.mermaid() == str(graph)
        assert graph.mermaid().splitlines() == [
            "flowchart LR",
            '    n0["emit"]',
            '    n1["double × 3"]',
            '    n2(["a"])',
            '    n3(["b (4)"])',
            "    n0 --> n2",
            "    n2 --> n1",
            "    n1 --> n3",
        ]
        assert graph.layers() == [["emit"], ["a"], ["double"], ["b"]]
        assert await collect(b) == [2]
        assert go.graph() == graph


async def test_group_reprs_say_what_is_going_on() -> None:
    go = Group()
    assert repr(go) == "<Group new: no actors>"
    async with go:
        go(emit([1]), Channel[int]())
        assert repr(go) == "<Group open: emit (1)>"
        go.cancel()
    assert repr(go) == "<Group ended: no actors>"


async def test_closed_with_a_cause_is_told_once_by_the_group_that_failed() -> None:
    a = Channel[int](name="a")

    async def fails(out: Sender[int]) -> None:
        await out.send(1)
        raise ValueError("upstream")

    async def reads(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            await after(1).recv()

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fails, a)
            go(reads, a)
    assert [str(error) for error in caught.value.exceptions] == ["upstream"]
    assert not any(isinstance(error, Closed) for error in caught.value.exceptions)


async def test_group_5_idle_takes_no_time_of_its_own() -> None:
    a = Channel[int]()

    async def worker(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            await asyncio.sleep(9)

    async with Group() as go:
        go(worker, a)
        await a.send(1)
        await go.idle()
        assert go.loop.time() == 9
        go.cancel()


async def test_group_1_many_short_stages_of_one_function_are_not_kept() -> None:
    async def handle(connection: object) -> None: ...

    async with Group() as go:
        for _ in range(1000):
            go(handle, object())
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert [stage.name for stage in go.graph().stages] == ["handle"]
