"""Group rule 5, further: what counts as idle."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Channel, Group, Receiver, Sender

pytestmark = pytest.mark.virtual_time


async def forward(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await asyncio.sleep(1)
        await out.send(value)


async def test_results_that_wait_for_somebody_outside_do_not_keep_a_group_busy() -> None:
    todo, results = Channel[int](), Channel[int](10)
    async with asyncio.timeout(5), Group() as go:
        go(forward, todo, results)
        await todo.send(1)
        await go.idle()
        assert results.recv_nowait() == 1
        go.cancel()


async def test_a_value_that_an_actor_has_yet_to_receive_keeps_it_busy() -> None:
    todo, results = Channel[int](10), Channel[int](10)
    async with Group() as go:
        go(forward, todo, results)
        for n in range(3):
            await todo.send(n)
        await go.idle()
        assert len(results) == 3
        assert go.loop.time() == 3
        go.cancel()


async def test_two_actors_that_wait_for_idleness_do_not_wait_for_each_other() -> None:
    a, b = Channel[int](), Channel[int](10)

    async def waits(go: Group, out: Sender[int]) -> None:
        await go.idle()

    async with asyncio.timeout(5), Group() as go:
        go(forward, a, b)
        go(waits, go, a, actors=2)


async def test_a_sender_that_is_parked_is_not_idle() -> None:
    a, b = Channel[int](), Channel[int]()
    async with Group() as go:
        go(forward, a, b)
        await a.send(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await go.idle()
        go.cancel()
