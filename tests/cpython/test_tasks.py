"""CPython's own tests of tasks, and of what is built on them, with the native Actor in their place.

An actor is a task in all but its type, so what CPython asks of a task it asks of an actor. The
tests that ask for something else are in `NOT_FOR_ACTORS`, each with its reason; all others must
pass. On 3.11 to 3.15 that is one thing only: a task whose future is settled behind its back fails
at its next step, where an actor first runs to its end.

They run where the interpreter has its own tests (Debian: libpython3.14-testsuite).
"""

from __future__ import annotations

import asyncio
import importlib.util
import unittest
from typing import Any

import pytest

from tailrace._core.native import _engine

Actor: Any = _engine.Actor  # type: ignore[attr-defined]  # the stub keeps it to itself
theirs: Any = pytest.importorskip(
    "test.test_asyncio.test_tasks", reason="this Python was installed without its own tests"
)

# What they leave to the collector, or deprecate, is not ours to judge.
pytestmark = pytest.mark.filterwarnings("default")

SETTLED = "what is settled behind its back, an actor runs to its end before it reports that"
NOT_FOR_ACTORS = {
    "test_set_exception_causes_invalid_state": SETTLED,
    "test_set_result_causes_invalid_state": SETTLED,
}


def applicable(cls: Any) -> Any:
    """Skip what an actor does not promise."""
    for name, reason in NOT_FOR_ACTORS.items():
        if hasattr(cls, name):
            setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))
    return cls


class AskingAsyncio:
    """From 3.14 on the tests ask for these by the implementation that they test."""

    all_tasks = staticmethod(asyncio.all_tasks)
    current_task = staticmethod(asyncio.current_task)


@applicable
class ActorTests(
    AskingAsyncio, theirs.BaseTaskTests, theirs.SetMethodsTest, theirs.test_utils.TestCase
):
    Task = Actor
    Future = asyncio.Future

    test_del__log_destroy_pending_segfault = (
        theirs.CTask_CFuture_Tests.test_del__log_destroy_pending_segfault
    )


@applicable
@theirs.add_subclass_tests
class ActorSubclassTests(AskingAsyncio, theirs.BaseTaskTests, theirs.test_utils.TestCase):
    Task = Actor
    Future = asyncio.Future


@applicable
class ActorAwaitsPythonFuturesTests(
    AskingAsyncio, theirs.BaseTaskTests, theirs.test_utils.TestCase
):
    Task = Actor
    Future = theirs.futures._PyFuture


def new_actor(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    return Actor(coroutine, loop=loop, **options)


class OnActors:
    """Every task of the loop is an actor: what the test starts, and the test itself."""

    async def asyncSetUp(self) -> None:  # noqa: N802  # unittest's name
        asyncio.get_running_loop().set_task_factory(new_actor)
        await super().asyncSetUp()  # type: ignore[misc]  # IsolatedAsyncioTestCase's


def add_cases(module: str) -> None:
    """Make each test case of one of their modules one `OnActors`, in this module."""
    if importlib.util.find_spec(f"test.test_asyncio.{module}") is None:
        return  # not on this version
    cases = importlib.import_module(f"test.test_asyncio.{module}")
    for name, case in vars(cases).items():
        if isinstance(case, type) and issubclass(case, theirs.unittest.IsolatedAsyncioTestCase):
            ours = type(f"{name}OnActors", (OnActors, case), {"__module__": __name__})
            globals()[ours.__name__] = applicable(ours)


for module in ("taskgroups", "timeouts", "waitfor", "locks", "queues", "threads", "staggered"):
    add_cases(f"test_{module}")
