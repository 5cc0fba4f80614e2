"""Channel, semantic 6: a signal handler that raises (as Ctrl-C does) leaves a working core."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill")
    or threading.current_thread() is not threading.main_thread(),
    reason="needs signals, which reach the main thread only",
)

INTERRUPTS = 300
PAUSE = 0.02  # seconds between two that interrupt one call


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], object], float], None]]:
    """Call something, and raise `Interrupted` in it once, after so many seconds."""
    armed = False
    raised = 0.0

    def handler(number: int, frame: object) -> None:
        # Not amid the unwinding of the last one, which on a busy machine may take long.
        nonlocal raised
        if armed and time.monotonic() - raised > PAUSE:
            raised = time.monotonic()
            raise Interrupted

    def interrupted(call: Callable[[], object], seconds: float) -> None:
        nonlocal armed, raised
        raised = 0.0
        over = threading.Event()

        def shoot(at: int = threading.get_ident()) -> None:
            # Again and again, as one that is raised in a finaliser goes nowhere.
            while not over.wait(seconds):
                signal.pthread_kill(at, signal.SIGUSR1)

        shooter = threading.Thread(target=shoot)
        shooter.start()
        with contextlib.suppress(Interrupted):
            try:
                armed = True
                call()
            finally:
                armed = False
        over.set()
        shooter.join()

    before = signal.signal(signal.SIGUSR1, handler)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # or each shot waits its 5 ms for the interpreter
    yield interrupted
    sys.setswitchinterval(interval)
    signal.signal(signal.SIGUSR1, before)


def endless(core: Any, how: str) -> Callable[[], None]:
    """Work that ends only by an interrupt."""
    channel = core.Channel(4)

    async def awaiting() -> None:
        while True:
            await channel.send(1)
            await channel.recv()

    async def selecting() -> None:
        other = core.Channel()
        while True:
            await core.select(channel.send(1), other.recv())
            await core.select(channel.recv(), other.recv())

    async def many() -> None:
        while True:
            await channel.send_many((1, 2))
            await channel.recv_many(9)

    def nowait() -> None:
        while True:
            channel.send_nowait(1)
            channel.recv_nowait()

    def blocking() -> None:
        while True:
            channel.sync.send(1)
            channel.sync.recv()

    def exhaust(coroutine: Any) -> None:
        try:
            while True:
                coroutine.send(None)
        finally:
            coroutine.close()

    return {
        "await": lambda: exhaust(awaiting()),
        "select": lambda: exhaust(selecting()),
        "many": lambda: exhaust(many()),
        "nowait": nowait,
        "blocking": blocking,
    }[how]


@pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning")
@pytest.mark.parametrize("how", ["await", "select", "many", "nowait", "blocking"])
def test_channel_6_an_interrupt_anywhere_leaves_other_channels_working(
    core: Any, interrupt: Any, unraisable: list[BaseException], how: str
) -> None:
    other = core.Channel(1)
    with ThreadPoolExecutor(1) as elsewhere:
        for n in range(INTERRUPTS):
            interrupt(endless(core, how), 0.0002 + n % 100 * 1e-5)
            other.send_nowait("alive")  # an error here: this thread still holds the lock
            assert elsewhere.submit(other.recv_nowait).result(10) == "alive"
