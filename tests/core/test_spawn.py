"""`spawn`: whoever starts actors hears of the end of each, once, and as part of no task."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

_who: contextvars.ContextVar[str] = contextvars.ContextVar("_who", default="nobody")


class _Ends:
    """What `ended` was called with, and where."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.all_told = asyncio.Event()
        self.told: list[tuple[str, bool, Any, str]] = []

    def __call__(self, task: Any) -> None:
        self.told.append((task.get_name(), task.done(), asyncio.current_task(), _who.get()))
        if len(self.told) == self.wanted:
            self.all_told.set()


async def returns() -> None:
    pass


async def raises() -> None:
    raise LookupError("nothing there")


async def is_cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [returns, raises, is_cancelled])
async def test_ended_is_called_once_for_each_in_an_empty_context(core: Any, work: Any) -> None:
    _who.set("a parent")
    ends = _Ends(3)
    tasks = core.spawn([work() for _ in range(3)], "one", 1, ends)
    await ends.all_told.wait()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ends.told == [(f"one#{n}", True, None, "nobody") for n in (1, 2, 3)]


async def test_all_that_fail_in_one_turn_have_failed_before_the_first_end_is_told(
    core: Any,
) -> None:
    begun: list[int] = []
    seen: list[list[int]] = []

    async def fails(number: int) -> None:
        begun.append(number)
        raise LookupError(number)

    def ended(task: Any) -> None:
        assert isinstance(task.exception(), LookupError)
        seen.append(begun.copy())

    tasks = core.spawn([fails(1), fails(2)], "failing", 1, ended)
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert seen == [[1, 2], [1, 2]]


async def test_what_ended_raises_is_reported_and_ends_nothing(core: Any) -> None:
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    def ended(task: Any) -> None:
        raise LookupError(task.get_name())

    (first,) = core.spawn([returns()], "first", 0, ended)
    (second,) = core.spawn([returns()], "second", 0, lambda task: None)
    await asyncio.wait([first, second])
    await asyncio.sleep(0)
    assert [repr(each["exception"]) for each in reports] == ["LookupError('first')"]
