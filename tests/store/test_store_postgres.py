"""store_postgres on a real server: tables from types, values, repeats, and clear refusals."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import math
import threading
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tailrace import Channel, DeadLetter, Group, Message, Outcome, Retry
from tailrace.message.internals import PLACE, message_of
from tailrace.store import Store, StoreError, store_postgres
from tests.postgresql import PASSWORD, Place

ONCE = Retry(1)


async def stored(
    actor: Store[Any], sent: Iterable[Message[Any]], channel: Channel[Message[Any]] | None = None
) -> list[str]:
    """Run `actor` until it has dealt with these messages: their statuses."""
    sent = list(sent)
    if channel is None:
        channel = Channel(math.inf, name="to_store")
    await channel.send_many(sent)
    channel.close()
    await actor(channel)
    return [status(message) for message in sent]


def status(message: Message[Any]) -> str:
    assert message.outcome is not None
    return message.outcome.status


def reason(message: Message[Any]) -> str:
    assert message.outcome is not None
    return message.outcome.reason


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


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


@dataclass
class Everything:
    text: str
    whole: int
    real: float
    flag: bool
    raw: bytes
    moment: datetime.datetime
    naive: Annotated[datetime.datetime, msgspec.Meta(tz=False)]
    day: datetime.date
    clock: datetime.time
    span: timedelta
    amount: Decimal
    ident: uuid.UUID
    nested: dict[str, Any]
    colour: Colour
    maybe: int | None


NOON = datetime.datetime(2024, 5, 17, 12, tzinfo=UTC)
EVERYTHING = Everything(
    text="Jónsi ☆",
    whole=2**63 - 1,
    real=-0.1,
    flag=True,
    raw=b"\0\xff",
    moment=NOON,
    naive=datetime.datetime(1, 1, 1),
    day=datetime.date(9999, 12, 31),
    clock=datetime.time(23, 59, 59, 999999),
    span=timedelta(days=-3, microseconds=1),
    amount=Decimal("1.10"),
    ident=uuid.UUID(int=7),
    nested={"a": [1, 1.0, None], "b": {"☆"}},
    colour=Colour.BLUE,
    maybe=None,
)


# What is stored.


async def test_rows_are_stored_in_order_under_their_messages_ids(postgres: Place) -> None:
    sent = [Message(f"☆ {n} ☆") for n in range(2500)]
    actor = store_postgres(postgres.dsn())
    assert set(await stored(actor, sent)) == {"stored"}
    found = await postgres.query("SELECT id, data FROM events ORDER BY ctid")
    assert found == [(message.id, message.data) for message in sent]
    statistics = actor.statistics()
    assert (statistics.rows, statistics.transactions, statistics.largest) == (2500, 3, 1000)


async def test_each_type_has_its_column_and_keeps_its_values(postgres: Place) -> None:
    channel = Channel[Message[Everything]](math.inf)
    assert await stored(store_postgres(postgres.dsn()), [Message(EVERYTHING, id="1")], channel) == [
        "stored"
    ]
    columns = await postgres.query(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        "WHERE attrelid = 'events'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert columns == [
        ("id", "text", True),
        ("text", "text", True),
        ("whole", "bigint", True),
        ("real", "double precision", True),
        ("flag", "boolean", True),
        ("raw", "bytea", True),
        ("moment", "timestamp with time zone", True),
        ("naive", "timestamp without time zone", True),
        ("day", "date", True),
        ("clock", "time without time zone", True),
        ("span", "interval", True),
        ("amount", "numeric", True),
        ("ident", "uuid", True),
        ("nested", "jsonb", True),
        ("colour", "text", True),
        ("maybe", "bigint", False),
    ]
    ((_, *found),) = await postgres.query("SELECT * FROM events")
    assert found[:-3] == [getattr(EVERYTHING, name) for name, *_ in columns[1:-3]]
    assert json.loads(found[-3]) == {"a": [1, 1.0, None], "b": ["☆"]}
    assert found[-2:] == ["blue", None]


@pytest.mark.parametrize("row", ["text", b"bytes", 1.5, 7, True, Order(1, "a"), Event("e", [])])
async def test_without_an_element_the_first_message_shows_the_type(
    postgres: Place, row: Any
) -> None:
    assert await stored(store_postgres(postgres.dsn()), [Message(row)]) == ["stored"]
    assert len(await postgres.query("SELECT * FROM events")) == 1


async def test_dead_letters_have_a_column_for_each_field(postgres: Place) -> None:
    letter = DeadLetter("7", {"a": 1}, "ValueError: no", 3, "parse", {"file": "x"})
    channel = Channel[Message[DeadLetter[dict[str, int]]]](1)
    actor = store_postgres(postgres.dsn(), "dead")
    assert await stored(actor, [Message(letter, id="l1")], channel) == ["stored"]
    found = await postgres.query("SELECT letter_id, id, data->>'a', attempts FROM dead")
    assert found == [("l1", "7", "1", 3)]


async def test_the_table_is_made_in_the_schema_that_is_named(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn(search_path="public"), "odd name", schema=postgres.schema)
    assert await stored(actor, [Message("a")]) == ["stored"]
    assert await postgres.query('SELECT data FROM "odd name"') == ["a"]


moments = st.datetimes(
    datetime.datetime(2, 1, 1),
    datetime.datetime(9998, 12, 31),
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))]
    ),
)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
jsons = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows_of_everything = st.builds(
    Everything,
    text=texts,
    whole=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False),
    flag=st.booleans(),
    raw=st.binary(),
    moment=moments,
    naive=st.datetimes(),
    day=st.dates(),
    clock=st.times(),
    span=st.timedeltas(),
    amount=st.decimals(allow_nan=False, allow_infinity=False, places=None),
    ident=st.uuids(),
    nested=st.dictionaries(texts, jsons, max_size=3),
    colour=st.sampled_from(Colour),
    maybe=st.none() | st.integers(0, 9),
)


def numbers_kept(text: str) -> Any:
    """JSON with its numbers as they are written: 1e16 is 10000000000000000, and 1.0 is not 1."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@settings(max_examples=25, database=None, phases=[Phase.explicit, Phase.generate])
