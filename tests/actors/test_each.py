"""`each`: one bad message fails alone, and none is ever silently gone."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import testing
from tailrace.actors import each
from tailrace.actors.each import Each
from tailrace.actors.handler import EachStatistics
from tailrace.channel import Channel
from tailrace.errors import Abort, Closed, Outage, Reject
from tailrace.gather import remaining
from tailrace.group import Group
from tailrace.message import Message, Outcome, current_message, submit

virtual_time = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def shout(data: str) -> str:
    await asyncio.sleep(1)
    return data.upper()


async def picky(data: str) -> str:
    """Raises what its data says, else gives it back."""
    errors: dict[str, Exception] = {
        "abort": Abort("filtered"),
        "reject": Reject("no title"),
        "fail": OSError("disk full"),
        "stop": StopIteration("early"),
    }
    if data == "cancel":
        raise asyncio.CancelledError
    if data in errors:
        raise errors[data]
    return data


class Rig:
    """An actor between two channels, what comes out of it, and how each message ended."""

    def __init__(self, actor: Each[Any, Any], actors: int = 1) -> None:
        self.actor = actor
        self.actors = actors
        self.inbox = Channel[Message[Any]](name="inbox")
        self.out = Channel[Message[Any]](name="out")
        self.stored: list[Any] = []

    async def store(self) -> None:
        async for message in self.out:
            self.stored.append(message.data)
            message.ack()
            del message

    async def __call__(self, *data: Any) -> list[Outcome]:
        """Send them all, and wait for their ends."""
        outcomes: list[Outcome] = []
        async with Group(on_exit="cancel") as go:
            go(self.actor, self.inbox, self.out, actors=self.actors)
            go(self.store, background=True)
            outcomes += await asyncio.gather(*(submit(self.inbox, value) for value in data))
        return outcomes


# --- what it does ---------------------------------------------------------------------------


@virtual_time
async def test_an_async_function_makes_the_data_that_goes_on() -> None:
    rig = Rig(each(shout))
    assert await rig("foo", "bar") == [Outcome("stored")] * 2
    assert rig.stored == ["FOO", "BAR"]
    assert now() == pytest.approx(2)
    assert rig.actor.statistics() == EachStatistics(passed=2)


@virtual_time
async def test_actors_work_at_the_same_time() -> None:
    rig = Rig(each(shout), actors=3)
    await rig("a", "b", "c")
    assert sorted(rig.stored) == ["A", "B", "C"]
    assert now() == pytest.approx(1)


@virtual_time
@pytest.mark.parametrize(
    "fn",
    [
        str.upper,
        lambda data: data.upper(),
        lambda data: picky(data.upper()),
        functools.partial(lambda suffix, data: data.upper() + suffix, ""),
    ],
)
async def test_plain_functions_will_do_also_those_that_return_an_awaitable(
    fn: Callable[[str], Any],
) -> None:
    rig = Rig(each(fn))
    await rig("foo")
    assert rig.stored == ["FOO"]


@virtual_time
async def test_none_and_other_falsy_values_are_data() -> None:
    values: list[Any] = [None, 0, "", []]
    rig = Rig(each(lambda data: values[data]))
    await rig(0, 1, 2, 3)
    assert rig.stored == values


@virtual_time
async def test_abort_and_reject_end_a_message_with_their_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(each(picky))
    assert await rig("abort", "reject", "fine") == [
        Outcome("aborted", "filtered"),
        Outcome("rejected", "no title"),
        Outcome("stored"),
    ]
    assert rig.actor.statistics() == EachStatistics(passed=1, aborted=1, rejected=1)
    assert caplog.records == []


@virtual_time
async def test_one_bad_message_fails_alone() -> None:
    rig = Rig(each(picky))
    good, bad, fine = await rig("good", "fail", "fine")
    assert (good.status, bad.status, fine.status) == ("stored", "failed", "stored")
    assert isinstance(bad.error, OSError)
    assert bad.reason == "OSError: disk full"


@virtual_time
@pytest.mark.parametrize("data", ["stop", "cancel"])
async def test_no_exception_of_the_function_passes_for_the_end_or_a_cancellation(
    data: str,
) -> None:
    rig = Rig(each(picky))
    bad, fine = await rig(data, "fine")
    assert (bad.status, fine.status) == ("failed", "stored")


@virtual_time
async def test_errors_may_be_taken_for_aborts() -> None:
    rig = Rig(each(picky, on_error="abort"))
    assert await rig("fail") == [Outcome("aborted", "OSError: disk full")]


@virtual_time
async def test_errors_may_end_the_actor_and_still_the_message_is_answered() -> None:
    rig = Rig(each(picky, on_error="raise"))
    answer = asyncio.create_task(submit(rig.inbox, "fail"))
    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(rig.actor, rig.inbox, rig.out)
    assert isinstance(caught.value.exceptions[0], OSError)
    assert (await answer).status == "failed"


@virtual_time
async def test_messages_settled_before_or_meanwhile_are_skipped_and_counted() -> None:
    seen: list[str] = []

    async def settles(data: str) -> str:
        seen.append(data)
        message = current_message()
        assert message is not None
        message.abort("by itself")
        return data

    rig = Rig(each(settles))
    before = Message("settled")
    before.ack()
    async with Group(on_exit="cancel") as go:
        go(rig.actor, rig.inbox, rig.out)
        go(rig.store, background=True)
        await rig.inbox.send(before)
        assert await submit(rig.inbox, "meanwhile") == Outcome("aborted", "by itself")
        await testing.wait_all_parked()
    assert (seen, rig.stored) == (["meanwhile"], [])
    assert rig.actor.statistics() == EachStatistics(skipped=2)


@virtual_time
async def test_the_message_in_hand_is_the_current_one() -> None:
    seen: list[Any] = []

    async def look(data: str) -> str:
        message = current_message()
        assert message is not None
        seen.append((message.id, message.data))
        return data

    inbox, out = Channel[Message[str]](2), Channel[Message[str]](2)
    for i in "ab":
        await inbox.send(Message(i, id=f"id-{i}"))
    inbox.close()
    await each(look)(inbox, out)
    assert seen == [("id-a", "a"), ("id-b", "b")]
    assert current_message() is None


@virtual_time
async def test_what_is_no_message_is_named() -> None:
    inbox, out = Channel[Any](1), Channel[Any](1)
    await inbox.send("foo")
    with pytest.raises(TypeError, match=r"each\(shout\) takes messages, but was sent 'foo'"):
        await each(shout)(inbox, out)


# --- time -----------------------------------------------------------------------------------


@virtual_time
async def test_a_message_that_takes_too_long_fails_alone() -> None:
    async def slow(data: float) -> float | None:
        await asyncio.sleep(data)
        return remaining()

    rig = Rig(each(slow, timeout=2))
    late, early = await rig(5, 0.5)
    assert late.reason == "TimeoutError: took longer than 2 s"
    assert early.ok
    assert rig.stored == [pytest.approx(1.5)], "the function knows its deadline"
    assert now() == pytest.approx(2.5)


@virtual_time
async def test_a_timeout_of_the_function_itself_is_its_own() -> None:
    async def times_out(data: str) -> str:
        raise TimeoutError("upstream")

    (outcome,) = await Rig(each(times_out, timeout=2))("foo")
    assert outcome.reason == "TimeoutError: upstream"


# --- cancelled, closed, dropped -------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("timeout", [None, 60])
async def test_the_message_in_hand_of_a_cancelled_actor_fails(timeout: float | None) -> None:
    rig = Rig(each(shout, timeout=timeout))
    task = asyncio.create_task(rig.actor(rig.inbox, rig.out))
    answer = asyncio.create_task(submit(rig.inbox, "foo"))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    outcome = await answer
    assert outcome.status == "failed"
    assert "was cancelled while it had the message in hand" in outcome.reason


@virtual_time
async def test_a_message_that_could_not_be_sent_on_fails() -> None:
    rig = Rig(each(shout))
    task = asyncio.create_task(rig.actor(rig.inbox, rig.out))
    answer = asyncio.create_task(submit(rig.inbox, "foo"))
    await asyncio.sleep(2)  # parked in its send, as nobody receives
    task.cancel()
    assert (await answer).status == "failed"

    task = asyncio.create_task(rig.actor(rig.inbox, rig.out))
    answer = asyncio.create_task(submit(rig.inbox, "foo"))
    rig.out.close()
    outcome = await answer
    assert (outcome.status, type(outcome.error)) == ("failed", Outage)
    assert outcome.error is not None
    assert type(outcome.error.__cause__) is Closed
    with pytest.raises(Closed):
        await task


@virtual_time
async def test_an_idle_actor_keeps_no_message_alive() -> None:
    """What is dropped further down is lost at once, though nothing else comes in."""

    async def drops(inbox: Channel[Message[Any]]) -> None:
        while True:
            await inbox.recv()

    for actor in (each(shout), each(str.upper)):
        inbox, out = Channel[Message[str]](), Channel[Message[str]]()
        tasks = [
            asyncio.create_task(actor(inbox, out)),
            asyncio.create_task(drops(out)),
        ]
        assert (await submit(inbox, "foo")).status == "lost"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@virtual_time
async def test_failed_messages_leave_no_reference_cycle_behind() -> None:
    rig = Rig(each(picky))
    gc.collect()
    gc.disable()
    try:
        inbox, out = Channel[Message[str]](1), Channel[Message[str]](1)
        task = asyncio.create_task(rig.actor(inbox, out))
        logging.disable()
        message = Message("fail")
        left = weakref.ref(message)  # of this one alone: other tests may have left some
        sending = inbox.send(message)
        del message
        await sending
        del sending
        await testing.wait_all_parked()
        assert left() is None
        inbox.close()
        await task
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


# --- logging --------------------------------------------------------------------------------


@virtual_time
async def test_failures_are_logged_but_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(data: float) -> None:
        await asyncio.sleep(data)
        raise OSError("disk full")

    with caplog.at_level(logging.ERROR, "tailrace"):
        await Rig(each(fails))(0, 1, 1, 1, 9, 0, 0)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert texts[0].startswith("each(fails) failed for message ")
    assert texts[1].endswith(" (and 3 others before it)")
    assert texts[2] == "each(fails) failed for 2 more messages"
    assert caplog.records[0].exc_info is not None
    assert isinstance(caplog.records[0].exc_info[1], OSError)


# --- threads --------------------------------------------------------------------------------


@virtual_time
async def test_a_blocking_function_runs_in_a_thread_of_its_actors_own() -> None:
    together = threading.Barrier(3)
    seen: set[tuple[str, str]] = set()

    def blocks(data: str) -> str:
        together.wait(10)  # only three threads at once get past it
        message = current_message()
        assert message is not None
        seen.add((threading.current_thread().name.rpartition("_")[0], message.data))
        return data.upper()

    rig = Rig(each(blocks, threads=True), actors=3)
    await rig("a", "b", "c")
    assert sorted(rig.stored) == ["A", "B", "C"]
    assert seen == {("blocks", "a"), ("blocks", "b"), ("blocks", "c")}


@virtual_time
async def test_what_a_function_raises_in_its_thread_ends_the_message_only() -> None:
    def raises(data: Exception) -> None:
        raise data

    rig = Rig(each(raises, threads=True))
    outcomes = await rig(OSError("x"), StopIteration(), Abort("no"), Reject("bad"))
    assert [o.reason for o in outcomes] == [
        "OSError: x",
        "RuntimeError: raises raised StopIteration",
        "no",
        "bad",
    ]


@virtual_time
async def test_a_verdict_of_a_class_that_gives_no_reason_ends_the_message_only() -> None:
    class Unwanted(Abort):
        def __init__(self, code: int) -> None:
            self.code = code

    class Invalid(Reject):
        def __init__(self, code: int) -> None:
            self.code = code

    async def raises(data: Exception) -> None:
        raise data

    outcomes = await Rig(each(raises))(Unwanted(1), Invalid(2))
    assert [(o.status, o.reason) for o in outcomes] == [
        ("aborted", "aborted"),
        ("rejected", "rejected"),
    ]


async def test_a_blocked_thread_fails_its_message_in_time_and_takes_no_other_meanwhile() -> None:
    """In real time, since a virtual clock stands still while a thread works."""
    release, calls = threading.Event(), list[str]()

    def blocks(data: str) -> str:
        calls.append(data)
        if data == "stuck":
            release.wait(10)
        return data

    rig = Rig(each(blocks, threads=True, timeout=0.05))
    async with Group(on_exit="cancel") as go:
        go(rig.actor, rig.inbox, rig.out)
        go(rig.store, background=True)
        outcome = await submit(rig.inbox, "stuck")
        assert outcome.reason == "TimeoutError: took longer than 0.05 s"
        with pytest.raises(TimeoutError, match="it was not sent"):
            await submit(rig.inbox, "next", timeout=0.05)
        assert calls == ["stuck"]
        release.set()
        assert (await submit(rig.inbox, "next")).ok
    assert rig.stored == ["next"]


async def test_a_cancelled_actor_does_not_wait_for_its_thread() -> None:
    entered, release = threading.Event(), threading.Event()

    def blocks(data: str) -> str:
        entered.set()
        release.wait(10)
        return data

    rig = Rig(each(blocks, threads=True))
    task = asyncio.create_task(rig.actor(rig.inbox, rig.out))
    answer = asyncio.create_task(submit(rig.inbox, "foo"))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await answer).status == "failed"
    release.set()


HANGS = """
import sys, threading, time
from tailrace import Channel, Group, Message, Receiver, each, emit, run

