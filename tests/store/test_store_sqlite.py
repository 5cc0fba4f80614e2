"""store_sqlite: tables from types, repeats, what is really set, and clear refusals."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from tailrace import Channel, Group, Message, Outcome, emit
from tailrace.retry import Retry
from tailrace.store import Store, StoreError, StoreStatistics, store_sqlite
from tailrace.store.sqlite import files
from tailrace.store.sqlite.files import Files, alone, identity, put_aside_foreign
from tailrace.store.sqlite.table import SqliteTable
from tailrace.store.sqlite.target import SqliteTarget
from tailrace.store.sqlite.write import Writer
from tailrace.store.table import Rows
from tailrace.store.target import Written

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def rows(path: Path, sql: str = "SELECT data FROM events ORDER BY rowid") -> list[Any]:
    with database(path) as connection:
        found = connection.execute(sql).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


def overwrite(path: Path, content: bytes | bytearray) -> None:
    path.write_bytes(content)


def content(path: Path) -> bytes:
    return path.read_bytes()


async def stored(
    actor: Store[Any], sent: Iterable[Message[Any]], channel: Channel[Message[Any]] | None = None
) -> list[Outcome | None]:
    """Run `actor` until it has dealt with these messages."""
    sent = list(sent)
    if channel is None:
        channel = Channel(math.inf, name="to_store")
    await channel.send_many(sent)
    channel.close()
    await actor(channel)
    return [message.outcome for message in sent]


@dataclass
class Order:
    number: int
    customer: str
    price: float | None = None


class Reading(TypedDict):
    sensor: str
    value: float


class Event(msgspec.Struct):
    name: str
    tags: list[str]


@attrs.define
class Parcel:
    number: int
    tags: set[str] = attrs.field(factory=set)


class Customer(pydantic.BaseModel):
    name: str
    since: datetime
    address: dict[str, str]


# What is stored.


async def test_rows_are_stored_in_order_under_their_messages_ids(path: Path) -> None:
    sent = [Message(f"☆ {n} ☆") for n in range(3000)]
    actor = store_sqlite(path)
    outcomes = await stored(actor, sent)
    assert set(outcomes) == {Outcome("stored")}  # no result: the answer shows the data
    found = rows(path, "SELECT id, data FROM events ORDER BY rowid")
    assert found == [(message.id, message.data) for message in sent]
    statistics = actor.statistics()
    assert (statistics.rows, statistics.transactions, statistics.largest) == (3000, 3, 1000)


@pytest.mark.parametrize(
    ("element", "row", "columns", "found"),
    [
        (Message[str], "foo", "id TEXT, data TEXT", ("foo",)),
        (Message[bytes], b"\0", "id TEXT, data BLOB", (b"\0",)),
        (Message[int], 7, "id TEXT, data INTEGER", (7,)),
        (Message[dict[str, Any]], {"a": [1]}, "id TEXT, data TEXT", ('{"a":[1]}',)),
        (
            Message[Order],
            Order(1, "Jónsi", 2),
            "id TEXT, number INTEGER, customer TEXT, price REAL",
            (1, "Jónsi", 2.0),
        ),
        (
            Message[Reading],
            {"sensor": "s", "value": 1.5},
            "id TEXT, sensor TEXT, value REAL",
            ("s", 1.5),
        ),
        (Message[Event], Event("e", ["a"]), "id TEXT, name TEXT, tags TEXT", ("e", '["a"]')),
        (
            Message[Parcel],
            Parcel(1, {"b", "a"}),
            "id TEXT, number INTEGER, tags TEXT",
            (1, '["a","b"]'),
        ),
        (
            Message[Customer],
            Customer(name="a", since=datetime(2026, 1, 2, tzinfo=UTC), address={"b": "c"}),
            "id TEXT, name TEXT, since TEXT, address TEXT",
            ("a", "2026-01-02T00:00:00+00:00", '{"b":"c"}'),
        ),
    ],
)
async def test_the_columns_are_those_of_the_channels_element(
    path: Path, element: Any, row: Any, columns: str, found: tuple[Any, ...]
) -> None:
    channel = Channel[element](math.inf)  # type: ignore[valid-type]  # known at run time only
    assert await stored(store_sqlite(path), [Message(row, id="m1")], channel) == [Outcome("stored")]
    described = rows(path, "SELECT name, type FROM pragma_table_info('events') ORDER BY cid")
    assert ", ".join(" ".join(column) for column in described) == columns
    assert rows(path, "SELECT * FROM events") == [("m1", *found)]


@pytest.mark.parametrize("row", ["text", b"bytes", 1.5, Order(1, "a"), Event("e", [])])
async def test_without_an_element_the_first_message_shows_the_type(path: Path, row: Any) -> None:
    assert await stored(store_sqlite(path), [Message(row)]) == [Outcome("stored")]
    assert len(rows(path, "SELECT * FROM events")) == 1


async def test_a_first_message_without_a_column_type_fails_alone(path: Path) -> None:
    outcomes = await stored(store_sqlite(path), [Message(threading.Lock()), Message("good")])
    assert [outcome.status for outcome in outcomes if outcome] == ["failed", "stored"]
    assert rows(path) == ["good"]


async def test_type_overrules_the_channel(path: Path) -> None:
    channel = Channel[Message[Any]](math.inf)
    await stored(store_sqlite(path, type=dict), [Message({"a": 1}), Message("text")], channel)
    assert rows(path) == ['{"a":1}']


async def test_names_are_quoted(path: Path) -> None:
    @dataclass
    class Select:
        group: str

    actor = store_sqlite(path, 'my "own" table; --', Select, id_column="where")
    await stored(actor, [Message(Select("a"), id="1")])
    assert rows(path, 'SELECT * FROM "my ""own"" table; --"') == [("1", "a")]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 127, 128, 129, 1000])
async def test_every_size_of_batch_is_one_transaction(path: Path, count: int) -> None:
    actor = store_sqlite(path, type=str)
    await stored(actor, [Message(str(n)) for n in range(count)])
    assert rows(path) == [str(n) for n in range(count)]
    assert actor.statistics().transactions == 1


async def test_a_batch_too_large_for_one_statement_is_one_transaction_all_the_same(
    path: Path,
) -> None:
    poison = 2999  # in the third statement: the first two are rolled back with it
    actor = store_sqlite(path, type=int, max_batch=3000)
    sent = [Message(n if n != poison else 2**70) for n in range(3000)]
    outcomes = await stored(actor, sent)
    assert rows(path) == [n for n in range(3000) if n != poison]
    assert [n for n, outcome in enumerate(outcomes) if not (outcome and outcome.ok)] == [poison]
    assert actor.statistics().repeats == 0  # nothing of a batch that failed had stayed

    actor = store_sqlite(path, "more", int, max_batch=3000)
    await stored(actor, [Message(n) for n in range(3000)])
    assert actor.statistics() == StoreStatistics(rows=3000, transactions=1, largest=3000)


@pytest.mark.parametrize("variables", [5, 32, 33, 999])
async def test_a_statement_never_has_more_variables_than_sqlite_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, variables: int
) -> None:
    class Limited(SqliteTarget[T]):
        def _configure(self, connection: sqlite3.Connection) -> None:
            super()._configure(connection)
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, variables)

    monkeypatch.setattr("tailrace.store.sqlite.store.SqliteTarget", Limited)
    actor = store_sqlite(path, type=Order)  # 4 columns, and the version of the schema
    sent = [Message(Order(n, "a")) for n in range(500)]
    assert set(await stored(actor, sent)) == {Outcome("stored")}
    assert actor.statistics().transactions == 1
    assert rows(path, "SELECT count(*) FROM events") == [500]
    if variables == 999:  # the fewest with which SQLite is compiled: all else fits too
        again = [Message(message.data, id=message.id) for message in sent]
        assert set(await stored(actor, again)) == {Outcome("stored")}
        assert (actor.statistics().repeats, actor.statistics().transactions) == (500, 2)


async def test_a_batch_asks_sqlite_no_more_than_it_must(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Traced(SqliteTarget[T]):
        def _configure(self, connection: sqlite3.Connection) -> None:
            super()._configure(connection)
            connection.set_trace_callback(lambda sql: asked.append(sql.split()[0]))

    monkeypatch.setattr("tailrace.store.sqlite.store.SqliteTarget", Traced)
    actor = store_sqlite(path, type=str, busy_timeout=0, retry=Retry(1))
    channel = Channel[Message[str]](math.inf)

    async def statements() -> list[str]:
        """For one more row; but for what SQLite asks itself."""
        asked.clear()
        message = Message("a")
        await channel.send(message)
        await message.settled()
        return [word for word in asked if word not in ("PRAGMA", "--")]

    async with Group() as go:
        go(actor, channel)
        await statements()
        assert await statements() == ["INSERT"]
        with database(path) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await statements() == ["INSERT"]  # once a try, or it waits twice for the lock
        channel.close()
    assert actor.statistics().failures == 1


async def test_keys_that_are_numbers_are_stored_as_the_column_has_them(path: Path) -> None:
    def number(order: Order) -> int:
        return order.number

    with database(path) as connection:
        connection.execute("CREATE TABLE old (id INTEGER PRIMARY KEY, number, customer, price)")
    for table, kind in (("old", "integer"), ("new", "text")):
        actor = store_sqlite(path, table, Order, key=number)
        sent = [Message(Order(n, "a")) for n in (7, 8, 7)]
        assert await stored(actor, sent) == [Outcome("stored")] * 3
        assert rows(path, f"SELECT DISTINCT typeof(id) FROM {table}") == [kind]
        assert actor.statistics().repeats == 1


# Repeats.


async def test_a_repeat_is_stored_once_and_acked(path: Path) -> None:
    actor = store_sqlite(path)
    first = [Message("a", id="1"), Message("b", id="2"), Message("a", id="1")]
    assert await stored(actor, first) == [Outcome("stored")] * 3
    assert (
        await stored(actor, [Message("c", id="3"), Message("b", id="2")]) == [Outcome("stored")] * 2
    )
    assert rows(path, "SELECT id, data FROM events ORDER BY rowid") == [
        ("1", "a"),
        ("2", "b"),
        ("3", "c"),
    ]
    statistics = actor.statistics()
    assert (statistics.rows, statistics.repeats) == (3, 2)


async def test_a_function_as_key_takes_the_place_of_the_id(path: Path) -> None:
    actor = store_sqlite(path, type=Order, key=lambda order: f"{order.customer}/{order.number}")
    await stored(actor, map(Message, [Order(1, "a"), Order(2, "a"), Order(1, "a", 5.0)]))
    assert rows(path, "SELECT id, price FROM events ORDER BY rowid") == [
        ("a/1", None),
        ("a/2", None),
    ]


async def test_a_field_as_key_is_the_primary_key_and_there_is_no_other_id(path: Path) -> None:
    actor = store_sqlite(path, type=Order, key="number")
    await stored(actor, map(Message, [Order(7, "a"), Order(5, "b"), Order(7, "c")]))
    assert rows(path, "SELECT * FROM events ORDER BY number") == [(5, "b", None), (7, "a", None)]


async def test_a_key_that_is_none_fails_alone(path: Path) -> None:
    key: Any = {"a": "1", "c": "3"}.get
    outcomes = await stored(store_sqlite(path, key=key), map(Message, "abc"))
    assert [outcome.status for outcome in outcomes if outcome] == ["stored", "failed", "stored"]
    assert rows(path) == ["a", "c"]


# Poison.


async def test_rows_that_break_a_constraint_fail_alone(path: Path) -> None:
    with database(path) as connection:
        connection.execute(
            "CREATE TABLE events (id TEXT PRIMARY KEY, data INTEGER NOT NULL CHECK (data <> 13))"
        )
    actor = store_sqlite(path, type=int)
    outcomes = await stored(actor, [Message(n) for n in range(100)])
    assert rows(path) == [n for n in range(100) if n != 13]
    failed = outcomes[13]
    assert failed is not None
    assert failed.status == "rejected"
    assert "CHECK constraint failed" in failed.reason
    assert actor.statistics().retries == 0


@pytest.mark.parametrize("bad", [5, None, b"bytes"])
async def test_values_that_are_no_text_fail_alone(path: Path, bad: Any) -> None:
    actor = store_sqlite(path, type=str)
    outcomes = await stored(actor, map(Message, ["a", bad, "b"]))
    assert [outcome.status for outcome in outcomes if outcome] == ["stored", "failed", "stored"]
    assert rows(path) == ["a", "b"]


# Group commit, with a real lock.


async def test_rows_that_wait_for_a_lock_are_committed_together(path: Path) -> None:
    actor = store_sqlite(path, type=str, busy_timeout=30)
    channel = Channel[Message[str]](name="to_store")
    sent = [Message(str(n)) for n in range(500)]
    with database(path) as other:
        async with Group() as go:
            go(actor, channel)
            await channel.send(sent[0])
            await sent[0].settled()
            other.execute("BEGIN IMMEDIATE")
            await channel.send_many(sent[1:])
            assert actor.statistics().transactions == 1
            other.execute("COMMIT")
            channel.close()
    assert rows(path) == [message.data for message in sent]
    # The first; those that came in before the thread began the second; all others.
    assert actor.statistics().transactions <= 3
    assert actor.statistics().largest > 250
    assert actor.statistics().retries == 0


async def test_two_stores_and_several_actors_share_a_file(path: Path) -> None:
    stores = [store_sqlite(path, table, str) for table in ("one", "two", "one")]
    sent = [[Message(f"{n}/{i}") for i in range(300)] for n in range(3)]
    async with Group() as go:
        for actor, batch in zip(stores, sent, strict=True):
            channel = Channel[Message[str]](name=batch[0].data)
            go(actor, channel, actors=2)
            go(emit(batch), channel)
    assert sorted(rows(path, "SELECT data FROM one")) == sorted(
        message.data for message in sent[0] + sent[2]
    )
    assert sorted(rows(path, "SELECT data FROM two")) == sorted(message.data for message in sent[1])


async def test_all_of_sqlite_happens_in_one_thread_that_ends_with_the_store(path: Path) -> None:
    before = set(threading.enumerate())
    channel = Channel[Message[str]](math.inf)
    message = Message("a")
    actor = asyncio.create_task(store_sqlite(path)(channel))
    await channel.send(message)
    await message.settled()
    (thread,) = set(threading.enumerate()) - before
    assert thread.name == f"store_sqlite {path}"
    channel.close()
    await actor
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


# What is really set.


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_the_database_is_in_wal_mode_and_synchronous(
    path: Path, durability: Any, synchronous: int
) -> None:
    def make_table(row_type: Any) -> SqliteTable[Any]:
        raise AssertionError("not asked for")

    target = SqliteTarget[str](str(path), make_table, None, durability=durability, busy_timeout=1.5)
    target.open(None)
    connection = target._connection
    assert connection is not None
    found = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "busy_timeout")
    ]
    assert found == ["wal", synchronous, 1500]
    past_the_cache_of_the_drive = [  # asked for on every system, though only macOS heeds it
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("fullfsync", "checkpoint_fullfsync")
    ]
    assert past_the_cache_of_the_drive == [int(durability == "full")] * 2
    target.close()


@pytest.mark.skipif(os.name == "nt", reason="no such permissions there")
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
async def test_a_new_database_may_be_read_by_whom_the_umask_lets(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        await stored(store_sqlite(path), [Message("a")])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~umask


async def test_the_end_leaves_one_file_with_everything_in_it(path: Path) -> None:
    await stored(store_sqlite(path), [Message("a")])
    assert list(path.parent.iterdir()) == [path]


# The files that lie beside it.

can_mark = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="a WAL cannot be marked here")


def test_while_a_store_opens_a_database_no_other_of_its_folder_is_opened(path: Path) -> None:
    pytest.importorskip("fcntl")
    other = alone(path.with_name("other.db"), 0)
    refused = pytest.raises(BlockingIOError, match="another store has been opening")
    with alone(path, 0), refused, other:
        raise AssertionError("two at a time")
    with alone(path, 0):
        pass


def test_who_is_to_wait_no_time_for_the_folder_tries_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")

    class Stopped:
        """Clock whose resolution is too coarse to see the time that a try takes."""

        def monotonic(self) -> float:
            return 7.0

        def sleep(self, seconds: float) -> None:
            raise AssertionError("it waits")

    with alone(path, 0):
        monkeypatch.setattr(files, "time", Stopped())
        with pytest.raises(BlockingIOError), alone(path, 0):
            raise AssertionError("two at a time")


async def test_a_folder_that_cannot_be_locked_is_no_trouble(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    asked: list[int] = []

    def flock(folder: int, how: int) -> None:
        asked.append(how)
        if asked == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 2:
            raise AssertionError("it tries for ever")
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert await stored(store_sqlite(path), [Message("a")]) == [Outcome("stored")]
    assert rows(path) == ["a"]
    assert asked


@can_mark
def test_a_wal_stays_that_of_the_database_for_which_it_was_made(path: Path) -> None:
    restored, wal = path.with_name("backup.db"), path.with_name("events.db-wal")
    for file in (path, restored, wal):
        overwrite(file, b"x")
    for _ in range(2):
        database = identity(path)
        assert database is not None
        Files(path, path, database)
        if restored.exists():
            assert put_aside_foreign(path) is None
            path.rename(path.with_name("archive.db"))
            restored.rename(path)
    assert put_aside_foreign(path) is not None
    assert not wal.exists()


CRASHES: Final = """
import asyncio, math, os, sys
from tailrace import Channel, Message
from tailrace.store import store_sqlite

