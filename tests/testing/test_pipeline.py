"""`pipeline`: the program as it is, with its ends in the hands of a test."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Channel, Group, Receiver, Sender, SyncReceiver, SyncSender, emit, testing
from tailrace.errors import Deadlock
from tailrace.message import Message, Outcome

Text = Message[str]


class Listen:
    """An actor object such as a listener: its name says what it is."""

    name = "listen_http"

    async def __call__(self, out: Sender[Text]) -> None:
        raise AssertionError("the real listener was started")


class Store:
    """An actor object such as a store."""

    name = "store_sqlite"

    async def __call__(self, inbox: Receiver[Text]) -> None:
        raise AssertionError("the real store was started")


async def filter(inbox: Receiver[Text], out: Sender[Text]) -> None:
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


async def enrich(inbox: Receiver[Text], out: Sender[Text]) -> None:
    async for msg in inbox:
        await asyncio.sleep(0.01)
        if msg.data == "crash":
            raise ZeroDivisionError("in enrich")
        if msg.data == "drop":
            continue
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


def main(go: Group) -> None:
    to_filter = Channel[Text](name="to_filter")
    to_enrich = Channel[Text](name="to_enrich")
    to_store = Channel[Text](name="to_store")
    go(Listen(), to_filter)
    go(filter, to_filter, to_enrich)
    go(enrich, to_enrich, to_store, actors=3)
    go(Store(), to_store)


def ends(**others: Any) -> dict[str, Any]:
    return {"listen_http": testing.source(), "store_sqlite": testing.sink(), **others}


@pytest.fixture(params=["virtual", "real"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a test's coroutine function on either kind of loop."""
    if request.param == "virtual":
        return testing.run

    async def limited(test: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(20):
            await test()

    return lambda test: asyncio.run(limited(test))


Run = Callable[[Callable[[], Awaitable[None]]], None]


def test_a_message_goes_through_the_users_own_main(run: Run) -> None:
    async def test() -> None:
        async with testing.pipeline(main, replace=ends()) as p:
            outcome = await p.send("foo")
            assert outcome.status == "stored"
            assert p.stored == ["☆ foo ☆"]
            outcome = await p.send("bar")
            assert (outcome.status, outcome.reason) == ("aborted", "filtered")
            assert p.stored == ["☆ foo ☆"]

    run(test)


def test_sends_from_many_tasks_all_get_their_own_outcome(run: Run) -> None:
    async def test() -> None:
        async with testing.pipeline(main, replace=ends()) as p:
            outcomes = await asyncio.gather(
                *(p.send("bar" if n % 2 else str(n)) for n in range(20))
            )
        assert [outcome.status for outcome in outcomes] == ["stored", "aborted"] * 10
        assert sorted(p.stored) == sorted(f"☆ {n} ☆" for n in range(0, 20, 2))

    run(test)


def test_leaving_the_block_drains_what_was_sent(run: Run) -> None:
    async def test() -> None:
        async with testing.pipeline(main, replace=ends()) as p:
            sent = [asyncio.create_task(p.send(str(n))) for n in range(5)]
            await asyncio.sleep(0)
        assert len(p.stored) == 5
        assert [(await task).status for task in sent] == ["stored"] * 5
        with pytest.raises(RuntimeError, match="inside its block"):
            await p.send("late")

    run(test)


def test_a_dropped_message_is_lost_and_nobody_waits_for_it(run: Run) -> None:
    async def test() -> None:
        async with testing.pipeline(main, replace=ends()) as p:
            dropped = asyncio.create_task(p.send("drop"))
            await asyncio.sleep(0.05)
            for _ in range(3):  # each of the three actors lets go of the one it had before
                await p.send("next")
            assert (await dropped).status == "lost"

    run(test)


def test_a_send_that_takes_too_long_times_out() -> None:
    async def slow(inbox: Receiver[Text]) -> None:
        async for msg in inbox:
            await asyncio.sleep(60)
            msg.ack()

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(store_sqlite=slow)) as p:
            with pytest.raises(TimeoutError):
                await p.send("foo", timeout=5)
            assert asyncio.get_running_loop().time() == pytest.approx(5)

    testing.run(test)


