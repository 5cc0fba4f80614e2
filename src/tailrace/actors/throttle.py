"""`throttle`: an actor that passes messages on at a limited rate.

The algorithm is GCRA, as virtual scheduling (ITU-T I.371, for ATM): one number, the time at which
the schedule is used up, in place of a bucket of tokens. A message is due `burst - 1` periods before
that time, and moves it on by one period.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, TypeVar

from tailrace.actors.stock import Stock
from tailrace.arguments import check_count, check_number
from tailrace.channel import Receiver, Sender
from tailrace.message import Message

__all__ = ["throttle"]

T = TypeVar("T")

MOST_LATE: Final = 0.05
"""Seconds of a late wake-up that are made good: a loop blocked for longer is no reason to burst."""


class throttle(Stock):  # noqa: N801 (it is called as a function is)
    """An actor that passes on at most `rate` messages a second, in the long run exactly so many.

    After a pause up to `burst` messages go at once. The schedule is one for all actors of a
    `throttle`, and runs on the loop's clock: a timer that is late does not lower the rate, as the
    next message goes that much earlier (by at most 50 ms).

    TypeError or ValueError for a rate or burst that is none. Called as an actor it raises TypeError
    for a value that is no `Message`. Cancelled: the message in hand fails.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        wanted = "messages a second, above 0 and finite"
        check_number("throttle: rate", rate, wanted, lambda number: 0 < number < math.inf)
        check_count("throttle: burst", burst)
        super().__init__(f"throttle({rate:g}, {burst})")
        self._period = 1 / rate
        self._ahead = (burst - 1) * self._period
        self._used_up = -math.inf  # the loop's time at which the schedule is
        self._late = 0.0  # by how much the last message went later than it was due

    async def __call__(self, inbox: Receiver[Message[T]], out: Sender[Message[T]]) -> None:
        """The actor: until `inbox` ends."""
        try:
            async for message in inbox:
                if self._is_open(message):
                    await self._wait(message)
                    await self._pass_on(message, out)
                del message
        finally:
            self._failures.rest()

    async def _wait(self, message: Message[T]) -> None:
        """Sleep until `message` is due."""
        time = asyncio.get_running_loop().time
        due = max(time() - self._late, self._used_up - self._ahead)
        self._used_up = max(self._used_up, due) + self._period
        try:
            if (left := due - time()) > 0:
                await asyncio.sleep(left)
        except BaseException as error:
            self._not_passed(message, error)
            raise
        finally:
            del message  # a traceback refers to this frame
        self._late = min(time() - due, MOST_LATE)
