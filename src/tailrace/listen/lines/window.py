"""The lines that were sent: which are unsettled, and up to where all are settled.

A message may be settled in any thread, or by the collector at any point. So a settle only appends
to a deque and wakes the loop; all else happens on the loop, in `Window.advance`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tailrace.listen.lines.checkpoint import Progress
from tailrace.listen.lines.files import Line
from tailrace.message import Outcome

__all__ = ["BLANK", "Sent", "Window"]

BLANK: Final = "blank"
"""The status of a line that is none."""

BEHIND: Final = 16
"""How many lines, for each that may be unsettled, may wait for one before them to be settled."""


class Window:
    """Keeps the order of the lines that were sent; at most `in_flight` of them are unsettled."""

    def __init__(self, in_flight: int, counts: dict[str, int]) -> None:
        self._in_flight = in_flight
        self.counts = counts
        """Of the lines that are settled, by outcome; failed and lost ones are in `again`."""
        self.again = 0
        """How many lines have failed or were lost."""
        self._sent: deque[Sent] = deque()
        self._settled: deque[Sent] = deque()
        self._unsettled = 0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._waiting = False

    def add(self, file: Progress, line: Line, repeated: bool) -> Sent:
        """A line is about to be sent, perhaps once more: what its message tells of its end."""
        sent = Sent(self, file, line, repeated)
        self._sent.append(sent)
        self._unsettled += 1
        return sent

    def skip(self, file: Progress, line: Line, repeated: bool, status: str) -> None:
        """A line is not sent: it is blank, or "rejected"."""
        self._sent.append(Sent(self, file, line, repeated, status))

    @property
    def room(self) -> int:
        """How many lines may be sent now."""
        behind = self._in_flight * BEHIND - len(self._sent)
        return min(self._in_flight - self._unsettled, behind)

    @property
    def behind(self) -> int:
        """How many lines are not counted: unsettled, or after one that is."""
        return len(self._sent)

    @property
    def open(self) -> int:
        """How many lines are unsettled."""
        return self._unsettled

    def news(self) -> asyncio.Event:
        """An event that the next settle sets; set already if there was one since `advance`."""
        self._news.clear()
        self._waiting = True  # first, then look: a settle does both in the other order
        if self._settled:
            self._news.set()
        return self._news

    def advance(self) -> None:
        """Count what was settled since, and move the places of the files on."""
        self._waiting = False
        while self._settled:
            self._settled.popleft()
            self._unsettled -= 1
        while self._sent and self._sent[0].status:
            self._count(self._sent.popleft())

    def _count(self, sent: Sent) -> None:
        file, line = sent.file, sent.line
        place = line.offset, line.number
        if sent.repeated:
            file.again.remove(place)
            self.again -= 1
        else:
            file.offset, file.number = line.end, line.next_number
        if sent.status in ("failed", "lost"):
            file.again.append(place)
            self.again += 1
        elif sent.status != BLANK:
            self.counts[sent.status] = self.counts.get(sent.status, 0) + 1

    def _settle(self, sent: Sent) -> None:
        """In any thread."""
        self._settled.append(sent)
        if self._waiting:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:
                pass  # the loop is closed: nobody waits


class Sent:
    """A line that was sent, which its message tells of its end."""

    __slots__ = ("file", "line", "repeated", "status", "window")

    def __init__(
        self, window: Window, file: Progress, line: Line, repeated: bool, status: str = ""
    ) -> None:
        self.window = window
        self.file = file
        self.line = line
        self.repeated = repeated
        self.status = status

    def __call__(self, outcome: Outcome, data: object) -> None:
        """In any thread: the line is settled."""
        self.status = outcome.status
        self.window._settle(self)
