"""A listener, a stage and a store that crash and are started again: the client's count, the account
and the table agree."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tailrace import Channel, Group, Message, Receiver, Restart, Sender, each, submit
from tailrace.errors import StoreError
from tailrace.listen import listen_http, read_lines
from tailrace.store import store, store_sqlite

pytestmark = pytest.mark.timeout(60)

OFTEN = Restart(max=1000, backoff=0.001, cap=0.01)


async def crash(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data.endswith("3"):
            raise RuntimeError(msg.data)
        if msg.data.endswith("5"):
            msg.abort("five")
        else:
            await out.send(msg)
        del msg


async def test_answers_account_and_table_agree_while_a_stage_crashes(tmp_path: Path) -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    listener = listen_http("127.0.0.1:0", "/in")
    heard = Counter[str]()
    async with Group() as go:
        go(listener, a, restart=OFTEN)
        go(crash, a, b, actors=3, restart=OFTEN)
        go(store_sqlite(tmp_path / "x.db"), b, restart=OFTEN)
        url = await listener.server.ready() + "/in"
        async with httpx.AsyncClient() as client:

            async def ask(n: int) -> None:
                answer = await client.get(url, params={"data": str(n)})
                heard["lost" if answer.status_code == 500 else answer.text.partition(":")[0]] += 1

            await asyncio.gather(*map(ask, range(100)))
            refused = await client.get(url)  # before it is a message
            assert refused.status_code == 400
        assert sum(each.restarts for each in go.actors()) == 10
        go.drain()
    with closing(sqlite3.connect(tmp_path / "x.db")) as table:
        ((rows,),) = table.execute("SELECT count(*) FROM events")
    assert heard == {"OK": 80, "aborted": 10, "lost": 10}
    assert str(go.account()) == "100 in: 80 stored, 10 aborted, 10 lost"
    assert rows == 80


async def test_a_listener_binds_when_its_address_becomes_free() -> None:
    ch = Channel[Message[str]](name="ch")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = listen_http(f"127.0.0.1:{port}", "/in")
        async with Group() as go:
            go(listener, ch, restart=OFTEN)
            go(each(str.upper), ch, end := Channel[Message[str]](name="end"))
            go(ack, end)
            while not any(each.restarts > 1 for each in go.actors()):
                await asyncio.sleep(0.005)
            taken.close()
            async with httpx.AsyncClient() as client:
                while True:
                    try:
                        answer = await client.get(f"http://127.0.0.1:{port}/in?data=foo")
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.005)
            assert (answer.status_code, answer.text) == (200, "OK: FOO")
            go.drain()
    assert str(go.account()) == "1 in: 1 stored"


async def ack(inbox: Receiver[Message[str]]) -> None:
    async for msg in inbox:
        msg.ack()


async def test_a_store_that_cannot_go_on_opens_its_database_again() -> None:
    tables: list[list[str]] = [[]]
    ch = Channel[Message[str]](name="ch")

    async def write(rows: Sequence[str]) -> None:
        if "broken" in rows:
            raise StoreError("the table is gone")
        tables[-1] += rows

    async with Group() as go:
        go(store(write), ch, restart=OFTEN)
        with ch.sending() as out:
            statuses = [(await submit(out, row)).status for row in ("a", "broken", "b")]
    assert statuses == ["stored", "failed", "stored"]
    assert tables == [["a", "b"]]
    assert str(go.account()) == "3 in: 2 stored, 1 failed"


async def test_lines_of_a_file_are_counted_as_their_source_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_text("".join(f"{n}\n" for n in range(50)) + "x\n\n")
    numbers, b = Channel[Message[int]](name="numbers"), Channel[Message[str]](name="b")
    reader = read_lines(path, type=int, progress="off")
    async with Group() as go:
        go(reader, numbers)
        go(each(str), numbers, words := Channel[Message[str]](name="words"))
        go(crash, words, b, restart=OFTEN)
        go(ack, b)
    account = go.account()
    assert account.open == 0
    assert account.lost == 5
    assert account.entered == 50 + account.rejected
    counts = {name: getattr(account, name) for name in reader.counts if name != "open"}
    assert reader.counts == {**counts, "open": account.lost}
