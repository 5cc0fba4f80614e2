"""In debug mode the event loop's log of slow callbacks names the task, however it was resumed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Start


@pytest.mark.usefixtures("any_loop")
async def test_the_log_names_the_task_that_a_channel_resumed(
    core: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    channel = core.Channel()

    async def receive() -> None:
        asyncio.current_task().set_name("the slow one")  # type: ignore[union-attr]
        await channel.recv()
        await asyncio.get_running_loop().create_future()

    task = start(receive())
    await asyncio.sleep(0.001)
    loop.slow_callback_duration = 0.0  # whatever takes any time is slow
    loop.set_debug(True)
    caplog.clear()
    channel.send_nowait(None)
    await asyncio.sleep(0.001)
    loop.set_debug(False)
    task.cancel()
    await asyncio.wait([task])
    slow = [record.getMessage() for record in caplog.records if "Executing" in record.msg]
    assert any("<Task pending name='the slow one'" in message for message in slow), slow


async def test_a_turn_in_debug_mode_ends_with_the_step_that_took_too_long(
    core: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    channels = [core.Channel() for _ in range(5)]

    async def receive(number: int) -> None:
        asyncio.current_task().set_name(f"number {number}")  # type: ignore[union-attr]
        await channels[number].recv()
        if number == 2:
            ends = loop.time() + 0.01
            while loop.time() < ends:
                pass

    tasks = [start(receive(number)) for number in range(5)]
    await asyncio.sleep(0.001)
    loop.slow_callback_duration = 0.01
    loop.set_debug(True)
    for channel in channels:
        channel.send_nowait(None)
    await asyncio.wait(tasks)
    loop.set_debug(False)
    slow = [record.getMessage() for record in caplog.records if "Executing" in record.msg]
    assert any("name='number 2'" in message for message in slow), slow