async def main():
    channel = Channel[Message[str]](math.inf)
    storing = asyncio.create_task(store_sqlite(sys.argv[1], type=str)(channel))
    message = Message(sys.argv[2])
    await channel.send(message)
    os._exit(not (await message.settled(10)).ok)

asyncio.run(main())
"""


def crash(path: Path, data: str) -> None:
    """Store this in a process that ends without closing the database."""
    subprocess.run([sys.executable, "-c", CRASHES, str(path), data], check=True)


@can_mark
async def test_of_several_wals_that_were_put_aside_a_database_gets_its_own(path: Path) -> None:
    names: dict[int, str] = {}
    for name in ("one", "two", "three"):
        crash(path, name)
        names[path.with_name("events.db-wal").stat().st_ino] = name
        path.rename(path.with_name(name))
        overwrite(path, b"")  # another database, which has just been made
        assert put_aside_foreign(path) is not None
        path.unlink()
    *_, last = path.parent.glob("events.db-wal-saved-*")  # those of others are looked at first
    name = names[last.stat().st_ino]
    path.with_name(name).rename(path)
    assert await stored(store_sqlite(path, type=str), [Message("after")]) == [Outcome("stored")]
    assert rows(path) == [name, "after"]
    assert len(list(path.parent.glob("events.db-wal-saved-*"))) == 2


def test_a_connection_to_a_file_that_was_replaced_meanwhile_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    made: list[sqlite3.Connection] = []

    def late(*args: Any, **options: Any) -> sqlite3.Connection:
        path.unlink()
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", late)
    target = SqliteTarget[str](
        str(path), lambda _: pytest.fail("not asked for"), None, durability="full", busy_timeout=0
    )
    with pytest.raises(OSError, match="was replaced while it was being opened"):
        target.open(None)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[-1].execute("SELECT 1")


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB]
)
async def test_after_an_error_that_a_new_connection_may_not_have_there_is_a_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    connections: list[sqlite3.Connection] = []

    class Broken(Writer[T]):
        def store(self, rows: Rows) -> Written:
            connections.append(self._connection)
            if self._connection is connections[0]:
                error = sqlite3.DatabaseError("broken")
                error.sqlite_errorcode = code
                raise error
            return super().store(rows)

    monkeypatch.setattr("tailrace.store.sqlite.target.Writer", Broken)
    actor = store_sqlite(path, type=str, retry=Retry(3, backoff=0))
    assert await stored(actor, [Message("a")]) == [Outcome("stored")]
    assert rows(path) == ["a"]
    assert len(connections) == 2
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connections[0].execute("SELECT 1")


# Refusals, before anything is received.


async def refused(actor: Store[Any], channel: Channel[Message[Any]] | None = None) -> str:
    channel = channel or Channel(math.inf)
    message = Message("waiting")
    await channel.send(message)
    with pytest.raises(StoreError) as raised:
        await actor(channel)
    assert channel.statistics().received == 0
    assert message.outcome is None
    return str(raised.value)


async def test_a_path_without_a_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "events.db"
    said = await refused(store_sqlite(path))
    assert said == f"cannot use database {str(path)!r}: there is no folder {str(path.parent)!r}"


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert "it is a folder" in await refused(store_sqlite(tmp_path))


async def test_a_path_that_no_file_can_have_is_an_error_at_once_and_no_outage(
    tmp_path: Path,
) -> None:
    looped = tmp_path / "looped.db"
    looped.symlink_to(looped)
    for path in (tmp_path / ("x" * 300 + ".db"), tmp_path.joinpath(*"a" * 3000, "x.db"), looped):
        assert repr(str(path)) in await asyncio.wait_for(refused(store_sqlite(path)), 5)


async def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    overwrite(path, b"Dear diary, " * 100)
    said = await refused(store_sqlite(path))
    assert said == f"cannot use database {str(path)!r}: file is not a database"
    assert content(path).startswith(b"Dear diary")


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_a_read_only_database_is_named(path: Path, mode: str) -> None:
    with database(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT)")
    # A write version that SQLite does not know: to be read only, also for root (file format, 1.3).
    image = bytearray(content(path))
    image[18] = 3
    overwrite(path, image)
    said = await refused(store_sqlite(path, type=str))
    assert said == f"cannot use database {str(path)!r}: attempt to write a readonly database"


async def test_a_lock_at_the_start_is_waited_for(path: Path) -> None:
    actor = store_sqlite(path, type=str, busy_timeout=0, retry=Retry(None, backoff=0.01, cap=0.01))
    channel = Channel[Message[str]](math.inf)
    message = Message("a")
    await channel.send(message)
    with database(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        running = asyncio.create_task(actor(channel))
        await asyncio.sleep(0.1)
        assert channel.statistics().received == 0
        other.execute("COMMIT")
    assert (await message.settled()).ok
    channel.close()
    await running


async def test_a_lock_at_the_start_that_lasts_is_named(path: Path) -> None:
    with database(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = await refused(store_sqlite(path, busy_timeout=0, retry=Retry(2, backoff=0)))
    assert "locked" in said
    assert str(path) in said


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("(id TEXT PRIMARY KEY, number INTEGER, customer TEXT)", "no column 'price' (REAL)"),
        ("(id TEXT PRIMARY KEY, number INTEGER, price REAL)", "'customer' (TEXT NOT NULL)"),
        (
            "(id TEXT PRIMARY KEY, number TEXT, customer TEXT, price REAL)",
            "column 'number' is TEXT, but int needs INTEGER",
        ),
        (
            "(id TEXT PRIMARY KEY, number INT, customer INT, price REAL)",
            "column 'customer' is INT, but str needs TEXT",
        ),
        (
            "(id TEXT PRIMARY KEY, number INT, customer TEXT, price REAL NOT NULL)",
            "column 'price' is NOT NULL, but the field may be None",
        ),
        (
            "(id TEXT PRIMARY KEY, number INT, customer TEXT, price REAL, vat REAL NOT NULL)",
            "column 'vat' is NOT NULL without a default, and Order has no such field",
        ),
        (
            "(id TEXT, number INT, customer TEXT, price REAL)",
            "column 'id' is the key, but has no UNIQUE or PRIMARY KEY",
        ),
        (
            "(id TEXT, number INT, customer TEXT, price REAL, PRIMARY KEY (id, number))",
            "column 'id' is the key",
        ),
        (
            "(id TEXT PRIMARY KEY, number INT, customer TEXT, price REAL AS (number * 2))",
            "column 'price' is generated",
        ),
        ("(number INT, customer TEXT, price REAL)", "no column 'id' (TEXT NOT NULL)"),
        ("(id INTEGER PRIMARY KEY, number INT, customer TEXT, price REAL)", "'id' is INTEGER"),
        ("(id NUMERIC PRIMARY KEY, number INT, customer TEXT, price REAL)", "'id' is NUMERIC"),
        ("(id ANY PRIMARY KEY, number INT, customer TEXT, price REAL)", "'id' is ANY"),
        ("(id TEXT PRIMARY KEY, number INT, customer DATETIME, price REAL)", "'customer' is"),
    ],
)
async def test_a_table_that_does_not_fit_is_refused_by_name(
    path: Path, table: str, says: str
) -> None:
    with database(path) as connection:
        connection.execute(f"CREATE TABLE orders {table}")
    said = await refused(store_sqlite(path, "orders", Order))
    assert said.startswith(f"table 'orders' of database {str(path)!r} does not fit Order: ")
    assert says in said


async def test_a_view_is_no_table(path: Path) -> None:
    with database(path) as connection:
        connection.execute("CREATE VIEW events AS SELECT 'a' AS id, 'b' AS data")
    assert "it is a view" in await refused(store_sqlite(path, type=str))


@pytest.mark.parametrize(
    "table",
    [
        "(ID TEXT PRIMARY KEY, Number BIGINT, CUSTOMER VARCHAR(20), price NUMERIC)",
        "(id PRIMARY KEY, number, customer, price)",
        "(n INTEGER PRIMARY KEY, id TEXT UNIQUE, number INT, customer TEXT, price DOUBLE, x TEXT)",
        "(id TEXT PRIMARY KEY, number INT, customer TEXT, price REAL, at NOT NULL DEFAULT 'now')",
        "(id TEXT PRIMARY KEY, number INT, customer TEXT, price REAL) WITHOUT ROWID",
        "(id BLOB PRIMARY KEY, number BLOB, customer BLOB, price LONGBLOB)",
        "(id ANY PRIMARY KEY, number ANY, customer ANY, price ANY) STRICT",
    ],
)
async def test_a_table_that_keeps_the_rows_as_they_are_fits(path: Path, table: str) -> None:
    with database(path) as connection:
        connection.execute(f"CREATE TABLE orders {table}")
    sent = [Message(Order(1, "2", 3.5), id="4") for _ in range(2)]
    assert await stored(store_sqlite(path, "orders", Order), sent) == [Outcome("stored")] * 2
    assert rows(path, "SELECT id, number, customer, price FROM orders") == [("4", 1, "2", 3.5)]


async def test_a_channel_of_rows_without_columns_is_refused(path: Path) -> None:
    class Plain:
        pass

    channel = Channel[Message[Plain]](math.inf)
    assert "no column for Plain" in await refused(store_sqlite(path), channel)


async def test_a_table_that_does_not_fit_the_first_message_fails_it_and_ends(path: Path) -> None:
    with database(path) as connection:
        connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY, data INTEGER)")
    channel = Channel[Message[Any]](math.inf)
    message = Message[Any]("text")
    await channel.send(message)
    with pytest.raises(StoreError, match="column 'data' is INTEGER, but str needs TEXT"):
        await store_sqlite(path)(channel)
    assert message.outcome is not None
    assert message.outcome.status == "failed"


@dataclass
class Twice:
    name: str
    NAME: str


@dataclass
class HasId:
    id: int
    name: str | None


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"path": ""}, ValueError, "path must be that of a file"),
        ({"path": b"events.db"}, ValueError, "path must be that of a file, as text"),
        ({"path": ":memory:"}, ValueError, "gone with the store"),
        ({"path": 5}, TypeError, "int"),
        ({"table": ""}, ValueError, "table cannot be called ''"),
        ({"table": "sqlite_sequence"}, ValueError, "table cannot be called 'sqlite_sequence'"),
        ({"table": 5}, TypeError, "table must be a name, not 5"),
        ({"id_column": "a\0b"}, ValueError, "id_column cannot be called"),
        ({"type": object, "key": 5}, TypeError, "key must be a field's name or a function"),
        ({"type": Order, "key": "colour"}, TypeError, "key='colour': Order has no such field"),
        ({"type": Order, "key": "price"}, TypeError, "key='price': a key is never None"),
        ({"type": HasId}, TypeError, "HasId has a field 'id'.*key='id'.*id_column="),
        ({"type": HasId, "id_column": "NAME"}, TypeError, "HasId has a field 'name'"),
        ({"type": Twice}, TypeError, "Twice has two fields 'name'"),
        ({"type": threading.Thread}, TypeError, "no column for Thread"),
        ({"durability": "off"}, ValueError, "durability must be 'full' or 'normal', not 'off'"),
        ({"busy_timeout": -1}, ValueError, "busy_timeout must be seconds of 0 or more.*not -1"),
        ({"busy_timeout": math.inf}, ValueError, "busy_timeout must be seconds of 0 or more"),
        ({"busy_timeout": math.nan}, ValueError, "busy_timeout must be seconds of 0 or more"),
        ({"max_batch": 0}, ValueError, "max_batch"),
        ({"retry": "yes"}, TypeError, "retry must be a Retry"),
    ],
)
def test_arguments_that_make_no_sense_are_named_before_anything_is_opened(
    path: Path, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        store_sqlite(**{"path": path, **wrong})
    assert not path.exists()


def test_making_a_store_opens_nothing_and_shows_what_it_is(path: Path) -> None:
    actor = store_sqlite(path)
    assert repr(actor) == f"<store_sqlite {str(path)!r} table 'events': nothing stored yet>"
    assert actor.name == "store_sqlite"
    assert not path.exists()
