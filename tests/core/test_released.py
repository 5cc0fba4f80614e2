"""What the cores let go of: loops, values that were refused, operations of dying channels."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tailrace._core.native import actor as tasks
from tailrace.errors import Closed, WouldBlock

from .conftest import Start


class Value:
    channel: Any
    steps: Any


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "recv": lambda core, channel: channel.recv(),
    "send": lambda core, channel: channel.send(1),
    "recv_many": lambda core, channel: channel.recv_many(2),
    "send_many": lambda core, channel: channel.send_many([1, 2]),
    "send_many of an iterator": lambda core, channel: channel.send_many(iter([1, 2])),
    "__anext__": lambda core, channel: channel.__anext__(),
    "done": lambda core, channel: core.done(asyncio.Event()),
    "select recv": lambda core, channel: core.select(channel.recv()),
    "select send": lambda core, channel: core.select(channel.send(1), timeout=60),
    "select both": lambda core, channel: core.select(channel.send(1), channel.recv()),
    "select others": lambda core, channel: core.select(
        *(core.Channel().recv(), channel.recv(), core.done(asyncio.Event()))
    ),
}


def meet(channel: Any) -> None:
    """Be a peer of whoever is parked, whichever side that is on."""
    for meeting in (lambda: channel.send_nowait(1), channel.recv_nowait):
        with contextlib.suppress(WouldBlock):
            meeting()
            meeting()


ENDS: dict[str, Callable[[Any, Any], object]] = {
    "met": lambda task, channel: meet(channel),
    "closed": lambda task, channel: channel.close(),
    "closed with a cause": lambda task, channel: channel.close(LookupError()),
    "cancelled": lambda task, channel: task.cancel(),
    "met and cancelled": lambda task, channel: [meet(channel), task.cancel()],
}


@pytest.fixture
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_the_collector", "any_loop")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_task_is_freed_at_once_however_its_operation_ended(
    core: Any, start: Start, settle: Any, operation: str, end: str
) -> None:
    async def wait(waited: Any) -> None:
        await waited  # which the traceback of what is raised leads to
        raise LookupError

    channel = core.Channel()
    task = start(wait(OPERATIONS[operation](core, channel)))
    await settle()
    ENDS[end](task, channel)
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is not None
    freed = weakref.ref(task)
    del task
    await settle()  # the loop forgets whom it called last
    assert freed() is None


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
