"""`each(processes=n)`: all cores, and a process that dies takes one message with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.actors import each, in_order
from tailrace.channel import Channel
from tailrace.errors import ProcessDied
from tailrace.group import Group
from tailrace.message import Message, Outcome, submit
from tailrace.retry import Retry
from tests.actors.work import act


async def run(actor: Any, *data: Any, at_once: bool = False) -> list[Outcome]:
    """Send all data; how each message ended, with what was stored as the result."""
    inbox, out = Channel[Message[Any]](), Channel[Message[Any]]()
    outcomes: list[Outcome] = []

    async def store() -> None:
        async for message in out:
            message.ack(message.data)
            del message

    async with Group(on_exit="cancel") as go:
        go(actor, inbox, out)
        go(store, background=True)
        if at_once:
            return list(await asyncio.gather(*(submit(inbox, value) for value in data)))
        for value in data:
            outcomes.append(await submit(inbox, value))
    return outcomes


async def test_calls_are_made_in_so_many_other_processes() -> None:
    outcomes = await run(each(act, processes=2), *[("slow pid", 0.5)] * 16, at_once=True)
    pids = {outcome.result for outcome in outcomes}
    assert len(pids) == 2
    assert os.getpid() not in pids
    for pid in pids:  # they have ended with the actor
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_in_order_keeps_the_order_over_several_processes() -> None:
    inbox, out = Channel[Message[Any]](4), Channel[Message[Any]](4)
    for data in (("sleep", 0.5), "b", "c", "d"):
        inbox.send_nowait(Message(data))
    inbox.close()
    await in_order(act, 4, processes=2)(inbox, out)
    assert [out.recv_nowait().data for _ in range(4)] == ["sleep", "b", "c", "d"]


async def test_a_message_that_kills_its_process_fails_alone() -> None:
    exited, killed, fine = await run(each(act, processes=1), ("exit", 7), "kill", "fine")
    assert (exited.status, type(exited.error)) == ("failed", ProcessDied)
    assert exited.reason.endswith(
        "act: its process ended with exit code 7 with the message in hand"
    )
    assert "was killed by SIGKILL (out of memory?)" in killed.reason
    assert fine.result == "fine"


async def test_what_happens_in_a_process_ends_its_message_and_says_what_it_was() -> None:
    outcomes = await run(
        each(act, processes=1), "abort", "reject", ("raise", "k"), "sys.exit", "lock", "unpicklable"
    )
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["aborted", "rejected", "failed", "failed", "failed", "failed"]
    raised, exited, lock, unpicklable = outcomes[2:]
    assert isinstance(raised.error, KeyError)
    assert "raise KeyError(argument)" in str(raised.error.__cause__)
    assert exited.reason == "RuntimeError: act raised SystemExit: 3"
    assert "act returned a lock, which cannot be pickled" in lock.reason
    assert unpicklable.reason == "RuntimeError: Unpicklable: 1 and 2"


async def test_data_that_cannot_be_pickled_fails_its_message_alone() -> None:
    bad, fine = await run(each(act, processes=1), threading.Lock(), "fine")
    assert "act: a lock cannot be pickled on its way into a process" in bad.reason
    assert fine.ok


async def test_an_attempt_that_takes_too_long_is_killed_and_its_process_replaced() -> None:
    began = time.monotonic()
    late, first, second = await run(
        each(act, processes=1, timeout=0.3), ("sleep", 60), "pid", "pid"
    )
    assert late.reason == "TimeoutError: took longer than 0.3 s"
    assert first.result == second.result
    assert time.monotonic() - began < 20


async def test_deaths_are_tried_again_if_the_policy_says_so() -> None:
    [dead] = await run(each(act, processes=1, retry=Retry(2, 0)), "kill")
    assert isinstance(dead.error, ProcessDied)
    actor = each(act, processes=1, retry=Retry(2, 0, also=ProcessDied))
    await run(actor, "kill")
    assert actor.statistics().retried == 1


async def test_what_came_in_is_not_changed_by_a_process() -> None:
    data: tuple[str, list[int]] = ("append", [])
    await run(each(act, processes=1, retry=Retry(3, 0, also=ValueError)), data)
    assert data == ("append", [])


async def test_a_cancelled_actor_fails_its_messages_and_kills_its_processes() -> None:
    inbox, out = Channel[Message[Any]](), Channel[Message[Any]]()
    message = Message(("sleep", 600))
    async with asyncio.timeout(30):
        async with Group() as go:
            go(each(act, processes=1), inbox, out)
            go(_drop, out)
            await inbox.send(message)
            await asyncio.sleep(0.3)
            go.cancel()
    assert message.outcome is not None
    assert message.outcome.status == "failed"


async def _drop(inbox: Channel[Message[Any]]) -> None:
    async for message in inbox:
        message.ack()


class Stateful:
    def __init__(self, part: Any) -> None:
        self.part = part

    def __call__(self, data: Any) -> Any:
        return data


def local() -> Callable[[Any], Any]:
    def inner(data: Any) -> Any:
        return data

    return inner


async def coroutine(data: Any) -> Any:
    return data


@pytest.mark.parametrize(
    ("fn", "options", "error", "text"),
    [
        (lambda data: data, {}, TypeError, "cannot import a lambda: define it with `def`"),
        (local(), {}, TypeError, "a local function: define it with `def`"),
        (Stateful(threading.Lock()), {}, TypeError, "Stateful, which cannot be pickled"),
        (coroutine, {}, ValueError, "an async function does not run in processes"),
        (act, {"threads": True}, ValueError, "exclude each other"),
        (act, {"processes": -1}, ValueError, "processes must be a whole number of at least 0"),
        (act, {"processes": True}, TypeError, "processes must be a whole number"),
    ],
)
def test_what_no_process_can_do_is_refused_where_it_is_written(
    fn: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    make: Any = each
    with pytest.raises(error, match=text):
        make(fn, **{"processes": 1, **options})


async def test_more_actors_than_one_are_refused() -> None:
    async with Group() as go:
        with pytest.raises(ValueError, match="keeps all of its processes busy"):
            go(each(act, processes=2), Channel[Any](), Channel[Any](), actors=2)


PROGRAM = """
import os, sys, time
from tailrace import Channel, Group, Message, Receiver, each, emit, run

