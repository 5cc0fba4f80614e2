"""A SQLite store that runs in a test, and a look into its database from outside."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from tailrace import Channel, Message, Retry
from tailrace.store import Store

SOON = Retry(None, backoff=0.002, cap=0.002)


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        yield connection


def rows(path: Path, table: str = "events") -> list[Any]:
    with database(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row for (row,) in connection.execute(f"SELECT data FROM {table} ORDER BY rowid")]


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


async def send(channel: Channel[Message[Any]], *data: Any) -> list[Message[Any]]:
    sent = [Message(each) for each in data]
    await channel.send_many(sent)
    return sent


async def outcomes(sent: list[Message[Any]]) -> list[str]:
    return [(await message.settled(10)).status for message in sent]


async def put(channel: Channel[Message[Any]], *data: Any) -> list[str]:
    return await outcomes(await send(channel, *data))
