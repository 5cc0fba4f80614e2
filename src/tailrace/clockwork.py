"""Layer 2: the timers behind the channels of `after` and `ticker`.

A timer holds its channel weakly. When no receiving end of the channel is left, the timer stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any

from tailrace.channel import Channel, Receiver
from tailrace.errors import Closed


def start_timer(name: str, delay: float, period: float | None) -> Receiver[float]:
    """The receiving end of a channel that gets the loop's time after `delay` seconds.

    After that the channel gets the time every `period` seconds, unless `period` is None.
    """
    loop = asyncio.get_running_loop()
    channel = Channel[float](1, name=name, overflow="drop_newest")
    timer = _Timer(loop, weakref.ref(channel), loop.time() + delay, period)
    _timers[channel] = timer
    weakref.finalize(channel, timer.stop).atexit = False
    return channel.receiver


_timers: weakref.WeakKeyDictionary[Channel[Any], _Timer] = weakref.WeakKeyDictionary()


def timer_pending(channel: Channel[Any]) -> bool:
    """Whether a timer will send another value to `channel`."""
    timer = _timers.get(channel)
    return timer is not None and timer.pending


class _Timer:
    """Sends the loop's time to a channel, once or periodically."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: weakref.ref[Channel[float]],
        due: float,
        period: float | None,
    ) -> None:
        self.loop = loop
        self.channel = channel
        self.due = due
        self.period = period
        self.pending = True
        self.handle = loop.call_at(due, self.fire)

    def fire(self) -> None:
        self.pending = False
        channel = self.channel()
        if channel is None:
            return
        try:
            channel.send_nowait(self.loop.time())
        except Closed:
            return
        if self.period is not None:
            # Ticks that a blocked loop has missed are skipped.
            missed = max(0.0, self.loop.time() - self.due) // self.period
            self.due += (missed + 1) * self.period
            self.handle = self.loop.call_at(self.due, self.fire)
            self.pending = True

    def stop(self) -> None:
        # Called by a finaliser, in any thread: only posts to the loop.
        with contextlib.suppress(RuntimeError):  # a closed loop runs no timers
            self.loop.call_soon_threadsafe(self.cancel)

    def cancel(self) -> None:
        self.handle.cancel()
