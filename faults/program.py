"""The pipeline under load, as a process: ``python -m faults.program OPTIONS``.

listen_http → filter → each(enrich, retry) → store. It prints its address when it listens, and at
its end, unless it is killed, what `Group.account` says.

`enrich` adds a stamp that is never the same twice, so a row in the table tells which attempt of a
request made it. Now and then it fails, and is tried again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from dataclasses import dataclass
from typing import Any

from tailrace import Channel, Group, Message, Receiver, Retry, Sender, each, run
from tailrace.listen import HttpServer
from tailrace.store import Store, store, store_postgres, store_sqlite

__all__ = ["Options", "Order", "Priced"]


@dataclass
class Options:
    """`target`: the path of a SQLite database, the DSN of a PostgreSQL one; "ack" for a store that
    keeps nothing, "hang" for one that never returns, "hang in a thread" for one that blocks.
    `attempts`: of the store, None for ever. `slow`: seconds that enriching takes, at most."""

    target: str
    attempts: int | None = None
    timeout: float = 30.0
    in_flight: int = 1024
    connections: int | None = None
    grace: float = 30.0
    slow: float = 0.002
    unstable: float = 0.01


@dataclass
class Order:
    """What a client sends. Where `amount` is a multiple of 10, it is filtered."""

    name: str
    amount: int


@dataclass
class Priced:
    """What is stored."""

    name: str
    amount: int
    total: int
    stamp: str


async def hang(rows: object) -> None:
    """Never return."""
    await asyncio.Event().wait()


def block(rows: object) -> None:
    """Block a thread for longer than any grace here."""
    import time

    time.sleep(60)


async def keep_nothing(rows: object) -> None:
    """Return at once."""


def store_of(options: Options) -> Store[Any]:
    """The store for `options.target`."""
    target, retry = options.target, Retry(options.attempts, cap=0.5)
    writers: dict[str, Any] = {"ack": keep_nothing, "hang": hang, "hang in a thread": block}
    if target in writers:
        return store(writers[target])
    if target.startswith("postgresql:"):
        return store_postgres(target, type=Priced, retry=retry)
    return store_sqlite(target, type=Priced, busy_timeout=0.1, retry=retry)


async def filter_orders(inbox: Receiver[Message[Order]], out: Sender[Message[Order]]) -> None:
    """Abort what is a multiple of 10."""
    async for message in inbox:
        if message.data.amount % 10 == 0:
            message.abort("filtered")
        else:
            await out.send(message)


async def main(go: Group, options: Options) -> None:
    """Wire the pipeline, and print where it listens."""
    serial = itertools.count()

    async def enrich(order: Order) -> Priced:
        if random.random() < options.unstable:
            raise ConnectionError("the price service is away for a moment")
        if options.slow:
            await asyncio.sleep(random.uniform(0, options.slow))
        stamp = f"{os.getpid()}-{next(serial)}"
        return Priced(order.name, order.amount, 3 * order.amount, stamp)

    server = HttpServer("127.0.0.1:0", in_flight=options.in_flight, connections=options.connections)
    incoming = Channel[Message[Order]](name="incoming")
    to_enrich = Channel[Message[Order]](name="to_enrich")
    to_store = Channel[Message[Priced]](name="to_store")
    go(server.listen("/orders", type=Order, timeout=options.timeout), incoming)
    go(filter_orders, incoming, to_enrich)
    go(each(enrich, retry=Retry(20, backoff=0.001)), to_enrich, to_store, actors=64)
    go(store_of(options), to_store)
    print(await server.ready(), flush=True)
    await go.wait()


def command() -> None:
    """Run with the options that are the first argument, as JSON."""
    options = Options(**json.loads(sys.argv[1]))
    group: list[Group] = []

    async def keep(go: Group) -> None:
        group.append(go)
        await main(go, options)

    try:
        run(keep, grace=options.grace)
    finally:
        if group:
            print(json.dumps(group[0].account()._asdict()), flush=True)


if __name__ == "__main__":
    command()