def work(data: int) -> int:
    print("pid", os.getpid(), flush=True)
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
    return data

async def sink(inbox: Receiver[Message[int]]) -> None:
    async for message in inbox:
        print("stored", message.data, flush=True)
        message.ack()

def main(go: Group) -> None:
    a, b = Channel[Message[int]](name="a"), Channel[Message[int]](name="b")
    go(emit(Message(n) for n in range(1 if len(sys.argv) > 1 else 3)), a)
    go(each(work, processes=1), a, b)
    go(sink, b)

"""
GUARDED = PROGRAM + 'if __name__ == "__main__":\n    run(main)\n'


def test_a_program_without_a_guard_says_so_and_does_not_start_itself(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + "run(main)\n")
    done = subprocess.run(
        [sys.executable, file], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert 'write `if __name__ == "__main__":` before run(...)' in done.stderr
    assert "its process ended with exit code 1 before it was ready" in done.stderr
    assert "stored" not in done.stdout


def test_a_program_with_a_guard_runs(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(GUARDED)
    done = subprocess.run(
        [sys.executable, file], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count("stored") == 3, done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def started(tmp_path: Path, seconds: str) -> tuple[subprocess.Popen[str], int]:
    """The program, in a process group of its own, and the process that works for it."""
    file = tmp_path / "program.py"
    file.write_text(GUARDED)
    program = subprocess.Popen(
        [sys.executable, file, seconds],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    return program, int(program.stdout.readline().split()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_drains(number: signal.Signals, tmp_path: Path) -> None:
    program, _ = started(tmp_path, "1.5")
    os.killpg(program.pid, number)
    printed, said = program.communicate(timeout=60)
    assert "stored 0" in printed, said
    assert program.returncode == 0, said


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program, child = started(tmp_path, "600")
    program.kill()
    program.communicate(timeout=60)
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the process outlives its parent")
