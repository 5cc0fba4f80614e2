"""The native core stays whole whatever code of others does in the middle of an operation.

Everything here drives it as no sensible program does. What it answers matters less than that it
answers: nothing is lost, counted twice, or left in a line that it has no business in.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tailrace._core import native
from tailrace.errors import Closed

from .actors import spawn


@pytest.fixture(scope="module")
def core() -> ModuleType:
    return native


class ByHand:
    """Awaits an operation by a loop over its steps: no exception reaches it, nor does close()."""

    def __init__(self, operation: Any) -> None:
        self.operation = operation

    def __await__(self) -> Generator[Any, Any, None]:
        for step in self.operation.__await__():  # noqa: UP028  # not delegated is the point
            yield step


class CallsBack:
    """A future that calls its callbacks whenever the test says so."""

    _asyncio_future_blocking = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.callbacks: list[Callable[[Any], None]] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def add_done_callback(self, callback: Callable[[Any], None], *, context: Any = None) -> None:
        self.callbacks.append(callback)

    def result(self) -> None:
        return None

    def __await__(self) -> Generator[Any, Any, None]:
        self._asyncio_future_blocking = True
        yield self


class Prying(asyncio.SelectorEventLoop):
    """A loop whose `is_closed` calls `pry`, once: code of others in the middle of an operation."""

    pry: Callable[[], object] | None = None

    def is_closed(self) -> bool:
        pry, self.pry = self.pry, None
        if pry is not None:
            pry()
        return super().is_closed()


@pytest.fixture
def prying() -> Iterator[Prying]:
    loop = Prying()
    yield loop
    loop.close()


def parked_on(loop: asyncio.AbstractEventLoop, operation: Any) -> asyncio.Task[Any]:
    """A task of another loop that sleeps in `operation`, so that this loop is asked about it."""

    async def sleep() -> Any:
        return await operation

    task = loop.create_task(sleep())
    loop.run_until_complete(asyncio.sleep(0))
    assert operation.parked
    return task


def step(operation: Any) -> Any:
    """What one step of it yields, or `Closed`, or its value."""
    try:
        return next(operation)
    except StopIteration as stop:
        return SimpleNamespace(value=stop.value)
    except (Closed, RuntimeError) as error:
        return error


# An operation that is driven again while it is in a step.


def test_a_send_that_is_driven_amid_itself_sends_once(prying: Prying) -> None:
    channel = native.Channel(1)
    task = parked_on(prying, channel.recv())
    sending = channel.send("value").__await__()
    prying.pry = lambda: step(sending)
    step(sending)
    assert len(channel) == 0
    assert prying.run_until_complete(task) == "value"
    assert channel.statistics().sent == 1


def test_a_receive_that_is_driven_amid_itself_stands_in_line_once(prying: Prying) -> None:
    channel = native.Channel()
    task = parked_on(prying, channel.send("value"))
    receiving = channel.recv().__await__()

    def pry() -> None:
        assert channel.recv_nowait() == "value"
        step(receiving)

    prying.pry = pry
    step(receiving)
    assert channel.statistics().waiting_receivers <= 1
    receiving.close()
    assert channel.statistics().waiting_receivers == 0
    prying.run_until_complete(task)


def test_a_select_that_is_driven_amid_itself_stands_in_line_once(prying: Prying) -> None:
    channel, other = native.Channel(), native.Channel()
    task = parked_on(prying, channel.send("value"))
    selecting = native.select(other.recv(), channel.recv(), priority=True).__await__()

    def pry() -> None:
        assert channel.recv_nowait() == "value"
        step(selecting)

    prying.pry = pry
    step(selecting)
    assert channel.statistics().waiting_receivers <= 1
    assert other.statistics().waiting_receivers <= 1
    selecting.close()
    assert channel.statistics().waiting_receivers == other.statistics().waiting_receivers == 0
    prying.run_until_complete(task)


def test_a_send_many_that_is_driven_amid_itself_loses_nothing() -> None:
    channel = native.Channel(8)

    class Driving:
        left = 3

        def __iter__(self) -> Driving:
            step(sending)
            return self

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            self.left -= 1
            step(sending)
            return self.left

    operation = channel.send_many(Driving())
    sending = operation.__await__()
    step(sending)
    assert operation.sent == len(channel) == channel.statistics().sent
    received = [channel.recv_nowait() for _ in range(len(channel))]
    assert received == sorted(set(received), reverse=True)


# Operations that are driven by hand.


async def test_an_operation_that_was_yielded_by_hand_and_abandoned_leaves_none_behind() -> None:
    told: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))

    def abandon() -> None:
        async def wait() -> None:
            await ByHand(native.Channel().recv())

        spawn(native, wait(), "abandoned")

    abandon()
    await asyncio.sleep(0.001)
    gc.collect()
    assert told == ["Task was destroyed but it is pending!"]

    channel = native.Channel()

    async def receive() -> Any:
        return await channel.recv()

    waiting = [spawn(native, receive(), "next") for _ in range(3)]
    await asyncio.sleep(0.001)
    assert [channel.send_nowait(n) for n in range(3)] == [None] * 3
    assert await asyncio.gather(*waiting) == [0, 1, 2]


async def test_a_future_that_calls_back_twice_does_not_disturb_a_later_wait() -> None:
    channel, future = native.Channel(), CallsBack()

    async def wait() -> Any:
        await future
        return await channel.recv()

    actor = spawn(native, wait(), "called back")
    while not future.callbacks:
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    loop.call_soon(future.callbacks[0], future)
    while not channel.statistics().waiting_receivers:
        await asyncio.sleep(0)
    loop.set_exception_handler(lambda _, context: None)  # it may complain
    loop.call_soon(future.callbacks[0], future)
    await asyncio.sleep(0.001)
    channel.send_nowait("value")
    assert await actor == "value"


def test_a_select_whose_loop_is_gone_when_it_would_park_leaves_no_line() -> None:
    channel = native.Channel()

    async def begin() -> Any:
        spare = native.Channel(1)
        selecting = native.select(channel.recv(), timeout=60).__await__()
        native.seed(1)
        for _ in range(native.BUDGET // 2):
            await spare.send(None)
            await spare.recv()
        next(selecting)  # it yields first, for the budget is spent
        return selecting

    selecting = asyncio.run(begin())
    with pytest.raises(RuntimeError):
        next(selecting)
    assert channel.statistics().waiting_receivers == 0


def test_a_select_that_cannot_watch_a_future_leaves_no_line() -> None:
    loop = asyncio.new_event_loop()
    channel = native.Channel()
    selecting = native.select(channel.recv(), native.done(loop.create_future())).__await__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(selecting)
    assert channel.statistics().waiting_receivers == 0
    loop.close()


async def test_who_drives_by_hand_in_an_actor_may_keep_the_stop_iteration() -> None:
    channel = native.Channel(1)

    async def drive() -> tuple[Any, Any]:
        channel.send_nowait("value")
        try:
            next(channel.recv().__await__())
        except StopIteration as stop:
            kept = stop
        before = kept.value
        await asyncio.sleep(0)
        return before, kept.value

    assert await spawn(native, drive(), "driver") == ("value", "value")


async def test_who_drives_by_hand_in_an_actor_is_not_kept_alive_by_it() -> None:
    channel = native.Channel(1)
    kept: list[weakref.ref[Any]] = []

    class Local: ...

    async def drive() -> None:
        local = Local()
        kept.append(weakref.ref(local))
        channel.send_nowait("value")
        with pytest.raises(StopIteration):
            next(channel.recv().__await__())
        try:
            channel.send_nowait("value")
            next(channel.recv().__await__())
        except StopIteration:
            pass

    await spawn(native, drive(), "driver")
    gc.collect()
    assert kept[0]() is None


# Values that do things when they are dropped.


async def test_a_value_may_close_its_channel_when_a_policy_drops_it() -> None:
    channel = native.Channel(1, overflow="drop_oldest")

    class Closing:
        def __del__(self) -> None:
            channel.close()

    channel.send_nowait(Closing())
    channel.send_nowait("last")
    assert await channel.recv() == "last"
    with pytest.raises(Closed):
        await channel.recv()


async def test_a_value_may_use_its_channel_when_a_cancelled_send_drops_it() -> None:
    channel = native.Channel()

    class Receiving:
        def __del__(self) -> None:
            operation = channel.recv().__await__()
            assert step(operation) is operation
            operation.close()

    async def send() -> None:
        await channel.send(Receiving())

    sender = spawn(native, send(), "sender")
    while not channel.statistics().waiting_senders:
        await asyncio.sleep(0)
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    statistics = channel.statistics()
    assert (statistics.waiting_senders, statistics.waiting_receivers) == (0, 0)


# At the end of the interpreter.

SHUTDOWN = """
import asyncio, contextvars, threading
from tailrace._core import native