began = threading.Event()

def hangs(data: str) -> str:
    began.set()
    time.sleep(600)
    return data

async def sink(inbox: Receiver[Message[str]]) -> None:
    async for message in inbox:
        message.ack()

async def stop(go: Group) -> None:
    while not began.is_set():
        import asyncio
        await asyncio.sleep(0.01)
    go.cancel()

def main(go: Group) -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    go(emit([Message("x")]), a)
    go(each(hangs, threads=True), a, b)
    go(sink, b)
    go(stop, go)

run(main, grace=0.1)
print("run returned", flush=True)
"""


def test_a_function_that_hangs_in_its_thread_does_not_keep_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], check=False, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "run returned\n", done.stderr
    assert done.returncode == 0
    assert "hangs_thread is left behind in a call that has not returned" in done.stderr


async def coroutine(data: str) -> str:
    return data


def generator(data: str) -> Iterator[str]:
    yield data


async def async_generator(data: str) -> AsyncIterator[str]:
    yield data


@virtual_time
@pytest.mark.parametrize("fn", [coroutine, generator, async_generator])
async def test_a_thread_passes_nothing_on_that_has_yet_to_be_run(fn: Any) -> None:
    rig = Rig(each(lambda data: fn(data), threads=True))
    (outcome,) = await rig("foo")
    assert outcome.status == "failed"
    assert "of which nothing has run" in outcome.reason
    assert "return a list instead of yielding" in outcome.reason


@virtual_time
@pytest.mark.parametrize("fn", [coroutine, generator, async_generator])
async def test_nothing_is_passed_on_that_an_async_function_left_to_be_run(fn: Any) -> None:
    async def returns(data: str) -> Any:
        return fn(data)

    (outcome,) = await Rig(each(returns))("foo")
    assert outcome.status == "failed"
    assert "of which nothing has run" in outcome.reason


@virtual_time
@pytest.mark.parametrize("fn", [generator, async_generator, lambda data: (c for c in data)])
async def test_nothing_is_passed_on_that_a_plain_function_left_to_be_run(fn: Any) -> None:
    (outcome,) = await Rig(each(lambda data: fn(data)))("foo")
    assert outcome.status == "failed"
    assert "of which nothing has run" in outcome.reason
    assert "return a list instead of yielding" in outcome.reason


class Generates:
    def __call__(self, data: str) -> Iterator[str]:
        yield data


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize(
    "fn", [generator, async_generator, Generates(), functools.partial(Generates())]
)
def test_a_generator_function_is_refused(fn: Any, threads: bool) -> None:
    with pytest.raises(TypeError, match=r"generator function.*nothing of it has run.*a list"):
        each(fn, threads=threads)


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses attributes, a traceback and notes among them."""

    why: str


