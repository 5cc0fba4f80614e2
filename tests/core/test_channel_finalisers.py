"""Channel, semantic 6: finalisers and forks in the middle of an operation."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace.errors import TailraceError

# The collector may run a finaliser in the middle of any operation.


def collect_at(step: int) -> None:
    """Let the garbage collector run at the `step`-th allocation from here."""
    gc.set_threshold(gc.get_count()[0] + step + 1, 1000, 1000)
    gc.enable()


@pytest.fixture
def collector() -> Any:
    threshold = gc.get_threshold()
    gc.disable()
    gc.collect()
    yield collect_at
    gc.set_threshold(*threshold)
    gc.enable()


@pytest.mark.parametrize("how", ["send_nowait", "close", "await", "select", "recv_nowait"])
@pytest.mark.parametrize("during", ["recv", "select", "send"])
def test_channel_6_a_finaliser_that_enters_a_channel_gets_an_error_and_no_deadlock(
    core: Any, collector: Any, unraisable: list[BaseException], how: str, during: str
) -> None:
    """Wherever in an operation it runs: it is refused, or all is as if it had run before."""

    async def each_step() -> None:
        for step in range(30):
            unraisable.clear()
            await finalised_during(core, collector, step, how, during, unraisable)

    asyncio.run(each_step())


async def finalised_during(
    core: Any, collector: Any, step: int, how: str, during: str, unraisable: list[BaseException]
) -> None:
    channel, gone = core.Channel(1), core.Channel()
    if during == "send" or how == "recv_nowait":
        channel.send_nowait("first")
    task = asyncio.create_task(
        awaiting(
            {
                "recv": channel.recv,
                "select": lambda: core.select(channel.recv(), gone.recv()),
                "send": lambda: channel.send("second"),
            }[during]
        )
    )
    litter(core, channel, how)
    collector(step)
    await asyncio.sleep(0)
    gc.disable()
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    for error in unraisable:
        assert isinstance(error, RuntimeError | TailraceError), error
    statistics = channel.statistics()
    assert statistics.sent == statistics.received + statistics.buffered + statistics.dropped
    assert statistics.buffered <= 1
    if statistics.buffered or statistics.closed:
        assert statistics.waiting_receivers == 0  # asleep beside a value
    if not statistics.buffered or statistics.closed:
        assert statistics.waiting_senders == 0  # asleep beside room
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def awaiting(make: Any) -> None:
    await make()


def litter(core: Any, channel: Any, how: str) -> None:
    """Garbage in a reference cycle, which will use `channel` when it is collected."""
    if how in ("await", "select"):

        class Asleep:
            def __await__(self) -> Any:
                yield

        async def last_words(me: list[Any]) -> None:
            try:
                await Asleep()
            finally:
                if how == "await":
                    await channel.send("late")
                else:
                    await core.select(channel.send("late"))

        cycle: list[Any] = []
        cycle.append(last_words(cycle))
        cycle[0].send(None)
        return

    class Finalised:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if how == "send_nowait":
                channel.send_nowait("late")
            elif how == "close":
                channel.close()
            else:
                channel.recv_nowait()

    Finalised()


# Forks.

FORK = """
import asyncio, os, sys, threading
from tailrace._core.{core} import Channel, done, select_nowait

inside, leave = threading.Event(), threading.Event()

class Slow(asyncio.Event):
    def is_set(self):  # asked in the middle of an operation
        inside.set()
        leave.wait(10)
        return True

thread = threading.Thread(target=lambda: select_nowait(done(Slow())))
thread.start()
inside.wait(10)
child = os.fork()
if child == 0:
    channel = Channel(1)
    channel.send_nowait("alive")
    os._exit(0 if channel.recv_nowait() == "alive" else 1)
leave.set()
thread.join()
for _ in range(500):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status))
    threading.Event().wait(0.01)
os.kill(child, 9)
os.waitpid(child, 0)
sys.exit("the child hung in its first operation")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_channel_6_a_fork_in_the_middle_of_an_operation_leaves_the_child_a_working_core(
    core: Any,
) -> None:
    name = core.__name__.rpartition(".")[2]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK.format(core=name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("end", ["sending", "receiving"])
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_channel_6_an_end_held_by_what_the_collector_closes_amid_an_operation_is_let_go(
    core: Any, collector: Any, unraisable: list[BaseException], end: str, where: str
) -> None:
    async def hold(channel: Any) -> None:
        with getattr(channel, end)():
            await never()

    @types.coroutine
    def never() -> Any:
        yield

    def lost(channel: Any) -> None:
        holder = hold(channel)
        holder.send(None)
        cycle: list[Any] = [holder]
        cycle.append(cycle)

    def operate(other: Any) -> None:
        for _ in range(3):
            other.send_nowait(1)
            other.statistics()
            core.select_nowait(other.recv())

    channels = []
    for step in range(60):
        channel, other = core.Channel(), core.Channel(1)
        channels.append(channel)
        lost(channel)
        collector(step)
        if where == "thread":
            operate(other)
        else:
            loop = asyncio.new_event_loop()
            loop.call_soon(operate, other)
            loop.call_soon(loop.call_soon, loop.stop)
            loop.run_forever()
            loop.close()
        gc.disable()
    gc.collect()
    deadline = time.monotonic() + 10
    while not all(channel.closed for channel in channels) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert all(channel.closed for channel in channels)
    assert not unraisable


async def test_channel_3_a_generator_closed_early_ends_the_stream_well(core: Any) -> None:
    channel = core.Channel(4)

    async def numbers() -> AsyncIterator[int]:
        with channel.sending() as out:
            for n in range(10):
                await out.send(n)
                yield n

    generator = numbers()
    async for n in generator:
        if n == 1:
            break
    await generator.aclose()
    assert [n async for n in channel] == [0, 1]
