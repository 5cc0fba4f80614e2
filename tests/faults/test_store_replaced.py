"""Somebody handles the database while the store runs: moves it, restores a backup, alters tables.

What was acked is in the file or the table that it was acked into, wherever that is now; what is
acked afterwards is in the one that has the name; and neither is damaged.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tailrace import Channel, Message
from tailrace.store import StoreError, store_sqlite
from tailrace.store.sqlite.files import check_none_is_cut_off
from tailrace.store.sqlite.target import SqliteTarget
from tailrace.store.sqlite.write import Writer
from tailrace.store.table import Rows
from tailrace.store.target import Written

from .stores import SOON, database, put, rows, running

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def backup(path: Path, count: int = 200) -> list[str]:
    """Another database with a table of its own, of a size that a foreign WAL would ruin."""
    data = [f"backup {n} " + "x" * 300 for n in range(count)]
    with database(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY NOT NULL, data TEXT NOT NULL)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO events VALUES (?, ?)", enumerate(data))
        connection.execute("COMMIT")
    return data


MANY = [f"row {n} " + "z" * 500 for n in range(400)]


def moved(path: Path) -> Path:
    return path.rename(path.with_name("archive.db"))


async def test_a_moved_database_has_all_that_was_acked_before(path: Path) -> None:
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        moved(path)
        assert await put(channel, "after") == ["stored"]
        assert rows(path.with_name("archive.db")) == MANY
    assert rows(path) == ["after"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["archive.db", "events.db"]


async def test_a_database_that_is_moved_before_the_end_has_all_too(path: Path) -> None:
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        moved(path)
    assert rows(path.with_name("archive.db")) == MANY
    assert [file.name for file in path.parent.iterdir()] == ["archive.db"]


@pytest.mark.parametrize("count", [1, 200, 3000])
async def test_a_restored_backup_is_intact_and_gets_the_new_rows(path: Path, count: int) -> None:
    restored = backup(path.with_name("backup.db"), count)
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        path.with_name("backup.db").replace(path)
        assert await put(channel, "after", "more") == ["stored"] * 2
    assert rows(path) == [*restored, "after", "more"]


async def test_a_link_that_is_pointed_elsewhere_is_followed(path: Path) -> None:
    one, two = path.with_name("one.db"), path.with_name("two.db")
    restored = backup(two)
    path.symlink_to(one)
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        path.unlink()
        path.symlink_to(two)
        assert await put(channel, "after") == ["stored"]
    assert rows(one) == MANY
    assert rows(two) == [*restored, "after"]


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]])
async def test_when_files_beside_it_are_removed_the_database_has_all_the_same(
    path: Path, suffixes: list[str]
) -> None:
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()
        assert await put(channel, "after") == ["stored"]
        # As if the process were killed now: what is in files without names is gone.
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                copy.with_name(copy.name + suffix).write_bytes(source.read_bytes())
        assert rows(copy) == [*MANY, "after"]
    assert rows(path) == [*MANY, "after"]


# What another process does with the database. It goes on with each line that it reads.
STORES: Final = """
import asyncio, math, sys
from tailrace import Channel, Message
from tailrace.store import store_sqlite

async def main():
    channel = Channel[Message[str]](math.inf)
    storing = asyncio.create_task(store_sqlite(sys.argv[1], type=str)(channel))
    for data in ("theirs/1", "theirs/2"):
        message = Message(data)
        await channel.send(message)
        print((await message.settled(10)).status, flush=True)
        sys.stdin.readline()
    channel.close()
    await storing

