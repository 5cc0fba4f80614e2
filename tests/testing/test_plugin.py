"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tailrace

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, load: list[object]) -> Run:
    """Runs pytest on a source, in this process, which takes a tenth of the time."""

    def run(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(
            "-p", "no:randomly", "-W", "error", *options, plugins=load
        )

    return run


def test_a_marked_test_runs_on_the_virtual_clock(run: Run) -> None:
    result = run(
        """
        import asyncio, pytest
        from tailrace.testing import VirtualClockLoop

        @pytest.mark.virtual_time
        async def test_sleeps():
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualClockLoop) and loop.seed == 0
            await asyncio.sleep(1e6)
            assert loop.time() == 1e6

        @pytest.mark.virtual_time(seed=3)
        async def test_seeded():
            assert asyncio.get_running_loop().seed == 3
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=2)


def test_a_seed_that_is_no_whole_number_is_named(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.virtual_time(seed="x")
        async def test_seeded():
            pass
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TypeError: seed must be a whole number, not 'x'"])
    result.stdout.no_fnmatch_line("*never awaited*")


def test_a_marked_test_that_fails_is_reported_as_its_own_failure(run: Run) -> None:
    result = run(
        """
        import pytest
        from tailrace import Channel

        pytestmark = pytest.mark.virtual_time

        async def test_false():
            assert 1 == 2

        async def test_stuck():
            await Channel(name="nobody_sends").recv()
        """,
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E       assert 1 == 2",
            "*Deadlock: the only task is asleep*",
            "*receiving from nobody_sends*",
        ]
    )


def test_the_plugin_loads_by_its_name_in_a_process_of_its_own(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, load: list[object]
) -> None:
    # Another directory: a relative PYTHONPATH would mean nothing there.
    monkeypatch.setenv("PYTHONPATH", str(Path(tailrace.__file__).parents[1]))
    pytester.makepyfile(
        """
        import asyncio, pytest

        @pytest.mark.virtual_time
        async def test_sleeps():
            await asyncio.sleep(1e6)
        """
    )
    by_name = ["-p", "tailrace.testing.plugin"] if load else []
    result = pytester.runpytest_subprocess(
        *by_name, "-p", "no:randomly", "--strict-markers", "-W", "error"
    )
    result.assert_outcomes(passed=1)


def test_fixtures_parameters_and_methods_work_in_marked_tests(run: Run) -> None:
    result = run(
        """
        import asyncio, pytest

        @pytest.fixture
        def numbers():
            yield [1, 2]

        @pytest.mark.virtual_time
        class TestAll:
            @pytest.fixture(autouse=True)
            def prepare(self):
                self.prepared = True

            @pytest.mark.parametrize("extra", [3, 4])
            async def test_method(self, numbers, extra):
                await asyncio.sleep(extra)
                assert self.prepared and asyncio.get_running_loop().time() == extra
                assert numbers == [1, 2]

            def test_plain_method(self, numbers):
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
        """,
    )
    result.assert_outcomes(passed=3)


def test_hypothesis_tests_get_a_fresh_clock_for_each_example(run: Run) -> None:
    result = run(
        """
        import asyncio, pytest
        from hypothesis import given, settings, strategies as st

        seen = []

        @pytest.mark.virtual_time
        @settings(max_examples=20, database=None)
        @given(seconds=st.integers(0, 1000))
        async def test_sleep(seconds):
            await asyncio.sleep(seconds)
            seen.append(seconds)
            assert asyncio.get_running_loop().time() == seconds

        def test_they_ran():
            assert len(seen) >= 10
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_marker_added_after_collection_counts(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.virtual_time(seed=2))
        """
    )
    result = run(
        """
        import asyncio

        async def test_marked_late():
            assert asyncio.get_running_loop().seed == 2
        """,
    )
    result.assert_outcomes(passed=1)


def test_an_unknown_argument_of_the_marker_fails_the_test_and_is_named(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.virtual_time(sed=3)
        async def test_misspelt():
            pass
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TypeError: virtual_time()*'sed'*"])


def test_unmarked_tests_are_left_to_others(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import asyncio, inspect, pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            if inspect.iscoroutinefunction(pyfuncitem.obj):
                asyncio.run(pyfuncitem.obj())
                return True
        """
    )
    result = run(
        """
        import asyncio, pytest
        from tailrace.testing import VirtualClockLoop

        async def test_unmarked():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.virtual_time
        async def test_marked():
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        def test_plain():
            pass
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_plugin_that_claims_every_coroutine_function_does_not_get_the_marked_ones(
    pytester: pytest.Pytester, run: Run
) -> None:
    # What pytest-asyncio does in auto mode: another class for the items, chosen when collected.
    pytester.makeconftest(
        """
        import asyncio, inspect, pytest

        class Claimed(pytest.Function):
            def runtest(self):
                test = self.obj
                self.obj = lambda **kwargs: asyncio.run(test(**kwargs))
                super().runtest()

        @pytest.hookimpl(wrapper=True)
        def pytest_pycollect_makeitem(collector, name, obj):
            made = yield
            return [
                Claimed.from_parent(item.parent, name=item.name, callobj=item.obj)
                if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)
                else item
                for item in made
            ] if isinstance(made, list) else made
        """
    )
    result = run(
        """
        import asyncio, pytest
        from tailrace.testing import VirtualClockLoop

        @pytest.fixture(params=[1, 2])
        def number(request):
            return request.param

        async def test_claimed():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.virtual_time
        async def test_ours(number):
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        """,
    )
    result.assert_outcomes(passed=3)


def test_tests_of_anyio_run_beside_ours(run: Run) -> None:
    result = run(
        """
        import asyncio, pytest
        from tailrace.testing import VirtualClockLoop

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_theirs():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.virtual_time
        async def test_ours():
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_marker_is_listed(run: Run) -> None:
    result = run("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.virtual_time(seed=0): *"])


def test_an_async_fixture_of_another_loop_is_refused_with_what_to_do(run: Run) -> None:
    result = run(
        """
        import functools, pytest

        @pytest.fixture
        async def made():
            return 1

        @pytest.fixture
        async def given():
            yield 1

        async def bare():
            return 1

        @pytest.fixture
        @functools.wraps(bare)
        def wrapped():  # as pytest-asyncio makes of them
            return 1

        @pytest.fixture
        def plain():
            return 1

        @pytest.mark.virtual_time
        @pytest.mark.parametrize("name", ["a"])
        async def test_made(made, name): ...

        @pytest.mark.virtual_time
        async def test_given(given): ...

        @pytest.mark.virtual_time
        async def test_wrapped(wrapped): ...

        @pytest.mark.virtual_time
        async def test_plain(plain): ...
        """
    )
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(
        ["the fixture 'made' is async, so it runs on another event loop*make that in the test*"]
    )
