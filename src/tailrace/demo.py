"""Layer 6: the last program of the talk, with a real HTTP server and a durable database.

Listen → Filter → Enrich × 3 → Store. A request gets its answer when its message is settled: a 200
``OK`` means that the row is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tailrace.channel import Channel, Receiver, Sender
from tailrace.group import Group, run
from tailrace.listen import HttpServer
from tailrace.message import Message
from tailrace.store import StoreError, store_sqlite

__all__ = ["StoreError", "run_demo", "server_on"]

EVERYWHERE = ("0.0.0.0", "[::]")


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    """Decorate each message, and pass it on."""
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    """Abort each "bar", and pass the others on."""
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


def server_on(bind: str) -> HttpServer:
    """A server at an address that refuses unknown host names, against DNS rebinding.

    ValueError if `bind` is no address.
    """
    name = bind.rpartition(":")[0]
    if name in EVERYWHERE:  # the names of this machine are not known
        return HttpServer(bind)
    return HttpServer(bind, hosts=["localhost", "127.0.0.1", "[::1]", *[name] * bool(name)])


def run_demo(
    server: HttpServer, *, database: Path, traffic: bool, seconds: float | None, grace: float
) -> None:
    """Run until a signal, or for `seconds`, drain, and print what was stored."""
    before = _rows(database)

    async def main(go: Group) -> None:
        to_filter = Channel[Message[str]](name="to_filter")
        to_enrich = Channel[Message[str]](name="to_enrich")
        to_store = Channel[Message[str]](name="to_store")
        go(server.listen("/incoming"), to_filter)
        go(filter, to_filter, to_enrich)
        go(enrich, to_enrich, to_store, actors=3)
        go(store_sqlite(database), to_store)
        url = await server.ready() + "/incoming"
        _say(f"listening on {url}, storing in {database}; try it:")
        _say(f"    curl '{url}?data=foo'      curl '{url}?data=bar'      Ctrl-C drains")
        if traffic:
            go(send_traffic, url)
        if seconds is not None:
            go.loop.call_later(seconds, go.drain)

    run(main, grace=grace)
    stored = _rows(database) - before
    _say(f"drained: {stored} rows added to {database}")


async def send_traffic(url: str) -> None:
    """The talk's source as an HTTP client: at random times, "foo" (six of ten) or "bar"."""
    while True:
        await asyncio.sleep(random.random() * 0.25)
        data = "foo" if random.random() < 0.6 else "bar"
        answer = await asyncio.to_thread(_get, f"{url}?data={data}")
        _say(f"GET /incoming?data={data} → {answer}")


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except OSError as error:  # the server has stopped, for a drain
        return str(error)


def _rows(database: Path) -> int:
    """How many rows the table has. 0 if there is no table yet."""
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            rows: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
        return rows


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
