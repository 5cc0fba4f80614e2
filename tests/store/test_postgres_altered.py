"""Whatever a table has or whoever alters it, what store_postgres acks is there as it was sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from tailrace import Channel, Message, Retry
from tailrace.message.internals import message_of
from tailrace.store import Store, StoreError, store_postgres
from tests.postgresql import Place

QUICK = Retry(3, backoff=0.01, cap=0.01)


@asynccontextmanager
async def running(actor: Store[Any]) -> AsyncIterator[Channel[Message[Any]]]:
    """The store's inbox, for the length of the block; then the store drains."""
    channel = Channel[Message[Any]](math.inf, name="to_store")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(actor(channel))
        try:
            yield channel
        except BaseException:
            task.cancel()
            raise
        channel.close()


async def put(channel: Channel[Message[Any]], *data: Any, ids: str = "") -> list[str]:
    """Send data, under the ids that are the letters of `ids`; the statuses."""
    sent = [Message(each, id=ids[n] if n < len(ids) else None) for n, each in enumerate(data)]
    await channel.send_many(sent)
    return [(await message.settled(20)).status for message in sent]


TABLE = "CREATE TABLE events (id text PRIMARY KEY, data text)"


def trigger(body: str, when: str = "BEFORE INSERT", *, constraint: str = "", late: str = "") -> str:
    return f"""
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$;
        CREATE {constraint} TRIGGER t {when} ON events {late} FOR EACH ROW EXECUTE FUNCTION f()
    """


DROPS = trigger("IF NEW.data = 'bad' THEN RETURN NULL; END IF; RETURN NEW;")
ALTERS = trigger("IF NEW.data = 'bad' THEN NEW.data = 'worse'; END IF; RETURN NEW;")
RENAMES = trigger("IF NEW.data = 'bad' THEN NEW.id = 'x'; END IF; RETURN NEW;")
RAISES = trigger("IF NEW.data = 'bad' THEN RAISE 'no %', NEW.id; END IF; RETURN NEW;")
DELETES = trigger(
    "IF NEW.data = 'bad' THEN DELETE FROM events WHERE id = NEW.id; END IF; RETURN NULL;",
    "AFTER INSERT",
)
DELETES_LATE = trigger(
    "IF NEW.data = 'bad' THEN DELETE FROM events WHERE id = NEW.id; END IF; RETURN NULL;",
    "AFTER INSERT",
    constraint="CONSTRAINT",
    late="DEFERRABLE INITIALLY DEFERRED",
)
# Runs at the commit, even if all constraints were made immediate before.
DELETES_LATEST = trigger(
    """SET CONSTRAINTS ALL DEFERRED;
    IF TG_OP = 'INSERT' THEN UPDATE events SET data = data WHERE id = NEW.id AND data = 'bad';
    ELSIF NEW.data = 'bad' THEN DELETE FROM events WHERE id = NEW.id; END IF; RETURN NULL;""",
    "AFTER INSERT OR UPDATE",
    constraint="CONSTRAINT",
    late="DEFERRABLE INITIALLY DEFERRED",
)
RULE_DROPS = "CREATE RULE r AS ON INSERT TO events WHERE NEW.data = 'bad' DO INSTEAD NOTHING"
RULE_ALTERS = (
    "CREATE RULE r AS ON INSERT TO events WHERE NEW.data = 'bad' "
    "DO INSTEAD INSERT INTO elsewhere VALUES (NEW.id)"
)
RULE_LOGS = "CREATE RULE r AS ON INSERT TO events DO ALSO INSERT INTO elsewhere VALUES (NEW.id)"
RULE_ON_UPDATE = "CREATE RULE r AS ON UPDATE TO events DO INSTEAD NOTHING"
ELSEWHERE = "CREATE TABLE elsewhere (id text)"


