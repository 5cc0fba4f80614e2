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
from typing import Final

from tailrace.usercode import log_error

__all__ = ["PERIOD", "FailureLog", "log_failure", "stage_running"]

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


def log_failure(message_id: str, error: BaseException | str) -> None:
    """Log that the running actor, task or thread has failed a message."""
    name = _running()
    log = _stages.get(name)
    if log is None:
        if len(_stages) >= _MOST_STAGES:  # the names may be of one request each
            _rest()
            _stages.clear()
        log = _stages[name] = FailureLog(name)
    log.add(message_id, error)


@atexit.register
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


def _running() -> str:
    """The name of the stage, task or thread that runs."""
    stage = stage_running()
    if stage is not None:
        return repr(stage)
    if asyncio._get_running_loop() is not None:
        return "a task"
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
