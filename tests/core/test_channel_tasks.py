"""What tasks keep while channels resume them: their identity, context, exceptions and turn."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.errors import Closed

name: contextvars.ContextVar[str] = contextvars.ContextVar("name")


@pytest.fixture(autouse=True)
def on_each_loop(any_loop: Any) -> None:
    """All of this on each event loop."""


async def test_tasks_are_themselves_and_in_their_context_after_each_await(
    core: Any, start: Any
) -> None:
    channels = [core.Channel() for _ in range(5)]
    seen: list[bool] = []

    async def relay(n: int) -> None:
        name.set(f"actor {n}")
        me = asyncio.current_task()
        for _ in range(10):
            if n == 0:
                await channels[1].send("token")
                await channels[0].recv()
            else:
                await channels[n].recv()
                await core.select(channels[(n + 1) % 5].send("token"))
            seen.append(asyncio.current_task() is me and name.get() == f"actor {n}")

    tasks = [start(relay(n)) for n in range(5)]
    await asyncio.wait(tasks)
    assert seen == [True] * 50
    assert name.get("none") == "none"


async def test_tasks_do_not_see_each_others_exceptions(core: Any, start: Any) -> None:
    """Each is resumed from within another's step, in the middle of an `except` block."""
    ping, pong = core.Channel(), core.Channel()
    handled: list[Any] = []

    async def one() -> None:
        try:
            raise LookupError("of one")
        except LookupError:
            await ping.send(1)
            await pong.recv()
            handled.append(type(sys.exception()))

    async def other() -> None:
        await ping.recv()
        handled.append(sys.exception())
        try:
            raise ValueError("of other")
        except ValueError as error:
            handled.append(error.__context__)
        await pong.send(1)
        handled.append(sys.exception())

    await asyncio.wait([start(one()), start(other())])
    assert handled == [None, None, LookupError, None] or handled == [None, None, None, LookupError]


async def test_closed_errors_of_one_close_do_not_chain(
    core: Any, start: Any, outcome: Any, settle: Any
) -> None:
    channel = core.Channel()
    errors: list[Closed] = []

    async def receive() -> None:
        try:
            await channel.recv()
        except Closed as error:
            errors.append(error)

    for _ in range(3):
        start(receive())
    await settle()
    channel.close()
    await settle()
    assert [error.__context__ for error in errors] == [None] * 3
    assert [error.__cause__ for error in errors] == [None] * 3


def test_tasks_that_are_left_when_one_ends_the_program_still_get_their_turn(
    core: Any, any_loop: Any
) -> None:
    """SystemExit leaves the loop at once; who was woken in the same burst must not be stranded."""
    loop = any_loop()
    channel = core.Channel()
    received: list[int] = []

    async def exit_at_once() -> None:
        await channel.recv()
        raise SystemExit(3)

    async def receive() -> None:
        received.append(await channel.recv())

    async def park(tasks: list[Any]) -> None:
        tasks.append(loop.create_task(exit_at_once()))
        tasks.extend(loop.create_task(receive()) for _ in range(3))
        while channel.statistics().waiting_receivers < 4:
            await asyncio.sleep(0)

    async def serve() -> None:
        for n in range(4):
            channel.send_nowait(n)
        await asyncio.sleep(0.01)

    tasks: list[Any] = []
    loop.run_until_complete(park(tasks))
    with pytest.raises(SystemExit):
        loop.run_until_complete(serve())
    loop.run_until_complete(asyncio.sleep(0.001))
    assert received == [1, 2, 3]
    with pytest.raises(SystemExit):
        tasks[0].result()
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()


async def test_values_that_a_generator_makes_may_come_from_the_channel_itself(core: Any) -> None:
    """Pulling the next value is foreign code: it runs between operations, never inside one."""
    channel = core.Channel(8)
    channel.send_nowait(1)

    def doubling() -> Iterator[int]:
        for _ in range(4):
            yield 2 * channel.recv_nowait()

    await channel.send_many(doubling())
    assert channel.recv_nowait() == 16


async def test_values_of_a_list_that_is_more_than_a_list_are_asked_for_outside_the_channel(
    core: Any,
) -> None:
    channel = core.Channel(8)

    class Curious(list[int]):
        def __getitem__(self, at: Any) -> Any:
            channel.send_nowait("looked")
            return super().__getitem__(at)

        def __iter__(self) -> Iterator[int]:
            channel.send_nowait("looked")
            return super().__iter__()

    await channel.send_many(Curious([1, 2]))
    received = [channel.recv_nowait() for _ in range(len(channel))]
    assert [value for value in received if value != "looked"] == [1, 2]
