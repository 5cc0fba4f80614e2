"""What the cores let go of: loops, values that were refused, operations of dying channels."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from typing import Any

import pytest

from tailrace._core.native import tasks
from tailrace.errors import Closed, WouldBlock


class Value:
    channel: Any
    steps: Any


def test_a_loop_in_which_actors_ran_is_freed_and_no_longer_known(core: Any, start: Any) -> None:
    address = 0

    async def main() -> weakref.ref[Any]:
        nonlocal address
        address = id(asyncio.get_running_loop())
        channel = core.Channel()

        async def receive() -> None:
            await channel.recv()

        actor = start(receive())
        await asyncio.sleep(0)
        await channel.send(1)
        await actor
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
    assert address not in tasks.schedulers


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_refused_send_keeps_no_reference_to_its_value(core: Any, how: str) -> None:
    channel, value = core.Channel(), Value()
    if how == "closed":
        channel.close()
    before = sys.getrefcount(value)
    for _ in range(10):
        with pytest.raises(Closed if how == "closed" else WouldBlock):
            channel.send_nowait(value)
        with pytest.raises((Closed, WouldBlock)):
            core.select_nowait(channel.send(value))
    gc.collect()
    assert sys.getrefcount(value) == before


@pytest.mark.parametrize("sends", [True, False])
def test_a_channel_that_dies_lets_go_of_the_operations_parked_in_it(core: Any, sends: bool) -> None:
    """Channel, operation and value are a cycle, as the value has the channel."""

    async def main() -> weakref.ref[Value]:
        channel, value = core.Channel(), Value()
        value.channel = channel
        operation = channel.send(value) if sends else core.select(channel.send(value))
        value.steps = operation.__await__()
        next(value.steps)
        return weakref.ref(value)

    value = asyncio.run(main())
    gc.collect()
    assert value() is None


def test_a_send_to_a_loop_that_closes_between_claim_and_wake_up_raises_nothing(core: Any) -> None:
    class Closing(asyncio.SelectorEventLoop):
        armed = False

        def is_closed(self) -> bool:
            closed = super().is_closed()
            if self.armed:
                self.armed = False
                self.close()
            return closed

    channel, loop = core.Channel(), Closing()

    async def receive() -> None:
        await channel.recv()

    async def park() -> Any:
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(park())
    task._log_destroy_pending = False
    loop.armed = True
    channel.send_nowait(1)
    assert loop.is_closed()
    assert channel.statistics().waiting_receivers == 0
