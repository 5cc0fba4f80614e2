"""The prime sieve: generate → filter → filter → …, one more filter for each prime, unbuffered.

    python benchmarks/sieve.py [--rounds 5] [--n 7920] [--only NAMES] [--json FILE] [--uvloop]

As doc/play/sieve.go, which comes with Go, but generating ends at n, so that all end by themselves
and what the actors of one pass leave behind does not disturb the next. Up to 7920 there are 1000
primes, the last of which is 7919. A hop is a number that goes down one channel, of which there
are 517 384. The sum of the primes is checked.
"""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import OURS, QUEUE, Benchmark, GoProgram, Peer, main
from tailrace import Channel, Closed, Group, Receiver, Sender

N = 7_920
UNBUFFERED = "0"
SLOW = 0.25  # of the numbers, for those who would take many times longer than Go
SHARE = SLOW if OURS == 1 else 1.0


@cache
def sifted(n: int) -> tuple[int, int]:
    """The sum of the primes up to n, and the hops it takes to find them."""
    primes: list[int] = []
    hops = 0
    for number in range(2, n + 1):
        hops += 1
        for prime in primes:
            if number % prime == 0:
                break
            hops += 1
        else:
            primes.append(number)
    return sum(primes), hops


async def generate(n: int, out: Sender[int]) -> None:
    for number in range(2, n + 1):
        await out.send(number)


async def sift(inbox: Receiver[int], out: Sender[int], prime: int) -> None:
    async for number in inbox:
        if number % prime:
            await out.send(number)


async def actors(n: int) -> int:
    total = 0
    async with Group() as go:
        numbers = Channel[int]()
        go(generate, n, numbers)
        try:
            while True:
                prime = await numbers.recv()
                total += prime
                rest = Channel[int]()
                go(sift, numbers, rest, prime)
                numbers = rest
        except Closed:
            return total


async def plain_tasks(n: int) -> int:
    async def first(out: Channel[int]) -> None:
        await generate(n, out)
        out.close()

    async def between(inbox: Channel[int], out: Channel[int], prime: int) -> None:
        await sift(inbox, out, prime)
        out.close()

    total = 0
    numbers = Channel[int]()
    tasks = [asyncio.create_task(first(numbers))]
    try:
        while True:
            prime = await numbers.recv()
            total += prime
            rest = Channel[int]()
            tasks.append(asyncio.create_task(between(numbers, rest, prime)))
            numbers = rest
    except Closed:
        await asyncio.gather(*tasks)
        return total


Queue = asyncio.Queue[int | None]


async def queues(n: int) -> int:
    async def first(out: Queue) -> None:
        for number in range(2, n + 1):
            await out.put(number)
        await out.put(None)

    async def between(inbox: Queue, out: Queue, prime: int) -> None:
        while (number := await inbox.get()) is not None:
            if number % prime:
                await out.put(number)
        await out.put(None)

    total = 0
    numbers = Queue(1)  # a Queue(0) would be unbounded
    tasks = [asyncio.create_task(first(numbers))]
    while (prime := await numbers.get()) is not None:
        total += prime
        rest = Queue(1)
        tasks.append(asyncio.create_task(between(numbers, rest, prime)))
        numbers = rest
    await asyncio.gather(*tasks)
    return total


SIEVE = Benchmark(
    key="sieve",
    title="The prime sieve, to the 1000th prime",
    unit="ns per hop",
    columns=(UNBUFFERED,),
    n=N,
    peers=(
        Peer("tailrace, actors", {UNBUFFERED: actors}, share=SHARE),
        Peer("tailrace, plain tasks", {UNBUFFERED: plain_tasks}, share=SHARE),
        Peer(QUEUE, {UNBUFFERED: queues}, share=SLOW),
    ),
    expected=lambda n: sifted(n)[0],
    units=lambda n: sifted(n)[1],
    go=GoProgram("sieve.go", (UNBUFFERED,), share=1.0),
    note=f"{QUEUE} has no capacity 0 and so has 1. It sifts a quarter of the numbers, as does the "
    "Python core: all are compared by the hop.",
)

if __name__ == "__main__":
    main(SIEVE)
