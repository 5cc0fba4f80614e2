"""Collect data from multiple backends: we can do even better. Replicate backends!

The first replica to answer wins. The answers take as long as the slowest set of replicas, of which
only the fastest replica counts. A set of replicas is itself a backend, so `query_all` stays as it
is. First a version written by hand, as in the talk, then the library's. Both cancel the other
replicas; in the talk they run on.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Protocol

import tailrace
from tailrace import Channel, Group, Sender, query_all


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


class Replicas:
    def __init__(self, *backends: Backend) -> None:
        self.backends = backends  # with same content

    async def query(self, q: str, /) -> str:
        c = Channel[str](len(self.backends))
        async with Group(on_exit="cancel") as go:
            for backend in self.backends:
                go(ask, backend, q, c)
            return await c.recv()


async def main() -> None:
    now = asyncio.get_running_loop().time
    for replicas in (Replicas, tailrace.Replicas[str, str]):
        r1 = replicas(MyBackend("foo1"), MyBackend("foo2"), MyBackend("foo3"))
        r2 = replicas(MyBackend("bar1"), MyBackend("bar2"))
        r3 = replicas(Skrillex(), Skrillex(), Skrillex(), Skrillex(), Skrillex())

        began = now()
        results = await query_all("dubstep", r1, r2, r3)
        print(results)
        print(f"{(now() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
