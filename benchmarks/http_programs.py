"""The programs that `talk_http.py` compares, but for Go's: each serves `/incoming` and `/orders`.

`/incoming?data=…` is the talk's: Listen → Filter → Enrich → Store, and the answer ``OK: ☆ … ☆``.
`/orders` takes the same way with a JSON body of a typed struct, a token and an Idempotency-Key.

This module has no postponed annotations: FastAPI reads those of its endpoints.
"""

import asyncio
import contextlib
import hmac
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailrace import Channel, Group, Message, Receiver, Sender
from tailrace.listen import HttpServer

__all__ = ["PROGRAMS", "TOKEN", "Program", "announce"]

TOKEN = "secret"
ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "127.0.0.1:0"


def announce(url: str) -> None:
    """Say where this program serves."""
    print(url, flush=True)


# --- tailrace -----------------------------------------------------------------------------------


class Order(msgspec.Struct):
    item: str
    quantity: int
    price: float
    note: str
    express: bool = False


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


async def filter_orders(inbox: Receiver[Message[Order]], out: Sender[Message[Order]]) -> None:
    async for msg in inbox:
        if msg.data.item == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


async def enrich_orders(inbox: Receiver[Message[Order]], out: Sender[Message[Order]]) -> None:
    async for msg in inbox:
        msg.data.note = f"☆ {msg.data.note} ☆"
        await out.send(msg)


async def ack(inbox: Receiver[Message[Any]]) -> None:
    async for msg in inbox:
        msg.ack()


def wire(go: Group, server: HttpServer, store: Any, store_orders: Any) -> None:
    to_filter = Channel[Message[str]](name="to_filter")
    to_enrich = Channel[Message[str]](name="to_enrich")
    to_store = Channel[Message[str]](name="to_store")
    go(server.listen("/incoming"), to_filter)
    go(filter, to_filter, to_enrich)
    go(enrich, to_enrich, to_store)
    go(store, to_store)
    to_filter_orders = Channel[Message[Order]](name="to_filter_orders")
    to_enrich_orders = Channel[Message[Order]](name="to_enrich_orders")
    to_store_orders = Channel[Message[Order]](name="to_store_orders")
    go(server.listen("/orders", type=Order, token=TOKEN), to_filter_orders)
    go(filter_orders, to_filter_orders, to_enrich_orders)
    go(enrich_orders, to_enrich_orders, to_store_orders)
    go(store_orders, to_store_orders)


async def tailrace() -> None:
    server = HttpServer(LOOPBACK)
    async with Group() as go:
        wire(go, server, ack, ack)
        announce(await server.ready())


async def tailrace_sqlite() -> None:
    from tailrace.store import store_sqlite

    server = HttpServer(LOOPBACK)
    with database() as path:
        async with Group() as go:
            wire(go, server, store_sqlite(path), store_sqlite(path, table="orders", type=Order))
            announce(await server.ready())


async def tailrace_app_in_uvicorn() -> None:
    server = HttpServer(None)
    async with Group() as go:
        wire(go, server, ack, ack)
        await uvicorn_serves(server.app)


@contextlib.contextmanager
def database() -> Any:
    """The path of a database file, which goes away at the end."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        yield str(Path(directory) / "events.db")


# --- FastAPI ------------------------------------------------------------------------------------

Store = Callable[[str | None, str], Awaitable[None]]
Opened = contextlib.AbstractAsyncContextManager[Store]


@contextlib.asynccontextmanager
async def in_memory() -> AsyncIterator[Store]:
    async def store(key: str | None, text: str) -> None:
        pass

    yield store


@contextlib.asynccontextmanager
async def aiosqlite_database() -> AsyncIterator[Any]:
    import aiosqlite

    with database() as path:
        async with aiosqlite.connect(path) as connection:
            await connection.execute("PRAGMA journal_mode=WAL")
            await connection.execute("PRAGMA synchronous=FULL")
            await connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY, data TEXT)")
            await connection.commit()
            yield connection


INSERT = "INSERT OR IGNORE INTO events VALUES (?, ?)"


@contextlib.asynccontextmanager
async def commit_each() -> AsyncIterator[Store]:
    """As it is written first: a row, a commit. A transaction must not end another's."""
    async with aiosqlite_database() as connection:
        turn = asyncio.Lock()

        async def store(key: str | None, text: str) -> None:
            async with turn:
                await connection.execute(INSERT, (key or os.urandom(16).hex(), text))
                await connection.commit()

        yield store