@pytest.mark.parametrize("later", [False, True], ids=["before", "while running"])
@pytest.mark.parametrize(
    "sql",
    [
        *(DROPS, ALTERS, RENAMES, RAISES, DELETES, DELETES_LATE, DELETES_LATEST),
        *(RULE_DROPS, RULE_ALTERS),
    ],
    ids=[
        "drops",
        "alters",
        "renames",
        "raises",
        "deletes",
        "late",
        "latest",
        "rule_drops",
        "rule_alters",
    ],
)
async def test_a_row_that_the_table_does_not_keep_is_rejected_alone(
    postgres: Place, sql: str, later: bool
) -> None:
    await postgres.execute(TABLE, ELSEWHERE, *([] if later else [sql]))
    actor = store_postgres(postgres.dsn(), retry=QUICK)
    async with running(actor) as channel:
        assert await put(channel, "a", ids="1") == ["stored"]
        if later:
            await postgres.execute(sql)
        data = ("b", "bad", "c", "b", "other")
        expected = ["stored", "rejected", "stored", "stored", "rejected"]
        assert await put(channel, *data, ids="23422") == expected
    found = await postgres.query("SELECT id, data FROM events ORDER BY id")
    assert found == [("1", "a"), ("2", "b"), ("4", "c")]
    assert actor.statistics().retries == 0


@pytest.mark.parametrize("sql", [RULE_LOGS, RULE_ON_UPDATE])
async def test_rules_that_keep_the_rows_do_not_hinder(postgres: Place, sql: str) -> None:
    await postgres.execute(TABLE, ELSEWHERE, sql)
    async with running(store_postgres(postgres.dsn())) as channel:
        assert await put(channel, "a", "b", "a", ids="121") == ["stored"] * 3
        assert await put(channel, "a", "x", ids="12") == ["stored", "rejected"]
    assert await postgres.query("SELECT id, data FROM events") == [("1", "a"), ("2", "b")]


async def test_a_clients_repeat_is_recognised_under_triggers(postgres: Place) -> None:
    await postgres.execute(TABLE, DROPS)
    sent = [
        message_of(data, "1", lambda outcome, data: None, digest=digest)
        for data, digest in [("at 12:00", b"a"), ("at 12:01", b"a"), ("at 12:00", b"b")]
    ]
    async with running(store_postgres(postgres.dsn())) as channel:
        await channel.send_many(sent)
        outcomes = [(await message.settled(20)).status for message in sent]
        assert outcomes == ["stored", "stored", "rejected"]
        again = message_of("at 12:02", "1", lambda outcome, data: None, digest=b"a")
        await channel.send(again)
        assert (await again.settled(20)).status == "stored"
    assert await postgres.query("SELECT data FROM events") == ["at 12:00"]


async def test_a_table_that_is_dropped_is_made_anew(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn(), retry=QUICK)
    async with running(actor) as channel:
        assert await put(channel, "a") == ["stored"]
        await postgres.execute("DROP TABLE events")
        assert await put(channel, "b", "c") == ["stored", "stored"]
        await postgres.execute("DROP TABLE events", TABLE)
        assert await put(channel, "d") == ["stored"]
        await postgres.execute("ALTER TABLE events RENAME TO old", TABLE)
        assert await put(channel, "e") == ["stored"]
    assert await postgres.query("SELECT data FROM events") == ["e"]
    assert await postgres.query("SELECT data FROM old") == ["d"]


