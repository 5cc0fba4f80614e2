"""PostgreSQL goes out of order under a running store: what was received is stored, once.

All faults are real: the server is restarted, killed, stopped, promoted; its answers get lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tailrace import Channel, Group, Message, Receiver, Retry, Sender
from tailrace.listen import HttpServer
from tailrace.store import Store, StoreError, store_postgres
from tests.postgresql import PASSWORD, Place, Proxy, Server, cluster

from .stores import outcomes, put, running, send

SOON = Retry(None, backoff=0.01, cap=0.05)
TABLE = "CREATE TABLE events (id text PRIMARY KEY, data text)"


async def retried(actor: Store[Any], times: int = 2) -> None:
    """Return when the store has met the fault, and met it again."""
    until = actor.statistics().retries + times
    while actor.statistics().retries < until:  # nobody tells of it
        await asyncio.sleep(0.001)


class Traffic:
    """Messages in a steady stream, each a number of its own."""

    def __init__(self, channel: Channel[Message[Any]]) -> None:
        self.channel = channel
        self.sent: list[Message[Any]] = []
        self.going = True

    async def go(self) -> None:
        while self.going:
            batch = [Message(str(len(self.sent) + n)) for n in range(5)]
            self.sent += batch
            await self.channel.send_many(batch)
            await asyncio.sleep(0.002)

    def acked(self) -> list[str]:
        return [
            message.data
            for message in self.sent
            if message.outcome is not None and message.outcome.status == "stored"
        ]

    async def acked_beyond(self, count: int) -> None:
        while len(self.acked()) < count:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def traffic(actor: Store[Any]) -> AsyncIterator[Traffic]:
    """Traffic into a store for the length of the block; at its end all must be stored."""
    async with running(actor) as channel, asyncio.TaskGroup() as group:
        stream = Traffic(channel)
        group.create_task(stream.go())
        await stream.acked_beyond(50)
        yield stream
        stream.going = False
    assert await outcomes(stream.sent) == ["stored"] * len(stream.sent)


async def rows(place: Place) -> list[str]:
    return await place.query("SELECT data FROM events ORDER BY ctid")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_a_server_that_stops_and_comes_back_costs_nothing(
    postgres: Place, how: signal.Signals
) -> None:
    server = postgres.server
    actor = store_postgres(postgres.dsn())
    async with traffic(actor) as stream:
        if how == signal.SIGKILL:
            server.kill()
        else:
            server.stop(how)
        before = stream.acked()
        await retried(actor)
        await asyncio.sleep(1)  # the delays grow meanwhile
        server.start()
        back = time.monotonic()
        await stream.acked_beyond(len(before) + 50)
        assert time.monotonic() - back < 2
        assert set(before) <= set(await rows(postgres))
    assert sorted(await rows(postgres)) == sorted(message.data for message in stream.sent)
    assert actor.statistics().failures == 0


async def test_connections_that_are_terminated_are_made_anew(postgres: Place) -> None:
    actor = store_postgres(postgres.dsn(application_name=postgres.schema), retry=SOON)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
    async with traffic(actor) as stream:
        for _ in range(10):
            assert await postgres.query(terminate, postgres.schema)
            await stream.acked_beyond(len(stream.acked()) + 20)
    assert sorted(await rows(postgres)) == sorted(message.data for message in stream.sent)
    assert actor.statistics().failures == 0


async def test_a_server_that_stays_away_fails_what_waited_and_the_store_lives_on(
    postgres: Place,
) -> None:
    async with Proxy(postgres.server.port) as proxy:
        actor = store_postgres(postgres.dsn(proxy.port), retry=Retry(3, backoff=0.01))
        async with running(actor) as channel:
            assert await put(channel, "before") == ["stored"]
            proxy.passes = lambda chunk: False
            proxy.cut()
            sent = await send(channel, "a", "b")
            assert await outcomes(sent) == ["failed", "failed"]
            assert sent[0].outcome is not None
            assert type(sent[0].outcome.error).__name__ == "Outage"
            proxy.passes = None
            assert await put(channel, "after") == ["stored"]
    assert await rows(postgres) == ["before", "after"]


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("digest", [None, b"what the client sent"])
async def test_a_commit_whose_answer_is_lost_is_acked_once(
    postgres: Place, careful: bool, digest: bytes | None
) -> None:
    from tailrace.message.internals import message_of

    await postgres.execute(TABLE)
    if careful:
        await postgres.execute(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()",
        )
    lost: list[bytes] = []
    # An answer to a statement that has committed: it is complete, and no transaction is open.
    commit = b"COMMIT\0" if careful else b"INSERT 0 1\0" if digest is None else b"SELECT 1\0"

    def passes(chunk: bytes) -> bool:
        if lost or commit not in chunk:
            return True
        lost.append(chunk)
        return False

    async with Proxy(postgres.server.port) as proxy:
        actor = store_postgres(postgres.dsn(proxy.port), retry=SOON)
        async with running(actor) as channel:
            first = message_of("a", "first", lambda outcome, data: None, digest=digest)
            await channel.send(first)
            assert await outcomes([first]) == ["stored"]
            proxy.passes = passes
            message = message_of("b", "second", lambda outcome, data: None, digest=digest)
            await channel.send(message)
            assert await outcomes([message]) == ["stored"]
    assert len(lost) == 1
    assert await rows(postgres) == ["a", "b"]
    assert (actor.statistics().rows, actor.statistics().repeats) == (1, 1)
    assert actor.statistics().retries == 1


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END';
    CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()
"""


