"""Retries and dead letters: a message is tried again, or kept, or fails; never two of these."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tailrace import testing
from tailrace.actors import DeadLetter, each
from tailrace.actors.handler import EachStatistics
from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Abort, Closed, Reject, StoreError
from tailrace.group import Group
from tailrace.message import Message, Outcome, Settlement, submit
from tailrace.retry import Retry
from tailrace.store import store_sqlite

virtual_time = pytest.mark.virtual_time
SOON = Retry(4, backoff=0)


def now() -> float:
    return asyncio.get_running_loop().time()


class Flaky:
    """Raises what it is told to, attempt by attempt, then returns its data; notes what it saw."""

    def __init__(self, *errors: BaseException | None, seconds: float = 0) -> None:
        self.errors = list(errors)
        self.seconds = seconds
        self.seen: list[Any] = []

    async def __call__(self, data: Any) -> Any:
        self.seen.append(data)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return data


class Plain(Flaky):
    """The same, as a plain function."""

    def __call__(self, data: Any) -> Any:  # type: ignore[override]  # plain on purpose
        self.seen.append(data)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return data


class Pipeline:
    """`actor` between two channels and a store, with a store of dead letters if `buried`."""

    def __init__(self, actor: Any, *, buried: bool = True, actors: int = 1) -> None:
        self.actor = actor
        self.actors = actors
        self.inbox = Channel[Message[Any]](name="inbox")
        self.out = Channel[Message[Any]](name="out")
        self.dead = Channel[Message[DeadLetter[Any]]](name="dead") if buried else None
        self.stored: list[Any] = []
        self.letters: list[DeadLetter[Any]] = []
        self.ids: list[str] = []
        self.ends: Callable[[Message[DeadLetter[Any]]], object] = lambda message: message.ack()

    async def store(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            self.stored.append(message.data)
            message.ack()
            del message

    async def bury(self, inbox: Receiver[Message[DeadLetter[Any]]]) -> None:
        async for message in inbox:
            self.letters.append(message.data)
            self.ids.append(message.id)
            self.ends(message)
            del message

    def start(self, go: Group, name: str | None = None) -> None:
        ends = (self.inbox, self.out) if self.dead is None else (self.inbox, self.out, self.dead)
        go(self.actor, *ends, actors=self.actors, name=name)
        go(self.store, self.out)
        if self.dead is not None:
            go(self.bury, self.dead)

    async def __call__(self, *data: Any) -> list[Outcome]:
        async with Group(on_exit="cancel") as go:
            self.start(go)
            return await asyncio.gather(
                *(submit(self.inbox, value, id=f"m{n}") for n, value in enumerate(data))
            )


# --- retries --------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("kind", [Flaky, Plain])
async def test_a_message_is_tried_again_with_the_same_data_until_it_succeeds(
    kind: type[Flaky],
) -> None:
    fn = kind(OSError("away"), ConnectionError("reset"), TimeoutError("late"))
    run = Pipeline(each(fn, retry=SOON))
    assert await run("a", "b") == [Outcome("stored")] * 2
    assert fn.seen == ["a"] * 4 + ["b"]
    assert run.stored == ["a", "b"]
    assert run.letters == []
    assert run.actor.statistics() == EachStatistics(passed=2, retried=3)


@virtual_time
async def test_the_delays_are_those_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retry, "delays", lambda self: iter([1.0, 2.0]))
    fn = Flaky(OSError(), OSError(), OSError())
    [outcome] = await Pipeline(each(fn, retry=Retry(3)), buried=False)("a")
    assert (outcome.status, len(fn.seen), now()) == ("failed", 3, 3.0)


@virtual_time
@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        (None, OSError(), 1),
        (Retry(3, 0), OSError(), 3),
        (Retry(3, 0), ValueError(), 1),
        (Retry(3, 0, on=ValueError), ValueError(), 3),
        (Retry(3, 0, on=ValueError), OSError(), 1),
        (Retry(3, 0, also=ValueError), ValueError(), 3),
        (Retry(3, 0, also=ValueError), OSError(), 3),
        (Retry(3, 0, on=lambda error: True), Abort("no"), 1),
        (Retry(3, 0, on=Exception), Reject("no"), 1),
        (Retry(3, 0, on=asyncio.CancelledError), asyncio.CancelledError(), 3),
    ],
)
@pytest.mark.parametrize("kind", [Flaky, Plain])
async def test_only_errors_to_which_the_policy_applies_are_tried_again(
    kind: type[Flaky], retry: Retry | None, error: BaseException, attempts: int
) -> None:
    fn = kind(*[error] * 5)
    await Pipeline(each(fn, retry=retry))("a")
    assert len(fn.seen) == attempts


@virtual_time
async def test_the_timeout_is_for_each_attempt_and_none_of_them_for_the_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retry, "delays", lambda self: iter([10.0, 10.0]))
    fn = Flaky(seconds=5)
    run = Pipeline(each(fn, timeout=2, retry=Retry(3)))
    [outcome] = await run("a")
    assert outcome.status == "dead"
    assert (len(fn.seen), now()) == (3, 26.0)
    assert run.letters[0].error == "TimeoutError: took longer than 2 s"
    assert run.letters[0].attempts == 3


@virtual_time
async def test_other_actors_go_on_while_one_waits_for_its_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retry, "delays", lambda self: iter([60.0]))

    async def fn(data: str) -> str:
        if data == "bad" and now() < 60:
            raise OSError
        return data

    run = Pipeline(each(fn, retry=Retry()), actors=2)
    assert [outcome.status for outcome in await run("bad", "a", "b", "c")] == ["stored"] * 4
    assert run.stored == ["a", "b", "c", "bad"]


@virtual_time
async def test_a_message_that_others_settle_meanwhile_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retry, "delays", lambda self: iter([60.0]))
    fn = Flaky(OSError())
    run = Pipeline(each(fn, retry=Retry()))
    message = Message("a")
    async with Group(on_exit="cancel") as go:
        run.start(go)
        await run.inbox.send(message)
        await asyncio.sleep(1)
        message.abort("taken back")
        await asyncio.sleep(100)
    assert (len(fn.seen), run.stored, run.letters) == (1, [], [])
    assert run.actor.statistics() == EachStatistics(skipped=1)


@virtual_time
async def test_a_predicate_that_raises_ends_the_attempts_of_that_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(error: BaseException) -> bool:
        raise KeyError("predicate")

    run = Pipeline(each(Flaky(OSError("away")), retry=Retry(on=broken)), buried=False)
    bad, fine = await run("a", "b")
    assert (bad.status, bad.reason, fine.status) == ("failed", "OSError: away", "stored")
    assert "the predicate of its Retry raised" in caplog.text


@virtual_time
async def test_a_drain_and_a_smaller_stage_wait_for_the_attempts() -> None:
    fn = Flaky(OSError(), OSError(), seconds=3)
    run = Pipeline(each(fn, retry=SOON))
    async with Group() as go:
        run.start(go)
        with run.inbox.sending() as inbox:
            answer = asyncio.create_task(submit(inbox, "a"))
            await asyncio.sleep(1)
    assert (await answer).ok
    assert now() == 9


@virtual_time
async def test_the_message_fails_if_its_actor_is_cancelled_between_two_attempts() -> None:
    run = Pipeline(each(Flaky(OSError("away")), retry=Retry(backoff=1e9, cap=1e9)))
    async with Group() as go:
        run.start(go)
        answer = asyncio.create_task(submit(run.inbox, "a"))
        await asyncio.sleep(1)
        go.cancel()
    outcome = await answer
    assert outcome.status == "failed"
    assert "was cancelled while it had the message in hand" in outcome.reason
    assert run.letters == []


async def test_a_thread_makes_the_next_attempt_when_the_last_call_has_returned() -> None:
    running: list[int] = []
    most: list[int] = []

    def blocks(data: float) -> float:
        running.append(1)
        most.append(len(running))
        import time

        time.sleep(data)
        running.pop()
        return data

    run = Pipeline(each(blocks, threads=True, timeout=0.02, retry=Retry(3, 0)))
    [outcome] = await run(0.06)
    assert (outcome.status, most) == ("dead", [1, 1, 1])


# --- dead letters ---------------------------------------------------------------------------


@virtual_time
async def test_a_message_that_cannot_be_handled_goes_on_as_a_dead_letter() -> None:
    run = Pipeline(each(Flaky(ValueError("bad"), None, *[OSError("away")] * 4), retry=SOON))
    outcomes: list[Outcome] = []
    async with Group() as go:
        run.start(go, name="enrich")
        with run.inbox.sending() as inbox:
            for n, data in enumerate(["x", "y", "z"]):
                message = Message(data, id=f"m{n}", headers={"Host": "here"})
                ending = message.settled()
                await inbox.send(message)
                del message
                outcomes.append(await ending)
    assert [outcome.status for outcome in outcomes] == ["dead", "stored", "dead"]
    assert (outcomes[0].reason, outcomes[0].final) == ("ValueError: bad", True)
    headers = {"host": "here"}
    assert run.letters == [
        DeadLetter("m0", "x", "ValueError: bad", 1, "enrich", headers),
        DeadLetter("m2", "z", "OSError: away", 4, "enrich", headers),
    ]
    assert len({"m0", "m2", *run.ids}) == 4, "a dead letter has an id of its own"
    assert run.actor.statistics() == EachStatistics(passed=1, dead=2, retried=3)


@virtual_time
@pytest.mark.parametrize("on_error", ["fail", "abort", "raise"])
async def test_dead_letters_come_before_what_on_error_says(on_error: Any) -> None:
    run = Pipeline(each(Flaky(ValueError()), on_error=on_error))
    assert [outcome.status for outcome in await run("a", "b")] == ["dead", "stored"]


@virtual_time
async def test_verdicts_of_the_function_are_no_dead_letters() -> None:
    run = Pipeline(each(Flaky(Abort("no"), Reject("bad"))))
    assert [outcome.status for outcome in await run("a", "b")] == ["aborted", "rejected"]
    assert run.letters == []


@virtual_time
async def test_the_data_of_a_dead_letter_is_what_came_in() -> None:
    came = ["a"]

    async def replaces(data: list[str]) -> Any:
        from tailrace.message import current_message

        message = current_message()
        assert message is not None
        message.data = ["another"]  # type: ignore[misc]  # read-only to checkers (covariant)
        raise OSError

    run = Pipeline(each(replaces, retry=SOON))
    await run(came)
    assert run.letters[0].data is came


@virtual_time
@pytest.mark.parametrize(
    ("ends", "how"),
    [
        (lambda m: m.fail("no disk"), "failed: no disk"),
        (lambda m: m.abort("full"), "aborted: full"),
        (lambda m: m.reject("too long"), "rejected: too long"),
        (lambda m: None, "lost: dropped before it was settled"),
    ],
    ids=["failed", "aborted", "rejected", "lost"],
)
async def test_a_message_fails_if_its_dead_letter_is_not_stored(
    ends: Callable[[Message[Any]], object], how: str
) -> None:
    run = Pipeline(each(Flaky(ValueError("bad"))))
    run.ends = ends
    [outcome] = await run("a")
    assert outcome.status == "failed"
    assert outcome.reason == f"ValueError: bad (and its dead letter was not stored, but {how})"
    assert isinstance(outcome.error, ValueError)


@virtual_time
async def test_a_message_is_open_until_its_dead_letter_is_stored() -> None:
    run = Pipeline(each(Flaky(ValueError())))
    kept: list[Message[Any]] = []
    run.ends = kept.append
    async with Group(on_exit="cancel") as go:
        run.start(go)
        answer = asyncio.create_task(submit(run.inbox, "a"))
        await asyncio.sleep(60)
        assert not answer.done()
        kept.pop().ack()
        assert (await answer).status == "dead"


@virtual_time
async def test_actors_wait_while_the_channel_of_dead_letters_is_full() -> None:
    actor = each(Flaky(*[ValueError()] * 3))
    inbox, out = Channel[Message[Any]](3), Channel[Message[Any]](3)
    dead = Channel[Message[DeadLetter[Any]]](1, name="dead")
    messages = [Message(n) for n in range(3)]
    async with Group() as go:
        await inbox.send_many(messages)
        go(actor, inbox, out, dead)
        await testing.wait_all_parked()
        assert (len(inbox), len(dead)) == (1, 1)
        go.cancel()
    statuses = [None if m.outcome is None else m.outcome.status for m in messages]
    assert statuses[1] == "failed"
    assert messages[1].outcome is not None
    assert "was cancelled" in messages[1].outcome.reason


@virtual_time
async def test_a_channel_of_dead_letters_that_closes_ends_the_actor() -> None:
    actor = each(Flaky(*[ValueError()] * 3))
    inbox, out = Channel[Message[Any]](1), Channel[Message[Any]](3)
    dead = Channel[Message[DeadLetter[Any]]](name="dead")
    dead.close()
    message = Message("a")
    await inbox.send(message)
    with pytest.raises(Closed) as closed:
        await actor(inbox, out, dead)
    assert closed.value.channel is dead
    assert message.outcome is not None
    assert message.outcome.status == "failed"


@virtual_time
async def test_letters_of_one_part_decide_for_the_whole() -> None:
    run = Pipeline(each(Flaky(ValueError())))
    message = Message("a")
    async with Group(on_exit="cancel") as go:
        run.start(go)
        for part in message.split(2):
            await run.inbox.send(part)
            del part
        assert (await message.settled(5)).status == "dead"


def test_a_dead_letter_of_narrower_data_is_one_of_wider_data() -> None:
    letter = DeadLetter("m", 1, "KeyError", 1, "enrich")
    wider: DeadLetter[int | str] = letter
    assert wider == letter
    assert letter.headers == {}


# --- every message comes to an end ----------------------------------------------------------


class Source:
    """Sends eight messages, and keeps how each ends."""

    def __init__(self) -> None:
        self.ends: list[Settlement] = []

    async def __call__(self, out: Sender[Message[int]]) -> None:
        for n in range(8):
            message = Message(n)
            self.ends.append(message.settled())
            await out.send(message)
            del message

    async def all_ended(self) -> None:
        async with asyncio.timeout(1):
            for end in self.ends:
                await end


async def third_time(data: int) -> int:
    """Even data never succeed, others do at once."""
    await asyncio.sleep(0)
    if data % 2 == 0:
        raise OSError("away")
    return data


def second_time(data: int) -> int:
    if data % 2 == 0:
        raise OSError("away")
    return data


@pytest.mark.parametrize("turns", range(30))
@pytest.mark.parametrize("fn", [third_time, second_time])
@virtual_time
async def test_a_cancellation_at_any_turn_leaves_no_message_open(
    fn: Any, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    source = Source()
    run = Pipeline(each(fn, retry=Retry(2, backoff=0)))

    async def pipeline() -> None:
        async with Group() as go:
            run.start(go)
            go(source, run.inbox)

    task = asyncio.create_task(pipeline())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    await source.all_ended()
    assert math.isclose(now(), 0)


@pytest.mark.parametrize("which", ["store", "bury"])
@virtual_time
async def test_a_neighbour_that_dies_leaves_no_message_open(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(inbox: Receiver[Message[Any]]) -> None:
        (await inbox.recv()).ack()
        raise OSError("gone")

    source = Source()
    run = Pipeline(each(third_time, retry=Retry(2, backoff=0)))
    monkeypatch.setattr(run, which, dies)
    with suppress(ExceptionGroup):
        async with Group() as go:
            run.start(go)
            go(source, run.inbox)
    await source.all_ended()


# --- stored ---------------------------------------------------------------------------------


@dataclass
class Order:
    user: str
    lines: list[int]


async def test_dead_letters_are_rows_with_a_column_for_each_field(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tailrace")  # no report could hold the text
    path = tmp_path / "dead.db"
    inbox = Channel[Message[Order]]()
    out = Channel[Message[Order]]()
    dead = Channel[Message[DeadLetter[Order]]]()
    run = Pipeline(None)
    nul = "not \0 good \ud800"
    async with Group() as go:
        go(each(Flaky(ValueError(nul)), retry=SOON), inbox, out, dead, name="price")
        go(run.store, out)
        go(store_sqlite(path, "dead_letters"), dead)
        with inbox.sending() as sender:
            order = Order("ann", [1, 2])
            outcome = await submit(sender, order, id="m1", headers={"host": "here"})
            assert (outcome.status, outcome.reason) == ("dead", f"ValueError: {nul}")
            assert (await submit(sender, order)).ok
    with sqlite3.connect(path) as database:
        [(letter_id, *row)] = database.execute("SELECT * FROM dead_letters").fetchall()
        columns = database.execute("SELECT name, type FROM pragma_table_info('dead_letters')")
        assert columns.fetchall() == [
            ("letter_id", "TEXT"),
            ("id", "TEXT"),
            ("data", "TEXT"),
            ("error", "TEXT"),
            ("attempts", "INTEGER"),
            ("stage", "TEXT"),
            ("headers", "TEXT"),
        ]
    database.close()
    assert len(letter_id) == 32
    assert json.loads(row[1]) == {"user": "ann", "lines": [1, 2]}
    assert json.loads(row.pop()) == {"host": "here"}
    del row[1]
    assert row == ["m1", "ValueError: not \\x00 good \\ud800", 1, "price"]


async def test_a_store_of_dead_letters_that_is_down_fails_the_message(tmp_path: Path) -> None:
    """No folder for the database: the store ends at its start, and the program with it."""
    dead = Channel[Message[DeadLetter[int]]](10)
    inbox, out = Channel[Message[int]](1), Channel[Message[int]]()
    message = Message(1)
    await inbox.send(message)
    with pytest.raises(ExceptionGroup) as failed:
        async with Group() as go:
            go(each(Flaky(ValueError())), inbox, out, dead)
            go(store_sqlite(tmp_path / "no" / "dead.db", retry=Retry(1)), dead)
    assert isinstance(failed.value.exceptions[0], StoreError)
    assert message.outcome is not None
    assert message.outcome.status == "failed"


def test_letters_of_what_could_never_be_stored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"DeadLetter.*no column for .*Callable"):
        store_sqlite(tmp_path / "dead.db", type=DeadLetter[Callable[[], None]])
