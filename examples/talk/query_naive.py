"""Collect data from multiple backends: what's the most naïve implementation?

One backend after the other: the answers take the sum of all times.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Protocol


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


async def query_all(q: str, *backends: Backend) -> list[str]:
    results: list[str] = []
    for backend in backends:
        r = await backend.query(q)
        results.append(r)
    return results


async def main() -> None:
    b1 = MyBackend("server-1")
    b2 = MyBackend("server-2")
    b3 = Skrillex()

    now = asyncio.get_running_loop().time
    began = now()
    results = await query_all("dubstep", b1, b2, b3)
    print(results)
    print(f"{(now() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
