"""Go's test/chan/sieve1.go: primes from a chain of filters that grows by one with each prime."""

from __future__ import annotations

from itertools import count

import pytest

from tailrace import Channel, Group, Receiver, Sender

pytestmark = pytest.mark.virtual_time

N = 80


def primes(n: int) -> list[int]:
    found: list[int] = []
    for candidate in count(2):
        if len(found) == n:
            break
        if all(candidate % prime for prime in found):
            found.append(candidate)
    return found


async def generate(out: Sender[int]) -> None:
    for number in count(2):
        await out.send(number)


async def sift(inbox: Receiver[int], out: Sender[int], prime: int) -> None:
    async for number in inbox:
        if number % prime:
            await out.send(number)


@pytest.mark.parametrize("capacity", [0, 1, 16])
async def test_a_chain_that_grows_while_it_runs_gives_the_primes(capacity: int) -> None:
    found: list[int] = []
    async with Group(on_exit="cancel") as go:
        numbers = Channel[int](capacity)
        go(generate, numbers)
        while len(found) < N:
            found.append(await numbers.recv())
            sifted = Channel[int](capacity)
            go(sift, numbers, sifted, found[-1])
            numbers = sifted
    assert found == primes(N)


async def test_when_nobody_wants_more_primes_the_whole_chain_stops_by_itself() -> None:
    """The generator counts for ever; what ends it is that the last inbox is let go."""
    found: list[int] = []

    async def sieve(go: Group, numbers: Receiver[int]) -> None:
        prime = await numbers.recv()
        found.append(prime)
        if len(found) < N:
            sifted = Channel[int]()
            go(sift, numbers, sifted, prime)
            go(sieve, go, sifted)

    async with Group() as go:
        numbers = Channel[int]()
        go(generate, numbers)
        go(sieve, go, numbers)
    assert found == primes(N)
