"""The pytest plugin: ``@pytest.mark.virtual_time`` runs an ``async def`` test on the virtual clock.

A marked test is turned into a plain function while it is collected. So pytest calls it as any
other, its fixtures are filled in as ever, and the plugins that run coroutine functions
(pytest-asyncio, in its auto mode too, and anyio's) find none to claim. Unmarked tests and plain
functions are left alone, so the marker may stand on a class or a module.

pytest loads this module in every run where tailrace is installed, so it does nothing until it
sees the marker.
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
        f"to the next timer and a deadlock is an error; seed starts the dice of select.",
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    """Take the marked tests, before any other plugin has seen the items."""
    made = yield
    items: list[object] = [made]
    if isinstance(made, list):
        made = items = cast("list[object]", made)
    for item in items:
        if isinstance(item, pytest.Function):
            _take(item)
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what an async fixture gives: another plugin makes it, on an event loop of its own."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker(MARKER) is None:
        return
    fixtures = item._fixtureinfo
    for name in fixtures.argnames:
        for fixture in fixtures.name2fixturedefs.get(name, ())[-1:]:
            made: Any = inspect.unwrap(fixture.func)
            if inspect.iscoroutinefunction(made) or inspect.isasyncgenfunction(made):
                pytest.fail(
                    f"the fixture {name!r} is async, so it is made on another event loop than the "
                    f"virtual clock of {item.name}, and what it gives cannot be awaited there: "
                    f"make it in the test, or have a plain fixture return an async context "
                    f"manager for `async with {name}() as ...:`",
                    pytrace=False,
                )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Take those that were marked after they had been collected; pytest then calls them."""
    _take(pyfuncitem)


def _take(item: pytest.Function) -> None:
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return
    given = getattr(item.obj, "hypothesis", None)  # Hypothesis keeps the test inside
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

    del run.__wrapped__  # or whoever unwraps it finds a coroutine function again
    return run


def _seed(*, seed: int = 0) -> int:
    """The marker's arguments; a TypeError that names what it does not know."""
    return seed


_seed.__name__ = _seed.__qualname__ = MARKER
