"""The wait-for graph as text: the message of a `Deadlock`.

One line for each task and each parked thread: its name, what it waits for, for how long, and the
line of the user's program at which it stands. To be called while the loop runs no step.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from typing import Any

from tailrace import _core
from tailrace.group.internals import is_users, line_of, place_of


def wait_for_graph(loop: asyncio.AbstractEventLoop) -> str:
    """The text of a `Deadlock` of `loop`."""
    tasks = sorted(asyncio.all_tasks(loop), key=_by_name)
    threads = sorted(_core.parked_threads.items())
    rows = [_task_row(task, loop.time()) for task in tasks]
    rows += [_thread_row(thread, parked.operation) for thread, parked in threads]
    if not rows:
        return "the loop was run with neither a task nor a timer"
    kind = f"{len(rows)} tasks" + (" and threads" if threads else "")
    who = f"all {kind} are" if len(rows) > 1 else "the only task is"
    title = f"{who} asleep, and nothing is left that could wake one, at {_seconds(loop.time())}"
    return "\n".join([title, *_aligned(rows)])


def _task_row(task: asyncio.Task[Any], now: float) -> list[str]:
    operation = _core.parked_on(task)
    place = place_of(task)
    if operation is None:
        return [_name(task), "waiting", "", place]
    return [_name(task), operation.describe(), f"for {_seconds(now - operation.since)}", place]


def _thread_row(thread: int, operation: _core.Operation[Any]) -> list[str]:
    names = {each.ident: each.name for each in threading.enumerate()}
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    place = "" if frame is None else f"at {line_of(frame)}"
    return [names.get(thread, "thread"), operation.describe(), "in a thread", place]


def _name(task: asyncio.Task[Any]) -> str:
    """The task's name, or the name of its coroutine if asyncio has named the task."""
    name = task.get_name()
    if re.fullmatch(r"Task-\d+", name):
        name = getattr(task.get_coro(), "__name__", name)
    return name


def _by_name(task: asyncio.Task[Any]) -> list[str | int]:
    """A sort key that puts Task-10 after Task-9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", task.get_name())]


def _seconds(duration: float) -> str:
    return f"{duration:.6g} s"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in padded]
