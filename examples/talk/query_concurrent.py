"""Collect data from multiple backends: we can do better. Let's fire queries concurrently.

The answers take as long as the slowest backend. `query_all` is called as before: first a version
written by hand with a channel, as in the talk, then the library's. The library's version also keeps
the order, takes a timeout, and cancels the other queries when one fails.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Protocol

import tailrace
from tailrace import Channel, Group, Sender


class Backend(Protocol):
    async def query(self, q: str, /) -> str: ...


@dataclass
class MyBackend:
    name: str

    async def query(self, q: str, /) -> str:
        await asyncio.sleep(random.randrange(100) / 1000)
        return f"{self.name}/{q}"


class Skrillex:
    async def query(self, q: str, /) -> str:
        await asyncio.sleep(random.randrange(100) / 1000)
        return "wub-wub-wub"


async def ask(backend: Backend, q: str, c: Sender[str]) -> None:
    await c.send(await backend.query(q))


async def query_all(q: str, *backends: Backend) -> list[str]:
    # query
    c = Channel[str](len(backends))  # buffered channel
    async with Group() as go:
        for backend in backends:
            go(ask, backend, q, c)

        # aggregate
        return [result async for result in c]


async def main() -> None:
    b1 = MyBackend("server-1")
    b2 = MyBackend("server-2")
    b3 = Skrillex()

    now = asyncio.get_running_loop().time
    for query in (query_all, tailrace.query_all):
        began = now()
        results = await query("dubstep", b1, b2, b3)
        print(results)
        print(f"{(now() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
