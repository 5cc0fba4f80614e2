"""The database goes out of order under a running store: what was received is stored or answered.

All faults are real: a lock held by another connection, a database that may grow no further, a
file that is removed, replaced or overwritten. The store tries again without a pause to speak of.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any, TypeVar

import pytest

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # as its stubs know no such place

from tailrace import Channel, Message, Outcome
from tailrace.retry import Retry
from tailrace.store import Store, store_sqlite
from tailrace.store.sqlite.target import SqliteTarget

from .stores import SOON, database, outcomes, put, rows, running, send

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def content(path: Path) -> bytes:
    return path.read_bytes()


async def retried(actor: Store[Any], times: int = 3) -> None:
    """Return when the store has met the fault, and met it again."""
    until = actor.statistics().retries + times
    while actor.statistics().retries < until:  # nobody tells of it
        await asyncio.sleep(0.001)


async def test_a_lock_is_an_outage_and_all_is_stored_when_it_goes(path: Path) -> None:
    actor = store_sqlite(path, busy_timeout=0, retry=SOON)
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        with database(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            sent = await send(channel, "a", "b", "c")
            await retried(actor)
            assert [message.outcome for message in sent] == [None] * 3
            other.execute("ROLLBACK")
        assert await outcomes(sent) == ["stored"] * 3
    assert rows(path) == ["before", "a", "b", "c"]
    assert actor.statistics().failures == 0


async def test_a_lock_that_lasts_fails_what_waited_and_the_store_lives_on(path: Path) -> None:
    actor = store_sqlite(path, busy_timeout=0, retry=Retry(3, backoff=0))
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        with database(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            sent = await send(channel, "a", "b", "c")
            assert await outcomes(sent) == ["failed"] * 3
            outcome = sent[0].outcome
            assert outcome is not None
            assert "database is locked" in outcome.reason
            other.execute("ROLLBACK")
        assert await put(channel, "after") == ["stored"]
    assert rows(path) == ["before", "after"]


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases that store_sqlite opens may have 24 pages, as if the disk were full then."""

    class SmallDisk(SqliteTarget[T]):
        def _configure(self, connection: sqlite3.Connection) -> None:
            super()._configure(connection)
            connection.execute("PRAGMA max_page_count = 24")

    monkeypatch.setattr("tailrace.store.sqlite.store.SqliteTarget", SmallDisk)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_is_an_outage_until_there_is_room_again(path: Path) -> None:
    actor = store_sqlite(path, max_batch=4, retry=SOON)
    sent: list[Message[str]] = []
    async with running(actor) as channel:
        while not actor.statistics().retries:
            # No more than four ahead, or what is left over fills the disk once more.
            sent += await send(channel, *(f"{len(sent) + n}:" + "x" * 2000 for n in range(4)))
            while sent[-1].outcome is None and not actor.statistics().retries:
                await asyncio.sleep(0.001)
        await retried(actor)
        kept = rows(path)
        assert kept == [message.data for message in sent if message.outcome is not None]
        with database(path) as other:
            other.execute("DELETE FROM events")
        assert await outcomes(sent) == ["stored"] * len(sent)
    assert len(kept) > 20
    assert kept + rows(path) == [message.data for message in sent]
    assert actor.statistics().failures == 0


@pytest.mark.usefixtures("small_disk")
async def test_a_disk_that_stays_full_fails_the_messages_and_says_so(path: Path) -> None:
    actor = store_sqlite(path, retry=Retry(2, backoff=0))
    async with running(actor) as channel:
        (small,) = await send(channel, "small")
        assert (await small.settled()).ok
        (large,) = await send(channel, "x" * 200_000)
        assert await large.settled() == Outcome(
            "failed",
            "Outage: OperationalError: database or disk is full",
            large.outcome.error if large.outcome else None,
        )
        assert await put(channel, "small too") == ["stored"]
    assert rows(path) == ["small", "small too"]


@pytest.mark.skipif(resource is None, reason="there are no limits to set")
async def test_a_disk_that_refuses_to_write_is_an_outage(path: Path) -> None:
    assert resource is not None
    actor = store_sqlite(path, retry=SOON)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            sent = await send(channel, "x" * 200_000, "after")
            await retried(actor)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await outcomes(sent) == ["stored"] * 2
    assert rows(path) == ["before", "x" * 200_000, "after"]


