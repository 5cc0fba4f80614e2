"""SIGINT and SIGTERM, counted. Signals that follow each other within half a second count as one.

For a single Ctrl-C, a terminal and a supervisor may each send a signal. The handlers are Python's
and not the loop's: they run while the loop is blocked, too.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

APART: Final = 0.5
"""Seconds after a signal in which others count as the same one."""


class Signals:
    """In this block, call ``on_signal(signal, count)`` in the handler of each counted signal.

    In another thread than the main one it does nothing, as only the main thread has signals.
    """

    def __init__(self, on_signal: Callable[[signal.Signals, int], None]) -> None:
        self._on_signal = on_signal
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
        del self._on_signal  # most likely a method of the owner: a reference cycle

    def restore(self) -> None:
        """Put back the handlers of before. May be called more than once."""
        while self._before:
            number, handler = self._before.popitem()
            # None: the handler was not set by Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._count and now - self._last < APART:
            return
        self._last = now
        self._count += 1
        self._on_signal(signal.Signals(number), self._count)
