"""Go's test/chan/sieve2.go: primes from a merge of their multiples, fed back through a proxy."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count, islice

import pytest

from tailrace import Channel, Group, Receiver, Sender, select

pytestmark = pytest.mark.virtual_time

N = 150


def expected() -> list[int]:
    return list(islice((n for n in count(2) if all(n % d for d in range(2, n))), N))


async def odds(out: Sender[int]) -> None:
    for number in count(5, 2):
        await out.send(number)


async def multiples(out: Sender[int], prime: int) -> None:
    """The odd ones, from its square on."""
    for number in count(prime * prime, 2 * prime):
        await out.send(number)


async def never_full(inbox: Receiver[int], out: Sender[int]) -> None:
    """Takes whatever comes at once, and passes it on when it can: a buffer without a bound, in
    which the sending case is switched off while there is nothing to send."""
    waiting: deque[int] = deque()
    while True:
        match await select(inbox.recv(), out.send(waiting[0]) if waiting else None):
            case 0, int(number):
                waiting.append(number)
            case 1, _:
                waiting.popleft()
            case _:
                return


async def merge(go: Group, primes: Receiver[int], composites: Sender[int]) -> None:
    """All multiples of all primes, in order, without repeats. A prime's first multiple is its
    square, so that the next prime is wanted only when the merge has come that far."""
    streams: list[tuple[int, int, Receiver[int]]] = []

    async def add_next_prime() -> int:
        prime = await primes.recv()
        stream = Channel[int](10)
        go(multiples, stream, prime)
        heapq.heappush(streams, (await stream.recv(), prime, stream))
        return prime

    newest, last = await add_next_prime(), 0
    while True:
        number, prime, stream = streams[0]
        if number != last:
            await composites.send(number)
            last = number
        heapq.heapreplace(streams, (await stream.recv(), prime, stream))
        if prime == newest:  # its square was due: that of the next one is due before long
            newest = await add_next_prime()


async def sieve(out: Sender[int], composites: Receiver[int], found: Sender[int], go: Group) -> None:
    """What is a candidate and no composite is a prime, and is fed back."""
    candidates = Channel[int](50)
    go(odds, candidates)
    candidate = await candidates.recv()
    async for composite in composites:
        while candidate < composite:
            await found.send(candidate)
            await out.send(candidate)
            candidate = await candidates.recv()
        if candidate == composite:
            candidate = await candidates.recv()


def by_a_proxy(go: Group) -> tuple[Sender[int], Receiver[int]]:
    proxied, primes = Channel[int](10), Channel[int](10)
    go(never_full, proxied, primes)
    return proxied, primes


def by_a_channel_without_bound(go: Group) -> tuple[Sender[int], Receiver[int]]:
    primes = Channel[int](math.inf)
    return primes, primes


@pytest.mark.parametrize("feed_back", [by_a_proxy, by_a_channel_without_bound])
async def test_a_feedback_loop_with_a_buffer_that_never_fills_gives_the_primes(
    feed_back: Callable[[Group], tuple[Sender[int], Receiver[int]]],
) -> None:
    async with Group(on_exit="cancel") as go:
        out, composites = Channel[int](10), Channel[int](50)
        found, primes = feed_back(go)
        for first in (2, 3):
            await out.send(first)
        await found.send(3)
        go(merge, go, primes, composites)
        go(sieve, out, composites, found, go)
        assert [await out.recv() for _ in range(N)] == expected()