asyncio.run(main())
"""
WRITES: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("CREATE TABLE theirs (x)")
print("stored", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def unlink_beside(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()


async def test_a_store_waits_for_another_process_that_alone_has_the_removed_wal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def check(real: Path) -> None:
        try:
            check_none_is_cut_off(real)
        except OSError:
            loop.call_soon_threadsafe(refused.set)
            raise

    monkeypatch.setattr("tailrace.store.sqlite.target.check_none_is_cut_off", check)
    with other_process(STORES, path) as process:
        assert said(process) == "stored"
        unlink_beside(path)
        async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
            message = Message("ours")
            await channel.send(message)
            await refused.wait()
            assert message.outcome is None
            print(file=process.stdin, flush=True)
            assert said(process) == "stored"
            assert (await message.settled(10)).ok
    assert rows(path)[:1] == ["theirs/1"]
    assert sorted(rows(path)) == ["ours", "theirs/1", "theirs/2"]


async def test_what_is_only_in_a_wal_that_others_have_replaced_is_kept_in_a_copy(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert await put(channel, "before") == ["stored"]
        unlink_beside(path)
        with other_process(WRITES, path) as process:
            assert said(process) == "stored"
            assert await put(channel, "after") == ["stored"]
    (kept,) = path.parent.glob("*-saved-*")
    assert f"only in the copy {kept}" in caplog.text
    assert rows(kept) == ["before"]
    assert rows(path) == ["after"]
    assert rows(path, "(SELECT x AS data, 0 AS rowid FROM theirs)") == []


async def test_a_file_that_is_replaced_during_a_transaction_is_not_where_the_acks_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = backup(path.with_name("backup.db"))
    replace: list[Callable[[], object]] = []

    class Replacing(Writer[T]):
        def store(self, rows: Rows) -> Written:
            written = super().store(rows)
            if replace:
                replace.pop()()
            return written

    monkeypatch.setattr("tailrace.store.sqlite.target.Writer", Replacing)
    async with running(store_sqlite(path, retry=SOON)) as channel:
        assert await put(channel, "before") == ["stored"]
        replace.append(lambda: path.with_name("backup.db").replace(path))
        assert await put(channel, "during") == ["stored"]
    assert rows(path) == [*restored, "during"]


async def test_rows_that_cannot_be_saved_for_a_reader_are_waited_for(path: Path) -> None:
    actor = store_sqlite(path, retry=SOON, busy_timeout=0)
    async with running(actor) as channel:
        assert set(await put(channel, *MANY[:200])) == {"stored"}
        with database(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            assert set(await put(channel, *MANY[200:])) == {"stored"}
            moved(path)
            message = Message("after")
            await channel.send(message)
            until = actor.statistics().retries + 3
            while actor.statistics().retries < until:
                await asyncio.sleep(0.001)
            assert message.outcome is None
            reader.execute("ROLLBACK")
        assert (await message.settled(10)).ok
    assert rows(path.with_name("archive.db")) == MANY
    assert rows(path) == ["after"]


async def test_rows_that_cannot_be_saved_before_the_end_are_kept_beside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = path.with_name("archive.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        async with running(store_sqlite(path, retry=SOON, busy_timeout=0)) as channel:
            assert set(await put(channel, "early")) == {"stored"}
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            assert set(await put(channel, *MANY)) == {"stored"}
            moved(path)
        reader.execute("ROLLBACK")
        (kept,) = path.parent.glob("*-saved-*")
        assert str(kept) in caplog.text
        assert not path.with_name(path.name + "-wal").exists()
    kept.rename(f"{archive}-wal")
    assert rows(archive) == ["early", *MANY]


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="a WAL cannot be marked here")
async def test_the_wal_of_another_store_is_not_taken_for_that_of_a_restored_database(
    path: Path,
) -> None:
    restored = backup(path.with_name("backup.db"), 3000)
    one, two = (store_sqlite(path, type=str, retry=SOON) for _ in range(2))
    async with running(one) as first, running(two) as second:
        assert await put(first, "one/1") == ["stored"]
        assert await put(second, "two/1") == ["stored"]
        path.rename(path.with_name("archive-1.db"))
        assert set(await put(first, *MANY)) == {"stored"}  # it alone has noticed
        path.rename(path.with_name("archive-2.db"))
        path.with_name("backup.db").rename(path)
        assert await put(second, "two/2") == ["stored"]  # before the first has
        assert await put(first, "one/2") == ["stored"]
        assert await put(second, "two/3") == ["stored"]
    assert rows(path.with_name("archive-1.db")) == ["one/1", "two/1"]
    assert rows(path.with_name("archive-2.db")) == MANY
    assert rows(path) == [*restored, "two/2", "one/2", "two/3"]
    assert not list(path.parent.glob("*-saved-*"))


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="a WAL cannot be marked here")
@pytest.mark.parametrize("notices", ["owner", "other"])
async def test_a_database_that_comes_back_has_the_rows_of_a_wal_that_was_put_aside(
    path: Path, notices: str
) -> None:
    one, two = (store_sqlite(path, type=str, retry=SOON) for _ in range(2))
    async with running(one) as first:
        assert set(await put(first, *MANY)) == {"stored"}
        path.rename(path.with_name("away.db"))
        async with running(two) as second:  # it puts aside the WAL of the first
            assert await put(second, "other") == ["stored"]
            path.rename(path.with_name("other.db"))
            path.with_name("away.db").rename(path)
            order = (first, second) if notices == "owner" else (second, first)
            for n, channel in enumerate(order):
                assert await put(channel, f"later {n}") == ["stored"]
    assert rows(path) == [*MANY, "later 0", "later 1"]
    assert rows(path.with_name("other.db")) == ["other"]
    assert not list(path.parent.glob("*-saved-*"))


async def test_a_store_that_saw_nothing_of_a_move_to_and_fro_overwrites_no_rows(
    path: Path,
) -> None:
    one, two = (store_sqlite(path, type=str, retry=SOON) for _ in range(2))
    async with running(one) as first:
        assert await put(first, "one/1") == ["stored"]
        async with running(two) as second:
            assert await put(second, "two/1") == ["stored"]
            path.rename(path.with_name("away.db"))
            assert await put(second, "other") == ["stored"]
            path.rename(path.with_name("other.db"))
            path.with_name("away.db").rename(path)
            assert set(await put(second, *MANY)) == {"stored"}
            assert await put(first, "one/2") == ["stored"]
    assert rows(path) == ["one/1", "two/1", *MANY, "one/2"]
    assert rows(path.with_name("other.db")) == ["other"]


async def test_a_link_that_is_changed_takes_no_wal_from_who_uses_the_database(path: Path) -> None:
    one, two = path.with_name("one.db"), path.with_name("two.db")
    path.symlink_to(one)
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert await put(channel, "before") == ["stored"]
        with database(one) as other:
            other.execute("INSERT INTO events VALUES ('x', 'other/1')")
            path.unlink()
            path.symlink_to(two)
            assert await put(channel, "after") == ["stored"]
            other.execute("INSERT INTO events VALUES ('y', 'other/2')")
            assert rows(one) == ["before", "other/1", "other/2"]
    assert rows(two) == ["after"]


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="a WAL cannot be marked here")
async def test_a_database_that_is_replaced_while_it_is_opened_is_not_given_the_wal_of_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = backup(path.with_name("backup.db"), 3000)
    connect = sqlite3.connect

    def late(*args: Any, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(sqlite3, "connect", connect)
        path.rename(path.with_name("archive.db"))
        path.with_name("backup.db").rename(path)
        return connect(*args, **options)

    one, two = (store_sqlite(path, type=str, retry=SOON) for _ in range(2))
    async with running(one) as first:
        assert set(await put(first, *MANY)) == {"stored"}
        monkeypatch.setattr(sqlite3, "connect", late)
        async with running(two) as second:
            assert await put(second, "after") == ["stored"]
    assert rows(path) == [*restored, "after"]
    assert rows(path.with_name("archive.db")) == MANY


async def test_a_wal_that_others_have_emptied_ends_in_no_outage_for_ever(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert set(await put(channel, *MANY)) == {"stored"}
        os.truncate(f"{path}-wal", 0)
        path.rename(path.with_name("archive.db"))
        assert await put(channel, "after") == ["stored"]
    assert "cannot be read any longer" in caplog.text
    assert rows(path) == ["after"]


async def test_a_file_that_vanishes_while_a_store_starts_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanishes = [True]

    class Failing(SqliteTarget[T]):
        def _configure(self, *args: Any) -> None:
            if vanishes:
                vanishes.pop()
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMOPEN  # type: ignore[misc]
                raise error
            super()._configure(*args)

    monkeypatch.setattr("tailrace.store.sqlite.store.SqliteTarget", Failing)
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert await put(channel, "a") == ["stored"]
    assert rows(path) == ["a"]


# The schema.


@pytest.mark.parametrize("change", ["DROP TABLE events", "ALTER TABLE events RENAME TO older"])
async def test_a_table_that_is_gone_is_made_anew(path: Path, change: str) -> None:
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert await put(channel, "a") == ["stored"]
        with database(path) as other:
            other.execute(change)
        assert await put(channel, "b", "c") == ["stored"] * 2
        assert await put(channel, "d") == ["stored"]
    assert rows(path) == ["b", "c", "d"]
    if "older" in change:
        assert rows(path, "older") == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE events ADD COLUMN x INTEGER",
        "ALTER TABLE events ADD COLUMN x INTEGER NOT NULL DEFAULT 1",
        "CREATE TABLE others (x)",
        "CREATE INDEX by_data ON events (data)",
        "DROP TABLE events; CREATE TABLE events (x, data VARCHAR(9), id CHAR(32) UNIQUE NOT NULL)",
    ],
)
async def test_a_change_that_keeps_the_rows_is_no_trouble(path: Path, change: str) -> None:
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        await put(channel, "007")
        with database(path) as other:
            other.executescript(change)
        assert await put(channel, "008", "009") == ["stored"] * 2
    assert rows(path)[-2:] == ["008", "009"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE events DROP COLUMN data", "no column 'data'"),
        ("ALTER TABLE events RENAME COLUMN data TO d", "no column 'data'"),
        ("DROP TABLE events; CREATE TABLE events (id TEXT, data TEXT)", "no UNIQUE"),
        ("DROP TABLE events; CREATE TABLE events (id TEXT UNIQUE, data INT)", "data' is INT"),
        ("DROP TABLE events; CREATE VIEW events AS SELECT 1 AS id, 2 AS data", "it is a view"),
        (
            "CREATE TRIGGER t AFTER INSERT ON events BEGIN INSERT INTO nowhere VALUES (1); END",
            "nothing can be inserted",
        ),
    ],
)
async def test_a_change_that_does_not_keep_the_rows_ends_the_store_before_it_acks(
    path: Path, change: str, says: str
) -> None:
    channel = Channel[Message[str]](math.inf)
    task = asyncio.create_task(store_sqlite(path, type=str, retry=SOON)(channel))
    assert await put(channel, "007") == ["stored"]
    with database(path) as other:
        other.executescript(change)
    assert await put(channel, "008", "009") == ["failed"] * 2
    with pytest.raises(StoreError, match=says):
        await task


async def test_a_trigger_that_comes_later_does_not_swallow_what_is_acked(path: Path) -> None:
    async with running(store_sqlite(path, type=str, retry=SOON)) as channel:
        assert await put(channel, "a") == ["stored"]
        with database(path) as other:
            other.execute(
                "CREATE TRIGGER t BEFORE INSERT ON events WHEN new.data LIKE 'bad%' "
                "BEGIN SELECT raise(IGNORE); END"
            )
        assert await put(channel, "b", "bad", "c") == ["stored", "rejected", "stored"]
    assert rows(path) == ["a", "b", "c"]
