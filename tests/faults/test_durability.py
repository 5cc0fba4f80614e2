"""A 200 means that the row is on disk: the server is killed under load, and nothing answered is
missing or there twice.

The server is a real process, killed with SIGKILL while requests of eight connections are at every
stage of the pipeline. The next one gets the same database as the kill left it, and the requests
that were never answered once more, under the same Idempotency-Key, as a client would send them.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

KILLS = 20
CONNECTIONS = 8

PROGRAM = """
import sys
from tailrace import Channel, Group, Message, Receiver, Sender, run
from tailrace.listen import HttpServer
from tailrace.store import store_sqlite

async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)

async def main(go: Group) -> None:
    server = HttpServer("127.0.0.1:0")
    to_enrich = Channel[Message[str]](name="to_enrich")
    to_store = Channel[Message[str]](name="to_store")
    go(server.listen("/incoming"), to_enrich)
    go(enrich, to_enrich, to_store, actors=3)
    go(store_sqlite(sys.argv[1]), to_store)
    print(await server.ready(), flush=True)

run(main)
"""


class Server:
    """The program above, as a process."""

    def __init__(self, process: asyncio.subprocess.Process, host: str, port: int) -> None:
        self.process = process
        self.at = host, port

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def serving(database: Path) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(database), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = urlsplit((await process.stdout.readline()).decode().strip())
        assert url.hostname
        assert url.port
        server = Server(process, url.hostname, url.port)
        yield server
        await server.kill()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Client:
    """Asks on and on, on several connections, and remembers what became of each request."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self.unanswered: list[str] = []  # perhaps stored, perhaps not
        self._serial = 0

    async def load(self, server: Server, kill_after: int, delay: float) -> int:
        """Load `server` until it is killed, `delay` seconds after that many answers. Returns how
        many requests had no answer then."""
        again, self.unanswered = self.unanswered, []
        enough = asyncio.Event()
        until = len(self.answered) + kill_after
        connections = [
            asyncio.create_task(self._connection(server, again, until, enough))
            for _ in range(CONNECTIONS)
        ]
        await enough.wait()
        await asyncio.sleep(delay)
        await server.kill()
        await asyncio.gather(*connections)
        self.unanswered += again
        return len(self.unanswered)

    async def _connection(
        self, server: Server, again: list[str], until: int, enough: asyncio.Event
    ) -> None:
        reader, writer = await asyncio.open_connection(*server.at)
        request = ""
        try:
            while True:
                request = again.pop() if again else self._new()
                await ask(reader, writer, request)
                self.answered.add(request)
                if len(self.answered) >= until:
                    enough.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.unanswered.append(request)
        finally:
            writer.close()

    def _new(self) -> str:
        self._serial += 1
        return f"r{self._serial}"


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: str) -> None:
    """Return when the server has answered 200."""
    writer.write(
        f"GET /incoming?data={request} HTTP/1.1\r\nhost: x\r\n"
        f"idempotency-key: key-{request}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
    body = (await reader.readexactly(length)).decode()
    assert head.startswith("HTTP/1.1 200 "), head
    assert body.strip() == f"OK: ☆ {request} ☆"


def stored(database: Path) -> Counter[str]:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT id, data FROM events").fetchall()
    assert all(data == f"☆ {id_.removeprefix('key-')} ☆" for id_, data in rows)
    return Counter(data.strip("☆ ") for _, data in rows)


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_every_200_is_in_the_database_once_however_often_the_server_is_killed(
    tmp_path: Path,
) -> None:
    database = tmp_path / "events.db"
    chance = random.Random(20)
    client = Client()
    torn = 0
    for kill in range(KILLS):
        async with serving(database) as server:
            torn += await client.load(server, chance.randint(1, 300), chance.uniform(0, 0.02))
        rows = await asyncio.to_thread(stored, database)
        missing = client.answered - rows.keys()
        assert not missing, f"kill {kill}: answered 200, but not stored: {sorted(missing)[:10]}"
        assert [row for row, times in rows.items() if times > 1] == []
        unasked = rows.keys() - client.answered - set(client.unanswered)
        assert not unasked
    assert torn >= KILLS  # it was under load
    assert len(client.answered) > KILLS * 50