async def test_a_statement_timeout_that_is_too_short_for_a_batch_stores_all(
    postgres: Place,
) -> None:
    await postgres.execute(TABLE, SLOW)
    actor = store_postgres(postgres.dsn(statement_timeout="150"), retry=SOON)
    async with running(actor) as channel:
        sent = await send(channel, *map(str, range(500)))
        assert await outcomes(sent) == ["stored"] * 500
    assert await postgres.query("SELECT count(*) FROM events") == [500]
    statistics = actor.statistics()
    assert (statistics.failures, statistics.rejected, statistics.retries) == (0, 0, 0)
    assert 10 < statistics.transactions < 60


async def test_a_single_row_that_takes_too_long_is_an_outage(postgres: Place) -> None:
    await postgres.execute(TABLE, SLOW.replace("0.004", "0.5"))
    actor = store_postgres(postgres.dsn(statement_timeout="50"), retry=SOON)
    async with running(actor) as channel:
        sent = await send(channel, "a")
        await retried(actor)
        await postgres.execute("DROP TRIGGER t ON events")
        assert await outcomes(sent) == ["stored"]


async def test_a_backend_that_hangs_is_given_up_after_the_timeout(postgres: Place) -> None:
    dsn = postgres.dsn(application_name=postgres.schema)
    actor = store_postgres(dsn, timeout=0.4, retry=SOON)
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name = $1"
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        (pid,) = await postgres.query(pids, postgres.schema)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert await put(channel, "a", "b") == ["stored", "stored"]
        finally:
            os.kill(pid, signal.SIGCONT)
        while pid in await postgres.query(pids, postgres.schema):
            await asyncio.sleep(0.01)
    assert sorted(await rows(postgres)) == ["a", "b", "before"]
    assert actor.statistics().retries >= 1


async def test_a_lock_is_waited_for_or_an_outage(postgres: Place) -> None:
    await postgres.execute(TABLE)
    actor = store_postgres(postgres.dsn(lock_timeout="20"), retry=SOON)
    other = await postgres.connect()
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        async with other.transaction():
            await other.execute("LOCK TABLE events")
            sent = await send(channel, "a", "b")
            await retried(actor)
            assert [message.outcome for message in sent] == [None, None]
        assert await outcomes(sent) == ["stored", "stored"]
    await other.close()
    assert await rows(postgres) == ["before", "a", "b"]


async def test_the_victim_of_a_deadlock_tries_again(postgres: Place) -> None:
    await postgres.execute(TABLE)
    actor = store_postgres(postgres.dsn(deadlock_timeout="200"), retry=SOON)
    other = await postgres.connect()
    await other.execute("SET deadlock_timeout = '60s'")
    async with running(actor) as channel:
        assert await put(channel, "before") == ["stored"]
        async with other.transaction():
            await other.execute("INSERT INTO events VALUES ('2', 'theirs')")
            sent = [Message("mine", id="1"), Message("theirs", id="2")]
            await channel.send_many(sent)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while await postgres.query(waiting) == [0]:
                await asyncio.sleep(0.005)
            await other.execute("INSERT INTO events VALUES ('1', 'mine')")
        assert await outcomes(sent) == ["stored", "stored"]
    await other.close()
    assert actor.statistics().retries >= 1
    assert actor.statistics().repeats == 2