def test_a_message_has_the_id_and_headers_that_it_was_sent_with() -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    async def store(inbox: Receiver[Text]) -> None:
        async for msg in inbox:
            seen.append((msg.id, dict(msg.headers)))
            msg.ack()

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(store_sqlite=store)) as p:
            await p.send("foo", id="7", headers={"from": "test"})

    testing.run(test)
    assert seen == [("7", {"from": "test"})]


# Failures


def test_the_failure_of_an_actor_is_raised_with_its_name(run: Run) -> None:
    async def test() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with testing.pipeline(main, replace=ends()) as p:
                await p.send("crash")
        (error,) = caught.value.exceptions
        assert isinstance(error, ZeroDivisionError)
        assert "stage 'enrich'" in error.__notes__[0]

    run(test)


def test_an_exception_in_the_block_is_raised_as_it_is(run: Run) -> None:
    async def test() -> None:
        async def block() -> None:
            async with testing.pipeline(main, replace=ends()) as p:
                await p.send("foo")
                raise AssertionError("mine")

        with pytest.raises(AssertionError, match="mine"):
            await block()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_an_exception_in_the_block_names_the_failures_of_actors_as_its_cause(run: Run) -> None:
    async def clumsy(inbox: Receiver[Text]) -> None:
        try:
            async for msg in inbox:
                msg.ack()
        finally:
            raise OSError("while it was cancelled")

    async def test() -> None:
        async def block() -> None:
            async with testing.pipeline(main, replace=ends(store_sqlite=clumsy)) as p:
                await p.send("foo")
                raise AssertionError

        with pytest.raises(AssertionError) as caught:
            await block()
        assert isinstance(caught.value.__cause__, ExceptionGroup)

    run(test)


def test_a_cancelled_block_ends_all_actors(run: Run) -> None:
    async def test() -> None:
        async def block() -> None:
            async with testing.pipeline(main, replace=ends()) as p:
                await p.send("foo")
                await asyncio.sleep(1000)

        task = asyncio.create_task(block())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_a_program_that_gets_stuck_is_a_deadlock_with_its_stages() -> None:
    async def deaf(inbox: Receiver[Text]) -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(store_sqlite=deaf)) as p:
            await p.send("foo")

    with pytest.raises(Deadlock) as caught:
        testing.run(test)
    lines = [line.split("  ") for line in str(caught.value).splitlines()]
    told = {line[1]: line for line in lines[1:]}
    assert {
        "test",
        "listen_http",
        "filter",
        "enrich#1",
        "enrich#2",
        "enrich#3",
        "store_sqlite",
    } == {*told}
    assert "sending to to_store" in "  ".join(told["enrich#1"])
    assert "receiving from the test" in "  ".join(told["listen_http"])


# Stand-ins


def test_the_sink_settles_as_it_is_told(run: Run) -> None:
    def judge(data: str) -> Any:
        return {"☆ a ☆": "rejected", "☆ b ☆": Outcome("failed", error=OSError("full"))}.get(
            data, Outcome("stored", result=7)
        )

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(store_sqlite=testing.sink(judge))) as p:
            rejected, failed, stored = [await p.send(data) for data in "abc"]
            assert rejected == Outcome("rejected", "by the test's sink")
            assert failed.status == "failed"
            assert isinstance(failed.error, OSError)
            assert stored == Outcome("stored", result=7)
            assert p.stored == ["☆ c ☆"]

    run(test)


@pytest.mark.parametrize("status", ["aborted", "rejected", "failed", "lost"])
def test_a_sink_of_one_outcome_stores_nothing(status: Any) -> None:
    async def test() -> None:
        async with testing.pipeline(main, replace=ends(store_sqlite=testing.sink(status))) as p:
            assert (await p.send("foo")).status == status
            assert p.stored == []

    testing.run(test)


def test_an_outcome_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="saved"):
        testing.sink("saved")  # pyright: ignore[reportArgumentType]  # the point


def test_the_sink_passes_over_what_was_settled_on_the_way() -> None:
    async def hasty(inbox: Receiver[Text], out: Sender[Text]) -> None:
        async for msg in inbox:
            msg.ack("already")
            await out.send(msg)

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(enrich=hasty)) as p:
            assert (await p.send("foo")).result == "already"
        assert p.stored == []

    testing.run(test)


