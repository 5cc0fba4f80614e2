"""The watchdog of `run`: it names what blocks the loop, and nothing that does not."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from tailrace.group.watchdog import LIMIT, Watchdog

TICK = 0.25


def here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def watching() -> Watchdog:
    """A watchdog without a thread: the test is its clock."""
    dog = Watchdog()
    dog.watch()
    dog._look(TICK)  # asks the loop to answer
    return dog


async def test_run_names_the_task_and_the_line_that_keep_the_loop_from_turning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = watching()
    task = asyncio.current_task()
    assert task is not None
    for _ in range(int(LIMIT / TICK)):
        assert caplog.messages == []
        line = here() + 1
        dog._look(TICK)
    (message,) = caplog.messages
    assert message.startswith(
        f"the event loop has not turned for 1.0 s: `{task.get_name()}` is at {__file__}:{line}, in "
    )
    assert message.endswith(": dog._look(TICK); blocking calls belong in a thread")


async def test_run_names_a_line_once_however_often_it_blocks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = watching()
    for _ in range(3):
        for _ in range(10):
            dog._look(TICK)
        await asyncio.sleep(0)  # the loop answers
    assert len(caplog.messages) == 1


async def test_run_names_nothing_while_the_loop_turns(caplog: pytest.LogCaptureFixture) -> None:
    dog = watching()
    for _ in range(20):
        dog._look(TICK)
        await asyncio.sleep(0)
        dog._look(TICK)
        dog._look(TICK)
    assert caplog.messages == []


async def test_run_names_nothing_after_the_process_or_the_machine_has_slept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = watching()
    for seconds in (5.0, 3600.0, TICK, 60.0):
        dog._look(seconds)  # the watchdog itself did not run for so long
    assert caplog.messages == []


async def test_run_names_what_keeps_the_watchdog_itself_from_running(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As C code does that does not let go of the GIL: but then the loop's thread is busy."""
    monkeypatch.setattr(Watchdog, "_worked", lambda _: 2.9)
    dog = watching()
    await asyncio.sleep(0)  # it has answered in time
    dog._look(3.0)
    (message,) = caplog.messages
    assert message.startswith("the event loop has not turned for 2.9 s: ")


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="there is no such clock")
async def test_the_watchdog_knows_how_long_the_thread_of_the_loop_was_busy() -> None:
    dog = watching()
    dog._worked()
    start = time.thread_time()
    while time.thread_time() - start < 0.02:
        pass
    busy, after = dog._worked(), dog._worked()
    assert busy >= 0.02
    assert after < busy


@pytest.mark.parametrize("module", ["pdb", "bdb", "_pydevd_bundle.pydevd_frame", "debugpy.x"])
async def test_run_names_nothing_while_a_person_debugs(
    module: str, caplog: pytest.LogCaptureFixture
) -> None:
    dog = watching()
    debugger: dict[str, Any] = {"__name__": module, "look": dog._look}
    exec("def interaction():\n    for _ in range(20):\n        look(0.25)\n", debugger)
    debugger["interaction"]()
    assert caplog.messages == []


@pytest.mark.virtual_time
async def test_run_names_nothing_on_virtual_time(caplog: pytest.LogCaptureFixture) -> None:
    dog = watching()
    for _ in range(20):
        dog._look(TICK)
    assert caplog.messages == []


def test_run_names_a_blocking_call_in_an_actor_and_in_a_callback_but_not_in_a_slow_start() -> None:
    program = textwrap.dedent("""
        import asyncio, time
        import tailrace.group.watchdog as watchdog
        from tailrace import Group, run

        watchdog.LIMIT, watchdog._TICK = 0.2, 0.05

        async def sleeps() -> None:
            await asyncio.sleep(0.3)
            time.sleep(1.0)  # in the actor

        def callback() -> None:
            time.sleep(1.0)  # in the callback

        def main(go: Group) -> None:
            time.sleep(1.0)  # nothing waits yet
            go(sleeps)
            go.loop.call_later(0.1, callback)

        run(main)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")
    named = [line.split(" s: ")[1].split(", in ")[0] for line in ended.stderr.splitlines()]
    lines = program.splitlines()
    assert named == [
        f"a callback is at <string>:{1 + lines.index('    time.sleep(1.0)  # in the callback')}",
        f"`sleeps` is at <string>:{1 + lines.index('    time.sleep(1.0)  # in the actor')}",
    ]
