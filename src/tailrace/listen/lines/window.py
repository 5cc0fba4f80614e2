"""The lines that were sent: which are unsettled, and up to where all are settled.

A message may be settled in any thread, or by the collector at any point. So a settle only appends
to a deque and wakes the loop; all else happens on the loop, in `Window.advance`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from tailrace.listen.lines.checkpoint import Progress
from tailrace.listen.lines.files import Line
from tailrace.message import Outcome

__all__ = ["BLANK", "Origin", "Sent", "Window"]

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
        self._settles: deque[None] = deque()  # one for each line that was settled since `advance`
        self._unsettled = 0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._waiting = False

    def add(self, origin: Origin, line: Line) -> Sent:
        """A line is about to be sent: what its message tells of its end."""
        # Not by a constructor: before 3.13 it takes three times as long as all of this.
        sent = _new(Sent)
        sent.origin = origin
        sent.line = line
        sent.status = ""
        self._sent.append(sent)
        self._unsettled += 1
        return sent

    def skip(self, origin: Origin, line: Line, status: str) -> None:
        """A line is not sent: it is blank, or "rejected"."""
        sent = _new(Sent)
        sent.origin = origin
        sent.line = line
        sent.status = status
        self._sent.append(sent)

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
        if self._settles:
            self._news.set()
        return self._news

    def advance(self) -> None:
        """Count what was settled since, and move the places of the files on."""
        self._waiting = False
        settles, sent = self._settles, self._sent
        while settles:
            settles.popleft()
            self._unsettled -= 1
        while sent and sent[0].status:
            self._count(sent.popleft())

    def _count(self, sent: Sent) -> None:
        file, line, status = sent.origin.file, sent.line, sent.status
        if sent.origin.repeated:
            file.again.remove((line.offset, line.number))
            self.again -= 1
        else:
            file.offset, file.number = line.end, line.next_number
        if status in ("failed", "lost"):
            file.again.append((line.offset, line.number))
            self.again += 1
        elif status != BLANK:
            self.counts[status] = self.counts.get(status, 0) + 1

    def settled(self) -> None:
        """In any thread: a line is settled."""
        self._settles.append(None)
        if self._waiting:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:
                pass  # the loop is closed: nobody waits


@dataclass(frozen=True, slots=True)
class Origin:
    """Where lines come from, and whether they are sent once more."""

    window: Window
    file: Progress
    repeated: bool


class Sent:
    """A line that was sent, which its message tells of its end."""

    __slots__ = ("line", "origin", "status")

    origin: Origin
    line: Line
    status: str

    def __call__(self, outcome: Outcome, data: object) -> None:
        """In any thread: the line is settled."""
        self.status = outcome.status
        self.origin.window.settled()


_new = object.__new__
