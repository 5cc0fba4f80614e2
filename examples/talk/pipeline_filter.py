"""Pipelined data processing: let's add a filtering stage!

Think in terms of actors doing the work, and the pipes used to transport that work. "The code does
what it says on the page."
"""

import asyncio
import random
from typing import NewType

from tailrace import Channel, Group, Receiver, Sender, run

Msg = NewType("Msg", str)


async def listen(out: Sender[Msg]) -> None:
    while True:
        await asyncio.sleep(random.randrange(250) / 1000)
        if random.randrange(10) < 6:
            await out.send(Msg("foo"))
        else:
            await out.send(Msg("bar"))


async def filter(inbox: Receiver[Msg], out: Sender[Msg]) -> None:
    async for msg in inbox:
        if msg == "bar":
            continue  # drop
        await out.send(msg)


async def enrich(inbox: Receiver[Msg], out: Sender[Msg]) -> None:
    async for msg in inbox:
        await out.send(Msg(f"☆ {msg} ☆"))


async def store(inbox: Receiver[Msg]) -> None:
    async for msg in inbox:
        print(msg)  # mock storage


async def main(go: Group) -> None:
    to_filter = Channel[Msg](name="to_filter")
    to_enricher = Channel[Msg](name="to_enricher")
    to_store = Channel[Msg](name="to_store")

    go(listen, to_filter)
    go(filter, to_filter, to_enricher)
    go(enrich, to_enricher, to_store)
    go(store, to_store)

    await asyncio.sleep(1)
    go.drain()


if __name__ == "__main__":
    run(main)