@given(rows=st.lists(rows_of_everything, min_size=1, max_size=20))
async def test_values_come_out_as_they_went_in_and_are_repeats_of_themselves(
    postgres_server: Any, rows: list[Everything]
) -> None:
    place = Place.__new__(Place)
    place.server, place.schema = postgres_server, f"p{next(Place.numbers)}"
    await place.execute(f"CREATE SCHEMA {place.schema}")
    sent = [Message(row, id=str(n)) for n, row in enumerate(rows)]
    again = [Message(row, id=str(n)) for n, row in enumerate(rows)]
    actor = store_postgres(place.dsn(), type=Everything)
    outcomes = await stored(actor, sent)
    # A Decimal may have an exponent that no NUMERIC has.
    kept = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome == "stored"]
    assert all(
        abs(row.amount.adjusted()) > 16000 or row.amount.as_tuple().exponent < -16000  # type: ignore[operator]
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome != "stored"
    )
    assert await stored(actor, again) == outcomes
    assert actor.statistics().repeats == len(kept)
    found = await place.query("SELECT * FROM events ORDER BY id::int")
    for (_, *values), row in zip(found, kept, strict=True):
        *plain, nested, colour, maybe = values
        names = list(Everything.__dataclass_fields__)
        assert plain == [getattr(row, name) for name in names[:-3]]
        assert numbers_kept(nested) == numbers_kept(json.dumps(row.nested))
        assert (colour, maybe) == (row.colour.value, row.maybe)
    await place.execute(f"DROP SCHEMA {place.schema} CASCADE")


# What cannot be stored.


@dataclass
class Loose:
    """Its fields are checked when a row is stored."""

    n: int = 1
    text: str = "a"
    moment: datetime.datetime = NOON
    clock: datetime.time = datetime.time(1)
    amount: Decimal = Decimal(1)
    real: float = 1.0
    nested: Any = None
    raw: bytes = b""


