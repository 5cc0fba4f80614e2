"""The watchdog of `run`: a thread that names the line which blocks the loop.

It also prints for signal handlers, while the loop may be blocked.

Invariants
- It asks the loop for an answer, and adds up the time in which this thread ran and got none. A
  process that was stopped, or a machine that slept, has stopped this thread too, so that time does
  not count. C code that keeps the GIL (a regular expression that backtracks) also stops this
  thread. So for a time in which it did not run, it adds the CPU time of the loop's thread.
- A signal handler never prints, as it may have interrupted a print. It puts the text into a queue
  whose `put` is reentrant, and this thread prints it.
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
"""Seconds without a turn of the loop before a warning."""

_TICK: Final = 0.25
_AGAIN: Final = 60.0  # seconds between two warnings about one line

_DEBUGGERS: Final = frozenset(
    {"bdb", "cmd", "code", "debugpy", "ipdb", "pdb", "pudb", "pydevd", "_pydevd_bundle"}
)


@functools.cache
def _not_the_users() -> tuple[str, ...]:
    """The folders of code that is not the user's own."""
    import sysconfig  # here, as this import takes 2 ms

    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*folders, str(Path(__file__).parents[1]), "<frozen")


class Watchdog:
    """A thread that prints the texts of `say`, and watches one loop at a time.

    A context manager: the thread ends with the block.
    """

    def __init__(self) -> None:
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tailrace-watchdog", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0  # the identifier of the loop's thread
        self._answered = True
        self._silent = 0.0  # seconds without an answer of the loop
        self._worked_before = 0.0  # CPU seconds of the loop's thread, at the last look
        self._warned: dict[tuple[str, str, int], float] = {}  # by actor and line: when

    def __repr__(self) -> str:
        return f"<Watchdog of {self._loop!r}, silent for {self._silent:.3g} s>"

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._texts.put(None)
        self._thread.join(1.0)  # not for ever: stderr may block

    def say(self, text: str) -> None:
        """Print a line to stderr, soon. May be called in a signal handler."""
        self._texts.put(text)

    def watch(self) -> None:
        """Watch the running loop from now on."""
        loop = asyncio.get_running_loop()
        if not getattr(loop, "detects_deadlock", False):  # on virtual time no loop is late
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
            with contextlib.suppress(AttributeError, OSError, ValueError):  # stderr is gone
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    def _look(self, since: float) -> None:
        """Look for an answer, `since` seconds after the last look."""
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
        """CPU seconds of the loop's thread since the last call. 0 if the system cannot tell."""
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(self._watched))
        except (AttributeError, OSError):  # not on this system
            return 0.0
        before, self._worked_before = self._worked_before, now
        return now - before

    def _answer(self) -> None:
        self._answered = True

    def _name(self, loop: asyncio.AbstractEventLoop) -> None:
        """Warn, with the line that the loop's thread is at, unless it is in a debugger."""
        try:  # first, as the blocking call may be about to end
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
        if now - self._warned.get(place, -_AGAIN) < _AGAIN:
            return
        self._warned[place] = now
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
    """The frames that run on the loop, innermost first."""
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
