"""Pipelined data processing: model each stage as a function.

We're subscribing to an event publisher, converting messages to enriched data models, and feeding
them into a data store. No explicit synchronization, no condition variables, no timed waits, and
because the channels are unbuffered, automatic backpressure.
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


async def enrich(inbox: Receiver[Msg], out: Sender[Msg]) -> None:
    async for msg in inbox:
        await out.send(Msg(f"☆ {msg} ☆"))


async def store(inbox: Receiver[Msg]) -> None:
    async for msg in inbox:
        print(msg)  # store to stdout


async def main(go: Group) -> None:
    # build the infrastructure
    to_enricher = Channel[Msg](name="to_enricher")
    to_store = Channel[Msg](name="to_store")

    # launch the actors
    go(listen, to_enricher)
    go(enrich, to_enricher, to_store)
    go(store, to_store)

    await asyncio.sleep(1)
    go.drain()  # stop listening; what was heard is still stored


if __name__ == "__main__":
    run(main)
