"""Each row of the table in docs/coming-from-queue.md: both cells run, and do what the row says."""

from __future__ import annotations

import ast
import asyncio
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

from tailrace import Channel, Message, WouldBlock, select, submit

PAGE = Path(__file__).parent.parent / "docs" / "coming-from-queue.md"
TABLE = {
    task: (queue, ours)
    for task, queue, ours in re.findall(
        r"^\| ([^|]+) \| ([^|]*)\| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    if task not in ("task", "---") and not task.startswith("-")
}


async def first_of(*gets: Awaitable[int]) -> int:
    tasks = [asyncio.ensure_future(get) for get in gets]
    finished, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    return next(task for task in tasks if task in finished).result()


async def until_none(queue: asyncio.Queue[int | None]) -> AsyncGenerator[int]:
    while (item := await queue.get()) is not None:
        yield item


@dataclass(frozen=True)
class Row:
    """What the two cells of a row return, or raise, with `holding` in queue and channel before."""

    holding: Sequence[int | None] = ()
    queue: Any = None
    ours: Any = None
    left: Sequence[int] | None = None  # in both afterwards
    cells: tuple[str, str] | None = None  # the calls that raise what the cells name


PUT = ("queue.put_nowait(1)", "ch.send_nowait(1)")
GET = ("queue.get_nowait()", "ch.recv_nowait()")

ROWS: dict[str, Row] = {
    "make one with a limit": Row(
        queue=lambda made: made.maxsize == 2, ours=lambda made: made.capacity == 2
    ),
    "make one without a limit": Row(
        queue=lambda made: made.maxsize == 0, ours=lambda made: made.capacity == math.inf
    ),
    "send": Row(left=[1]),
    "receive": Row([5, 6], 5, 5, left=[6]),
    "send without waiting": Row(left=[1]),
    "the same, when it is full": Row([5, 6], asyncio.QueueFull, WouldBlock, [5, 6], PUT),
    "receive without waiting": Row([5], 5, 5, left=[]),
    "the same, when it is empty": Row([], asyncio.QueueEmpty, WouldBlock, [], GET),
    "send several": Row(queue=[None, None], left=[1, 2]),
    "receive with a timeout": Row([], TimeoutError, TimeoutError, left=[]),
    "receive with a timeout, without an exception": Row(ours=(None, None)),
    "send with a timeout": Row([5, 6], TimeoutError, TimeoutError, left=[5, 6]),
    "receive from the first of two": Row([5], 5, (0, 5), left=[]),
    "count the buffered values": Row([5], 1, 1),
    "read the limit": Row([], 2, 2),
    "test whether it is empty": Row([], True, True),
    "test whether it is full": Row([5, 6], True, True),
    "end the stream": Row(),
    "receive until the end": Row([5], [5], [5]),
    "wait until an item is processed": Row(ours=lambda outcome: outcome.status == "stored"),
    "say that an item is processed": Row([5], None, True),
    "send from a thread": Row(left=[1]),
}


def test_the_table_has_these_rows() -> None:
    assert list(TABLE) == list(ROWS)


@pytest.mark.virtual_time
@pytest.mark.parametrize("task", ROWS)
async def test_a_row_says_what_happens(task: str) -> None:
    row = ROWS[task]
    for side, expected in ((0, row.queue), (1, row.ours)):
        code = row.cells[side] if row.cells else TABLE[task][side].strip().strip("`")
        if row.cells:
            assert f"`{qualified(expected)}`" in TABLE[task][side]
        if code:
            await check(task, row, code, expected)


def qualified(error: type[Exception]) -> str:
    return f"asyncio.{error.__name__}" if error.__module__.startswith("asyncio") else error.__name__


async def check(task: str, row: Row, code: str, expected: Any) -> None:
    queue, other_queue = asyncio.Queue[Any](2), asyncio.Queue[Any](2)
    ch, other_ch = Channel[int](2), Channel[int](2)
    for value in row.holding:
        queue.put_nowait(value)
        ch.send_nowait(value)  # type: ignore[arg-type]  # None is in no row of a channel
    messages = Channel[Message[int]](1)
    background = [asyncio.ensure_future(acks(messages))]
    if task == "wait until an item is processed":
        queue.put_nowait(1)
        background.append(asyncio.ensure_future(works(queue)))
    if task == "receive until the end":
        queue.put_nowait(None)
        ch.close()
    names: dict[str, Any] = {
        "asyncio": asyncio,
        "math": math,
        "Channel": Channel,
        "select": select,
        "submit": submit,
        "first_of": first_of,
        "until_none": until_none,
        "run_coroutine_threadsafe": asyncio.run_coroutine_threadsafe,
        "loop": asyncio.get_running_loop(),
        "queue": queue,
        "ch": ch,
        "other": other_queue if "queue" in code else other_ch,
        "messages": messages,
        "message": Message(1),
    }
    compiled = compile(code, str(PAGE), "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    run: Callable[[], Any] = lambda: eval(compiled, names)  # noqa: E731
    try:
        found = await asyncio.to_thread(run) if "thread" in task else run()
        if isawaitable(found) and code.startswith(("await", "[")):
            found = await found
    except Exception as error:
        found = type(error)
    finally:
        for future in background:
            future.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    assert (
        expected(found)
        if callable(expected) and not isinstance(expected, type)
        else (found == expected or (found is expected))
    ), found
    if task == "end the stream" and "ch" in code:
        assert ch.closed
    if row.left is not None:
        inside = drained_queue(queue) if "queue" in code else drained(ch)
        assert inside == row.left


async def acks(inbox: Channel[Message[int]]) -> None:
    async for message in inbox:
        message.ack()


async def works(queue: asyncio.Queue[int]) -> None:
    while True:
        await queue.get()
        queue.task_done()


def drained_queue(queue: asyncio.Queue[int]) -> list[int]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def drained(ch: Channel[int]) -> list[int]:
    return [ch.recv_nowait() for _ in range(len(ch))]