channel = native.Channel()

def park():
    try:
        channel.sync.recv()
    except BaseException:
        pass

threading.Thread(target=park, daemon=True).start()
loop = asyncio.new_event_loop()

async def main():
    async def wait():
        await channel.recv()
    kept.extend(native.spawn([wait()], "parked", 0, print))
    await asyncio.sleep(0.01)

kept = []
loop.run_until_complete(main())
kept[0]._log_destroy_pending = False
loop.close()
"""


def test_an_interpreter_ends_cleanly_with_actors_and_threads_parked() -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", SHUTDOWN]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


# Nothing grows.


def resident() -> int:
    """The process's memory in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.timeout(240)
async def test_a_million_operations_selects_and_cancellations_lose_no_memory() -> None:
    async def move(channel: Any, values: int) -> None:
        for value in range(values):
            await channel.send(value)

    async def choose(channel: Any, other: Any, values: int) -> None:
        for _ in range(values):
            await native.select(channel.recv(), other.recv(), timeout=60)

    async def wait(channel: Any) -> None:
        await channel.recv()

    async def round_of_work() -> int:
        channel, other = native.Channel(), native.Channel()
        await asyncio.gather(
            spawn(native, move(channel, 1000), "sender"),
            spawn(native, choose(channel, other, 1000), "chooser"),
        )
        buffered = native.Channel(8)
        sender = spawn(native, move(buffered, 15_000), "sender")
        for _ in range(15_000):
            await buffered.recv()
        await sender
        waiting = [spawn(native, wait(channel), "waiting") for _ in range(500)]
        while channel.statistics().waiting_receivers < len(waiting):
            await asyncio.sleep(0)
        for actor in waiting:
            actor.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        del waiting, sender, channel, other, buffered
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(5):
        await round_of_work()
    before, memory = await round_of_work(), resident()
    rounds = [await round_of_work() for _ in range(25)]
    # One object lost for each of what a round does 500 times or more would be 12 500.
    assert max(rounds[-5:]) - before < 1000, rounds
    if os.environ.get("PYTHONMALLOC") != "malloc":  # the sanitiser keeps for a while what was freed
        assert resident() - memory < 4096


async def test_what_a_task_was_handed_is_not_kept_when_it_sleeps_again(start: Any) -> None:
    """From 3.12 to 3.14 a value is handed out in an exception that is used again."""

    class Value:
        pass

    async def drop(channel: Any) -> None:
        while True:
            await channel.recv()

    channel = native.Channel()
    dropping = start(drop(channel))
    value = Value()
    alive = weakref.ref(value)
    await channel.send(value)
    del value
    for _ in range(5):
        await asyncio.sleep(0)
    assert alive() is None
    dropping.cancel()
    await asyncio.wait([dropping])
