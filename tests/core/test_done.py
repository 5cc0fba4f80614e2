"""done: a future, task or Event as a case of select."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import tailrace
from tailrace.errors import WouldBlock


@pytest.fixture(autouse=True)
def on_each_loop(any_loop: Any) -> None:
    """All of this on each event loop."""


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_done_is_ready_when_the_future_is(core: Any, settle: Any) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    channel = core.Channel()
    selecting = asyncio.ensure_future(core.select(channel.recv(), core.done(future)))
    await settle()
    assert not selecting.done()
    future.set_result("value")
    assert await selecting == (1, "value")
    assert await core.select(core.done(future)) == (0, "value")
    assert core.select_nowait(channel.recv(), core.done(future)) == (1, "value")
    assert await core.done(future) == "value"


async def test_done_gives_a_tasks_result_or_raises_its_error_when_chosen(core: Any) -> None:
    async def succeed() -> int:
        await asyncio.sleep(0)
        return 5

    async def fail() -> int:
        await asyncio.sleep(0)
        raise LookupError("no")

    assert await core.select(core.done(asyncio.create_task(succeed()))) == (0, 5)
    with pytest.raises(LookupError):
        await core.select(core.done(asyncio.create_task(fail())))


async def test_done_of_a_cancelled_task_raises_and_cancels_nobody_else(core: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await core.select(core.done(task), core.Channel().recv())
    await asyncio.sleep(0)  # this task was not


async def test_done_takes_an_event(core: Any, settle: Any) -> None:
    event = asyncio.Event()
    channel = core.Channel()
    selecting = asyncio.ensure_future(core.select(channel.recv(), core.done(event)))
    await settle()
    with pytest.raises(WouldBlock):
        core.select_nowait(core.done(event))
    event.set()
    assert await selecting == (1, True)
    assert await core.select(core.done(event)) == (0, True)
    assert core.select_nowait(core.done(event)) == (0, True)
    await settle()
    assert others() == set()


async def test_done_that_was_not_chosen_leaves_the_future_alone(core: Any, settle: Any) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    channel = core.Channel(1)
    channel.send_nowait(1)
    assert await core.select(core.done(future), channel.recv()) == (1, 1)
    selecting = asyncio.ensure_future(core.select(core.done(future), channel.recv()))
    await settle()
    channel.send_nowait(2)
    assert await selecting == (1, 2)
    assert await core.select(core.done(future), timeout=0.001) == (None, None)
    await settle()
    assert not future.done()
    assert not getattr(future, "_callbacks", None)
    future.set_result(None)
    await settle()  # nobody is called, nothing is taken
    assert len(channel) == 0


async def test_done_that_was_not_chosen_leaves_a_task_running(core: Any, settle: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    assert await core.select(core.done(task), timeout=0.001) == (None, None)
    selecting = asyncio.ensure_future(core.select(core.done(task)))
    await settle()
    selecting.cancel()
    await asyncio.wait([selecting])
    await settle()
    assert not task.done()
    assert not task.cancelling()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("how", ["other case", "timeout", "cancelled", "closed"])
async def test_done_of_an_event_leaves_no_task_and_no_waiter_behind(
    core: Any, settle: Any, how: str
) -> None:
    event = asyncio.Event()
    channel = core.Channel(1)
    timeout = 0.001 if how == "timeout" else None
    selecting = asyncio.ensure_future(
        core.select(core.done(event), channel.recv(), timeout=timeout)
    )
    await settle()
    if how == "other case":
        channel.send_nowait(1)
    elif how == "cancelled":
        selecting.cancel()
    elif how == "closed":
        channel.close()
    await asyncio.wait([selecting])
    assert selecting.cancelled() == (how == "cancelled")
    await settle()
    assert others() == set()
    assert not event._waiters  # type: ignore[attr-defined]
    assert channel.statistics().waiting_receivers == 0


async def test_done_and_another_case_at_once_is_one_case(core: Any, settle: Any) -> None:
    for first in ("future", "value"):
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel = core.Channel(1)
        selecting = asyncio.ensure_future(core.select(core.done(future), channel.recv()))
        await settle()
        if first == "future":
            future.set_result("done")
            channel.send_nowait("value")
        else:
            channel.send_nowait("value")
            future.set_result("done")
        index, value = await selecting
        assert (index, value) in ((0, "done"), (1, "value"))
        assert len(channel) == (1 if index == 0 else 0)


async def test_done_cancelled_as_it_is_chosen_leaves_the_result_to_others(
    core: Any, start: Any, settle: Any, outcome: Any
) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ends: list[Any] = []
    task = start(outcome(core.select(core.done(future), core.Channel().recv()), ends))
    await settle()
    future.set_result("value")
    await asyncio.sleep(0)
    task.cancel()
    await settle()
    assert ends == [asyncio.CancelledError] or ends == [(0, "value")]
    assert await core.select(core.done(future)) == (0, "value")


async def test_done_may_be_watched_by_many(core: Any, settle: Any) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    event = asyncio.Event()
    selects = [
        asyncio.ensure_future(core.select(core.done(future), core.done(event))) for _ in range(20)
    ]
    await settle()
    future.set_result(3)
    assert await asyncio.gather(*selects) == [(0, 3)] * 20
    await settle()
    assert others() == set()


@pytest.mark.parametrize("thing", [5, None, "event", asyncio.sleep])
async def test_done_of_anything_else_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match="future"):
        tailrace.done(thing)


async def test_done_of_a_coroutine_says_to_make_a_task_of_it() -> None:
    coroutine = asyncio.sleep(0)
    with pytest.raises(TypeError, match="create_task"):
        tailrace.done(coroutine)  # type: ignore[call-overload]
    coroutine.close()


async def test_done_that_is_never_used_warns(core: Any) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.warns(RuntimeWarning, match="done was never awaited"):
        core.done(future)


async def test_done_sees_an_event_that_is_set_and_cleared_at_once(core: Any, start: Any) -> None:
    """As `await event.wait()` does."""
    event, seen = asyncio.Event(), []

    async def wait() -> None:
        seen.append(await core.select(core.done(event), core.Channel().recv()))
        seen.append(await core.done(event))

    task = start(wait())
    for _ in range(2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        event.set()
        event.clear()
    await asyncio.wait_for(asyncio.shield(task), 5)
    assert seen == [(0, True), True]


def test_done_hears_of_a_future_of_another_loop(core: Any) -> None:
    made: list[asyncio.Future[int]] = []
    ready, waiting = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        made.append(asyncio.get_running_loop().create_future())
        ready.set()
        while not waiting.is_set():
            await asyncio.sleep(0)
        made[0].set_result(7)
        await asyncio.sleep(0)

    async def here() -> Any:
        asyncio.get_running_loop().call_soon(waiting.set)
        return await asyncio.wait_for(_select(core.done(made[0])), 10)

    async def _select(case: Any) -> Any:
        return await core.select(case)

    other = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    other.start()
    ready.wait()
    assert asyncio.run(here()) == (0, 7)
    other.join()