async def refuses(data: str) -> str:
    raise FrozenError("no")


def refuses_plainly(data: str) -> str:
    raise FrozenError("no")


@virtual_time
@pytest.mark.parametrize(
    "actor",
    [
        each(refuses),
        each(refuses, timeout=5),
        each(refuses_plainly),
        each(refuses_plainly, threads=True),
        each(refuses_plainly, threads=True, timeout=5),
    ],
    ids=repr,
)
async def test_an_exception_that_refuses_attributes_fails_its_message_as_it_is(
    actor: Any,
) -> None:
    (outcome,) = await Rig(actor)("foo")
    assert outcome.error == FrozenError("no")


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text", "arguments"),
    [
        (TypeError, "not 42", {"fn": 42}),
        (ValueError, "on_error='ignore' is none of", {"on_error": "ignore"}),
        (ValueError, "timeout must be seconds above 0, not 0", {"timeout": 0}),
        (ValueError, "timeout must be seconds above 0, not nan", {"timeout": float("nan")}),
        (ValueError, "does not run in threads", {"threads": True}),
        (
            ValueError,
            "make it async, or give it threads=True or processes=n",
            {"fn": str.upper, "timeout": 1},
        ),
    ],
)
def test_wrong_arguments_are_named(
    error: type[Exception], text: str, arguments: dict[str, Any]
) -> None:
    make: Any = each
    with pytest.raises(error, match=text):
        make(**{"fn": shout, **arguments})


def test_it_is_named_after_its_function_and_shows_its_options() -> None:
    class Echo:
        async def __call__(self, data: str) -> str:
            return data

    assert repr(each(shout)) == "each(shout)"
    assert repr(each(shout, timeout=2, on_error="abort")) == (
        "each(shout, timeout=2, on_error='abort')"
    )
    assert repr(each(str.upper, threads=True)) == "each(upper, threads=True)"
    assert each(functools.partial(shout)).name == "shout"
    assert repr(each(Echo(), timeout=1)) == "each(Echo, timeout=1)"


@virtual_time
async def test_it_owns_its_ends_in_a_group() -> None:
    async def source(out: Channel[Message[str]]) -> None:
        await out.send(Message("foo"))

    rig = Rig(each(shout))
    async with Group() as go:
        with rig.inbox.sending() as inbox:
            go(rig.actor, rig.inbox, rig.out)
            go(rig.store)
            outcome = await submit(inbox, "foo")
        assert outcome.ok
    assert rig.out.closed, "end-of-stream flowed through it"
