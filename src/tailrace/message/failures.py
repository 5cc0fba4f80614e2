"""The log lines of messages that fail: the first at once, then one every ten seconds.

Ten thousand lines for the rows that fail in an outage would hide its cause. So each stage logs its
first failure, with the message's id and the error, and then one failure every `PERIOD` seconds,
with the number of those in between.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import threading
import time
import weakref
from collections import deque
from typing import Final

from tailrace.usercode import log_error

__all__ = ["PERIOD", "FailureLog", "log_failure", "log_loss", "running", "stage_running"]

PERIOD: Final = 10.0
"""Seconds between two lines of one stage."""

_log = logging.getLogger("tailrace")


class FailureLog:
    """The failures of one stage. May be used from any thread."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._lock = threading.RLock()  # a finaliser may fail a message at any point
        self._unreported = 0
        self._next = -math.inf

    def __repr__(self) -> str:
        return f"<FailureLog of {self._stage}: {self._unreported} not logged yet>"

    def add(self, message_id: str, error: BaseException | str) -> None:
        """A message has failed."""
        moment = _now()
        with self._lock:
            if (
                self._next - PERIOD <= moment < self._next
            ):  # outside: it is due, or this is another clock
                self._unreported += 1
                return
            self._next = moment + PERIOD
            count, self._unreported = self._unreported, 0
        others = "others" if count > 1 else "other"
        more = f" (and {count} {others} before it)" if count else ""
        if isinstance(error, BaseException):
            _say("%s failed for message %s%s", self._stage, message_id, more, error=error)
        else:
            _say("%s failed for message %s%s: %s", self._stage, message_id, more, error)

    def rest(self) -> None:
        """Log how many failures were not logged: when the stage, or one of its actors, ends."""
        with self._lock:
            count, self._unreported = self._unreported, 0
        if count:
            _say("%s failed for %d more message%s", self._stage, count, "s" * (count > 1))


_stages: Final[dict[str, FailureLog]] = {}
_MOST_STAGES: Final = 256


def log_failure(message_id: str, error: BaseException | str, stage: str | None = None) -> None:
    """Log that a stage, or else the running actor, task or thread, has failed a message."""
    _add(running() if stage is None else repr(stage), message_id, error)


class _Losses:
    """Messages that were lost, and are not logged yet. May be used from any thread."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, str, str]] = deque()  # stage, id and reason
        self._posted: weakref.ref[asyncio.AbstractEventLoop] | None = None  # is to log them

    def add(self, message_id: str, reason: str, stage: str) -> None:
        """Log it: where an event loop runs, in the next turn of that loop."""
        self._queue.append((stage, message_id, reason))
        loop = asyncio._get_running_loop()
        if loop is None:
            self.log()
        elif self._posted is None or self._posted() is not loop:
            self._posted = weakref.ref(loop)
            loop.call_soon(self.log)

    def log(self) -> None:
        """Log all of them now."""
        self._posted = None
        try:
            while True:
                stage, message_id, reason = self._queue.popleft()
                _add(stage, message_id, reason)
        except IndexError:
            pass


_losses: Final = _Losses()


def log_loss(message_id: str, reason: str, stage: str) -> None:
    """Log that a message was dropped; `stage` says by whom, as `running` does.

    A finaliser calls this. It may run at any point, also while a logging handler holds a lock of
    its own, such as that of a `queue.Queue`: to log at once could block the thread for ever.
    """
    _losses.add(message_id, reason, stage)


def _add(name: str, message_id: str, error: BaseException | str) -> None:
    log = _stages.get(name)
    if log is None:
        if len(_stages) >= _MOST_STAGES:  # the names may be of one request each
            _rest()
            _stages.clear()
        log = _stages[name] = FailureLog(name)
    log.add(message_id, error)


@atexit.register
def _at_exit() -> None:
    _losses.log()
    _rest()


def _rest() -> None:
    for log in list(_stages.values()):
        log.rest()


def stage_running() -> str | None:
    """The name of the stage of which an actor on the loop runs; None in a task without a name."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    if task is None or (name := task.get_name()).startswith("Task-"):
        return None
    stage, mark, number = name.rpartition("#")
    return stage if mark and number.isdecimal() else name


def running() -> str:
    """The name of the stage, task or thread that runs."""
    stage = stage_running()
    if stage is not None:
        return repr(stage)
    if asyncio._get_running_loop() is not None:
        # Or a callback, such as that of the end of an actor, which frees its frames.
        return "a task or callback" if asyncio.current_task() is None else "a task"
    name = threading.current_thread().name
    stage, mark, number = name.rpartition("#")
    return repr(stage if mark and number.isdecimal() else name)


def _now() -> float:
    loop = asyncio._get_running_loop()
    return time.monotonic() if loop is None else loop.time()


def _say(text: str, *args: object, error: BaseException | None = None) -> None:
    try:
        # With escapes for lone surrogates, which no log file can hold.
        line = (text % args).encode("utf-8", "backslashreplace").decode()
        log_error(_log, "%s", line, error=error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the error's own code raised: other messages go on
        pass