async def test_the_table_of_digests_is_made_anew_too(postgres: Place) -> None:
    async with running(store_postgres(postgres.dsn(), retry=QUICK)) as channel:
        for n in range(3):
            message = message_of("a", str(n), lambda outcome, data: None, digest=b"a")
            await channel.send(message)
            assert (await message.settled(20)).status == "stored"
            assert await postgres.query("SELECT count(*) FROM tailrace_ids") == [1]
            await postgres.execute("DROP TABLE tailrace_ids")


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE events DROP CONSTRAINT events_pkey",
        "ALTER TABLE events ALTER data TYPE double precision USING data::float8",
        "ALTER TABLE events DROP COLUMN data",
        (
            "ALTER TABLE events ADD COLUMN n int NOT NULL DEFAULT 1;"
            "ALTER TABLE events ALTER n DROP DEFAULT"
        ),
        "ALTER TABLE events SET UNLOGGED",
        "DROP TABLE events; CREATE VIEW events AS SELECT 'a' AS id, 1.5 AS data",
    ],
)
async def test_a_table_that_no_longer_fits_ends_the_store_and_nothing_is_acked(
    postgres: Place, sql: str
) -> None:
    await postgres.execute("CREATE TABLE events (id text PRIMARY KEY, data numeric)")
    actor = store_postgres(postgres.dsn(), type=Decimal, retry=QUICK)
    statuses: list[str] = []
    with pytest.raises(ExceptionGroup) as raised:
        async with running(actor) as channel:
            assert await put(channel, Decimal("1.25")) == ["stored"]
            await postgres.execute(sql)
            statuses += await put(channel, Decimal("1.75"), Decimal("2.75"))
    assert statuses == ["failed", "failed"]
    assert raised.group_contains(StoreError, match="'events' of .* does not fit")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER TABLE events ALTER data TYPE numeric(5,1)", ["stored", "rejected"]),
        ("ALTER TABLE events ADD COLUMN at timestamptz DEFAULT now()", ["stored", "stored"]),
        ("ALTER TABLE events ADD CHECK (data <> 1.25)", ["stored", "rejected"]),
        (
            "CREATE UNIQUE INDEX ON events (data); INSERT INTO events VALUES ('x', 1.25)",
            ["stored", "rejected"],
        ),
        ("VACUUM FULL events", ["stored", "stored"]),
        ("ANALYZE events", ["stored", "stored"]),
    ],
)
async def test_a_table_may_be_altered_while_the_store_runs(
    postgres: Place, sql: str, expected: list[str]
) -> None:
    await postgres.execute("CREATE TABLE events (id text PRIMARY KEY, data numeric)")
    actor = store_postgres(postgres.dsn(), type=Decimal, retry=QUICK)
    async with running(actor) as channel:
        assert await put(channel, Decimal("1.5")) == ["stored"]
        for statement in sql.split("; "):
            await postgres.execute(statement)
        assert await put(channel, Decimal("2.5"), Decimal("1.25")) == expected


async def test_a_table_that_fits_again_goes_on(postgres: Place) -> None:
    await postgres.execute(TABLE)
    actor = store_postgres(postgres.dsn(), retry=Retry(None, backoff=0.01, cap=0.01))
    async with running(actor) as channel:
        assert await put(channel, "a") == ["stored"]
        await postgres.execute("ALTER TABLE events RENAME data TO text")
        message = Message("b")
        await channel.send(message)
        while not actor.statistics().retries:
            await asyncio.sleep(0.001)
        assert message.outcome is None
        await postgres.execute("ALTER TABLE events RENAME text TO data")
        assert (await message.settled(20)).status == "stored"
    assert await postgres.query("SELECT data FROM events") == ["a", "b"]


async def test_rows_altered_under_a_lock_are_not_acked_by_an_old_plan(postgres: Place) -> None:
    """The statement waits for the lock of an ALTER that it was prepared before."""
    await postgres.execute("CREATE TABLE events (id text PRIMARY KEY, data numeric)")
    actor = store_postgres(postgres.dsn(), type=Decimal, retry=QUICK)
    other = await postgres.connect()
    async with running(actor) as channel:
        assert await put(channel, *[Decimal(n) for n in range(20)]) == ["stored"] * 20
        transaction = other.transaction()
        await transaction.start()
        await other.execute("ALTER TABLE events ALTER data TYPE numeric(6,1)")
        message = Message(Decimal("1.25"))
        await channel.send(message)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while await postgres.query(waiting) == [0]:
            await asyncio.sleep(0.005)
        await transaction.commit()
        assert (await message.settled(20)).status == "rejected"
    await other.close()
