"""Go's test/chan/select3.go: which operations block for ever, and which never do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tailrace import Channel, Closed, WouldBlock, select, select_nowait
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time


def empty(capacity: int = 0) -> Channel[int]:
    return Channel[int](capacity)


def full(capacity: int = 1) -> Channel[int]:
    ch = Channel[int](capacity)
    for _ in range(capacity):
        ch.send_nowait(7)
    return ch


def closed(*buffered: int) -> Channel[int]:
    ch = Channel[int](len(buffered))
    for value in buffered:
        ch.send_nowait(value)
    ch.close()
    return ch


def with_itself() -> Awaitable[Any]:
    ch = Channel[int]()
    return select(ch.send(1), ch.recv())


async def blocks(operation: Callable[[], Awaitable[Any]]) -> bool:
    """Whether `operation` waits when nobody else ever does anything: for ever, then."""

    async def perform() -> None:
        await operation()

    task = asyncio.create_task(perform())
    await wait_all_parked()
    if task.done():
        await task
        return False
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return True


BLOCKS: dict[str, Callable[[], Awaitable[Any]]] = {
    "receiving, nobody sends": lambda: empty().recv(),
    "receiving, nothing buffered": lambda: empty(1).recv(),
    "sending, nobody receives": lambda: empty().send(7),
    "sending, no room": lambda: full().send(7),
    "select: receive, nobody sends": lambda: select(empty().recv()),
    "select: receive, nothing buffered": lambda: select(empty(1).recv()),
    "select: send, nobody receives": lambda: select(empty().send(7)),
    "select: send, no room": lambda: select(full().send(7)),
    "select: no case of several": lambda: select(empty().recv(), full().send(7), empty(1).recv()),
    "select: no case but nil": lambda: select(None, empty().recv(), None),
    "select: it sees itself": with_itself,
}
NEVER_BLOCKS: dict[str, Callable[[], Awaitable[Any]]] = {
    "sending, with room": lambda: empty(1).send(7),
    "receiving, buffered": lambda: full().recv(),
    "receiving, closed and buffered": lambda: closed(7).recv(),
    "select: send, with room": lambda: select(empty(1).send(7)),
    "select: receive, buffered": lambda: select(full().recv()),
    "select: receive, closed": lambda: select(closed().recv()),
    "select: one of several": lambda: select(empty().recv(), None, empty(1).send(7)),
    "select: closed, one of several": lambda: select(empty().recv(), closed().recv()),
    "select: only nil cases, with a timeout of none": lambda: select(None, None, timeout=0),
}


@pytest.mark.parametrize("operation", BLOCKS.values(), ids=BLOCKS.keys())
async def test_what_nobody_answers_blocks(operation: Callable[[], Awaitable[Any]]) -> None:
    assert await blocks(operation)


@pytest.mark.parametrize("operation", NEVER_BLOCKS.values(), ids=NEVER_BLOCKS.keys())
async def test_what_can_happen_at_once_never_blocks(
    operation: Callable[[], Awaitable[Any]],
) -> None:
    assert not await blocks(operation)


async def test_a_receive_from_a_closed_channel_never_blocks_however_often() -> None:
    ch = closed()

    async def receive_repeatedly() -> None:
        for _ in range(10):
            with pytest.raises(Closed):
                await ch.recv()
            index, value = await select(ch.recv())
            assert index == 0
            assert isinstance(value, Closed)
            assert value.channel is ch

    assert not await blocks(receive_repeatedly)


async def test_a_send_on_a_closed_channel_raises_at_once() -> None:
    async def send() -> None:
        with pytest.raises(Closed):
            await closed().send(7)
        with pytest.raises(Closed):
            await select(closed().send(7))
        with pytest.raises(Closed):
            await select(closed().send(7), empty().recv())
        with pytest.raises(Closed):
            closed().send_nowait(7)
        with pytest.raises(Closed):
            select_nowait(closed().send(7))

    assert not await blocks(send)


async def test_a_nil_case_is_never_chosen() -> None:
    with pytest.raises(WouldBlock):
        select_nowait(None)
    with pytest.raises(WouldBlock):
        select_nowait(None, empty().recv(), None)
    with pytest.raises(WouldBlock):
        select_nowait()  # Go's `select { default: }`
    for _ in range(20):
        assert select_nowait(None, full().recv(), None) == (1, 7)


@pytest.mark.parametrize("nothing", [(), (None,), (None, None)], ids=["none", "nil", "two nil"])
async def test_a_select_that_could_only_wait_for_ever_is_refused(nothing: tuple[None, ...]) -> None:
    """In Go it blocks; here it is an error, since with no other way out it is always a mistake."""
    with pytest.raises(ValueError, match="wait forever"):
        select(*nothing)
    assert await select(*nothing, timeout=1.5) == (None, None)
    assert asyncio.get_running_loop().time() == 1.5


async def test_the_default_is_not_taken_when_a_case_is_ready() -> None:
    assert select_nowait(empty(1).send(7)) == (0, None)
    assert select_nowait(full().recv()) == (0, 7)
    index, value = select_nowait(closed().recv())
    assert index == 0
    assert isinstance(value, Closed)