RAISING = """
    CREATE TABLE fault (code text);
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.data = 'bad' AND EXISTS (SELECT FROM fault) THEN
        RAISE 'raised' USING ERRCODE = (SELECT code FROM fault);
      END IF;
      RETURN NEW;
    END$$;
    CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()
"""


@pytest.mark.parametrize(
    "code",
    ["08006", "53100", "53200", "57P05", "58030", "25006", "40001", "40P01", "55P03", "42501"],
)
async def test_an_error_about_the_database_is_an_outage(postgres: Place, code: str) -> None:
    await postgres.execute(TABLE, RAISING, f"INSERT INTO fault VALUES ('{code}')")
    actor = store_postgres(postgres.dsn(), retry=SOON)
    async with running(actor) as channel:
        sent = await send(channel, "a", "bad", "c")
        await retried(actor)
        assert [message.outcome for message in sent] == [None] * 3
        await postgres.execute("DELETE FROM fault")
        assert await outcomes(sent) == ["stored"] * 3


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *[(code, "rejected") for code in ("22003", "23514", "44000", "54000", "P0001", "0A000")],
        *[(code, "failed") for code in ("XX000", "2F005", "38000", "ZZ123")],
    ],
)
async def test_any_other_error_is_about_its_row(
    postgres: Place, code: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    await postgres.execute(TABLE, RAISING, f"INSERT INTO fault VALUES ('{code}')")
    actor = store_postgres(postgres.dsn(), retry=SOON)
    data = [*map(str, range(20)), "bad", *map(str, range(20))]
    async with running(actor) as channel:
        found = await put(channel, *data)
    assert found == ["stored"] * 20 + [expected] + ["stored"] * 20
    assert actor.statistics().retries == 0
    assert len(await rows(postgres)) == 40
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("code", ["42501", "28000", "3D000"])
async def test_a_set_up_that_stays_wrong_ends_the_store(postgres: Place, code: str) -> None:
    await postgres.execute(TABLE, RAISING, f"INSERT INTO fault VALUES ('{code}')")
    actor = store_postgres(postgres.dsn(), retry=Retry(3, backoff=0.01))
    sent: list[Message[Any]] = []
    with pytest.raises(ExceptionGroup) as raised:
        async with running(actor) as channel:
            sent += await send(channel, "a", "bad")
            assert await outcomes(sent) == ["failed", "failed"]
    assert raised.group_contains(StoreError, match="raised")
    assert actor.statistics().retries == 2


async def test_too_many_connections_are_an_outage(postgres: Place) -> None:
    role = f"many_{postgres.schema}"
    await postgres.execute(
        TABLE,
        f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 0",
        f"GRANT ALL ON SCHEMA {postgres.schema} TO {role}",
        f"GRANT ALL ON events TO {role}",
    )
    dsn = (
        f"host=127.0.0.1 port={postgres.server.port} user={role} password=x dbname=postgres "
        f"search_path={postgres.schema}"
    )
    actor = store_postgres(dsn, retry=SOON)
    async with running(actor) as channel:
        sent = await send(channel, "a")
        await asyncio.sleep(0.3)
        assert sent[0].outcome is None
        await postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        assert await outcomes(sent) == ["stored"]


async def test_a_repeat_after_an_answer_that_came_too_late_is_stored_once(
    postgres: Place,
) -> None:
    """An HTTP client hears 504, repeats itself, and hears of the row that is there."""

    async def stamp(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        async for message in inbox:
            message.data += f" at {time.monotonic_ns()}"
            await out.send(message)

    await postgres.execute(TABLE)
    other = await postgres.connect()
    raw, stamped = Channel[Message[str]](), Channel[Message[str]](10)
    server = HttpServer("127.0.0.1:0")
    async with Group() as go:
        go(server.listen("/in", timeout=0.3), raw)
        go(stamp, raw, stamped)
        go(store_postgres(postgres.dsn(), retry=SOON), stamped)
        url = f"{await server.ready()}/in"
        async with httpx.AsyncClient(trust_env=False) as client:

            async def post(data: str) -> int:
                headers = {"Idempotency-Key": "k1"}
                answer = await client.post(url, data={"data": data}, headers=headers)
                return answer.status_code

            async with other.transaction():
                await other.execute("LOCK TABLE events")
                assert await post("a") == 504
            assert await post("a") == 200
            assert await post("a") == 200
            assert await post("b") == 422
        go.drain()
    await other.close()
    (row,) = await rows(postgres)
    assert row.startswith("a at ")


async def test_a_repeat_of_a_row_that_is_not_on_the_disk_yet_waits_for_it() -> None:
    with cluster(wal_writer_delay="10s") as server:
        place = Place.__new__(Place)
        place.server, place.schema = server, "public"
        await place.execute(TABLE)
        other = await place.connect()
        async with running(store_postgres(server.dsn())) as channel:
            assert await put(channel, "before") == ["stored"]
            await other.execute("SET synchronous_commit = off")
            await other.execute("INSERT INTO events VALUES ('1', 'theirs')")
            message = Message("theirs", id="1")
            await channel.send(message)
            assert await outcomes([message]) == ["stored"]
            server.kill()
            other.terminate()
        server.start()
        assert await rows(place) == ["before", "theirs"]


async def test_a_commit_that_was_cancelled_to_wait_for_its_standby_is_not_acked() -> None:
    with cluster() as server:
        place = Place.__new__(Place)
        place.server, place.schema = server, "public"
        await place.execute(TABLE)
        actor = store_postgres(server.dsn() + "?application_name=store", retry=SOON)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        async with running(actor) as channel:
            assert await put(channel, "before") == ["stored"]
            await place.execute(
                "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"
            )
            while await place.query("SHOW synchronous_standby_names") != ["nobody"]:
                await asyncio.sleep(0.01)
            (message,) = await send(channel, "a")
            while actor.statistics().retries < 2:
                assert message.outcome is None
                for pid in await place.query(waiting):
                    await place.query("SELECT pg_cancel_backend($1)", pid)
                await asyncio.sleep(0.01)
            assert message.outcome is None
            await place.execute(
                "SET synchronous_commit = local",
                "ALTER SYSTEM RESET synchronous_standby_names",
                "SELECT pg_reload_conf()",
            )
            assert await outcomes([message]) == ["stored"]
        assert await rows(place) == ["before", "a"]


async def test_a_store_that_is_cancelled_leaves_nothing_behind(postgres: Place) -> None:
    await postgres.execute(TABLE)
    other = await postgres.connect()
    channel = Channel[Message[Any]](10)
    async with other.transaction():
        await other.execute("LOCK TABLE events")
        task = asyncio.create_task(store_postgres(postgres.dsn())(channel))
        message = Message("a")
        await channel.send(message)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while await postgres.query(waiting) == [0]:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.sleep(0.05)  # it waits for its transaction
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await outcomes([message]) == ["failed"]
    await other.close()


@pytest.mark.timeout(120)
async def test_a_failover_loses_no_acked_row(caplog: pytest.LogCaptureFixture) -> None:
    """A synchronous standby is promoted when the primary is killed."""
    caplog.set_level(logging.ERROR)
    with cluster() as primary:
        place = Place.__new__(Place)
        place.server, place.schema = primary, "public"
        await place.execute(TABLE)
        with cluster(primary) as standby:
            await place.execute(
                "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
                "SELECT pg_reload_conf()",
            )
            synchronous = "SELECT sync_state::text FROM pg_stat_replication"
            while await place.query(synchronous) != ["sync"]:
                await asyncio.sleep(0.01)
            # Only the standby is named: it is no use until it is promoted.
            early = store_postgres(dsn_of(standby), "others", retry=SOON)
            hosts = dsn_of(standby, primary) + "?target_session_attrs=read-write"
            actor = store_postgres(hosts, retry=SOON)
            async with running(early) as waiting, traffic(actor) as stream:
                sent = await send(waiting, "early")
                await stream.acked_beyond(200)
                primary.kill()
                acked = stream.acked()
                place.server = standby
                assert sent[0].outcome is None
                await place.execute("SELECT pg_promote()")
                assert set(acked) <= set(await rows(place))
                await stream.acked_beyond(len(acked) + 50)
                assert await outcomes(sent) == ["stored"]
            found = await rows(place)
            assert sorted(found) == sorted(message.data for message in stream.sent)
    assert not caplog.records


def dsn_of(*servers: Server) -> str:
    hosts = ",".join(server.where for server in servers)
    _, _, rest = servers[0].dsn().partition("://")
    login, _, _ = rest.rpartition("@")
    return f"postgresql://{login}@{hosts}/postgres"
