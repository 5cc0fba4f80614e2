"""Go's test/chan/nonblock.go: operations that never block, with values of several types."""

from __future__ import annotations

from typing import TypeVar

import pytest

from tailrace import Channel, Group, WouldBlock
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time

T = TypeVar("T")

VALUES = pytest.mark.parametrize(
    "value", [123, 2**70, 1.5, True, "hello", ("a", "pair")], ids=lambda value: type(value).__name__
)
CAPACITIES = pytest.mark.parametrize("capacity", [0, 1])


@CAPACITIES
async def test_receiving_from_an_empty_channel_would_block(capacity: int) -> None:
    ch = Channel[int](capacity)
    with pytest.raises(WouldBlock):
        ch.recv_nowait()


@CAPACITIES
async def test_sending_to_a_full_channel_would_block(capacity: int) -> None:
    ch = Channel[int](capacity)
    for value in range(capacity):
        ch.send_nowait(value)
    with pytest.raises(WouldBlock):
        ch.send_nowait(-1)
    assert ch.statistics().sent == capacity


@CAPACITIES
@VALUES
async def test_a_parked_receiver_takes_what_is_sent_without_blocking(
    capacity: int, value: object
) -> None:
    ch = Channel[object](capacity)
    got: list[object] = []

    async def receiver() -> None:
        got.append(await ch.recv())

    async with Group() as go:
        go(receiver)
        await wait_all_parked()
        ch.send_nowait(value)
        assert len(ch) == 0  # handed over, not buffered
    assert got == [value]
    assert type(got[0]) is type(value)


@CAPACITIES
@VALUES
async def test_what_a_sender_offers_is_received_without_blocking(
    capacity: int, value: object
) -> None:
    ch = Channel[object](capacity)
    returned = False

    async def sender() -> None:
        nonlocal returned
        await ch.send(value)
        returned = True

    async with Group() as go:
        go(sender)
        await wait_all_parked()
        assert returned is (capacity > 0)  # a rendezvous ends when its value is taken
        assert ch.recv_nowait() == value
        await wait_all_parked()
        assert returned
        with pytest.raises(WouldBlock):
            ch.recv_nowait()