def test_any_actor_can_stand_in_for_any_other_with_its_channels(run: Run) -> None:
    shouted: list[str] = []

    async def shout(inbox, out):  # handed ends need no annotation
        async for msg in inbox:
            shouted.append(msg.data)
            msg.data = msg.data.upper()
            await out.send(msg)

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(enrich=shout)) as p:
            await p.send("foo")
            assert p.stored == ["FOO"]
            assert {actor.name for actor in p.go.actors()} == {
                "listen_http",
                "filter",
                "enrich#1",
                "enrich#2",
                "enrich#3",
                "store_sqlite",
            }

    run(test)
    assert shouted == ["foo"]


def test_plain_values_go_from_a_stock_source_into_the_sink(run: Run) -> None:
    async def double(inbox: Receiver[int], out: Sender[int]) -> None:
        async for number in inbox:
            await out.send(2 * number)

    async def numbers(out: Sender[int]) -> None:
        raise AssertionError

    async def show(inbox: Receiver[int]) -> None:
        raise AssertionError

    def program(go: Group) -> None:
        a, b = Channel[int](), Channel[int]()
        go(numbers, a)
        go(double, a, b)
        go(show, b)

    async def test() -> None:
        replace = {"numbers": emit([1, 2, 3]), "show": testing.sink()}
        async with testing.pipeline(program, replace=replace) as p:
            await p.go.idle()
        assert p.stored == [2, 4, 6]

    run(test)


def test_thread_actors_can_be_replaced_by_either_kind(run: Run) -> None:
    def read(out: SyncSender[Text]) -> None:
        raise AssertionError

    def write(inbox: SyncReceiver[Text]) -> None:
        raise AssertionError

    def program(go: Group) -> None:
        a, b = Channel[Text](), Channel[Text]()
        go(read, a.sync)
        go(filter, a, b)
        go(write, b.sync)

    written: list[str] = []

    def write_in_test(inbox: SyncReceiver[Text]) -> None:
        for msg in inbox:
            written.append(msg.data)
            msg.ack()

    async def test() -> None:
        for write in (testing.sink(), write_in_test):
            replace = {"read": testing.source(), "write": write}
            async with testing.pipeline(program, replace=replace) as p:
                assert (await p.send("foo")).status == "stored"

    run(test)
    assert written == ["foo"]


def test_arguments_that_are_no_channels_stay_behind_and_partials_are_seen_through() -> None:
    async def read(path: str, out: Sender[Text], *, limit: int) -> None:
        raise AssertionError

    async def write(path: str, inbox: Receiver[Text]) -> None:
        raise AssertionError

    def program(go: Group) -> None:
        a = Channel[Text]()
        go(functools.partial(read, limit=3), "in.txt", a)
        go(functools.partial(write, "out.txt"), a)

    async def test() -> None:
        replace = {"read": testing.source(), "write": testing.sink()}
        async with testing.pipeline(program, replace=replace) as p:
            await p.send("foo")
            assert p.stored == ["foo"]

    testing.run(test)


# Names


@pytest.mark.virtual_time
async def test_a_name_that_no_stage_has_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(LookupError) as caught:
        async with testing.pipeline(main, replace=ends(store_sqlit=testing.sink())):
            pytest.fail("the block was entered")
    assert str(caught.value) == (
        "no stage is named 'store_sqlit'; the stages are 'listen_http', 'filter', 'enrich', "
        "'store_sqlite'"
    )


@pytest.mark.parametrize("ended", [False, True])
def test_an_async_main_that_waits_for_its_stages_lacks_a_name_too(run: Run, ended: bool) -> None:
    async def program(go: Group) -> None:
        main(go)
        if not ended:
            await go.wait()

    async def test() -> None:
        with pytest.raises(LookupError) as caught:
            async with testing.pipeline(program, replace=ends(store_sqlit=testing.sink())):
                pytest.fail("the block was entered")
        assert str(caught.value) == (
            "no stage is named 'store_sqlit'; the stages are 'listen_http', 'filter', 'enrich', "
            "'store_sqlite'"
        )

    run(test)


