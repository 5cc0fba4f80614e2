"""Layer 2: time as channels, `after` and `ticker`, so that `select` can wait for it."""

from __future__ import annotations

from tailrace.arguments import check_seconds
from tailrace.channel import Receiver
from tailrace.clockwork import start_timer

__all__ = ["after", "ticker"]


def after(seconds: float) -> Receiver[float]:
    """A receiving end that gives one value, the loop's time, `seconds` from now.

    RuntimeError where no event loop runs. TypeError or ValueError unless `seconds` is a duration
    of 0 or more.
    """
    check_seconds("seconds", seconds)
    return start_timer(f"after({seconds:g})", seconds, None)


def ticker(seconds: float) -> Receiver[float]:
    """A receiving end that yields the loop's time every `seconds`.

    Ticks keep to the clock and do not accumulate: at most one is waiting, and while it waits
    others are dropped, as in Go. RuntimeError where no event loop runs. TypeError or ValueError
    unless `seconds` is a positive duration.
    """
    check_seconds("seconds", seconds, positive=True)
    return start_timer(f"ticker({seconds:g})", seconds, seconds)
