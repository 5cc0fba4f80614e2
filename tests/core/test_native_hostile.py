"""The native core among code that means it ill: values that refuse everything, a collector that
runs at each allocation and whose callbacks use the very channels, other interpreters."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

import pytest

from tailrace._core import native
from tailrace.errors import Closed, WouldBlock

from .actors import spawn


@pytest.fixture(scope="module")
def core() -> ModuleType:
    return native


@pytest.fixture
def young_heap() -> None:
    """Collecting is cheap whatever other tests have left, which is frozen as before the first."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def eager_collector(young_heap: None) -> Iterator[None]:
    """The collector runs at nearly each allocation of a container."""
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


class Hostile:
    """Whatever is asked of it but to be passed on, it raises."""

    def _refuse(self, *args: object) -> NoReturn:
        raise ZeroDivisionError("a channel has no business with this")

    __eq__ = __hash__ = __bool__ = __len__ = __repr__ = _refuse  # type: ignore[assignment]
    __iter__ = __getattr__ = __call__ = _refuse


async def relay(values: list[Any], capacity: int) -> list[Any]:
    """Pass them through two channels, by every kind of operation."""
    first, second = native.Channel(capacity), native.Channel(capacity)
    never = native.Channel()

    async def send() -> None:
        half = len(values) // 2
        for value in values[:half]:
            await first.send(value)
        await first.send_many(values[half:])
        first.close()

    async def pass_on() -> None:
        while True:
            index, value = await native.select(first.recv(), never.recv(), timeout=60)
            if isinstance(value, Closed):
                break
            assert index == 0
            await native.select(never.recv(), second.send(value))
        second.close()

    received: list[Any] = []

    async def receive() -> None:
        received.append(await second.recv())
        try:
            while len(received) < len(values) // 2:
                received.extend(await second.recv_many(3))
            async for value in second:
                received.append(value)
        except Closed:
            pass

    await asyncio.gather(*[spawn(native, work()) for work in (send, pass_on, receive)])
    return received


@pytest.mark.parametrize("capacity", [0, 1, 8])
async def test_values_are_passed_on_and_never_looked_at(capacity: int) -> None:
    values = [Hostile() for _ in range(40)]
    received = await relay(values, capacity)
    assert [id(value) for value in received] == [id(value) for value in values]


@pytest.mark.parametrize("capacity", [0, 1, 8])
async def test_the_collector_may_run_at_every_allocation(
    capacity: int, eager_collector: None
) -> None:
    assert await relay(list(range(60)), capacity) == list(range(60))


@pytest.mark.usefixtures("young_heap")
@pytest.mark.parametrize("capacity", [0, 1, 8])
async def test_the_collector_may_run_at_every_step(capacity: int) -> None:
    channel = native.Channel(capacity)

    async def send() -> None:
        for value in range(30):
            gc.collect()
            await channel.send(value)
            gc.collect()
        channel.close()

    async def receive() -> None:
        async for value in channel:
            gc.collect()
            received.append(value)

    received: list[int] = []
    await asyncio.gather(spawn(native, send()), spawn(native, receive()))
    assert received == list(range(30))


@pytest.mark.parametrize("capacity", [0, 1, 3])
async def test_what_runs_in_the_collector_may_use_the_channels(
    capacity: int, eager_collector: None
) -> None:
    """It takes values, sends others and parks nobody: each value arrives once, wherever."""
    channel = native.Channel(capacity)
    taken: list[Any] = []
    added: list[str] = []
    busy = False

    def meddle(phase: str, info: dict[str, int]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if len(added) < 50:
                channel.send_nowait(f"added {len(added)}")
                added.append(f"added {len(added)}")
            taken.append(channel.recv_nowait())
        except (WouldBlock, Closed):
            pass
        finally:
            busy = False

    async def send() -> None:
        for value in range(100):
            await channel.send(value)
        await channel.send_many(range(100, 150))
        await channel.send_many(list(range(150, 200)))
        channel.close()

    async def receive() -> None:
        try:
            while True:
                received.append(await channel.recv())
                received.extend(await channel.recv_many(4))
                index, value = await native.select(channel.recv(), timeout=60)
                assert index == 0
                if not isinstance(value, Closed):
                    received.append(value)
        except Closed:
            pass

    received: list[Any] = []
    gc.callbacks.append(meddle)
    try:
        await asyncio.gather(spawn(native, send()), spawn(native, receive()))
    finally:
        gc.callbacks.remove(meddle)
    passed = received + taken
    assert sorted(value for value in passed if isinstance(value, int)) == list(range(200))
    assert sorted(value for value in passed if isinstance(value, str)) == sorted(added)
    assert [value for value in received if isinstance(value, int)] == sorted(
        value for value in received if isinstance(value, int)
    )


async def test_who_is_dropped_amid_a_cancellation_takes_others_along(
    eager_collector: None,
) -> None:
    """The last reference to a parked actor goes while another one is being cancelled."""
    channel = native.Channel()
    ended: list[str] = []

    async def wait(name: str, held: list[Any]) -> None:
        try:
            await channel.recv()
        finally:
            held.clear()
            ended.append(name)

    held: list[Any] = []
    first = spawn(native, wait("first", held))
    held.append(spawn(native, wait("second", [])))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = held[0]
    second.cancel()
    del second
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    while len(ended) < 2:
        await asyncio.sleep(0)
    assert sorted(ended) == ["first", "second"]
    assert channel.statistics().waiting_receivers == 0


INTERPRETERS = """
import sys, threading

if sys.version_info >= (3, 14):
    from concurrent import interpreters
    def run(code):
        interpreter = interpreters.create()
        interpreter.exec(code)
        interpreter.close()
else:
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters
    else:
        import _xxsubinterpreters as interpreters
    def run(code):
        interpreter = interpreters.create()
        failed = interpreters.run_string(interpreter, code)
        interpreters.destroy(interpreter)
        assert failed is None, failed

CODE = '''
import asyncio
from tailrace._core import native

async def main():
    channel = native.Channel()
    async def send():
        for value in range(100):
            await channel.send(value)
        channel.close()
    native.spawn([send()], "sender", 0, lambda ended: None)
    values = [value async for value in channel]
    assert values == list(range(100)), values
    index, value = await native.select(native.Channel().recv(), timeout=0.001)
    assert index is None

asyncio.run(main())
'''
exec(CODE)
for _ in range(3):
    run(CODE)
threads = [threading.Thread(target=run, args=(CODE,)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
exec(CODE)
print("done")
"""


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio is one for all interpreters to 3.11"
)
def test_each_interpreter_has_a_core_of_its_own() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERPRETERS],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
