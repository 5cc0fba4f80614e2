"""What the tests of the cores share: how a task is started, and how long "until all sleep" is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from .actors import spawn

Start: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@pytest.fixture(params=["task", "actor"])
def start(request: pytest.FixtureRequest, core: Any) -> Start:
    """Start a coroutine as a plain asyncio task, and as an actor of the core."""
    if request.param == "task":
        return asyncio.create_task
    return lambda coroutine: spawn(core, coroutine, "an actor")


@pytest.fixture(autouse=True)
def groups_of_the_core(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a `Group` starts runs on the core under test, whichever one is active.

    A thread that is an actor of one core is not woken in a channel of the other.
    """
    for module in ("activity", "actor"):
        monkeypatch.setattr(f"tailrace.group.{module}._core", core)


@pytest.fixture
def spend_budget(core: Any) -> Callable[[], None]:
    """Spend what is left of the budget, so that a whole new one begins.

    Which operation yields is otherwise a matter of what ran before; a test that counts on the
    order in which tasks park must not meet that one by chance.
    """

    def spend_budget() -> None:
        channel = core.Channel(1)

        async def until_it_yields() -> None:
            while True:
                await channel.send(None)
                await channel.recv()

        coroutine = until_it_yields()
        coroutine.send(None)
        coroutine.close()

    return spend_budget


@pytest.fixture(autouse=True)
def fresh_budget(spend_budget: Callable[[], None]) -> None:
    """Each test begins with a whole budget."""
    spend_budget()


@pytest.fixture
def settle() -> Callable[[], Awaitable[None]]:
    """Let the loop turn until every task sleeps that needs no timer, socket or thread to sleep."""

    async def settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    return settle


@pytest.fixture
def outcome() -> Callable[[Awaitable[Any], list[Any]], Coroutine[Any, Any, None]]:
    """Await something and note how that ended: its value, or the class of what it raised.

    Nothing is awaited after it, so a cancellation that comes later than the await finds a task
    that has ended.
    """

    async def outcome(awaitable: Awaitable[Any], ends: list[Any]) -> None:
        try:
            ends.append(await awaitable)
        except asyncio.CancelledError:
            ends.append(asyncio.CancelledError)
            raise
        except Exception as error:
            ends.append(type(error))

    return outcome


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What finalisers raise meanwhile, which nobody could catch."""
    raised: list[BaseException] = []

    def note(args: Any) -> None:
        raised.append(args.exc_value)

    gc.collect()  # what earlier tests left is not ours
    monkeypatch.setattr("sys.unraisablehook", note)
    return raised
