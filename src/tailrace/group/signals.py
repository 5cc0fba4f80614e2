"""SIGINT and SIGTERM, counted: what arrives within half a second of the last one is the same wish.

A terminal and a supervisor may both send one for a single Ctrl-C. The handlers are Python's own,
not the loop's: they run while the loop is blocked, too.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

APART: Final = 0.5
"""Seconds after a signal within which others count as the same one."""


class Signals:
    """Calls ``heard(signal, count)`` in the handler; a context manager, for the main thread.

    In another thread it does nothing: signals are the main thread's. `restore` may come first.
    """

    def __init__(self, heard: Callable[[signal.Signals, int], None]) -> None:
        self._heard = heard
        self._before: dict[int, Any] = {}
        self._count = 0
        self._last = 0.0

    def __repr__(self) -> str:
        return f"<Signals: {self._count} heard>"

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()
        del self._heard  # most likely a method of whoever has this object

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        while self._before:
            number, handler = self._before.popitem()
            # One that was not set by Python is not known to it, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._count and now - self._last < APART:
            return
        self._last = now
        self._count += 1
        self._heard(signal.Signals(number), self._count)
