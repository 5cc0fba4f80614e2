"""One timer for all who wait for about the same time, where one each would be set and cancelled."""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Protocol

__all__ = ["Due", "Schedule"]


class Due(Protocol):
    """Who waits for a moment, and may lose interest before."""

    settled: bool  # it has

    def due(self) -> None:
        """The moment has come."""


class Schedule:
    """Calls ``due()`` at each one's moment, unless it is settled by then.

    Those that are settled stay in the heap until they come to its top, which is cheaper than to
    take them out: all wait about as long.
    """

    __slots__ = ("_at", "_heap", "_loop", "_number", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Due]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0  # when the timer fires

    def add(self, when: float, who: Due) -> None:
        """Call ``who.due()`` at `when`."""
        heap = self._heap
        while heap and heap[0][2].settled:
            heapq.heappop(heap)
        self._number += 1
        heapq.heappush(heap, (when, self._number, who))
        if self._timer is None or when < self._at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        heap, now = self._heap, self._at
        self._at = -math.inf  # nobody arms it meanwhile
        try:
            while heap and (heap[0][0] <= now or heap[0][2].settled):
                who = heapq.heappop(heap)[2]
                if not who.settled:
                    who.due()
        finally:
            self._timer = None
            if heap:
                self._arm(heap[0][0])