@pytest.mark.parametrize(
    ("bad", "expected", "why"),
    [
        ({"n": 2**63}, "rejected", "64 bits"),
        ({"n": -(2**63) - 1}, "rejected", "64 bits"),
        ({"n": 1.5}, "failed", "expected int"),
        ({"n": "1"}, "failed", "expected int"),
        ({"text": "a\0b"}, "rejected", "NUL"),
        ({"text": "\ud800"}, "rejected", "surrogate"),
        ({"text": 5}, "failed", "expected str"),
        ({"moment": datetime.datetime(2024, 1, 1)}, "rejected", "no time zone"),
        ({"moment": datetime.date(2024, 1, 1)}, "failed", "expected datetime"),
        (
            {"moment": datetime.datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
            "rejected",
            "",
        ),
        ({"clock": datetime.time(1, tzinfo=UTC)}, "rejected", "time zone"),
        ({"amount": Decimal("NaN")}, "rejected", "not a number"),
        ({"amount": Decimal("Infinity")}, "rejected", "not a number"),
        ({"amount": Decimal("1e131072")}, "rejected", "digits"),
        ({"amount": Decimal("1e-16384")}, "rejected", "digits"),
        ({"amount": 1.5}, "failed", "expected Decimal"),
        ({"real": math.nan}, "rejected", "NaN"),
        ({"real": 2**53 + 1}, "rejected", "no float"),
        ({"nested": {"a": math.nan}}, "rejected", ""),
        ({"nested": {"a": ["x\0"]}}, "rejected", "NUL"),
        ({"nested": {"a\0": 1}}, "rejected", "NUL"),
        ({"nested": {"a": "\udfff"}}, "rejected", "surrogate"),
        ({"nested": object()}, "failed", "JSON"),
        ({"raw": "text"}, "failed", "expected bytes"),
    ],
)
async def test_what_cannot_be_held_refuses_its_own_row_only(
    postgres: Place, bad: dict[str, Any], expected: str, why: str
) -> None:
    sent = [Message(Loose(), id="1"), Message(Loose(**bad), id="2"), Message(Loose(), id="3")]
    actor = store_postgres(postgres.dsn(), type=Loose)
    assert await stored(actor, sent) == ["stored", expected, "stored"]
    assert why in reason(sent[1])
    assert await postgres.query("SELECT id FROM events") == ["1", "3"]


async def test_a_backslash_before_u0000_is_no_nul(postgres: Place) -> None:
    data = {"a": "\\u0000", "b": "\\\\u0000"}
    assert await stored(store_postgres(postgres.dsn()), [Message(data)]) == ["stored"]
    assert [json.loads(row) for row in await postgres.query("SELECT data FROM events")] == [data]


async def test_constraints_reject_the_rows_that_break_them(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data bigint CHECK (data < 900) UNIQUE)"
    )
    sent = [Message(n % 990) for n in range(1000)]
    actor = store_postgres(postgres.dsn())
    outcomes = await stored(actor, sent)
    assert outcomes.count("stored") == 900
    assert await postgres.query("SELECT count(*) FROM events") == [900]
    broken = reason(sent[950])
    assert "check constraint" in broken
    assert "950" not in broken  # the detail shows the row
    assert "duplicate key" in reason(sent[995])


# Tables that exist.


@pytest.mark.parametrize(
    ("kind", "element", "good", "bad"),
    [
        ("varchar(3)", str, ["", "abc", "☆☆☆"], ["abcd", "abc ", "abc    "]),
        ("char(2)", str, ["DE"], ["D", "D ", "DEU", ""]),
        ("numeric(5,2)", Decimal, ["999.99", "-1.5", "0.10", "0E+3"], ["1.005", "1000", "0.001"]),
        ("numeric(3,-2)", Decimal, ["99900", "100"], ["150", "100000"]),
        ("smallint", int, [32767, -32768], [32768, -32769]),
        ("integer", int, [2**31 - 1, -(2**31)], [2**31]),
        ("numeric(4,0)", int, [9999, -9999, 0], [10000]),
        ("numeric", int, [2**63 - 1], []),
        (
            "timestamptz(3)",
            datetime.datetime,
            [NOON.replace(microsecond=1000)],
            [NOON.replace(microsecond=1)],
        ),
        ("timestamp", datetime.datetime, [datetime.datetime(2024, 1, 1)], [NOON]),
        (
            "timestamp(0)",
            datetime.datetime,
            [datetime.datetime(2024, 1, 1)],
            [datetime.datetime(2024, 1, 1, 0, 0, 0, 500000)],
        ),
        ("time(0)", datetime.time, [datetime.time(1, 2, 3)], [datetime.time(1, 2, 3, 4)]),
        ("interval(0)", timedelta, [timedelta(1)], [timedelta(microseconds=5)]),
        ("bigint", timedelta, [timedelta(1), -timedelta.resolution], []),
        ("text", uuid.UUID, [uuid.UUID(int=5)], []),
        ("varchar(36)", uuid.UUID, [uuid.UUID(int=5)], []),
        ("json", dict, [{"b": 1, "a": [2.0]}], []),
        ("text", dict, [{"b": 1, "a": [2.0]}], []),
        ("mood", Colour, [Colour.RED], [Colour.BLUE]),
        ("mood", str, ["red"], ["green"]),
        ("short", str, ["ab"], ["abc", "ab "]),
        ("shorter", str, ["ab", "xy"], ["abc", "no"]),
    ],
)
async def test_a_column_of_another_program_keeps_a_value_or_rejects_it(
    postgres: Place, kind: str, element: Any, good: list[Any], bad: list[Any]
) -> None:
    await postgres.execute(
        "CREATE TYPE mood AS ENUM ('red')",
        "CREATE DOMAIN short AS varchar(2)",
        "CREATE DOMAIN shorter AS short CHECK (VALUE <> 'no')",
        f"CREATE TABLE events (id varchar(40) PRIMARY KEY, data {kind}, "
        "at timestamptz DEFAULT now(), n integer GENERATED ALWAYS AS IDENTITY, "
        "twice text GENERATED ALWAYS AS (id || id) STORED, note text)",
    )
    make = Decimal if element is Decimal else lambda value: value
    values = [make(value) for value in [*good, *bad]]
    sent = [Message(value, id=f"m{n}") for n, value in enumerate(values)]
    again = [Message(value, id=f"m{n}") for n, value in enumerate(values)]
    actor = store_postgres(postgres.dsn(), type=element)
    expected = ["stored"] * len(good) + ["rejected"] * len(bad)
    assert await stored(actor, sent) == expected, [message.outcome for message in sent]
    assert await stored(actor, again) == expected
    assert actor.statistics().repeats == len(good)
    found = await postgres.query("SELECT count(*), count(at), count(n) FROM events")
    assert found == [(len(good),) * 3]


