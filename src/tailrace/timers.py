"""Layer 2: time as channels, `after` and `ticker`, so that `select` can wait for it.

A timer holds its channel weakly: one whose receiving end nobody has any more stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from typing import Any

from tailrace.channel import Channel, Receiver
from tailrace.errors import Closed

__all__ = ["after", "ticker"]


def after(seconds: float) -> Receiver[float]:
    """A receiving end that gives one value, the loop's time, `seconds` from now; then nothing.

    Must be called in a running event loop (RuntimeError). TypeError or ValueError for what is
    no duration.
    """
    _check(seconds, positive=False)
    return _start(f"after({seconds:g})", seconds, None)


def ticker(seconds: float) -> Receiver[float]:
    """A receiving end that gives the loop's time every `seconds`.

    Ticks keep to the clock; one that nobody has received when the next is due is all there is
    (the next is dropped, as in Go). Must be called in a running event loop (RuntimeError).
    TypeError or ValueError unless `seconds` is a positive duration.
    """
    _check(seconds, positive=True)
    return _start(f"ticker({seconds:g})", seconds, seconds)


def _check(seconds: float, *, positive: bool) -> None:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"a timer takes seconds, not {seconds!r}")
    if not 0 <= seconds < math.inf or (positive and seconds == 0):
        wanted = "positive" if positive else "0 or more"
        raise ValueError(f"a timer takes a finite number of seconds, {wanted}, not {seconds!r}")


def _start(name: str, delay: float, period: float | None) -> Receiver[float]:
    loop = asyncio.get_running_loop()
    channel = Channel[float](1, name=name, overflow="drop_newest")
    timer = _Timer(loop, weakref.ref(channel), loop.time() + delay, period)
    _timers[channel] = timer
    weakref.finalize(channel, timer.stop).atexit = False
    return channel.receiver


_timers: weakref.WeakKeyDictionary[Channel[Any], _Timer] = weakref.WeakKeyDictionary()


def _is_pending(channel: Channel[Any]) -> bool:  # pyright: ignore[reportUnusedFunction]  # group asks
    """Whether `channel` is that of an `after` or `ticker` that will send another value."""
    timer = _timers.get(channel)
    return timer is not None and timer.pending


class _Timer:
    """The clockwork behind one such channel."""

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
            # After a stall the ticks that were missed are skipped, not made up for.
            missed = max(0.0, self.loop.time() - self.due) // self.period
            self.due += (missed + 1) * self.period
            self.handle = self.loop.call_at(self.due, self.fire)
            self.pending = True

    def stop(self) -> None:
        # Called by a finaliser, from whichever thread: post, touch nothing here.
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its timers with it
            self.loop.call_soon_threadsafe(self.cancel)

    def cancel(self) -> None:
        self.handle.cancel()