async def test_a_removed_file_is_made_anew_and_nothing_is_acked_into_the_void(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    actor = store_sqlite(path, retry=SOON)
    async with running(actor) as channel:
        assert await put(channel, "gone") == ["stored"]
        for file in path.parent.iterdir():
            file.unlink()
        sent = await send(channel, "a", "b")
        assert await outcomes(sent) == ["stored"] * 2
        assert rows(path) == ["a", "b"]
    assert "was removed or replaced" in caplog.text


async def test_a_replaced_file_is_the_one_that_is_written_to(path: Path) -> None:
    actor = store_sqlite(path, retry=SOON)
    async with running(actor) as channel:
        assert await put(channel, "old") == ["stored"]
        for file in path.parent.iterdir():
            file.rename(file.with_name(f"archive-{file.name}"))
        assert await put(channel, "new") == ["stored"]
    assert rows(path) == ["new"]
    assert rows(path.with_name("archive-events.db")) == ["old"]


async def test_a_folder_that_vanishes_and_returns_is_an_outage(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "events.db"
    actor = store_sqlite(path, retry=SOON)
    async with running(actor) as channel:
        assert await put(channel, "a") == ["stored"]
        moved = folder.rename(tmp_path / "elsewhere")
        sent = await send(channel, "b")
        await retried(actor)
        assert sent[0].outcome is None
        moved.rename(folder)
        assert await outcomes(sent) == ["stored"]
    assert rows(path) == ["a", "b"]


async def test_a_file_replaced_by_rubbish_fails_the_messages_and_stays_as_it_is(path: Path) -> None:
    actor = store_sqlite(path, retry=Retry(3, backoff=0))
    async with running(actor) as channel:
        assert await put(channel, "a") == ["stored"]
        for file in path.parent.iterdir():
            file.unlink()
        overwrite(path, b"rubbish " * 1000)
        sent = await send(channel, "b", "c")
        assert await outcomes(sent) == ["failed"] * 2
        outcome = sent[0].outcome
        assert outcome is not None
        assert "not a database" in outcome.reason
        assert actor.statistics().retries == 2  # and not row by row
    assert content(path).startswith(b"rubbish")


async def test_a_cancelled_store_acks_the_commit_that_waited_for_a_lock(path: Path) -> None:
    actor = store_sqlite(path, type=str, busy_timeout=30)
    channel = Channel[Message[str]](name="to_store")
    task = asyncio.create_task(actor(channel))
    sent = [Message(str(n)) for n in range(50)]
    await channel.send(sent[0])
    await sent[0].settled()
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        await channel.send_many(sent[1:])
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        other.execute("ROLLBACK")
    with pytest.raises(asyncio.CancelledError):
        await task
    status = await outcomes(sent)
    assert set(status) == {"stored", "failed"}
    acked = [message.data for message, end in zip(sent, status, strict=True) if end == "stored"]
    assert rows(path) == acked


async def test_cancelled_at_any_moment_a_store_acks_exactly_what_is_stored(path: Path) -> None:
    everything: list[Message[str]] = []
    for round_ in range(20):
        actor = store_sqlite(path, type=str, max_batch=16)
        channel = Channel[Message[str]](name="to_store")
        task = asyncio.create_task(actor(channel))
        sent = [Message(f"{round_}/{n}") for n in range(200)]
        sender = asyncio.create_task(send_all(channel, sent))
        while channel.statistics().received <= round_ * 8:  # at that moment
            await asyncio.sleep(0.0002)  # by a timer, so that the writer's thread has its turn
        task.cancel()
        await asyncio.wait([task])
        sender.cancel()
        await asyncio.wait([sender])
        everything += sent
    assert rows(path) == [m.data for m in everything if m.outcome == Outcome("stored")]
    received = [m for m in everything if m.outcome is not None]
    assert {m.outcome.status for m in received if m.outcome} == {"stored", "failed"}


async def send_all(channel: Channel[Message[str]], sent: list[Message[str]]) -> None:
    await channel.send_many(sent)


async def test_an_outage_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailrace")
    actor = store_sqlite(path, type=str, busy_timeout=0, retry=SOON)
    async with running(actor) as channel:
        assert await put(channel, "a") == ["stored"]
        with database(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            sent = await send(channel, "b")
            await retried(actor, 5)
            other.execute("ROLLBACK")
        assert await outcomes(sent) == ["stored"]
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "store_sqlite: outage, trying again: database is locked"
    assert last.startswith("store_sqlite: the outage is over, after ")