def test_an_async_main_that_waits_for_something_else_lacks_a_name_at_the_end(run: Run) -> None:
    async def program(go: Group) -> None:
        main(go)
        await asyncio.Event().wait()

    async def test() -> None:
        says = r"no stage is named 'other'; the stages are 'listen_http', .*and main still waits"
        with pytest.raises(RuntimeError, match=says):
            async with testing.pipeline(program, replace=ends(other=testing.sink())):
                pass

    run(test)


@pytest.mark.parametrize(
    ("stand_in", "says"),
    [
        (testing.source, r"call the function: testing\.source\(\)"),
        (testing.sink, r"call the function: testing\.sink\(\)"),
        (testing.Sink, "Sink is a class"),
        ("stored", "'stored' is no actor"),
    ],
)
async def test_what_is_no_stand_in_is_named(stand_in: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"'listen_http'.*{says}"):
        testing.pipeline(main, replace=ends(listen_http=stand_in))


def test_a_message_has_headers_as_in_production(run: Run) -> None:
    seen: list[Any] = []

    async def look(inbox: Receiver[Text], out: Sender[Text]) -> None:
        async for message in inbox:
            seen.append(dict(message.headers))
            await out.send(message)

    async def test() -> None:
        async with testing.pipeline(main, replace=ends(filter=look)) as p:
            await p.send("foo", headers={"X-GitHub-Event": "push"})

    run(test)
    assert seen == [{"x-github-event": "push"}]


@pytest.mark.virtual_time
async def test_a_stage_is_replaced_by_the_name_it_was_given() -> None:
    def program(go: Group) -> None:
        a = Channel[Text]()
        go(Listen(), a, name="front door")
        go(Store(), a)

    replace = {"front door": testing.source(), "store_sqlite": testing.sink()}
    async with testing.pipeline(program, replace=replace) as p:
        assert (await p.send("foo")).status == "stored"


@pytest.mark.virtual_time
async def test_stages_of_the_same_name_are_all_replaced_and_numbered() -> None:
    def program(go: Group) -> None:
        a, b = Channel[Text](), Channel[Text]()
        go(Listen(), a)
        go(Listen(), b)
        go(filter, a, b)
        go(Store(), b)

    async with testing.pipeline(program, replace=ends()) as p:
        outcomes = await asyncio.gather(*(p.send(data) for data in ("foo", "foo", "foo")))
        assert [outcome.status for outcome in outcomes] == ["stored"] * 3
        names = {actor.stage for actor in p.go.actors()}
        assert names == {"listen_http", "listen_http-2", "filter", "store_sqlite"}


@pytest.mark.virtual_time
async def test_several_sources_and_sinks_are_told_apart_by_name() -> None:
    def program(go: Group) -> None:
        a, b = Channel[Text](), Channel[Text]()
        for name, channel in (("a", a), ("b", b)):
            go(Listen(), channel, name=f"listen {name}")
            go(Store(), channel, name=f"store {name}")

    replace = {f"listen {name}": testing.source() for name in "ab"}
    async with testing.pipeline(
        program,
        replace={**replace, **{f"store {name}": testing.sink() for name in "ab"}},
    ) as p:
        with pytest.raises(LookupError, match="found 'listen a', 'listen b'"):
            await p.send("foo")
        await p.source("listen b").send("to b")
        await p.source("listen a").send("to a")
        assert p.sink("store a").stored == ["to a"]
        assert p.sink("store b").stored == ["to b"]
        assert p.stored == ["to a", "to b"]
        with pytest.raises(LookupError, match="'listen c'"):
            p.source("listen c")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("name", "stand_in", "words"),
    [
        ("filter", testing.source, "sends to one channel"),
        ("enrich", testing.sink, "receives from one channel"),
        ("store_sqlite", testing.source, "sends to one channel"),
    ],
)
async def test_a_stand_in_of_the_wrong_kind_is_refused(
    name: str, stand_in: Callable[[], Any], words: str
) -> None:
    with pytest.raises(TypeError, match=f"{words}.*'{name}'"):
        async with testing.pipeline(main, replace={name: stand_in()}):
            pytest.fail("the block was entered")


# main


