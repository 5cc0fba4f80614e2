"""How every test runs: an `async def` test on a fresh event loop, for a bounded time, with nothing
left behind.

After a test that passed there must be no task pending and nothing may have been reported to the
loop's exception handler ("Task exception was never retrieved" and its kin): either fails it.
Tests marked `virtual_time` are run by the package's own pytest plugin and not touched here.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import inspect
import io
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# Time is bounded per test; per example it would only make a busy machine fail.
settings.register_profile("tailrace", deadline=None)
settings.load_profile("tailrace")

CORES = ("python", "native")
"""What the `core` fixture runs a test on. Where the native core is not built its tests fail with
the ImportError, they never skip."""

LOOPS = ("asyncio",) if sys.platform == "win32" else ("asyncio", "uvloop")
"""What the `any_loop` fixture runs a test on; a missing uvloop is an error too."""

ASYNC_SECONDS = 30.0
"""How long an async test may take, unless its own `timeout` marker says otherwise."""


@pytest.fixture(params=CORES, scope="module")
def core(request: pytest.FixtureRequest) -> ModuleType:
    """Each core in turn: a test that takes it runs on all of them."""
    return importlib.import_module(f"tailrace._core.{request.param}")


@pytest.fixture(params=LOOPS, scope="module")
def any_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Each event loop in turn: an async test that takes it runs on all of them."""
    if request.param == "asyncio":
        return asyncio.new_event_loop
    loops: Any = importlib.import_module(request.param)
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = loops.new_event_loop
    return new_event_loop


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Any]:
    """A PostgreSQL server of this process, for all its tests; `postgres` gives a test its place."""
    from .postgresql import cluster

    with cluster() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Any) -> Any:
    """A schema of its own on the server, as a `Place`."""
    from .postgresql import Place

    return Place(postgres_server)


def pytest_configure() -> None:
    """Take nothing over from whoever started the tests: a script that runs them in the background
    ignores SIGINT, and ignored or blocked signals would be so in every process they start."""
    names = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    for number in numbers:
        if signal.getsignal(number) == signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    for name in ("COLUMNS", "FORCE_COLOR", "LINES", "PYTHONASYNCIODEBUG", "PYTHONWARNINGS"):
        os.environ.pop(name, None)


def pytest_report_header() -> str:
    from tailrace import _core

    return f"tailrace core: {_core.active}"


def pytest_collection_finish() -> None:
    """What exists now stays: freezing it makes the collection after each test cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def accounts_add_up(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """In the tests where messages flow: a group that ended well leaves no message open."""
    if not {"actors", "group", "listen", "store", "faults"}.intersection(request.path.parts):
        yield
        return
    from tailrace import Group
    from tailrace.ledger import Ledger

    leave = Group.__aexit__
    ended: list[Ledger] = []  # not the groups: some tests look whether these are collected

    async def leave_and_note(self: Group, *raised: Any) -> bool | None:
        left = await leave(self, *raised)
        ended.append(self._ledger)
        return left

    monkeypatch.setattr(Group, "__aexit__", leave_and_note)
    yield
    accounts = [ledger.account() for ledger in ended]
    if any(account.open for account in accounts):
        gc.collect()
        accounts = [ledger.account() for ledger in ended]
    for account in accounts:
        assert account.entered == sum(account[1:])
        assert account.open == 0
        assert min(account) >= 0


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Put a plain function that runs the loop where pytest expects the test."""
    if pyfuncitem.get_closest_marker("virtual_time"):
        return (yield)
    given = getattr(pyfuncitem.obj, "hypothesis", None)  # @given keeps the test inside
    owner, attribute = (pyfuncitem, "obj") if given is None else (given, "inner_test")
    test = getattr(owner, attribute)
    if not inspect.iscoroutinefunction(test):
        return (yield)

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        run_on_fresh_loop(pyfuncitem, functools.partial(test, *args, **kwargs))

    del run.__wrapped__  # else whoever inspects it finds the coroutine function again
    setattr(owner, attribute, run)
    try:
        return (yield)
    finally:
        setattr(owner, attribute, test)


def run_on_fresh_loop(item: pytest.Function, test: Callable[[], Awaitable[None]]) -> None:
    __tracebackhide__ = True
    loop_factory: Any = item.funcargs.get("any_loop")
    reported: list[str] = []

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        reported.append(f"{context.get('message')}: {context.get('exception')!r}")

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(report)
            runner.run(bounded(test, seconds_for(item)))
            reported += (f"left pending: {task!r}" for task in asyncio.all_tasks(loop))
        gc.collect()  # a task dropped in a reference cycle complains only now
    except BaseException as error:
        for line in reported:
            error.add_note(line)
        raise
    if reported:
        pytest.fail("the test passed, but left this behind:\n" + "\n".join(reported), pytrace=False)


async def bounded(test: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run `test`; when its time is over, cancel it and fail with where every task was."""
    __tracebackhide__ = True
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stuck = ""

    def give_up() -> None:
        nonlocal stuck
        stuck = "\n".join(map(where, asyncio.all_tasks(loop)))
        task.cancel()

    alarm = loop.call_later(seconds, give_up)
    try:
        await test()
    except BaseException as error:
        if stuck:
            raise TimeoutError(f"still running after {seconds:g} s:\n{stuck}") from error
        raise
    finally:
        alarm.cancel()
    if stuck:
        raise TimeoutError(f"ended, but only when cancelled after {seconds:g} s:\n{stuck}")


def where(task: asyncio.Task[Any]) -> str:
    text = io.StringIO()
    task.print_stack(file=text)
    return text.getvalue()


def seconds_for(item: pytest.Function) -> float:
    """Its `timeout` marker less a tenth, so that the better report comes first."""
    marker = item.get_closest_marker("timeout")
    return 0.9 * marker.args[0] if marker and marker.args else ASYNC_SECONDS
