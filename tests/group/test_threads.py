"""What a group does when another thread, or another event loop, calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tailrace import Channel, Group, Receiver, Sender, emit

pytestmark = pytest.mark.timeout(30)


async def count(out: Sender[int]) -> None:
    n = 0
    while True:
        await out.send(n)
        n += 1
        await asyncio.sleep(0)


async def receive_all(inbox: Receiver[int]) -> None:
    async for _ in inbox:
        pass


def ends_well(ends: list[str]) -> Callable[[Receiver[int]], Coroutine[Any, Any, None]]:
    async def sink(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            pass
        ends.append("well")

    return sink


@pytest.mark.parametrize("from_a_loop", [False, True])
async def test_any_thread_may_drain_a_group(from_a_loop: bool) -> None:
    ends: list[str] = []
    channel = Channel[int]()

    async def on_another_loop() -> None:
        go.drain()

    async with Group() as go:
        go(count, channel)
        go(ends_well(ends), channel)
        if from_a_loop:
            await asyncio.to_thread(asyncio.run, on_another_loop())
        else:
            await asyncio.to_thread(go.drain)
    assert ends == ["well"]


async def test_an_actor_in_a_thread_may_drain_its_group() -> None:
    ends: list[str] = []
    channel = Channel[int]()

    def stops() -> None:
        go.drain()

    async with Group() as go:
        go(count, channel)
        go(ends_well(ends), channel)
        go(stops)
    assert ends == ["well"]


async def test_any_thread_may_cancel_a_group() -> None:
    channel = Channel[int]()
    left = asyncio.Event()
    async with Group() as go:
        go(count, channel)
        go(receive_all, channel)
        await asyncio.to_thread(go.cancel)
        with pytest.raises(asyncio.CancelledError):  # the block is cancelled too
            await left.wait()


async def test_a_group_that_has_ended_is_left_alone_by_threads() -> None:
    async with Group() as go:
        go(emit([1]), channel := Channel[int]())
        go(receive_all, channel)
    await asyncio.to_thread(go.drain)
    await asyncio.to_thread(go.cancel)
    await asyncio.sleep(0)


async def test_what_only_the_groups_own_loop_can_do_says_so() -> None:
    def start(go: Group) -> None:
        go(emit([1]), Channel[int]())

    async def start_on_a_loop(go: Group) -> None:
        start(go)

    calls: dict[str, Callable[[Group], object]] = {
        "go": start,
        "go ": lambda go: asyncio.run(start_on_a_loop(go)),
        "wait": lambda go: asyncio.run(go.wait()),
        "idle": lambda go: asyncio.run(go.idle()),
    }
    async with Group() as go:
        for name, call in calls.items():
            said = f"{name.strip()} was called from another thread or event loop than its group's"
            with pytest.raises(RuntimeError, match=said):
                await asyncio.to_thread(call, go)
        assert go.actors() == []