def test_an_async_main_may_go_on_while_the_test_runs(run: Run) -> None:
    @asynccontextmanager
    async def resource() -> AsyncIterator[str]:
        events.append("opened")
        yield "resource"
        events.append("closed")

    events: list[str] = []

    async def program(go: Group) -> None:
        async with resource():
            await asyncio.sleep(0.01)
            main(go)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                events.append("cancelled")
                raise
            finally:
                await asyncio.sleep(0)

    async def test() -> None:
        async with testing.pipeline(program, replace=ends()) as p:
            assert (await p.send("foo")).status == "stored"

    run(test)
    assert events == ["opened", "cancelled"]


def test_an_async_main_that_lacks_a_stage_fails_the_group(run: Run) -> None:
    async def program(go: Group) -> None:
        await asyncio.sleep(0.01)
        main(go)

    async def test() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with testing.pipeline(program, replace=ends(other=testing.sink())) as p:
                await asyncio.gather(p.send("foo"), asyncio.sleep(10))
        assert "no stage is named 'other'" in str(caught.value.exceptions[0])

    run(test)


@pytest.mark.virtual_time
async def test_idle_says_when_the_pipeline_has_nothing_left_to_do() -> None:
    async with testing.pipeline(main, replace=ends()) as p:
        sent = asyncio.create_task(p.send("foo"))
        await asyncio.sleep(0)
        await p.go.idle()
        assert sent.done()
        assert p.stored == ["☆ foo ☆"]


def test_nothing_needs_to_be_replaced() -> None:
    received: list[int] = []

    async def take(inbox: Receiver[int]) -> None:
        received.extend([number async for number in inbox])

    def program(go: Group) -> None:
        a = Channel[int]()
        go(emit(range(3)), a)
        go(take, a)

    async def test() -> None:
        async with testing.pipeline(program):
            await testing.wait_all_parked()

    testing.run(test)
    assert received == [0, 1, 2]


def test_a_program_is_run_on_virtual_time_as_it_is() -> None:
    received: list[tuple[float, int]] = []

    async def count(out: Sender[int]) -> None:
        for number in range(3):
            await asyncio.sleep(3600)
            await out.send(number)

    async def take(inbox: Receiver[int]) -> None:
        time = asyncio.get_running_loop().time
        received.extend([(time(), number) async for number in inbox])

    def program(go: Group) -> None:
        a = Channel[int]()
        go(count, a)
        go(take, a)

    testing.run(program)
    assert received == [(3600, 0), (7200, 1), (10800, 2)]


@pytest.mark.parametrize("wired", ["at once", "after a turn", "never"])
def test_an_async_main_has_begun_when_the_block_begins(run: Run, wired: str) -> None:
    async def program(go: Group) -> None:
        if wired == "after a turn":
            await asyncio.sleep(0)
        if wired != "never":
            main(go)
        await asyncio.Event().wait()

    async def test() -> None:
        async with testing.pipeline(program, replace=ends()) as p:
            assert "store_sqlite" in {stage.name for stage in p.go.graph().stages}

    if wired == "never":
        with pytest.raises(AssertionError):
            run(test)
    else:
        run(test)


def test_a_block_that_ends_before_main_has_started_its_stages_says_so(run: Run) -> None:
    async def program(go: Group) -> None:
        await asyncio.sleep(60)
        main(go)

    async def test() -> None:
        with pytest.raises(RuntimeError, match="main still waits, before it has started 'listen"):
            async with testing.pipeline(program, replace=ends()):
                pass

    run(test)


def test_an_async_main_that_fails_is_heard_although_the_block_does_nothing(run: Run) -> None:
    async def program(go: Group) -> None:
        raise LookupError("in main")

    async def test() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with testing.pipeline(program):
                pass
        assert "in main" in str(caught.value.exceptions[0])

    run(test)


@pytest.mark.virtual_time
async def test_the_result_of_calling_main_is_told_from_main() -> None:
    async def program(go: Group) -> None: ...

    made: Any = program(Group())
    with pytest.raises(TypeError, match=r"takes the function itself: pipeline\(program, \.\.\.\)"):
        async with testing.pipeline(made):
            pass


async def test_pipeline_an_exception_of_any_class_leaves_the_block_as_it_is() -> None:
    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    for error in (Frozen(3), StopIteration(), StopAsyncIteration(), KeyboardInterrupt()):
        raised: BaseException | None = None
        try:
            async with testing.pipeline(lambda go: None):
                raise error
        except BaseException as caught:
            raised = caught
        assert raised is error
