"""Channel, semantic 6: a signal handler that raises amid a wake-up loses nobody.

Where one raises is a matter of chance; here the loop's own methods raise in its place, once, before
or after they have done what they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tailrace._core import parked_threads


class Interrupt(BaseException):
    """As a signal handler raises it."""


class Interrupted(asyncio.SelectorEventLoop):
    """A loop whose next `call_soon`, or `call_soon_threadsafe`, is interrupted once."""

    armed = ""

    def _interrupted(self, when: str) -> None:
        if self.armed == when:
            self.armed = ""
            raise Interrupt

    def call_soon(self, *args: Any, **options: Any) -> Any:
        self._interrupted("before")
        handle = super().call_soon(*args, **options)
        self._interrupted("after")
        return handle


WAYS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "recv_nowait": (lambda ch: ch.send(1), lambda core, ch: ch.recv_nowait()),
    "send_nowait": (lambda ch: ch.recv(), lambda core, ch: ch.send_nowait(1)),
    "select_nowait": (lambda ch: ch.recv(), lambda core, ch: core.select_nowait(ch.send(1))),
    "close": (lambda ch: ch.recv(), lambda core, ch: ch.close()),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_channel_6_an_interrupted_wake_up_is_made_good(
    core: Any, start: Any, way: str, when: str
) -> None:
    park, wake = WAYS[way]

    async def one(channel: Any) -> None:
        with contextlib.suppress(Exception):
            await park(channel)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        channel, other = core.Channel(), core.Channel()
        first = start(one(channel))
        await asyncio.sleep(0.001)
        loop.armed = when
        with pytest.raises(Interrupt):
            wake(core, channel)
            for _ in range(10):  # the native core finishes first
                pass
        await asyncio.wait_for(asyncio.shield(first), 5)
        second = start(one(other))
        await asyncio.sleep(0.001)
        wake(core, other)
        await asyncio.wait_for(asyncio.shield(second), 5)

    with asyncio.Runner(loop_factory=Interrupted) as runner:
        runner.run(main())


async def test_channel_6_a_raising_discard_is_reported_and_the_send_returns(
    core: Any, unraisable: list[BaseException]
) -> None:
    class Value:
        def __discarded__(self, why: str) -> None:
            raise ValueError(why)

    channel = core.Channel(1, overflow="drop_newest")
    channel.send_nowait(1)
    channel.send_nowait(Value())
    await channel.send(Value())
    assert core.select_nowait(channel.send(Value())) == (0, None)
    assert [str(error) for error in unraisable] == ["overflow"] * 3
    assert channel.statistics().dropped == 3


@pytest.mark.parametrize("operation", ["send", "recv", "select", "send_many", "recv_many"])
async def test_channel_1_an_operation_that_is_resumed_by_hand_sleeps_on(
    core: Any, operation: str
) -> None:
    channel = core.Channel()
    made = {
        "send": lambda: channel.send(1),
        "recv": channel.recv,
        "select": lambda: core.select(channel.recv()),
        "send_many": lambda: channel.send_many([1]),
        "recv_many": lambda: channel.recv_many(1),
    }[operation]()
    steps = made.__await__()
    sends = operation.startswith("send")
    for _ in range(3):
        next(steps)
        counts = channel.statistics()
        assert counts.waiting_senders + counts.waiting_receivers == 1
    if sends:
        assert channel.recv_nowait() == 1
    else:
        channel.send_nowait(1)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    expected = {"recv": 1, "select": (0, 1), "recv_many": [1]}
    assert stop.value.value == expected.get(operation)
    with pytest.raises(Exception, match="would wait"):
        channel.recv_nowait()
    with pytest.raises(Exception, match="would wait"):
        channel.send_nowait(2)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
@pytest.mark.parametrize("does", ["recv", "send"])
def test_channel_6_a_blocked_thread_that_a_signal_interrupts_leaves_no_waiter(
    core: Any, does: str
) -> None:
    channel = core.Channel()
    hit = threading.Event()

    def handler(number: int, frame: object) -> None:
        if not hit.is_set():
            hit.set()
            raise Interrupt

    def shoot(at: int = threading.get_ident()) -> None:
        while at not in parked_threads:
            pass
        # Again: one that comes just before the thread sleeps does not wake it.
        while not hit.is_set():
            signal.pthread_kill(at, signal.SIGUSR1)
            hit.wait(0.05)

    before = signal.signal(signal.SIGUSR1, handler)
    shooter = threading.Thread(target=shoot)
    try:
        shooter.start()
        with pytest.raises(Interrupt):
            channel.sync.recv() if does == "recv" else channel.sync.send(1)
        shooter.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    counts = channel.statistics()
    assert (counts.waiting_senders, counts.waiting_receivers, counts.sent) == (0, 0, 0)
    with pytest.raises(Exception, match="would wait"):
        channel.recv_nowait() if does == "send" else channel.send_nowait(1)


def test_channel_6_a_closed_loop_is_forgotten_without_the_next_one(core: Any) -> None:
    async def main() -> weakref.ref[Any]:
        channel = core.Channel()
        task = asyncio.create_task(receive(channel))
        await asyncio.sleep(0)
        channel.send_nowait(1)
        await task
        return weakref.ref(asyncio.get_running_loop())

    async def receive(channel: Any) -> None:
        await channel.recv()

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
