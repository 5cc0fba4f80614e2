"""The pytest plugin: ``@pytest.mark.virtual_time`` runs an ``async def`` test on the virtual clock.

The plugin turns a marked test into a plain function when pytest collects it. pytest then calls it
and fills in its fixtures as usual, and plugins for coroutine functions (pytest-asyncio, anyio) do
not claim it. Unmarked tests and plain functions stay as they are, so the marker may stand on a
class or a module.

pytest loads this module in every run where tailrace is installed, so it imports little, and does
nothing until it sees the marker.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import Any, cast

import pytest

MARKER = "virtual_time"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seed=0): run this async test on tailrace's virtual clock, where time jumps "
        f"to the next timer and a deadlock is an error; seed is for the random choices of select.",
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    """Wrap the marked tests before any other plugin sees them."""
    made = yield
    items: list[object] = [made]
    if isinstance(made, list):
        made = items = cast("list[object]", made)
    for item in items:
        if isinstance(item, pytest.Function):
            _wrap(item)
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse async fixtures: another plugin runs them, on an event loop of its own."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker(MARKER) is None:
        return
    fixtures = item._fixtureinfo
    for name in fixtures.argnames:
        for fixture in fixtures.name2fixturedefs.get(name, ())[-1:]:
            made: Any = inspect.unwrap(fixture.func)
            if inspect.iscoroutinefunction(made) or inspect.isasyncgenfunction(made):
                pytest.fail(
                    f"the fixture {name!r} is async, so it runs on another event loop than "
                    f"{item.name}, which cannot await what it gives: make that in the test, or "
                    f"have a plain fixture return an async context manager for "
                    f"`async with {name}() as ...:`",
                    pytrace=False,
                )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Wrap a test that was marked after its collection."""
    _wrap(pyfuncitem)


def _wrap(item: pytest.Function) -> None:
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return
    given = getattr(item.obj, "hypothesis", None)  # Hypothesis has wrapped the test
    if given is None and inspect.iscoroutinefunction(item.obj):
        item.obj = _on_virtual_clock(item.obj, marker)
    elif given is not None and inspect.iscoroutinefunction(given.inner_test):
        given.inner_test = _on_virtual_clock(given.inner_test, marker)


def _on_virtual_clock(test: Any, marker: pytest.Mark) -> Any:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        from tailrace.testing.clock import run

        seed = _seed(*marker.args, **marker.kwargs)
        return run(test(*args, **kwargs), seed=seed)

    del run.__wrapped__  # else a plugin unwraps it, and finds a coroutine function
    return run


def _seed(*, seed: int = 0) -> int:
    """The argument of the marker. Python raises the TypeError for an unknown one."""
    return seed


_seed.__name__ = _seed.__qualname__ = MARKER