@contextlib.asynccontextmanager
async def group_commit() -> AsyncIterator[Store]:
    """As an expert writes it by hand: what has come meanwhile goes into one transaction."""
    waiting: asyncio.Queue[tuple[str, str, asyncio.Future[None]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def store(key: str | None, text: str) -> None:
        done = loop.create_future()
        waiting.put_nowait((key or os.urandom(16).hex(), text, done))
        await done

    async def write(connection: Any) -> None:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty() and len(batch) < 1000:
                batch.append(waiting.get_nowait())
            await connection.executemany(INSERT, [(key, text) for key, text, _ in batch])
            await connection.commit()
            for _, _, done in batch:
                if not done.done():
                    done.set_result(None)

    async with aiosqlite_database() as connection:
        writing = asyncio.ensure_future(write(connection))
        yield store
        writing.cancel()


def fastapi(open_store: Callable[[], Opened]) -> Any:
    """The same service as it is written with FastAPI, without actors."""
    from fastapi import FastAPI, Header, HTTPException, Request
    from fastapi.responses import PlainTextResponse
    from pydantic import BaseModel

    class OrderModel(BaseModel):
        item: str
        quantity: int
        price: float
        note: str
        express: bool = False

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_store() as app.state.store:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/incoming", response_class=PlainTextResponse)
    async def incoming(data: str, request: Request) -> str:
        if data == "bar":
            return f"aborted: {data}"
        data = f"☆ {data} ☆"
        await request.app.state.store(None, data)
        return f"OK: {data}"

    @app.post("/orders", response_class=PlainTextResponse)
    async def orders(
        order: OrderModel,
        request: Request,
        authorization: str = Header(""),
        idempotency_key: str | None = Header(None),
    ) -> str:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {TOKEN}".encode()):
            raise HTTPException(401, "a token is needed")
        if order.item == "bar":
            return f"aborted: {order.model_dump_json()}"
        order.note = f"☆ {order.note} ☆"
        text = order.model_dump_json()
        await request.app.state.store(idempotency_key, text)
        return f"OK: {text}"

    return app


async def uvicorn_serves(app: Any, lifespan: str = "off") -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        port=0,
        http="httptools",
        ws="none",
        lifespan=lifespan,  # type: ignore[arg-type]  # one of a few texts
        access_log=False,
        log_config=None,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    announce(f"http://{host}:{port}")
    await serving


def in_uvicorn(open_store: Callable[[], Opened]) -> Callable[[], Coroutine[Any, Any, None]]:
    return lambda: uvicorn_serves(fastapi(open_store), lifespan="on")


def memory_app() -> Any:
    """For Granian, which imports its application."""
    return fastapi(in_memory)


async def granian() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    announce(f"http://127.0.0.1:{port}")
    command = ["granian", "--interface", "asgi", "--factory", "--host", "127.0.0.1", "--port"]
    command += [str(port), "--loop", "uvloop", "--no-ws", "--log-level", "warning"]
    os.chdir(ROOT)
    os.execv(
        sys.executable, [sys.executable, "-m", *command, "benchmarks.http_programs:memory_app"]
    )


# --- All of them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program that serves; on which event loop; with which core of tailrace."""

    name: str
    serve: Callable[[], Coroutine[Any, Any, None]]
    uvloop: bool = True
    core: str = "auto"


PROGRAMS = (
    Program("tailrace", tailrace),
    Program("tailrace on asyncio", tailrace, uvloop=False),
    Program("tailrace, Python core", tailrace, core="python"),
    Program("tailrace, SQLite", tailrace_sqlite),
    Program("tailrace, SQLite, Python core", tailrace_sqlite, core="python"),
    Program("tailrace, app in uvicorn", tailrace_app_in_uvicorn),
    Program("uvicorn, FastAPI", in_uvicorn(in_memory)),
    Program("Granian, FastAPI", granian),
    Program("FastAPI, aiosqlite, commit each", in_uvicorn(commit_each)),
    Program("FastAPI, aiosqlite, group commit", in_uvicorn(group_commit)),
)