@pytest.mark.parametrize(
    ("sql", "element", "why"),
    [
        ("id text PRIMARY KEY, data integer", str, "column 'data' is integer, but str needs TEXT"),
        ("id text PRIMARY KEY, data real", float, "'data' is real, but float needs DOUBLE"),
        ("id text PRIMARY KEY, data numeric", float, "'data' is numeric"),
        ("id text PRIMARY KEY, data text[]", list[str], "'data' is text[]"),
        (
            "id text PRIMARY KEY, data timestamptz",
            Annotated[datetime.datetime, msgspec.Meta(tz=False)],
            "needs TIMESTAMP",
        ),
        (
            "id text PRIMARY KEY, data interval day to hour",
            timedelta,
            "'data' is interval day to hour",
        ),
        ("id text PRIMARY KEY, data time with time zone", datetime.time, "'data' is time"),
        (
            "id integer PRIMARY KEY, data text",
            str,
            "column 'id' is integer, but the key needs TEXT",
        ),
        ("id text, data text", str, "column 'id' is the key, but has no UNIQUE"),
        ("id text UNIQUE DEFERRABLE, data text", str, "checked at once"),
        ("id text, data text, UNIQUE (id, data)", str, "'id' is the key, but has no UNIQUE"),
        ("id text PRIMARY KEY", str, "it has no column 'data' (TEXT NOT NULL)"),
        (
            "id text PRIMARY KEY, data text, n int NOT NULL",
            str,
            "'n' is NOT NULL without a default",
        ),
        ("id text PRIMARY KEY, data needed, n needed", str, "'n' is NOT NULL without a default"),
        ("id text PRIMARY KEY, data text GENERATED ALWAYS AS ('a') STORED", str, "is generated"),
        ("id text PRIMARY KEY, data bigint GENERATED ALWAYS AS IDENTITY", int, "GENERATED ALWAYS"),
        ("id text PRIMARY KEY, data bigint NOT NULL", Any, "may be None"),
    ],
)
async def test_a_table_that_does_not_fit_is_refused_by_its_column(
    postgres: Place, sql: str, element: Any, why: str
) -> None:
    await postgres.execute("CREATE DOMAIN needed AS text NOT NULL", f"CREATE TABLE events ({sql})")
    channel = Channel[Message[Any]](1)
    with pytest.raises(StoreError) as raised:
        await store_postgres(postgres.dsn(), type=element)(channel)
    assert why in str(raised.value)
    assert "table 'events' of postgresql://tailrace@127.0.0.1" in str(raised.value)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE UNLOGGED TABLE events (id text PRIMARY KEY, data text)", "UNLOGGED"),
        ("CREATE VIEW events AS SELECT 'a' AS id, 'b' AS data", "it is a view"),
        (
            """CREATE TABLE events (id text PRIMARY KEY, data text) PARTITION BY HASH (id);
            CREATE UNLOGGED TABLE part PARTITION OF events
            FOR VALUES WITH (MODULUS 1, REMAINDER 0)""",
            "partition or child of it is unlogged",
        ),
        (
            """CREATE TABLE events (id text PRIMARY KEY, data text);
            CREATE TABLE tailrace_ids (a int)""",
            "tailrace_ids",
        ),
    ],
)
async def test_what_is_not_durable_or_no_table_is_refused(
    postgres: Place, sql: str, why: str
) -> None:
    await postgres.execute(sql)
    with pytest.raises(StoreError, match=why):
        await store_postgres(postgres.dsn(), type=str)(Channel[Message[str]](1))


