"""Channel, semantic 6: wherever in an operation a signal handler raises, everybody else goes on.

A signal handler can raise at the start of a Python function and after a call of one in C. A profile
function is called at just these places, so that it can raise at the first, the second, ... of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning"),
    # A finaliser may be what is interrupted.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLACES = 200  # more than any of these operations has


class Interrupt(BaseException):
    pass


class Interruption:
    """Raise `Interrupt` at the n-th place in the core's Python code; `left` says whether it did."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event in ("call", "c_return") and "/_core/" in frame.f_code.co_filename:
            self.left -= 1
            if self.left == 0:
                raise Interrupt

    def __enter__(self) -> Interruption:
        sys.setprofile(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)


async def ignoring_what_it_raises(awaitable: Awaitable[Any]) -> None:
    with contextlib.suppress(Exception):
        await awaitable


def receive(core: Any, channel: Any) -> Any:
    return channel.recv()


def send(core: Any, channel: Any) -> Any:
    return channel.send(1)


def choose(core: Any, channel: Any) -> Any:
    return core.select(channel.recv(), core.Channel().recv())


def iterate(core: Any, channel: Any) -> Any:
    return anext(channel)


def by_hand(operation: Any) -> None:
    """Take a step of it, as a task does, and give it up where it sleeps."""
    steps = ignoring_what_it_raises(operation)
    try:
        steps.send(None)
    except StopIteration:
        return
    finally:
        steps.close()


ACTS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], object]]] = {
    "recv_nowait": (send, lambda core, ch: ch.recv_nowait()),
    "send_nowait": (receive, lambda core, ch: ch.send_nowait(1)),
    "send_nowait to a select": (choose, lambda core, ch: ch.send_nowait(1)),
    "select_nowait": (receive, lambda core, ch: core.select_nowait(ch.send(1))),
    "close": (receive, lambda core, ch: ch.close()),
    "send": (receive, lambda core, ch: by_hand(ch.send(1))),
    "recv": (send, lambda core, ch: by_hand(ch.recv())),
    "anext": (send, lambda core, ch: by_hand(anext(ch))),
    "select": (iterate, lambda core, ch: by_hand(core.select(ch.send(1)))),
    "send_many": (receive, lambda core, ch: by_hand(ch.send_many([1]))),
    "recv_many": (send, lambda core, ch: by_hand(ch.recv_many(2))),
    "recv that parks": (receive, lambda core, ch: by_hand(ch.recv())),
    "send that parks": (send, lambda core, ch: by_hand(ch.send(1))),
    "select that parks": (receive, lambda core, ch: by_hand(core.select(ch.recv()))),
    "statistics": (receive, lambda core, ch: ch.statistics()),
}


@pytest.mark.parametrize("act", ACTS)
async def test_channel_6_an_interrupt_anywhere_loses_no_peer_and_leaves_no_waiter(
    core: Any, settle: Any, unraisable: list[BaseException], act: str
) -> None:
    peer_does, does = ACTS[act]
    for place in range(1, PLACES):
        channel, other = core.Channel(), core.Channel()
        peer = asyncio.create_task(ignoring_what_it_raises(peer_does(core, channel)))
        await settle()
        interruption = Interruption(place)
        with contextlib.suppress(Interrupt), interruption:
            does(core, channel)
        await settle()
        counts = channel.statistics()
        waiting = counts.waiting_senders + counts.waiting_receivers
        assert peer.done() == (waiting == 0), f"place {place}: {counts}"
        # This thread has let the lock go, and the loop resumes whom it should.
        thread = threading.Thread(target=other.statistics)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), f"place {place}"
        receiver = asyncio.create_task(ignoring_what_it_raises(other.recv()))
        await settle()
        other.send_nowait(1)
        await settle()
        assert receiver.done(), f"place {place}"
        peer.cancel()
        await settle()
        if interruption.left > 0:
            return
    pytest.fail("there were more places than that")


@pytest.mark.parametrize("kind", ["send", "recv", "select"])
async def test_channel_6_an_interrupted_cancellation_leaves_other_channels_working(
    core: Any, settle: Any, kind: str
) -> None:
    for place in range(1, PLACES):
        channel, other = core.Channel(), core.Channel(1)
        made = {"send": send, "recv": receive, "select": choose}[kind](core, channel)
        steps = ignoring_what_it_raises(made)
        steps.send(None)
        if kind == "send":
            channel.recv_nowait()
        else:
            channel.send_nowait(1)
        interruption = Interruption(place)
        with contextlib.suppress(Interrupt), interruption:
            steps.close()
        await settle()
        thread = threading.Thread(target=other.sync.send, args=(1,))
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), f"place {place}"
        assert other.recv_nowait() == 1
        if interruption.left > 0:
            return
    pytest.fail("there were more places than that")
