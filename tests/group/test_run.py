"""`run`: signals, grace and exit codes, in processes of their own; and its arguments, here."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tailrace import Channel, Group, Receiver, Sender, collect, emit, run

PROGRAM = """
import asyncio, logging, os, signal, sys, threading, time
import tailrace.group.signals as signals
from tailrace import Channel, Group, Receiver, Sender, SyncSender, run

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)

def say(text: str) -> None:
    # One write, where `print` makes two: the watchdog prints beside it, from its own thread.
    sys.stdout.write(f"{text}\\n")
    sys.stdout.flush()

async def count(out: Sender[int]) -> None:
    n = 0
    while True:
        await out.send(n)
        n += 1
        await asyncio.sleep(0.001)

async def show(inbox: Receiver[int]) -> None:
    async for n in inbox:
        if n == 5:
            print("ready", flush=True)
    print("drained", flush=True)

async def stubborn(inbox: Receiver[int]) -> None:
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        say("cancelled")

def deaf(out: SyncSender[int]) -> None:
    print("ready", flush=True)
    threading.Event().wait()

"""


@contextmanager
def program(main: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs PROGRAM with this end, once it has printed "ready"."""
    source = PROGRAM + textwrap.dedent(main)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def rest(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Its exit code and what it still printed."""
    out, _ = process.communicate(timeout=20)
    return process.returncode, out.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_the_first_signal_drains_and_exits_0(number: signal.Signals) -> None:
    main = """
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(show, a)
        run(main)
        print("returned")
    """
    with program(main) as process:
        process.send_signal(number)
        code, printed = rest(process)
    assert code == 0
    assert printed == ["drained", "returned"]


def test_run_the_second_signal_cancels_and_the_exit_code_names_it() -> None:
    main = """
        sys.stderr = sys.stdout
        signals.APART = 0
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(stubborn, a)
        run(main)
    """
    with program(main) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM: draining" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code, printed = rest(process)
    assert code == 128 + signal.SIGINT
    assert "cancelled" in printed
    assert any(line.startswith("WARNING cancelled: stubborn: waiting") for line in printed)


def test_run_the_end_of_the_grace_cancels_with_exit_code_124() -> None:
    main = """
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(stubborn, a)
        run(main, grace=0.1)
    """
    with program(main) as process:
        process.send_signal(signal.SIGTERM)
        code, printed = rest(process)
    assert code == 124
    assert printed[-1] == "cancelled"


def test_run_leaves_a_thread_that_cannot_be_cancelled_behind_and_says_so() -> None:
    main = """
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(deaf, a.sync)
            go(show, a)
        run(main, grace=0.1)
    """
    with program(main) as process:
        process.send_signal(signal.SIGTERM)
        code, printed = rest(process)
    assert code == 124
    assert (
        "WARNING deaf is still running in its thread, which cannot be cancelled; not waiting "
        "for it any longer"
    ) in printed


def test_run_a_failure_ends_with_a_traceback_and_exit_code_1() -> None:
    main = """
        async def fails() -> None:
            print("ready", flush=True)
            raise ValueError("boom")
        def main(go: Group) -> None:
            go(fails)
        run(main)
    """
    with program(main) as process:
        code, printed = rest(process)
    assert code == 1
    assert printed == []


def test_run_takes_plain_and_async_mains_with_arguments() -> None:
    got: list[list[int]] = []

    async def sums(go: Group, n: int) -> None:
        a = Channel[int]()
        go(emit(range(n)), a)
        got.append(await collect(a))

    def starts(go: Group, n: int) -> None:
        go(sums, go, n)

    run(sums, 3)
    run(starts, 4)
    assert got == [[0, 1, 2], [0, 1, 2, 3]]


def test_run_refuses_a_bad_grace() -> None:
    with pytest.raises(ValueError, match="grace must be seconds"):
        run(lambda go: None, grace=-1)


async def test_run_inside_a_running_loop_is_an_error_that_says_what_to_use() -> None:
    with pytest.raises(RuntimeError, match="async with Group"):
        run(lambda go: None)


# Signals further on, and other ways for a program to end.


def outcome_of(source: str) -> tuple[int, list[str], list[str]]:
    """Run a whole program: its exit code, and the lines of its output and of its errors."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return ended.returncode, ended.stdout.splitlines(), ended.stderr.splitlines()


def test_run_the_third_signal_ends_a_process_whose_clean_up_hangs() -> None:
    main = """
        sys.stderr = sys.stdout
        signals.APART = 0
        async def hangs(out: Sender[int]) -> None:
            print("ready", flush=True)
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    say("no")
        def main(go: Group) -> None:
            go(hangs, Channel[int]())
        run(main)
    """
    with program(main) as process:
        assert process.stdout is not None
        for expected in (
            ("SIGTERM: draining", "no"),
            ("SIGTERM: stopping", "WARNING cancelled: hangs", "no"),
        ):
            process.send_signal(signal.SIGTERM)
            lines = [process.stdout.readline() for _ in expected]  # of two threads
            assert all(any(line.startswith(e) for line in lines) for e in expected), lines
        process.send_signal(signal.SIGTERM)
        code, printed = rest(process)
    assert code == -signal.SIGTERM
    assert printed == []


def test_run_a_signal_while_main_still_starts_stages_stops_the_sources_to_come() -> None:
    main = """
        async def main(go: Group) -> None:
            print("ready", flush=True)
            try:
                await asyncio.Event().wait()
            finally:
                a = Channel[int](name="a")
                go(count, a)
                go(show, a)
        run(main)
    """
    with program(main) as process:
        process.send_signal(signal.SIGTERM)
        code, printed = rest(process)
    assert code == 0
    assert printed == ["drained"]


@pytest.mark.parametrize("who", ["an actor", "a thread", "main"])
def test_run_sys_exit_anywhere_ends_the_program_with_that_code_and_nothing_else(who: str) -> None:
    start = {"an actor": "go(leaves)", "a thread": "go(sys.exit, 3)", "main": "sys.exit(3)"}[who]
    code, printed, errors = outcome_of(f"""
        async def leaves() -> None:
            sys.exit(3)
        async def cleans_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                print("cleaned up")
        async def main(go: Group) -> None:
            go(cleans_up)
            await asyncio.sleep(0)
            {start}
        run(main)
    """)
    assert (code, printed, errors) == (3, ["cleaned up"], [])


def test_run_sys_exit_in_nested_groups_still_awaits_the_clean_up_of_every_actor() -> None:
    code, printed, errors = outcome_of("""
        async def leaves() -> None:
            sys.exit(3)
        async def nested(depth: int) -> None:
            async with Group() as go:
                go(nested, depth - 1) if depth else go(leaves)
        async def cleans_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)
                print("cleaned up")
        def main(go: Group) -> None:
            go(cleans_up)
            go(nested, 3)
        run(main)
    """)
    assert (code, printed, errors) == (3, ["cleaned up"], [])


def test_run_names_what_fails_in_the_clean_up_after_sys_exit() -> None:
    code, printed, _ = outcome_of("""
        async def leaves() -> None:
            sys.exit(3)
        async def breaks() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("broken clean-up")
        async def main(go: Group) -> None:
            go(breaks)
            await asyncio.sleep(0)
            go(leaves)
        run(main)
    """)
    assert code == 3
    assert "ERROR 1 failed in the group while the program ended" in printed
    assert any("ValueError: broken clean-up" in line for line in printed)


def test_run_works_on_loops_without_signal_handlers_and_puts_the_old_ones_back() -> None:
    code, printed, errors = outcome_of("""
        import tailrace.group.runner as runner
        class Loop(asyncio.SelectorEventLoop):  # as on Windows
            def add_signal_handler(self, *args: object) -> None:
                raise NotImplementedError
            def remove_signal_handler(self, sig: int) -> bool:
                raise NotImplementedError
        runner._loop_factory = lambda: Loop
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(show, a)
            go.loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        run(main)
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """)
    assert (code, printed[-2:]) == (0, ["drained", "True"])
    assert [line for line in errors if "SIGINT: draining" not in line] == []


def test_run_works_in_a_thread_that_is_not_the_main_one() -> None:
    code, printed, errors = outcome_of("""
        def main(go: Group) -> None:
            go(asyncio.sleep, 0)
        thread = threading.Thread(target=run, args=(main,))
        thread.start()
        thread.join()
        print("done")
    """)
    assert (code, printed, errors) == (0, ["done"], [])


def test_run_a_thread_that_wakes_after_the_loop_has_gone_says_nothing() -> None:
    code, printed, errors = outcome_of("""
        go_on = threading.Event()
        def late(out: SyncSender[int]) -> None:
            go_on.wait()
            try:
                out.send(1)
            except BaseException as error:
                print(type(error).__name__)
                raise
        def main(go: Group) -> None:
            go(late, Channel[int](name="a").sync)
            go.loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        try:
            run(main, grace=0.05)
        finally:
            thread = next(t for t in threading.enumerate() if t.name == "late")
            go_on.set()
            thread.join()
    """)
    assert code == 124
    assert len(errors) == 1  # that it drains
    assert printed[-1] == "CancelledError"


def test_run_leaves_no_loop_to_the_collector() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def produce(out: Sender[int]) -> None:
        await out.send(1)

    async def consume(inbox: Receiver[int]) -> None:
        async for _ in inbox:
            loops.append(weakref.ref(asyncio.get_running_loop()))

    def main(go: Group) -> None:
        channel = Channel[int](1)
        go(produce, channel)
        go(consume, channel)

    gc.collect()
    gc.disable()
    try:
        run(main)
        (loop,) = loops
        assert loop() is None
    finally:
        gc.enable()


# What a person hears, and when.


def test_run_says_on_stderr_that_it_drains_and_how_to_stop_at_once_even_while_blocked() -> None:
    code, printed, _ = outcome_of("""
        async def blocks() -> None:
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + 10
            while not said and time.monotonic() < deadline:
                time.sleep(0.01)
            print("heard while blocked" if said else "heard nothing")
        said = []
        class Stderr:
            def write(self, text: str) -> None:
                said.append(text)
            def flush(self) -> None:
                pass
        sys.stderr = Stderr()
        def main(go: Group) -> None:
            go(blocks)
        run(main)
        print(*said)
    """)
    assert code == 0
    assert "heard while blocked" in printed
    (line,) = (line for line in printed if line.startswith("SIGINT"))
    assert line == "SIGINT: draining, for at most 30 s; press Ctrl-C again to stop at once"


@pytest.mark.parametrize("numbers", ["INT, INT", "INT, TERM", "TERM, INT"])
def test_run_two_signals_within_half_a_second_are_one(numbers: str) -> None:
    first, second = numbers.split(", ")
    code, printed, _ = outcome_of(f"""
        async def waits() -> None:
            await asyncio.Event().wait()
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(show, a)
            def twice() -> None:
                os.kill(os.getpid(), signal.SIG{first})
                time.sleep(0.02)
                os.kill(os.getpid(), signal.SIG{second})
            go.loop.call_later(0.05, twice)
        run(main)
    """)
    assert (code, printed[-1]) == (0, "drained")


def test_run_a_signal_half_a_second_after_the_first_is_a_second_one() -> None:
    code, _, errors = outcome_of("""
        async def stuck(inbox: Receiver[int]) -> None:
            await asyncio.Event().wait()
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(stuck, a)
            go.loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            go.loop.call_later(0.7, os.kill, os.getpid(), signal.SIGINT)
        run(main)
    """)
    assert code == 128 + signal.SIGINT
    assert errors[0] == "SIGTERM: draining, for at most 30 s; send it again to stop at once"
    assert errors[1].startswith("SIGINT: stopping at once; a third signal ends the process")


def test_run_says_at_the_second_signal_which_threads_it_waits_for() -> None:
    code, _, errors = outcome_of("""
        signals.APART = 0
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(deaf, a.sync)
            go(show, a)
            go.loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            go.loop.call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        run(main, grace=0.3)
    """)
    assert code == 128 + signal.SIGTERM
    assert errors[-1].endswith("for actors in threads, which cannot be cancelled: deaf")


def test_run_stops_waiting_for_threads_at_the_end_of_the_grace_not_after_another_one() -> None:
    code, printed, _ = outcome_of("""
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(deaf, a.sync)
            go(show, a)
            go.loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        try:
            run(main, grace=1.5)
        finally:
            print(time.monotonic() - began)
    """)
    assert code == 124
    assert 1.5 <= float(printed[-1]) < 3


def test_run_leaves_a_thread_behind_at_the_end_of_the_grace_after_a_failure() -> None:
    code, printed, _ = outcome_of("""
        async def fails(inbox: Receiver[int]) -> None:
            raise ValueError
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(deaf, a.sync)
            go(fails, a)
        try:
            run(main, grace=0.5)
        except* ValueError:
            say("failed")
    """)
    assert code == 0
    assert printed[-1] == "failed"
    assert any("deaf is still running in its thread" in line for line in printed)


def test_run_the_exit_code_says_that_it_was_cut_short_even_if_something_fails_then() -> None:
    code, printed, _ = outcome_of("""
        async def fails(inbox: Receiver[int]) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in the clean-up")
        def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(fails, a)
            go.loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        run(main, grace=0.05)
    """)
    assert code == 124
    assert "ERROR failed while the program was cancelled" in printed
    assert "ValueError: in the clean-up" in "\n".join(printed)


# The handlers of before.


@pytest.mark.parametrize(
    "leaves", ["sys.exit(3)", "raise KeyboardInterrupt", "raise ValueError", "pass"]
)
@pytest.mark.parametrize("before", ["signal.SIG_IGN", "signal.default_int_handler", "print"])
def test_run_puts_the_handlers_of_before_back_however_it_ends(leaves: str, before: str) -> None:
    _, printed, _ = outcome_of(f"""
        async def leaves() -> None:
            await asyncio.sleep(0)
            {leaves}
        signal.signal(signal.SIGINT, {before})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        def main(go: Group) -> None:
            go(leaves)
        try:
            run(main)
        except BaseException:
            pass
        print(signal.getsignal(signal.SIGINT) == {before})
        print(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)
    """)
    assert printed == ["True", "True"]


def test_run_an_executor_that_hangs_after_the_end_can_be_interrupted() -> None:
    code, printed, _ = outcome_of("""
        def hang() -> None:
            time.sleep(5)
            os._exit(9)
        async def main(go: Group) -> None:
            go.loop.run_in_executor(None, hang)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(main)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(4)
    """)
    assert (code, printed) == (4, ["interrupted"])


# An async main is a source.


MAINS = {
    "waits for ever": "await asyncio.Event().wait()",
    "waits for its actors": "await go.wait(); print('main goes on')",
    "waits for its actors in tasks": """
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.wait_for(go.wait(), 100))
            print('main goes on')""",
    "waits for idleness": "await go.idle(); print('main goes on')",
    "sends": "await out(); print('never')",
    "has a group of its own": """
            async with Group() as inner:
                b = Channel[int]()
                inner(count, b)
                inner(show, b)
            print('main goes on')""",
    "has a group of its own and goes on for ever": """
            async with Group() as inner:
                b = Channel[int]()
                inner(count, b)
                inner(show, b)
            await asyncio.Event().wait()""",
    "has a group of its own and waits in its block": """
            async with Group() as inner:
                b = Channel[int]()
                inner(count, b)
                inner(show, b)
                await asyncio.Event().wait()""",
    "has a group of its own and waits for that": """
            async with Group() as inner:
                b = Channel[int]()
                inner(count, b)
                inner(show, b)
                await inner.wait()
                print('main goes on')""",
}


@pytest.mark.parametrize("body", MAINS)
def test_run_an_async_main_counts_as_a_source(body: str) -> None:
    code, printed, errors = outcome_of(f"""
        async def out() -> None:
            c = Channel[int]()
            await c.send(1)
        class Client:
            async def __aenter__(self) -> None:
                pass
            async def __aexit__(self, *_: object) -> None:
                await asyncio.sleep(0.01)
                print("closed", flush=True)
        async def main(go: Group) -> None:
            a = Channel[int](name="a")
            go(count, a)
            go(show, a)
            go.loop.call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
            async with Client():
{textwrap.indent(textwrap.dedent(MAINS[body]).strip(), " " * 16)}
        run(main, grace=8)
    """)
    expected = ["closed", "drained"]
    if "own" in body:
        expected.append("drained")
    if "goes on" in MAINS[body]:
        expected.append("main goes on")
    if body == "sends":
        assert code == 124  # nobody receives what it sends
        return
    assert code == 0, (printed, errors)
    (told,) = [line for line in printed if "the drain cancels" in line] or [""]
    if body == "waits for ever":
        assert told.startswith("INFO the drain cancels main, at <string>:")
    elif "waits for its" in body or "waits for idle" in body:
        assert not told
    assert sorted(line for line in printed if line not in ("ready", told)) == (sorted(expected))


def test_a_main_that_is_cancelled_by_what_it_awaits_has_not_ended_well() -> None:
    async def main(go: Group) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(asyncio.CancelledError):
        run(main)


MESSAGES = """
    from tailrace import Message
    sys.stderr = sys.stdout

    async def make(out: Sender[Message[int]]) -> None:
        for n in range(4):
            await out.send(Message(n))
        if "fail" in sys.argv:
            raise ValueError("the source failed")
        print("ready", flush=True)
        if "stay" in sys.argv:
            await asyncio.Event().wait()

    async def settle(inbox: Receiver[Message[int]]) -> None:
        async for msg in inbox:
            msg.ack() if msg.data else msg.abort("zero")

    def main(go: Group) -> None:
        a = Channel[Message[int]](name="a")
        go(make, a)
        go(settle, a)
"""


@pytest.mark.parametrize("how", ["ends", "stay", "stay and cancel"])
def test_run_says_at_the_end_what_became_of_the_messages(how: str) -> None:
    with program(f"{MESSAGES}\n    sys.argv += {how.split()}\n    run(main)") as process:
        if how != "ends":
            process.send_signal(signal.SIGTERM)
        if "cancel" in how:
            process.send_signal(signal.SIGINT)
        _, printed = rest(process)
    assert printed[-1] == "4 in: 3 stored, 1 aborted"


def test_run_says_it_after_a_failure_too_and_nothing_if_no_message_came_in() -> None:
    fails = f"""{MESSAGES}
    sys.argv.append("fail")
    print("ready", flush=True)
    try:
        run(main)
    except ExceptionGroup as failure:
        print(failure.exceptions[0])
    run(lambda go: None)
    """
    with program(fails) as process:
        _, printed = rest(process)
    assert printed == ["4 in: 3 stored, 1 aborted", "the source failed"]