async def test_a_session_that_does_not_wait_for_the_disk_is_made_to(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data text, "
        "how text DEFAULT current_setting('synchronous_commit'))"
    )
    for setting in ("off", "local", "remote_write", "on", "remote_apply"):
        actor = store_postgres(postgres.dsn(synchronous_commit=setting))
        assert await stored(actor, [Message("a")]) == ["stored"]
    found = await postgres.query("SELECT how FROM events ORDER BY ctid")
    assert found == ["on", "on", "on", "on", "remote_apply"]


async def test_a_partitioned_table_is_used(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data text) PARTITION BY HASH (id)",
        "CREATE TABLE part PARTITION OF events FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    sent = [Message("a", id="1"), Message("b", id="2"), Message("a", id="1"), Message("c", id="2")]
    actor = store_postgres(postgres.dsn())
    assert await stored(actor, sent) == ["stored", "stored", "stored", "rejected"]


async def test_rows_of_tables_that_inherit_from_it_are_no_repeats(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data text)",
        "CREATE TABLE child () INHERITS (events)",
        "INSERT INTO child VALUES ('1', 'other'), ('2', 'b'), ('2', 'b')",
    )
    sent = [Message("a", id="1"), Message("b", id="2"), Message("a", id="1")]
    actor = store_postgres(postgres.dsn())
    assert await stored(actor, sent) == ["stored"] * 3
    assert await postgres.query("SELECT data FROM ONLY events") == ["a", "b"]


Odd = TypedDict("Odd", {'a "b" {u}': str, "Ünï; --": int, "{t}": Colour, "select": str})


async def test_any_name_is_only_a_name(postgres: Place) -> None:
    table = 'ta"ble {t} %s'
    rows: list[Odd] = [
        {'a "b" {u}': "x", "Ünï; --": n, "{t}": Colour.RED, "select": "y"} for n in range(2)
    ]
    sent = [Message(row, id=str(n)) for n, row in enumerate([*rows, rows[0]])]
    channel = Channel[Message[Odd]](9)
    actor = store_postgres(postgres.dsn(), table, id_column="i'd\\")
    assert await stored(actor, [*sent, Message(rows[1], id="0")], channel) == [
        *["stored"] * 3,
        "rejected",
    ]
    await postgres.execute(
        """CREATE TYPE "m{oo}d {u}" AS ENUM ('red')""",
        """ALTER TABLE "ta""ble {t} %s" ALTER "{t}" TYPE "m{oo}d {u}" USING 'red'""",
    )
    channel = Channel[Message[Odd]](9)
    assert await stored(actor, [Message(rows[0], id="0"), Message(rows[0])], channel) == [
        "stored",
        "stored",
    ]


# Keys and repeats.


class Keyed(NamedTuple):
    number: int
    note: str = ""


def number_of(row: Keyed) -> int:
    return row.number


def raw_of(row: Keyed) -> bytes:
    return bytes([row.number])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("number", "bigint"),
        (number_of, "bigint"),
        (raw_of, "bytea"),
        (lambda row: f"k{row.number}", "text"),
        (lambda row: row.number, "text"),
    ],
)
async def test_a_key_of_the_data_makes_repeats(postgres: Place, key: Any, kind: str) -> None:
    sent = [Message(Keyed(1)), Message(Keyed(2)), Message(Keyed(1)), Message(Keyed(1, "other"))]
    actor = store_postgres(postgres.dsn(), type=Keyed, key=key)
    assert await stored(actor, sent) == ["stored", "stored", "stored", "rejected"]
    assert "same key" in reason(sent[3])
    ((found,),) = [
        await postgres.query(
            "SELECT format_type(atttypid, -1) FROM pg_attribute "
            "WHERE attrelid = 'events'::regclass AND attnum = 1"
        )
    ]
    assert found == kind
    assert await stored(actor, [Message(Keyed(2)), Message(Keyed(2, "x"))]) == [
        "stored",
        "rejected",
    ]


