"""The services in `examples/`, as processes: against real databases, clients and neighbours."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SECRET = "it's a secret"

pytestmark = pytest.mark.timeout(120)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def process(
    *args: str, folder: Path, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A program, which is terminated at the end, and must then drain and end by itself."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        cwd=folder,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
        if started.returncode is None:
            started.terminate()
        _, errors = await asyncio.wait_for(started.communicate(), 30)
        assert started.returncode in (0, -signal.SIGTERM), errors.decode()
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def answers(port: int) -> None:
    """Return once somebody listens."""
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(f"nobody listens at {port}")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "rows.db")
    dsn: str = request.getfixturevalue("postgres").dsn()
    return dsn


async def rows(database: str, table: str) -> list[tuple[Any, ...]]:
    if database.startswith("postgresql"):
        connection = await asyncpg.connect(database)
        try:
            found = await connection.fetch(f"SELECT * FROM {table} ORDER BY 1")
        finally:
            await connection.close()
        return [tuple(row) for row in found]
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


# --- webhook.py


PUSH = {
    "ref": "refs/heads/main",
    "after": "1f3a",
    "repository": {"full_name": "tea/pot", "private": False},
    "pusher": {"name": "alice"},
    "commits": [{"id": "1f3a"}, {"id": "0c2b"}],
}


def delivery(event: str, id: str, body: Any, signature: str | bytes | None = None) -> Any:
    content = json.dumps(body).encode()
    good = "sha256=" + hmac.new(SECRET.encode(), content, "sha256").hexdigest()
    headers = {
        "content-type": "application/json",
        "x-github-event": event,
        "x-github-delivery": id,
        "x-hub-signature-256": good if signature is None else signature,
    }
    return {"content": content, "headers": headers}


async def test_webhooks_are_stored_once(database: str, tmp_path: Path) -> None:
    port = free_port()
    program = process(
        str(EXAMPLES / "webhook.py"),
        database,
        *("--address", f"127.0.0.1:{port}"),
        folder=tmp_path,
        WEBHOOK_SECRET=SECRET,
    )
    async with program, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await answers(port)
        heard = [
            await client.post("/github", **delivery(*sent))
            for sent in (
                ("push", "d1", PUSH),
                ("push", "d1", PUSH),
                ("push", "d2", PUSH, "sha256=0"),
                ("push", "d3", PUSH, "sha256=é".encode()),
                ("ping", "d4", {"zen": "Keep it logically awesome."}),
                ("push", "d5", {"ref": "refs/heads/main"}),
            )
        ]
    assert [(answer.status_code, answer.text) for answer in heard] == [
        (200, "OK: d1"),
        (200, "OK: d1"),
        (403, "forbidden: not allowed"),
        (403, "forbidden: not allowed"),
        (200, "aborted: d4"),
        (422, "rejected: not a push: Object missing required field `after`"),
    ]
    assert await rows(database, "pushes") == [("d1", "tea/pot", "main", "1f3a", "alice", 2)]


# --- import_log.py


class Geo(BaseHTTPRequestHandler):
    """Knows the country of an address: 10.0.0.1 is in C1. One address is nowhere, one fails."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        (address,) = parse_qs(urlsplit(self.path).query)["address"]
        last = address.rpartition(".")[2]
        status = {"250": 404, "251": 500}.get(last, 200)
        body = json.dumps({"country": f"C{last}"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def geo_server() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Geo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/geo"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_log(path: Path, n: int) -> None:
    with path.open("w", encoding="utf-8") as log:
        for number in range(n):
            visit = {
                "time": f"2026-11-28T10:{number // 60 % 60:02}:{number % 60:02}Z",
                "address": f"192.0.2.{number % 250}",
                "path": "/healthz" if number % 10 == 0 else f"/{number}",
                "status": 200,
            }
            log.write(json.dumps(visit) + "\n")
        for last in (250, 251):
            visit = {"time": "2026-11-28T11:00:00Z", "address": f"192.0.2.{last}", "path": "/"}
            log.write(json.dumps({**visit, "status": 200}) + "\n")
        log.write("not a visit\n")


async def test_an_import_that_is_killed_again_and_again_is_exact(tmp_path: Path) -> None:
    n = 3000
    log, database = tmp_path / "visits.jsonl", tmp_path / "visits.db"
    write_log(log, n)
    with geo_server() as one, geo_server() as other:
        command = (
            sys.executable,
            str(EXAMPLES / "import_log.py"),
            str(log),
            *("--geo", one, "--geo", other, "--database", str(database)),
        )
        seen = 0
        for _ in range(3):
            killed = await asyncio.create_subprocess_exec(*command, cwd=tmp_path)
            try:
                wanted, deadline = min(seen + n // 5, n // 2), time.monotonic() + 30
                while seen < wanted and killed.returncode is None:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                    seen = await asyncio.to_thread(count, database, "visits")
            finally:
                killed.kill()
                await killed.wait()
            assert seen < n * 9 // 10
        whole = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(whole.communicate(), 60)
    assert whole.returncode == 0, errors.decode()
    found = await rows(str(database), "visits")
    assert len(found) == n * 9 // 10
    assert {row[3] for row in found} == {f"/{number}" for number in range(n) if number % 10}
    assert all(row[5] == f"C{row[2].rpartition('.')[2]}" for row in found)
    (dead,) = await rows(str(database), "dead_visits")
    assert "192.0.2.251" in str(dead)
    checkpoint = json.loads(database.with_suffix(".checkpoint").read_text("utf-8"))
    assert checkpoint["counts"] == {
        "stored": n * 9 // 10,
        "aborted": n // 10,
        "rejected": 2,
        "dead": 1,
    }


def count(database: Path, table: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            return found
    except sqlite3.OperationalError:
        return 0  # not made yet


# --- orders_api.py


async def test_orders_are_answered_when_they_are_stored(database: str, tmp_path: Path) -> None:
    port = free_port()
    program = process(
        *("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "orders_api:app"),
        folder=tmp_path,
        ORDERS_DATABASE=database,
    )
    tea = {"item": "tea", "amount": 2}
    async with program, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await answers(port)
        heard = [
            await client.post("/orders", json=order, headers={"idempotency-key": key})
            for order, key in (
                (tea, "1"),
                (tea, "1"),
                ({"item": "tea", "amount": 3}, "1"),
                ({"item": "gold", "amount": 1}, "2"),
                ({"item": "tea", "amount": 0}, "3"),
            )
        ]
        ready = await client.get("/readyz")
        without_key = await client.post("/orders", json=tea)
    assert [answer.status_code for answer in heard] == [201, 201, 422, 422, 422]
    assert heard[0].json() == heard[1].json() == {"id": "1", "status": "stored"}
    assert heard[3].json() == {"detail": "there is no gold"}
    assert ready.text == "ready"
    stored = {row[0]: (row[1], row[2], str(row[3])) for row in await rows(database, "orders")}
    assert stored == {
        "1": ("tea", 2, "6.4"),
        without_key.json()["id"]: ("tea", 2, "6.4"),
    }
