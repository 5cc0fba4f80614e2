"""A thread beside the loop of `run`: it names what blocks the loop, and speaks while it is blocked.

Invariants:
- It asks the loop to answer, and judges only by its own time: it counts how long it has itself been
  awake while the loop did not answer. A process that was stopped, or a machine that slept, stopped
  this thread too. So does C code that keeps the GIL (a regular expression that backtracks): so when
  this thread did not run, what counts is how long the loop's thread was busy, by its CPU clock.
- It never prints from a signal handler, which may have interrupted a print: it takes the text over
  by a queue whose `put` may be re-entered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import linecache
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

_log = logging.getLogger("tailrace")

LIMIT: Final = 1.0
"""Seconds without a turn of the loop after which what it does is named."""

_TICK: Final = 0.25
_AGAIN: Final = 60.0  # the same line is named once in so many seconds

_DEBUGGERS: Final = frozenset(
    {"bdb", "cmd", "code", "debugpy", "ipdb", "pdb", "pudb", "pydevd", "_pydevd_bundle"}
)


@functools.cache
def _not_the_users() -> tuple[str, ...]:
    """How the paths begin of code that the user has not written."""
    import sysconfig  # here, since it loads a module for each platform, which takes 2 ms

    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*folders, str(Path(__file__).parents[1]), "<frozen")


class Watchdog:
    """Prints what it is told to `say`, and watches one loop at a time.

    A context manager: its thread ends with the block.
    """

    def __init__(self) -> None:
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tailrace-watchdog", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0  # the identifier of the loop's thread
        self._answered = True
        self._silent = 0.0  # seconds that the loop has not answered for
        self._worked_before = 0.0  # CPU seconds of the loop's thread, when last looked at
        self._told: dict[tuple[str, str, int], float] = {}  # when, by what was named

    def __repr__(self) -> str:
        return f"<Watchdog of {self._loop!r}, silent for {self._silent:.3g} s>"

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._texts.put(None)
        self._thread.join(1.0)  # it may be kept from printing

    def say(self, text: str) -> None:
        """Print a line to stderr, soon. May be called in a signal handler."""
        self._texts.put(text)

    def watch(self) -> None:
        """Watch the running loop from now on."""
        loop = asyncio.get_running_loop()
        if not getattr(loop, "detects_deadlock", False):  # on virtual time nothing is late
            self._watched = threading.get_ident()
            self._worked_before = time.thread_time()
            self._loop = loop

    def unwatch(self) -> None:
        """Watch no more."""
        self._loop = None

    def _run(self) -> None:
        woken = time.monotonic()
        while True:
            try:
                text = self._texts.get(timeout=max(0.0, woken + _TICK - time.monotonic()))
            except queue.Empty:
                now = time.monotonic()
                self._look(now - woken)
                woken = now
                continue
            if text is None:
                return
            with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr any more
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    def _look(self, since: float) -> None:
        """The loop has had `since` seconds to answer."""
        loop = self._loop
        if loop is None:
            return
        worked = self._worked()
        late = since >= 2 * _TICK  # this thread did not run either
        if self._answered and not late:
            self._answered = False
            self._silent = 0.0
            with contextlib.suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(self._answer)
        else:
            before = 0.0 if self._answered else self._silent
            self._silent = before + (worked if late else since)
            if before < LIMIT <= self._silent:
                self._name(loop)

    def _worked(self) -> float:
        """CPU seconds that the loop's thread has used since this was asked last; 0 if unknown."""
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(self._watched))
        except (AttributeError, OSError):  # not on this system
            return 0.0
        before, self._worked_before = self._worked_before, now
        return now - before

    def _answer(self) -> None:
        self._answered = True

    def _name(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say what the loop's thread does, unless a person looks at it in a debugger."""
        try:  # at once: what blocks may be ending
            task = asyncio.current_task(loop)
        except RuntimeError:
            task = None
        frames = list(_frames(sys._current_frames().get(self._watched)))
        if not frames or _debugged(frames):
            return
        frame = next((f for f in frames if not _file(f).startswith(_not_the_users())), frames[0])
        who = "a callback" if task is None else f"`{task.get_name()}`"
        place = who, _file(frame), frame.f_lineno
        now = time.monotonic()
        if now - self._told.get(place, -_AGAIN) < _AGAIN:
            return
        self._told[place] = now
        code = linecache.getline(_file(frame), frame.f_lineno, frame.f_globals).strip()
        _log.warning(
            "the event loop has not turned for %.1f s: %s is at %s:%d, in %s%s; blocking calls "
            "belong in a thread",
            self._silent,
            who,
            _file(frame),
            frame.f_lineno,
            frame.f_code.co_name,
            f": {code}" if code else "",
        )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """What runs on the loop, innermost first."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "asyncio.runners":
            return
        yield frame
        frame = frame.f_back


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _debugged(frames: list[FrameType]) -> bool:
    return any(
        str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS for frame in frames
    )
