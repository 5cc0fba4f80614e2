"""Messages: settled once, by whoever has them in hand, and never silently gone."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import math
import pickle
import sys
import threading
import typing
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.channel import Channel, Receiver
from tailrace.errors import Closed
from tailrace.group import Group
from tailrace.message import Message, Outcome, current_message, submit
from tailrace.message.internals import (
    FailureLog,
    Status,
    delayed_by_outage,
    digest_of,
    make_current,
    message_of,
)
from tailrace.testing import wait_all_parked

virtual_time = pytest.mark.virtual_time

SETTLE: list[tuple[Callable[[Message[str]], bool], Outcome]] = [
    (lambda m: m.ack(), Outcome("stored")),
    (lambda m: m.ack("row 7"), Outcome("stored", result="row 7")),
    (lambda m: m.abort("filtered"), Outcome("aborted", "filtered")),
    (lambda m: m.reject("no title"), Outcome("rejected", "no title")),
    (lambda m: m.fail("overflow"), Outcome("failed", "overflow")),
]
BAD = OSError("disk full")


def now() -> float:
    return asyncio.get_running_loop().time()


class Hostile:
    """Data of a type whose own code raises what no `except Exception` catches."""

    def __repr__(self) -> str:
        raise SystemExit("from repr")

    __str__ = __repr__


# --- settled once ---------------------------------------------------------------------------


@pytest.mark.parametrize(("settle", "outcome"), SETTLE)
def test_each_way_to_settle_has_its_outcome(
    settle: Callable[[Message[str]], bool], outcome: Outcome
) -> None:
    message = Message("foo")
    assert message.outcome is None
    assert settle(message)
    assert message.outcome == outcome
    assert outcome.ok is (outcome.status == "stored")


def test_an_exception_is_kept_and_described() -> None:
    message = Message("foo")
    assert message.fail(BAD)
    assert message.outcome == Outcome("failed", "OSError: disk full", BAD)


def test_an_exception_that_cannot_describe_itself_still_fails_the_message() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    message = Message("foo")
    assert message.fail(Mute())
    assert message.outcome is not None
    assert message.outcome.reason == "Mute"


@pytest.mark.parametrize(("first", "outcome"), SETTLE)
@pytest.mark.parametrize(("second", "_"), SETTLE)
def test_the_first_settle_wins_and_later_ones_change_nothing(
    first: Callable[[Message[str]], bool],
    outcome: Outcome,
    second: Callable[[Message[str]], bool],
    _: Outcome,
) -> None:
    told: list[Outcome] = []
    message = Message("foo", on_settle=told.append)
    assert first(message) is True
    assert second(message) is False
    assert message.outcome == outcome
    del message
    assert told == [outcome], "once, and not lost on top"


def test_threads_that_settle_at_once_settle_once() -> None:
    threads, rounds = 8, 300
    start = threading.Barrier(threads)
    told: list[Outcome] = []
    messages = [Message(i, on_settle=told.append) for i in range(rounds)]
    won = [0] * threads

    def settle_all(me: int) -> None:
        for message in messages:
            start.wait()
            won[me] += message.ack(me)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=settle_all, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(won) == len(told) == rounds
    assert [m.outcome for m in messages] == told


def test_a_discarded_message_fails_with_the_reason() -> None:
    message = Message("foo")
    message.__discarded__("overflow")
    assert message.outcome == Outcome("failed", "overflow")


@virtual_time
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_a_message_that_a_full_channel_drops_fails_with_overflow(overflow: Any) -> None:
    channel = Channel[Message[int]](1, overflow=overflow)
    messages = [Message(1), Message(2)]
    for message in messages:
        await channel.send(message)
    dropped = messages[1 if overflow == "drop_newest" else 0]
    assert dropped.outcome == Outcome("failed", "overflow")
    assert [m.outcome for m in messages].count(None) == 1


# --- lost -----------------------------------------------------------------------------------


def test_a_message_dropped_unsettled_is_lost() -> None:
    told: list[Outcome] = []
    message = Message("foo", on_settle=told.append)
    ending = message.settled()
    del message
    assert ending.outcome is not None
    assert ending.outcome.status == "lost"
    assert told == [ending.outcome]


def test_a_message_dropped_in_a_reference_cycle_is_lost_when_it_is_collected() -> None:
    told: list[Outcome] = []
    message = Message[Any](None, on_settle=told.append)
    message.data = [message]
    del message
    gc.collect()
    assert [o.status for o in told] == ["lost"]


@virtual_time
async def test_whoever_waits_for_a_message_hears_that_an_actor_dropped_it() -> None:
    async def drops(inbox: Channel[Message[str]]) -> None:
        await inbox.recv()

    channel = Channel[Message[str]]()
    actor = asyncio.create_task(drops(channel))
    outcome = await submit(channel, "foo")
    assert outcome.status == "lost"
    await actor


@virtual_time
async def test_whoever_waits_for_a_message_hears_that_its_actor_crashed() -> None:
    async def crashes(inbox: Channel[Message[str]]) -> None:
        async for _ in inbox:
            raise OSError

    channel = Channel[Message[str]]()
    actor = asyncio.create_task(crashes(channel))
    with pytest.raises(TimeoutError, match="may still be stored"):
        await submit(channel, "foo", timeout=1)  # the exception holds the frame: not yet collected
    actor = asyncio.create_task(crashes(channel))
    outcome = asyncio.create_task(submit(channel, "foo"))
    await asyncio.wait([actor])
    assert isinstance(actor.exception(), OSError)
    del actor
    gc.collect()
    assert (await outcome).status == "lost"


def test_a_wrong_call_of_the_constructor_is_a_type_error_and_nothing_else() -> None:
    make: Any = Message
    with pytest.raises(TypeError):
        make()
    gc.collect()  # a finaliser that fails would warn here, and warnings are errors


def test_a_message_can_be_neither_copied_nor_pickled() -> None:
    message = Message("foo")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="with_data"):
            duplicate(message)
    assert message.outcome is None


# --- waiting --------------------------------------------------------------------------------


@virtual_time
async def test_settled_returns_at_once_when_it_is_and_waits_when_it_is_not() -> None:
    message = Message("foo")
    ending = message.settled()
    assert (repr(ending), ending.outcome, ending.data) == ("<Settlement open>", None, None)
    asyncio.get_running_loop().call_later(1, message.ack)
    assert await ending == Outcome("stored")
    assert now() == pytest.approx(1)
    assert await ending == await message.settled() == Outcome("stored")
    assert repr(ending) == "<Settlement Outcome(stored)>"


@virtual_time
async def test_settled_times_out_and_the_message_goes_on() -> None:
    message = Message("foo")
    with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
        await message.settled(timeout=0.5)
    assert now() == pytest.approx(0.5)
    with pytest.raises(TimeoutError):
        await message.settled(timeout=-1)
    assert now() == pytest.approx(0.5)
    message.ack()
    assert await message.settled(timeout=0) == Outcome("stored")


@virtual_time
async def test_waiting_does_not_keep_the_message_alive() -> None:
    message = Message("foo")
    reference = weakref.ref(message)
    waiting = asyncio.create_task(_wait(message.settled()))
    await wait_all_parked()
    del message
    assert reference() is None
    assert (await waiting).status == "lost"


async def _wait(ending: Any) -> Outcome:
    outcome: Outcome = await ending
    return outcome


@virtual_time
async def test_a_cancelled_wait_changes_nothing() -> None:
    message = Message("foo")
    waiting = [asyncio.create_task(_wait(message.settled())) for _ in range(3)]
    await wait_all_parked()
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    assert message.outcome is None
    message.abort("x")
    assert await waiting[0] == await waiting[2] == Outcome("aborted", "x")


@virtual_time
async def test_waits_that_ended_leave_nothing_behind() -> None:
    def futures() -> int:
        gc.collect()
        return sum(isinstance(o, asyncio.Future) for o in gc.get_objects())

    message = Message("foo")
    ending = message.settled(timeout=0.001)
    before = futures()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await ending
        with pytest.raises(TimeoutError):
            await message.settled(timeout=0.001)
    assert futures() - before < 5
    message.ack()


@virtual_time
async def test_an_outcome_that_comes_between_looking_and_parking_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, message = asyncio.get_running_loop(), Message("foo")
    create_future = loop.create_future

    def settle_just_then() -> asyncio.Future[Any]:
        thread = threading.Thread(target=message.ack)
        thread.start()
        thread.join()
        return create_future()

    monkeypatch.setattr(loop, "create_future", settle_just_then)
    assert await message.settled(timeout=1) == Outcome("stored")
    assert now() == 0


async def test_waiters_on_other_loops_are_woken(any_loop: Any) -> None:
    """Two loops in two threads wait; a third thread settles."""
    message = Message("foo")
    ready = threading.Barrier(3)
    heard: list[Outcome] = []

    async def wait() -> None:
        ending = message.settled()
        asyncio.get_running_loop().call_soon(ready.wait)
        heard.append(await ending)

    threads = [threading.Thread(target=asyncio.run, args=(wait(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(ready.wait, 10)
    await asyncio.to_thread(message.ack, 1)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert heard == [Outcome("stored", result=1)] * 2
    assert await message.settled() == heard[0]


def test_a_waiter_of_a_closed_loop_is_passed_over() -> None:
    message = Message("foo")
    loop = asyncio.new_event_loop()
    task = loop.create_task(_wait(message.settled()))
    loop.run_until_complete(asyncio.sleep(0))
    ending = message.settled()
    loop.close()
    assert message.ack()
    assert ending.outcome == Outcome("stored")
    unfinished: Any = task
    unfinished._log_destroy_pending = False  # it cannot end any more


def test_no_waiter_misses_an_outcome_that_comes_while_it_begins_to_wait() -> None:
    rounds = 500
    messages = [Message(i) for i in range(rounds)]
    start = threading.Barrier(2)

    def settle() -> None:
        for message in messages:
            start.wait()
            message.ack()

    async def wait() -> None:
        for message in messages:
            start.wait()
            assert (await message.settled(timeout=10)).ok

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        settler = threading.Thread(target=settle)
        settler.start()
        asyncio.run(wait())
        settler.join()
    finally:
        sys.setswitchinterval(interval)


# --- on_settle ------------------------------------------------------------------------------


def test_on_settle_is_called_in_the_thread_that_settles() -> None:
    where: list[int] = []
    message = Message("foo", on_settle=lambda _: where.append(threading.get_ident()))
    thread = threading.Thread(target=message.ack)
    thread.start()
    settler = thread.ident
    thread.join()
    assert where == [settler]


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), SystemExit(1), GeneratorExit()])
def test_nothing_that_on_settle_raises_reaches_the_actor_that_settles(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(outcome: Outcome) -> None:
        raise raised

    message = Message(Hostile(), on_settle=fails)

    assert message.ack()
    assert message.outcome == Outcome("stored")
    assert "on_settle" in caplog.text
    assert caplog.records[-1].exc_info is not None
    assert caplog.records[-1].exc_info[1] is raised


def test_a_keyboard_interrupt_in_on_settle_is_the_users_and_passes() -> None:
    def interrupted(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    message = Message("foo", on_settle=interrupted)
    with pytest.raises(KeyboardInterrupt):
        message.ack()
    assert message.outcome == Outcome("stored")


def test_a_logging_filter_that_raises_does_not_end_the_actor_that_settles() -> None:
    def fails(outcome: Outcome) -> None:
        raise ValueError

    def broken(record: logging.LogRecord) -> bool:
        raise AttributeError("id of None")

    log = logging.getLogger("tailrace.message.message")
    log.addFilter(broken)
    try:
        assert Message("foo", on_settle=fails).ack()
    finally:
        log.removeFilter(broken)


def test_what_on_settle_raises_is_logged_and_the_outcome_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(outcome: Outcome) -> None:
        raise OSError("broker gone")

    message = Message("foo", id="m1", on_settle=fails)
    with caplog.at_level(logging.ERROR, "tailrace"):
        assert message.ack()
    assert message.outcome == Outcome("stored")
    (record,) = caplog.records
    assert "m1" in record.getMessage()
    assert record.exc_info is not None


# --- deriving -------------------------------------------------------------------------------


@virtual_time
async def test_a_derived_message_settles_its_origin() -> None:
    origin = Message("foo", headers={"from": "test"})
    ending = origin.settled()
    derived = origin.with_data(3).with_data(4.5)
    assert (derived.id, derived.headers, derived.data) == (origin.id, {"from": "test"}, 4.5)
    assert derived.ack()
    assert not origin.abort("too late")
    assert origin.outcome == derived.outcome == await derived.settled() == Outcome("stored")
    assert (ending.data, origin.data) == (4.5, "foo"), "who waits learns the final data"


def test_a_message_is_lost_only_when_it_and_all_derived_from_it_are_dropped() -> None:
    origin = Message("foo")
    ending = origin.settled()
    one, two = origin.with_data(1), origin.with_data(2).with_data(3)
    del origin, one
    assert ending.outcome is None
    del two
    assert ending.outcome is not None
    assert ending.outcome.status == "lost"


def test_a_split_message_is_settled_when_all_its_parts_are() -> None:
    whole = Message("foo", id="m", headers={"a": "b"})
    parts = whole.split(3)
    assert [(p.id, p.data, p.headers) for p in parts] == [
        (f"m.{i}", "foo", {"a": "b"}) for i in range(3)
    ]
    for part in reversed(parts):
        assert whole.outcome is None
        part.ack()
        part.ack()
    assert whole.outcome == Outcome("stored")


@pytest.mark.parametrize(
    ("settled", "wins"),
    [
        ([4, 3, 2, 1], "failed"),
        ([0, 3, 2], "rejected"),
        ([1, 2, 0], "aborted"),
        ([2, None, 4], "lost"),
        ([None], "lost"),
    ],
)
def test_the_worst_of_the_parts_wins(settled: list[int | None], wins: str) -> None:
    whole = Message("foo")
    parts = whole.split(len(settled))
    for i in settled:
        part = parts.pop(0)
        if i is not None:
            SETTLE[i][0](part)
        del part
    assert whole.outcome is not None
    assert whole.outcome.status == wins


@pytest.mark.parametrize(("better", "worse"), [("rejected", "dead"), ("dead", "failed")])
def test_a_dead_letter_is_worse_than_a_rejection_and_better_than_a_failure(
    better: Any, worse: Any
) -> None:
    whole = Message("foo")
    for status, part in zip((worse, better), whole.split(2), strict=True):
        part._settle(Outcome(status, "why"))
    assert whole.outcome == Outcome(worse, "why")


def test_only_failed_and_lost_are_for_a_source_to_send_again() -> None:
    statuses = typing.get_args(Status)
    assert {s for s in statuses if not Outcome(s).final} == {"failed", "lost"}
    assert len(statuses) == 6


def test_an_outcome_shows_what_cannot_show_itself() -> None:
    assert "cannot be shown" in repr(Outcome("stored", result=Hostile()))
    assert "Message" in repr(Message(Hostile()))


def test_a_reason_that_cannot_be_shown_does_not_end_the_actor_that_fails_the_message() -> None:
    reason: Any = Hostile()
    message = Message("foo")
    assert message.fail(reason)
    assert message.outcome is not None
    assert message.outcome.reason is reason


def test_an_id_that_is_no_text_is_said_so_at_once() -> None:
    with pytest.raises(TypeError, match="must be a str, not 7"):
        Message("foo", id=7)  # type: ignore[arg-type]


def test_the_results_of_the_parts_become_a_list() -> None:
    whole = Message("foo")
    for result, part in zip((1, None, 3), whole.split(3), strict=True):
        part.ack(result)
    assert whole.outcome == Outcome("stored", result=[1, None, 3])


def test_a_whole_that_only_its_parts_hold_is_still_settled() -> None:
    told: list[Outcome] = []
    parts = Message("foo", on_settle=told.append).split(2)
    gc.collect()
    assert told == []
    parts.pop().ack()
    parts.clear()
    assert [o.status for o in told] == ["lost"]


def test_parts_settled_by_threads_at_once_settle_the_whole_once() -> None:
    for _ in range(100):
        told: list[Outcome] = []
        parts = Message("foo", on_settle=told.append).split(4)
        threads = [threading.Thread(target=part.ack) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [Outcome("stored")]


def test_the_outcome_of_a_joined_message_goes_to_all() -> None:
    many = [Message(i) for i in range(3)]
    joined = Message.join(many)
    assert joined.data == [0, 1, 2]
    many[1].reject("by itself")
    joined.with_data("b").ack("row")
    stored = Outcome("stored", result="row")
    assert [m.outcome for m in many] == [stored, Outcome("rejected", "by itself"), stored]


def test_a_joined_message_that_is_dropped_loses_all() -> None:
    told: list[Outcome] = []
    joined = Message.join(Message(i, on_settle=told.append) for i in range(2))
    assert told == []
    del joined
    assert [o.status for o in told] == ["lost", "lost"]


def test_a_settled_message_keeps_no_others_alive() -> None:
    member = Message("foo")
    reference = weakref.ref(member)
    joined = Message.join([member])
    del member
    assert reference() is not None
    joined.ack()
    assert reference() is None


def test_nothing_to_split_into_or_to_join_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="split: n must be a whole number of at least 1, not 0"):
        Message("foo").split(0)
    with pytest.raises(ValueError, match="no messages to join"):
        Message.join([])


# --- submit ---------------------------------------------------------------------------------


@virtual_time
async def test_submit_sends_and_waits_for_the_end() -> None:
    channel = Channel[Message[str]](name="events")

    async def store() -> None:
        message = await channel.recv()
        await asyncio.sleep(1)
        message.ack(message.data.upper())

    actor = asyncio.create_task(store())
    assert await submit(channel, "foo", timeout=5) == Outcome("stored", result="FOO")
    assert now() == pytest.approx(1)
    await actor


async def test_submit_sends_the_id_and_the_headers_that_it_is_given() -> None:
    channel = Channel[Message[str]]()
    sent = asyncio.create_task(submit(channel, "foo", id="d7", headers={"x-event": "push"}))
    message = await channel.recv()
    assert (message.id, dict(message.headers)) == ("d7", {"x-event": "push"})
    message.ack()
    assert (await sent).ok


@virtual_time
async def test_a_submit_that_was_never_taken_says_so_and_is_not_sent() -> None:
    channel = Channel[Message[str]](name="events")
    with pytest.raises(TimeoutError, match=r"events.* did not take .* 2 s; it was not sent"):
        await submit(channel, "foo", timeout=2)
    assert now() == pytest.approx(2)
    assert channel.statistics().waiting_senders == 0


@virtual_time
async def test_a_submit_that_was_taken_but_not_settled_says_that_it_may_still_be_stored() -> None:
    channel = Channel[Message[str]](1, name="events")
    with pytest.raises(TimeoutError, match=r"events.* took .* 2 s; it may still be stored"):
        await submit(channel, "foo", timeout=2)
    assert (await channel.recv()).ack()


@virtual_time
async def test_submit_on_a_closed_channel_raises_closed() -> None:
    channel = Channel[Message[str]]()
    channel.close()
    with pytest.raises(Closed):
        await submit(channel, "foo")
    with pytest.raises(Closed):
        await submit(channel, "foo", timeout=1)


@virtual_time
async def test_a_submit_cancelled_while_it_sends_did_not_send() -> None:
    channel = Channel[Message[str]]()
    for timeout in (None, 5):
        task = asyncio.create_task(submit(channel, "foo", timeout=timeout))
        await wait_all_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert channel.statistics().waiting_senders == 0


# --- id, headers, repr ----------------------------------------------------------------------


def test_ids_are_made_up_once_and_differ() -> None:
    messages = [Message(i) for i in range(100)]
    ids = [m.id for m in messages]
    assert [m.id for m in messages] == ids
    assert len(set(ids)) == 100
    assert all(len(i) == 32 and int(i, 16) >= 0 for i in ids)
    assert Message("foo", id="order-7").id == "order-7"


def test_threads_that_ask_for_an_id_at_once_get_the_same() -> None:
    start = threading.Barrier(4)
    messages = [Message(i) for i in range(200)]
    seen: list[list[str]] = [[] for _ in range(4)]

    def look(mine: list[str]) -> None:
        for message in messages:
            start.wait()
            mine.append(message.id)

    threads = [threading.Thread(target=look, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_names_of_headers_are_in_lower_case_as_those_of_requests_are() -> None:
    message = Message("foo", headers={"X-GitHub-Event": "Push"})
    assert message.headers == {"x-github-event": "Push"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"headers": {"a": 1}}, TypeError, "header 'a' must be a str, not 1"),
        ({"headers": {"a": b"1"}}, TypeError, "header 'a' must be a str, not b'1'"),
        ({"headers": {b"a": "1"}}, TypeError, "name of a header must be a str, not b'a'"),
        ({"headers": {"A": "1", "a": "2"}}, ValueError, "header 'a' is given twice"),
        ({"headers": None}, TypeError, "headers must be a mapping of str to str, not None"),
        ({"headers": "a: b"}, TypeError, "headers must be a mapping of str to str"),
        ({"id": ""}, ValueError, "id of a message must not be empty"),
    ],
)
def test_what_is_no_header_and_no_id_is_named(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Message("foo", **options)


def test_what_is_joined_must_be_messages() -> None:
    no_messages: Any = [1]
    with pytest.raises(TypeError, match="join takes messages, not 1"):
        Message.join(no_messages)


def test_headers_are_a_read_only_copy() -> None:
    given = {"content-type": "text/plain"}
    message = Message("foo", headers=given)
    given.clear()
    assert message.headers == {"content-type": "text/plain"}
    headers: Any = message.headers
    with pytest.raises(TypeError):
        headers["x"] = "y"
    assert Message("foo").headers == {}
    empty: Any = Message("foo").headers
    with pytest.raises(TypeError):
        empty["x"] = "y"


def test_repr_shows_id_shortened_data_and_status() -> None:
    message = Message("x" * 1000, id="m1")
    assert repr(message).startswith("<Message m1 'xxxx")
    assert repr(message).endswith(" open>")
    assert len(repr(message)) < 100
    message.abort("filtered")
    assert repr(message).endswith(" aborted>")
    assert repr(Message(1).split(2)[1]).split()[1].endswith(".1")
    assert repr(Outcome("aborted", "filtered")) == "Outcome(aborted, reason='filtered')"
    assert repr(Outcome("failed", "x", BAD)) == f"Outcome(failed, reason='x', error={BAD!r})"
    assert repr(Outcome("stored", result=7)) == "Outcome(stored, result=7)"


def test_data_that_cannot_show_itself_does_not_break_repr() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Shy" in repr(Message(Shy()))


# --- current_message ------------------------------------------------------------------------


@virtual_time
async def test_current_message_is_the_one_in_hand() -> None:
    assert current_message() is None
    first, second = Message(1), Message(2)
    make_current(first)
    assert current_message() is first
    make_current(second)
    assert await asyncio.create_task(_current()) is current_message() is second


async def _current() -> Message[Any] | None:
    return current_message()


@virtual_time
async def test_a_task_that_was_started_for_a_message_does_not_keep_it_alive() -> None:
    message = Message("foo")
    ending = message.settled()
    done = asyncio.Event()

    async def background() -> Message[Any] | None:
        await done.wait()
        return current_message()

    make_current(message)
    task = asyncio.create_task(background())
    del message
    gc.collect()
    assert ending.outcome is not None
    done.set()
    assert await task is None


# --- what stores and sources tell each other ------------------------------------------------


class Source:
    """What a source is told of its message."""

    def __init__(self) -> None:
        self.outages = 0
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome, data: object) -> None:
        self.outcomes.append(outcome)

    def outage(self) -> None:
        self.outages += 1


def test_the_digest_of_what_a_client_sent_goes_where_the_message_goes() -> None:
    message = message_of("foo", "key", Source(), {"a": "b"}, b"digest")
    derived = message.with_data(1)
    parts = derived.split(2)
    joined = Message.join([message_of("bar", None, Source())])

    assert [digest_of(m) for m in (message, derived, *parts)] == [b"digest"] * 4
    assert [dict(m.headers) for m in (message, derived, *parts)] == [{"a": "b"}] * 4
    assert digest_of(joined) is None
    assert digest_of(Message("foo", id="key")) is None


def test_a_source_hears_of_an_outage_from_whatever_its_message_became() -> None:
    source = Source()
    message = message_of("foo", None, source)
    forms: list[Message[Any]] = [message, message.with_data(1), message.split(2)[1]]
    forms.append(Message.join([message.with_data(2)]))

    for form in forms:
        delayed_by_outage(form)
    assert source.outages == 4
    assert source.outcomes == []

    message.ack()
    delayed_by_outage(message)
    assert source.outages == 4


def test_a_source_that_does_not_ask_for_outages_is_not_told() -> None:
    heard: list[Outcome] = []
    message = Message("foo", on_settle=heard.append)
    delayed_by_outage(message)
    message.ack()
    delayed_by_outage(message)
    assert heard == [Outcome("stored")]


# --- what is logged -------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_message_that_is_failed_by_hand_is_logged_with_its_id_stage_and_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(inbox: Receiver[Message[int]]) -> None:
        async for message in inbox:
            await asyncio.sleep(message.data)
            message.fail(BAD)

    inbox = Channel[Message[int]](math.inf)
    await inbox.send_many([Message(n, id=f"id{n}") for n in (1, 2, 3, 9)])
    inbox.close()
    async with Group() as go:
        go(fails, inbox, name="picky")
    first, last = caplog.records
    assert first.getMessage() == "'picky' failed for message id1"
    assert first.exc_info is not None
    assert first.exc_info[1] is BAD
    assert last.getMessage() == "'picky' failed for message id9 (and 2 others before it)"


def test_one_failure_that_was_not_logged_is_counted_in_the_singular(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailureLog("'picky'")
    for number in range(3):
        log.add(f"id{number}", "bad")
        if number:
            log.rest()
    log.rest()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "'picky' failed for message id0: bad",
        "'picky' failed for 1 more message",
        "'picky' failed for 1 more message",
    ]


def test_only_the_first_who_fails_a_message_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    message = Message("foo", id="here")
    message.abort("filtered")
    message.fail("too late")
    assert caplog.records == []


def test_a_reason_that_no_file_can_hold_is_logged_with_escapes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    FailureLog("work").add("m1", "no \ud800 text")
    (record,) = caplog.records
    assert "no \\ud800 text" in record.getMessage()


@virtual_time
@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
async def test_a_message_left_in_a_channel_by_its_last_receiver_is_lost_at_once(how: str) -> None:
    async def one(inbox: Receiver[Message[int]]) -> None:
        message = await inbox.recv()
        message.ack()
        if how == "raises":
            raise OSError("gone")
        if how == "is cancelled":
            await asyncio.sleep(60)

    channel = Channel[Message[int]](5, name="orders")
    gc.disable()
    try:
        ends = [asyncio.create_task(submit(channel, n)) for n in range(3)]
        with contextlib.suppress(ExceptionGroup, TimeoutError):
            async with asyncio.timeout(1), Group() as go:
                go(one, channel)
        async with asyncio.timeout(1):
            outcomes = [await end for end in ends]
    finally:
        gc.enable()
    assert [outcome.status for outcome in outcomes] == ["stored", "lost", "lost"]
    assert outcomes[1].reason == "left in orders, whose receivers have ended"
    assert len(channel) == 2


@virtual_time
@pytest.mark.parametrize("how", ["no time", "cancelled", "closed"])
async def test_a_message_that_submit_could_not_send_is_not_logged_as_lost(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = Channel[Message[int]](name="orders")
    sending = asyncio.create_task(submit(channel, 1, timeout=1 if how == "no time" else None))
    await asyncio.sleep(0.1)
    if how == "cancelled":
        sending.cancel()
    elif how == "closed":
        channel.close()
    with pytest.raises((TimeoutError, asyncio.CancelledError, Closed)):
        await sending
    del sending
    await asyncio.sleep(1)
    assert caplog.records == []


@virtual_time
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("drops", "'drops one' failed for message m1: lost: dropped before it was settled"),
        ("leaves", "left in to leaves, whose receivers have ended"),
        ("crashes", "'crashes once' failed for message m1: lost: dropped before it was settled"),
    ],
)
async def test_a_message_that_is_lost_is_logged_once_with_id_stage_and_reason(
    how: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def drops(inbox: Receiver[Message[int]]) -> None:
        await inbox.recv()
        await asyncio.sleep(60)

    async def leaves(inbox: Receiver[Message[int]]) -> None:
        await asyncio.sleep(1)

    async def crashes(inbox: Receiver[Message[int]]) -> None:
        message = await inbox.recv()
        raise ValueError(message.data)

    actor = {"drops": drops, "leaves": leaves, "crashes": crashes}[how]
    channel = Channel[Message[int]](2, name=f"to {how}")
    with contextlib.suppress(ExceptionGroup):
        async with Group() as go:
            # Each name has a log of its own, which other tests may have used.
            go(actor, channel, name={"drops": "drops one", "crashes": "crashes once"}.get(how))
            ending = asyncio.create_task(submit(channel, 1, id="m1"))
            await asyncio.sleep(2)
            assert ending.done()
            go.cancel()
    assert (await ending).status == "lost"
    (line,) = [r.getMessage() for r in caplog.records if "m1" in r.getMessage()]
    assert said in line
