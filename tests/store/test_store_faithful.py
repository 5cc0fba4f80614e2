"""Acked means that the row is in the table with the values that were sent, whatever the table."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tailrace import Channel, Message, Outcome
from tailrace.message.internals import message_of
from tailrace.store import Store, StoreStatistics, store_sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def run_sql(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found: list[Any] = []
        for statement in sql.split(";;"):
            found = connection.execute(statement).fetchall()
        return found


async def stored(actor: Store[Any], sent: Iterable[Message[Any]]) -> list[str]:
    """Run `actor` until it has dealt with these messages; how each ended."""
    sent = list(sent)
    channel = Channel[Message[Any]](inf, name="to_store")
    await channel.send_many(sent)
    channel.close()
    await actor(channel)
    return [message.outcome.status if message.outcome else "" for message in sent]


def named(**data: Any) -> list[Message[Any]]:
    return [Message(value, id=name) for name, value in data.items()]


# Tables of others.


@pytest.mark.parametrize(
    "table",
    [
        # a trigger that leaves out, changes, removes or moves the row
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE TRIGGER t BEFORE INSERT
        ON events WHEN new.data = 'bad' BEGIN SELECT raise(IGNORE); END""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE TRIGGER t AFTER INSERT
        ON events BEGIN UPDATE events SET data = 'x' WHERE data = 'bad'; END""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE TRIGGER t AFTER INSERT
        ON events WHEN new.data = 'bad' BEGIN DELETE FROM events WHERE id = new.id; END""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE TRIGGER t BEFORE INSERT
        ON events WHEN new.data = 'bad' BEGIN SELECT raise(ABORT, 'no bad ones'); END""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE TRIGGER t BEFORE INSERT
        ON events WHEN new.data = 'bad' BEGIN SELECT raise(ROLLBACK, 'no bad ones'); END""",
        # constraints, with and without conflict clauses
        "CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT CHECK (data <> 'bad'))",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT,
        x TEXT AS (nullif(data, 'bad')) NOT NULL ON CONFLICT IGNORE)""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT,
        x AS (iif(data IN ('a', 'bad'), 1, data)) UNIQUE ON CONFLICT REPLACE)""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT,
        x AS (iif(data IN ('a', 'bad'), 1, data)) UNIQUE ON CONFLICT IGNORE)""",
        """CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT);;CREATE UNIQUE INDEX i
        ON events (iif(data IN ('a', 'bad'), 1, data)) WHERE data IN ('bad', 'cat', 'a')""",
    ],
)
async def test_a_row_that_a_table_does_not_keep_is_rejected_alone(path: Path, table: str) -> None:
    run_sql(path, table)
    actor = store_sqlite(path, type=str)
    sent = named(**{"1": "a", "2": "bad", "3": "cat", "4": "d"})
    assert await stored(actor, sent) == ["stored", "rejected", "stored", "stored"]
    assert run_sql(path, "SELECT id, data FROM events ORDER BY id") == [
        ("1", "a"),
        ("3", "cat"),
        ("4", "d"),
    ]
    assert actor.statistics().rejected == 1


async def test_a_replacing_primary_key_replaces_nothing(path: Path) -> None:
    run_sql(path, "CREATE TABLE events (id TEXT PRIMARY KEY ON CONFLICT REPLACE, data TEXT)")
    assert await stored(store_sqlite(path, type=str), named(a="1")) == ["stored"]
    assert await stored(store_sqlite(path, type=str), named(a="2", b="3")) == ["rejected", "stored"]
    assert run_sql(path, "SELECT id, data FROM events ORDER BY id") == [("a", "1"), ("b", "3")]


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE events (id TEXT PRIMARY KEY COLLATE NOCASE, data TEXT)",
        """CREATE TABLE events (id TEXT, data TEXT);;
        CREATE UNIQUE INDEX i ON events (id COLLATE NOCASE)""",
    ],
)
async def test_keys_that_only_the_table_takes_for_equal_are_not_acked(
    path: Path, table: str
) -> None:
    run_sql(path, table)
    sent = named(a="same", A="same", b="same")
    assert await stored(store_sqlite(path, type=str), sent) == ["stored", "rejected", "stored"]
    assert await stored(store_sqlite(path, type=str), named(B="same")) == ["rejected"]
    assert run_sql(path, "SELECT id FROM events ORDER BY id") == [("a",), ("b",)]


@dataclass
class Order:
    number: int
    at: datetime.datetime
    day: datetime.date
    paid: bool
    lines: list[str]
    token: uuid.UUID
    price: float
    note: str | None


ORDER = Order(
    7,
    datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC),
    datetime.date(2026, 11, 27),
    paid=True,
    lines=["a"],
    token=uuid.UUID(int=5),
    price=2.0,
    note=None,
)


@pytest.mark.parametrize(
    "columns",
    [
        # as Django makes them, and as SQLAlchemy does
        """id varchar(64) NOT NULL PRIMARY KEY, number integer NOT NULL, at datetime NOT NULL,
        day date NOT NULL, paid bool NOT NULL, lines text NOT NULL CHECK (JSON_VALID(lines)),
        token char(36) NOT NULL UNIQUE, price real NOT NULL, note varchar(9) NULL""",
        """id VARCHAR NOT NULL, number BIGINT NOT NULL, at DATETIME NOT NULL, day DATE NOT NULL,
        paid BOOLEAN NOT NULL, lines JSON NOT NULL, token CHAR(36) NOT NULL, price FLOAT NOT NULL,
        note TEXT, created DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, PRIMARY KEY (id)""",
    ],
)
async def test_tables_that_others_made_keep_what_their_columns_can(
    path: Path, columns: str
) -> None:
    run_sql(path, f"CREATE TABLE orders ({columns})")
    actor = store_sqlite(path, "orders", Order)
    assert await stored(actor, [Message(ORDER, id="1"), Message(ORDER, id="1")]) == ["stored"] * 2
    found = run_sql(path, "SELECT number, at, day, paid, lines, token, price FROM orders")
    assert found == [
        (7, "2026-11-27T12:00:00+00:00", "2026-11-27", 1, '["a"]', str(uuid.UUID(int=5)), 2.0)
    ]


# Repeats.


async def test_a_repeat_with_other_data_is_rejected_and_nothing_is_overwritten(path: Path) -> None:
    actor = store_sqlite(path, type=str)
    first = [Message("a", id="1"), Message("b", id="2"), Message("other", id="1")]
    assert await stored(actor, first) == ["stored", "stored", "rejected"]
    second = [Message("other", id="2"), Message("c", id="3"), Message("a", id="1")]
    assert await stored(actor, second) == ["rejected", "stored", "stored"]
    assert run_sql(path, "SELECT * FROM events ORDER BY id") == [
        ("1", "a"),
        ("2", "b"),
        ("3", "c"),
    ]
    assert actor.statistics() == StoreStatistics(
        rows=3, repeats=1, rejected=2, transactions=2, largest=2
    )


@dataclass
class Item:
    number: int
    name: str


def number_of(item: Item) -> int:
    return item.number


@pytest.mark.parametrize("key", ["number", number_of])
async def test_a_key_of_the_data_is_judged_by_the_columns_too(path: Path, key: Any) -> None:
    actor = store_sqlite(path, type=Item, key=key)
    sent = [Item(1, "a"), Item(1, "a"), Item(1, "b"), Item(2, "b")]
    ended = await stored(actor, map(Message, sent))
    assert ended == ["stored", "stored", "rejected", "stored"]
    assert run_sql(path, "SELECT name FROM events ORDER BY name") == [("a",), ("b",)]


async def test_two_processes_that_store_under_one_id_agree(path: Path) -> None:
    one, two = store_sqlite(path, type=str), store_sqlite(path, type=str)
    assert await stored(one, [Message("a", id="1")]) == ["stored"]
    assert await stored(two, [Message("b", id="1"), Message("a", id="1")]) == ["rejected", "stored"]
    assert run_sql(path, "SELECT data FROM events") == [("a",)]


UTC = datetime.UTC
PLUS_2 = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (
            datetime.datetime,
            datetime.datetime(2026, 1, 1, 0, tzinfo=UTC),
            datetime.datetime(2026, 1, 1, 2, tzinfo=PLUS_2),
        ),
        (decimal.Decimal, decimal.Decimal("1.10"), decimal.Decimal("1.1")),
        (decimal.Decimal, decimal.Decimal("1E+2"), decimal.Decimal(100)),
        (dict, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (dict, {"a": {"x", "y", "z"}}, {"a": {"z", "y", "x"}}),
        (dict, {1: "a", "b": decimal.Decimal("2.0")}, {"b": decimal.Decimal(2), 1: "a"}),
        (float, 1, 1.0),
    ],
)
async def test_equal_values_are_written_in_one_form_and_so_are_repeats(
    path: Path, kind: Any, one: Any, other: Any
) -> None:
    actor = store_sqlite(path, type=kind)
    assert await stored(actor, [Message(one, id="1"), Message(other, id="1")]) == ["stored"] * 2


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [(str, "1", "1.0"), (dict, {"a": 1}, {"a": 1.0}), (dict, {"a": None}, {})],
)
async def test_values_that_are_not_the_same_are_no_repeats(
    path: Path, kind: Any, one: Any, other: Any
) -> None:
    actor = store_sqlite(path, type=kind)
    sent = [Message(one, id="1"), Message(other, id="1")]
    assert await stored(actor, sent) == ["stored", "rejected"]


# Repeats of what a client sent.


def request(data: Any, id: str, sent: str) -> Message[Any]:
    return message_of(data, id, lambda outcome, data: None, digest=sent.encode())


async def test_a_clients_retry_is_known_by_what_it_sent_whatever_stages_made_of_it(
    path: Path,
) -> None:
    actor = store_sqlite(path, type=str)
    assert await stored(actor, [request("foo at 12:00", "k", "foo")]) == ["stored"]
    retries = [request("foo at 12:01", "k", "foo"), request("foo at 12:00", "k", "bar")]
    assert await stored(actor, retries) == ["stored", "rejected"]
    assert run_sql(path, "SELECT * FROM events") == [("k", "foo at 12:00")]
    assert await stored(store_sqlite(path, type=str), retries_of("foo", "bar")) == [
        "stored",
        "rejected",
    ]


def retries_of(*sent: str) -> list[Message[Any]]:
    return [request(f"{each} later", "k", each) for each in sent]


async def test_two_requests_of_one_batch_under_one_id_are_judged_by_what_was_sent(
    path: Path,
) -> None:
    batch = [request("1", "k", "foo"), request("2", "k", "foo"), request("1", "k", "bar")]
    assert await stored(store_sqlite(path, type=str), batch) == ["stored", "stored", "rejected"]
    assert run_sql(path, "SELECT * FROM events") == [("k", "1")]


async def test_an_id_of_a_client_and_the_same_of_a_program_are_judged_by_the_columns(
    path: Path,
) -> None:
    actor = store_sqlite(path, type=str)
    assert await stored(actor, [Message("a", id="k")]) == ["stored"]
    assert await stored(actor, [request("b", "k", "b"), request("a", "k", "a")]) == [
        "rejected",
        "stored",
    ]
    assert await stored(actor, [request("a later", "k", "a")]) == ["stored"]  # known by now
    assert await stored(actor, [Message("a later", id="k")]) == ["rejected"]


async def test_a_row_that_was_deleted_may_be_stored_again_under_its_id(path: Path) -> None:
    actor = store_sqlite(path, type=str)
    await stored(actor, [request("a", "k", "a")])
    run_sql(path, "DELETE FROM events")
    assert await stored(actor, [request("b", "k", "b")]) == ["stored"]
    assert await stored(actor, [request("b2", "k", "b"), request("a", "k", "a")]) == [
        "stored",
        "rejected",
    ]
    assert run_sql(path, "SELECT * FROM events") == [("k", "b")]


async def test_two_tables_of_one_database_have_ids_of_their_own(path: Path) -> None:
    assert await stored(store_sqlite(path, "one", str), [request("a", "k", "a")]) == ["stored"]
    assert await stored(store_sqlite(path, "two", str), [request("b", "k", "b")]) == ["stored"]
    assert run_sql(path, "SELECT data FROM one UNION ALL SELECT data FROM two") == [("a",), ("b",)]


async def test_only_ids_of_clients_have_a_table_of_their_own(path: Path) -> None:
    await stored(store_sqlite(path, type=str), [Message("a", id="k")])
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    assert run_sql(path, tables) == [("events",)]
    await stored(store_sqlite(path, type=str), [request("b", "k2", "b")])
    assert run_sql(path, tables) == [("events",), ("tailrace_ids",)]
    assert run_sql(path, "SELECT name FROM pragma_table_info('events')") == [("id",), ("data",)]


async def test_many_requests_with_ids_are_one_transaction(path: Path) -> None:
    actor = store_sqlite(path, type=str, max_batch=2000)
    sent = [request(str(n), f"k{n}", str(n)) for n in range(1500)]
    assert set(await stored(actor, sent)) == {"stored"}
    assert actor.statistics().transactions == 1
    repeated = [request("later", f"k{n}", str(n)) for n in range(1500)]
    assert set(await stored(actor, repeated)) == {"stored"}
    assert actor.statistics().repeats == 1500
    assert run_sql(path, "SELECT count(*) FROM events") == [(1500,)]


# Values that no table could hold.


@pytest.mark.parametrize(
    ("kind", "bad", "good"),
    [
        (int, 2**63, 2**63 - 1),
        (int, -(2**63) - 1, -(2**63)),
        (str, "a\0b", "ab"),
        (str, "\ud800", "☆"),
        (float, float("nan"), 1.5),
        (float, 2**53 + 1, 2**53),
        (float, 10**400, 1e300),
        (dict, {"a": float("nan")}, {"a": 1.5}),
        (dict, {"a": float("inf")}, {"a": "inf"}),
        (dict, {"a": "\udfff"}, {"a": "b"}),
        (decimal.Decimal, decimal.Decimal("NaN"), decimal.Decimal(1)),
        (datetime.timedelta, datetime.timedelta.max, datetime.timedelta(1)),
        (
            datetime.datetime,
            datetime.datetime(1, 1, 1, tzinfo=PLUS_2),
            datetime.datetime(1, 1, 2, tzinfo=PLUS_2),
        ),
    ],
)
async def test_a_value_that_no_table_could_hold_is_rejected_alone(
    path: Path, kind: Any, bad: Any, good: Any
) -> None:
    actor = store_sqlite(path, type=kind)
    ended = await stored(actor, [Message(good), Message(bad), Message(good)])
    assert ended == ["stored", "rejected", "stored"]
    assert run_sql(path, "SELECT count(*) FROM events") == [(2,)]
    assert actor.statistics().transactions == 1  # it is known before the database is asked


@pytest.mark.parametrize("id", ["a\0b", "\ud800"])
async def test_an_id_that_no_table_could_hold_is_rejected_alone(path: Path, id: str) -> None:
    sent = [Message("a"), Message("b", id=id), Message("c")]
    assert await stored(store_sqlite(path, type=str), sent) == ["stored", "rejected", "stored"]


async def test_a_subclass_is_stored_as_what_it_is_without_its_own_code(path: Path) -> None:
    class Odd(str):
        __slots__ = ()

        def __conform__(self, protocol: object) -> str:
            return "something else"

        def __str__(self) -> str:
            return "something else"

        def __eq__(self, other: object) -> bool:
            raise AssertionError("not asked")

        __hash__ = str.__hash__

    actor = store_sqlite(path, type=str)
    sent = [Message(Odd("a"), id="1"), Message(Odd("a"), id="1")]
    assert await stored(actor, sent) == ["stored"] * 2
    assert run_sql(path, "SELECT data FROM events") == [("a",)]


# User code.


def refuses(data: str) -> str:
    if data == "bad":
        raise RuntimeError("no key")
    return data


def unhashable(data: str) -> Any:
    return [data] if data == "bad" else data


def odd(data: str) -> Any:
    return None if data == "bad" else data


@pytest.mark.parametrize("key", [refuses, unhashable, odd])
async def test_a_key_function_fails_no_more_than_its_own_message(
    path: Path, key: Callable[[str], str]
) -> None:
    actor = store_sqlite(path, type=str, key=key)
    ended = await stored(actor, map(Message, ["a", "bad", "c"]))
    assert ended == ["stored", "failed", "stored"]
    assert actor.statistics().transactions == 1
    assert run_sql(path, "SELECT id FROM events ORDER BY id") == [("a",), ("c",)]


async def test_the_reason_of_a_rejected_repeat_shows_no_data(path: Path) -> None:
    sent = [Message("my secret", id="1"), Message("other secret", id="1")]
    await stored(store_sqlite(path, type=str), sent)
    assert sent[1].outcome == Outcome(
        "rejected",
        "a row of the same id is there already, with other data; it was left as it is",
    )


async def test_minus_zero_is_stored_as_the_zero_that_it_equals(path: Path) -> None:
    """SQLite has no -0.0 in a column; JSON text has."""
    actor = store_sqlite(path, type=float)
    messages = [Message(-0.0, id="a"), Message(0.0, id="a"), Message(-0.0, id="a")]
    assert await stored(actor, messages) == ["stored"] * 3
    assert run_sql(path, "SELECT data, 1 / data, typeof(data) FROM events") == [(0.0, None, "real")]
    nested = store_sqlite(path, "nested", type=list[float])
    assert await stored(nested, [Message([-0.0], id="a")]) == ["stored"]
    assert run_sql(path, "SELECT data FROM nested") == [("[-0.0]",)]
