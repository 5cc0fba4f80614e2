"""100 000 random schedules of send, receive, select, cancel, timeout and close: nothing is lost,
nothing is doubled, no cancellation is lost or invented. In plain tasks and in actors, on each
event loop; split into chunks that run in any process and in any order. The Python core, which
changes seldom and takes its time, runs the first eighth of each chunk.

A failure names its schedule; `run_schedules` with that chunk's name runs it again.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from .schedules import in_actors, in_tasks, run_schedules

CHUNKS = 4
EACH = {"native": 6_250, "python": 800}
KINDS = {"task": in_tasks, "actor": in_actors}

pytestmark = pytest.mark.timeout(100)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("kind", KINDS)
async def test_channel_4_random_schedules_lose_and_double_nothing(
    core: Any, any_loop: Any, kind: str, chunk: int
) -> None:
    name = f"{type(asyncio.get_running_loop()).__module__} {kind} {chunk}"
    each = EACH[core.__name__.rpartition(".")[2]]
    assert await run_schedules(core, name, each, KINDS[kind]) == each


@pytest.mark.skipif(sys.platform == "win32", reason="there is one event loop only")
def test_channel_4_there_are_a_hundred_thousand_schedules(request: pytest.FixtureRequest) -> None:
    chunks = [
        item
        for item in request.session.items
        if item.name.startswith("test_channel_4_random_schedules_lose_and_double_nothing[native")
    ]
    if len(chunks) < 2 * len(KINDS) * CHUNKS:
        pytest.skip("only some of the chunks were selected")
    assert len(chunks) * EACH["native"] >= 100_000


async def test_channel_4_random_schedules_in_debug_mode(core: Any) -> None:
    asyncio.get_running_loop().set_debug(True)
    assert await run_schedules(core, "debug", 200, in_tasks) == 200


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_channel_4_random_schedules_in_eager_tasks(core: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # 3.12
    try:
        assert await run_schedules(core, "eager", 3_000, in_tasks) == 3_000
    finally:
        loop.set_task_factory(None)