async def test_ids_may_be_in_a_uuid_column(postgres: Place) -> None:
    await postgres.execute("CREATE TABLE events (id uuid PRIMARY KEY, data text)")
    ident = uuid.uuid4()
    sent = [Message("a", id=str(ident)), Message("b"), Message("a", id=ident.hex)]
    odd = [Message("c", id="no uuid"), Message("d", id=str(ident).upper())]
    assert await stored(store_postgres(postgres.dsn()), [*sent, *odd]) == [
        *["stored"] * 3,
        *["rejected"] * 2,
    ]
    assert await postgres.query("SELECT count(*) FROM events") == [2]


def client(data: Any, id: str, digest: bytes) -> Message[Any]:
    """A message under an id that a client chose, as a listener makes it."""
    return message_of(data, id, lambda outcome, data: None, digest=digest)


@pytest.mark.parametrize("together", [True, False])
async def test_what_a_client_sent_twice_is_stored_once_whatever_stages_made_of_it(
    postgres: Place, together: bool
) -> None:
    sent = [
        client("a at 12:00", "key", b"a"),
        client("a at 12:01", "key", b"a"),
        client("a at 12:00", "key", b"b"),  # other data, which became the same
        client("b", "other", b"b"),
    ]
    actor = store_postgres(postgres.dsn())
    if together:
        outcomes = await stored(actor, sent)
    else:
        outcomes = [(await stored(actor, [each]))[0] for each in sent]
    assert outcomes == ["stored", "stored", "rejected", "stored"]
    assert await postgres.query("SELECT data FROM events") == ["a at 12:00", "b"]
    found = await postgres.query('SELECT "table", id, digest FROM tailrace_ids ORDER BY id')
    assert found == [("events", "key", b"a"), ("events", "other", b"b")]
    await postgres.execute("DELETE FROM events")
    assert await stored(actor, [client("new", "key", b"c")]) == ["stored"]
    assert await postgres.query("SELECT digest FROM tailrace_ids WHERE id = 'key'") == [b"c"]


async def test_a_row_without_a_digest_is_compared_and_gets_one(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn())
    assert await stored(actor, [Message("a", id="key")]) == ["stored"]
    assert await stored(actor, [client("b", "key", b"1")]) == ["rejected"]
    assert await stored(actor, [client("a", "key", b"1")]) == ["stored"]
    assert await stored(actor, [client("a at 12:01", "key", b"1")]) == ["stored"]


async def test_a_place_alone_makes_a_repeat(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn())
    assert await stored(actor, [client("a", "f:1", PLACE)]) == ["stored"]
    assert await stored(actor, [client("other", "f:1", PLACE)]) == ["stored"]
    assert await postgres.query("SELECT data FROM events") == ["a"]


PARIS = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("element", "one", "same", "other"),
    [
        (str, "a", "a", "A"),
        (dict, {"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1.0, "b": [2]}),
        (set, {"b", "a", "c"}, {"c", "b", "a"}, {"a", "b"}),
        (datetime.datetime, NOON, NOON.astimezone(PARIS), NOON + timedelta.resolution),
        (Decimal, Decimal("1.10"), Decimal("1.1"), Decimal("1.11")),
        (Decimal, Decimal("1E+2"), Decimal("100.0"), Decimal("100.01")),
        (timedelta, timedelta(days=1), timedelta(hours=24), timedelta(days=1, microseconds=1)),
        (float, 1.0, 1, 1.5),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_one_id_and_two_data_are_equal_by_value(
    postgres: Place, element: Any, one: Any, same: Any, other: Any, together: bool
) -> None:
    sent = [Message(value, id="1") for value in (one, same, other)]
    actor = store_postgres(postgres.dsn(), type=element)
    if together:
        outcomes = await stored(actor, sent)
    else:
        outcomes = [(await stored(actor, [each]))[0] for each in sent]
    assert outcomes == ["stored", "stored", "rejected"]
    assert await postgres.query("SELECT count(*) FROM events") == [1]


async def test_a_month_is_not_thirty_days(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data interval)",
        "INSERT INTO events VALUES ('1', '1 month'), ('2', '30 days')",
    )
    spans = [Message(timedelta(days=30), id="1"), Message(timedelta(days=30), id="2")]
    assert await stored(store_postgres(postgres.dsn()), spans) == ["rejected", "stored"]


CITEXT = """
CREATE TYPE citext;
CREATE FUNCTION ci_in(cstring) RETURNS citext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION ci_out(citext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE FUNCTION ci_recv(internal) RETURNS citext LANGUAGE internal STABLE STRICT AS 'textrecv';
CREATE FUNCTION ci_send(citext) RETURNS bytea LANGUAGE internal STABLE STRICT AS 'textsend';
CREATE TYPE citext (INPUT = ci_in, OUTPUT = ci_out, RECEIVE = ci_recv, SEND = ci_send,
  STORAGE = extended, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (citext AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS citext) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ci_cmp(citext, citext) RETURNS int LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
CREATE FUNCTION ci_lt(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT lower($1::text) < lower($2::text)';
CREATE FUNCTION ci_le(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT lower($1::text) <= lower($2::text)';
CREATE FUNCTION ci_eq(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT lower($1::text) = lower($2::text)';
CREATE FUNCTION ci_ge(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT lower($1::text) >= lower($2::text)';
CREATE FUNCTION ci_gt(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
  AS 'SELECT lower($1::text) > lower($2::text)';
CREATE OPERATOR < (LEFTARG = citext, RIGHTARG = citext, FUNCTION = ci_lt);
CREATE OPERATOR <= (LEFTARG = citext, RIGHTARG = citext, FUNCTION = ci_le);
CREATE OPERATOR = (LEFTARG = citext, RIGHTARG = citext, FUNCTION = ci_eq);
CREATE OPERATOR >= (LEFTARG = citext, RIGHTARG = citext, FUNCTION = ci_ge);
CREATE OPERATOR > (LEFTARG = citext, RIGHTARG = citext, FUNCTION = ci_gt);
CREATE OPERATOR CLASS citext_ops DEFAULT FOR TYPE citext USING btree AS OPERATOR 1 <, OPERATOR 2 <=,
  OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 ci_cmp(citext, citext);
"""  # the heart of the extension, which the wheel of the tests lacks


async def test_a_key_without_regard_to_case_makes_no_repeats(postgres: Place) -> None:
    await postgres.execute(
        CITEXT,
        "CREATE TABLE events (id citext PRIMARY KEY, data citext)",
        "INSERT INTO events VALUES ('a', 'x')",
    )
    names = [
        Message("x", id="A"),
        Message("X", id="a"),
        Message("x", id="a"),
        Message("y", id="b"),
        Message("y", id="B"),
    ]
    expected = ["rejected", "rejected", "stored", "stored", "rejected"]
    assert await stored(store_postgres(postgres.dsn()), names) == expected


# Actors and loops.


async def test_actors_of_one_loop_share_a_connection(postgres: Place) -> None:
    channel = Channel[Message[int]](name="to_store")
    actor = store_postgres(postgres.dsn(application_name="shared"))
    sent = [Message(n) for n in range(300)]
    async with Group() as go:
        with channel.sending() as out:
            go(actor, channel, actors=3)
            await out.send_many(sent[:150])
            found = await postgres.query(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shared'"
            )
            await out.send_many(sent[150:])
    assert found == [1]
    assert {status(message) for message in sent} == {"stored"}
    assert sorted(await postgres.query("SELECT data FROM events")) == list(range(300))


def test_a_store_can_run_on_several_loops_at_once(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn())
    together = threading.Barrier(2)
    outcomes: list[str] = []

    async def program(first: int) -> None:
        channel = Channel[Message[int]](1)
        sent = [Message(n) for n in range(first, first + 50)]
        async with Group() as go:
            with channel.sending() as out:
                go(actor, channel)
                await out.send(sent[0])
                await sent[0].settled()
                await asyncio.to_thread(together.wait)
                await out.send_many(sent[1:])
        outcomes.extend(status(message) for message in sent)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(program(n))) for n in (0, 100)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["stored"] * 100


async def test_stores_that_make_their_tables_at_once_all_start(postgres: Place) -> None:
    """``CREATE TABLE IF NOT EXISTS`` of two sessions at once fails in one of them."""

    async def one(n: int, table: str) -> list[str]:
        actor = store_postgres(postgres.dsn(), table, type=int, retry=ONCE)
        return await stored(actor, [message_of(n, f"{n}", str, digest=b"1" * 16)])

    for table in ("one", "two", "three", "four"):
        ends = await asyncio.gather(*(one(n, table) for n in range(8)))
        assert ends == [["stored"]] * 8


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"table": ""}, "table cannot be called"),
        ({"table": "x" * 64}, "table cannot be called"),
        ({"table": "audit.events"}, "say 'events', schema='audit'"),
        ({"schema": "a\0"}, "schema cannot be called"),
        ({"key": 5}, "key must be a field's name"),
        ({"timeout": 0}, "timeout must be seconds above 0"),
        ({"statement_cache_size": -1}, "statement_cache_size"),
        ({"max_batch": 0}, "max_batch"),
        ({"retry": 5}, "retry must be a Retry"),
        ({"type": complex}, "no column"),
        ({"type": Order, "key": "nothing"}, "no such field"),
        ({"type": Order, "key": "price"}, "never None"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        store_postgres("postgresql://host/db", **arguments)


async def test_a_wrong_password_ends_the_store_without_showing_it(postgres: Place) -> None:
    dsn = postgres.dsn().replace("s3cret", "wrong")
    with pytest.raises(StoreError, match="password authentication failed") as raised:
        await store_postgres(dsn, type=str, retry=Retry(2, backoff=0))(Channel[Message[str]](1))
    assert "wrong" not in f"{raised.value!r}{raised.value.__cause__!r}"


async def test_a_missing_right_ends_the_store(postgres: Place) -> None:
    await postgres.execute(
        "CREATE TABLE events (id text PRIMARY KEY, data text)",
        f"CREATE ROLE clerk_{postgres.schema} LOGIN PASSWORD 'pen'",
        f"GRANT USAGE ON SCHEMA {postgres.schema} TO clerk_{postgres.schema}",
    )
    dsn = (
        f"host=127.0.0.1 port={postgres.server.port} dbname=postgres password=pen "
        f"user=clerk_{postgres.schema} search_path={postgres.schema}"
    )
    with pytest.raises(StoreError, match="permission denied for table events"):
        await store_postgres(dsn, type=str, retry=Retry(2, backoff=0))(Channel[Message[str]](1))


async def test_a_database_that_is_missing_is_named(postgres: Place) -> None:
    dsn = postgres.server.dsn("nowhere")
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        await store_postgres(dsn, type=str, retry=Retry(2, backoff=0))(Channel[Message[str]](1))


async def test_without_a_statement_cache_it_works_too(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn(), statement_cache_size=0)
    sent = [Message("a", id="1"), Message("a", id="1"), client("b", "2", b"2")]
    assert await stored(actor, sent) == ["stored"] * 3
    assert sent[0].outcome == Outcome("stored")


async def test_the_server_is_found_by_any_kind_of_dsn(
    postgres: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = postgres.server
    (tmp_path / "pass").write_text(f"*:*:*:tailrace:{PASSWORD}\n")
    (tmp_path / "pass").chmod(0o600)
    (tmp_path / "services").write_text(
        f"[lab]\nhost=127.0.0.1\nport={server.port}\nuser=tailrace\npassword={PASSWORD}\n"
        "dbname=postgres\n"
    )
    search = f"search_path={postgres.schema}"
    login = f"user=tailrace password='{PASSWORD}' dbname=postgres {search}"
    where = f"tailrace@127.0.0.1:{server.port}/postgres?{search}"
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for n, dsn in enumerate(
        [
            postgres.dsn(),
            postgres.dsn(sslmode="prefer", target_session_attrs="primary"),
            f"host=127.0.0.1 port={server.port} {login}",
            f"host={server.folder} port={server.port} {login}",
            (
                f"postgresql:///postgres?host={server.folder}&port={server.port}&user=tailrace"
                f"&password={quote(PASSWORD, safe='')}&{search}"
            ),
            f"host=127.0.0.1,127.0.0.1 port=1,{server.port} {login}",
            f"postgresql://{where}&passfile={tmp_path / 'pass'}",
            f"service=lab {search}",
        ]
    ):
        assert await stored(store_postgres(dsn), [Message(str(n))]) == ["stored"], n
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert await stored(store_postgres(f"postgresql://{where}"), [Message("9")]) == ["stored"]
    (tmp_path / "services").write_text(f"no section: {PASSWORD}")
    with pytest.raises(StoreError, match="cannot connect") as raised:
        await store_postgres("service=lab", type=str)(Channel[Message[str]](1))
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert PASSWORD not in shown
