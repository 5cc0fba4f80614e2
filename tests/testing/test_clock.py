"""The virtual clock: what it promises of time, of threads and sockets, and of seeds."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tailrace import Channel, after, select, testing, ticker
from tailrace.errors import Deadlock
from tailrace.testing import VirtualClockLoop, wait_all_parked


def now() -> float:
    return asyncio.get_running_loop().time()


# Time


def test_time_starts_at_zero_and_stops_exactly_at_each_deadline() -> None:
    async def main() -> list[float]:
        seen = [now()]
        for delay in (0.1, 0.2, 0, 5, 1e-9):
            await asyncio.sleep(delay)
            seen.append(now())
        return seen

    assert testing.run(main) == [
        0.0,
        0.1,
        0.1 + 0.2,
        0.1 + 0.2,
        0.1 + 0.2 + 5,
        0.1 + 0.2 + 5 + 1e-9,
    ]


def test_ten_years_take_no_real_time() -> None:
    async def main() -> float:
        for _ in range(10):
            await asyncio.sleep(365 * 86400)
        return now()

    started = time.monotonic()
    assert testing.run(main) == 3650 * 86400
    assert time.monotonic() - started < 5


def test_time_stands_still_while_tasks_run() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return now()

    assert testing.run(main) == 0.0


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    async def main() -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        async with asyncio.TaskGroup() as tasks:
            for seconds in (5, 3, 9, 1, 7, 2):
                tasks.create_task(sleeper(seconds))
        return woken

    assert testing.run(main) == [1, 2, 3, 5, 7, 9]


def test_deadlines_at_the_same_instant_keep_the_order_in_which_they_were_set() -> None:
    async def main() -> list[int]:
        woken: list[int] = []

        async def sleeper(number: int) -> None:
            await asyncio.sleep(1)
            woken.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(sleeper(number))
        return woken

    assert testing.run(main) == list(range(200))


def test_a_cancelled_timer_is_not_jumped_to() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        handles = [loop.call_later(100 + number, pytest.fail) for number in range(300)]
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(500)
        return now()

    assert testing.run(main) == 500


def test_a_timeout_expires_at_its_instant_and_at_once() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await Channel[int]().recv()
        return now()

    assert testing.run(main) == 30


def test_select_after_and_ticker_live_on_virtual_time() -> None:
    async def main() -> list[object]:
        silent = Channel[int]()
        seen: list[object] = [await select(silent.recv(), timeout=60), now()]
        seen.append(await after(60).recv())
        ticks = ticker(3600)
        seen += [await ticks.recv() for _ in range(3)]
        return seen

    assert testing.run(main) == [(None, None), 60, 120, 3720, 7320, 10920]


def test_a_timer_far_from_zero_still_fires() -> None:
    async def main() -> float:
        await asyncio.sleep(2.0**40)
        await asyncio.sleep(0.001)
        return now()

    assert testing.run(main) == 2.0**40 + 0.001


def test_the_same_program_does_the_same_in_every_run() -> None:
    async def main() -> list[tuple[float, int]]:
        seen: list[tuple[float, int]] = []
        work = Channel[int](3)
        done = Channel[int]()

        async def produce() -> None:
            for number in range(50):
                await work.send(number)
                await asyncio.sleep(0.25 if number % 3 else 0)
            work.close()

        async def consume(pace: float) -> None:
            async for number in work:
                await asyncio.sleep(pace)
                await done.send(number)

        async def collect() -> None:
            while len(seen) < 50:
                index, value = await select(done.recv(), done.recv(), timeout=0.4)
                if index is not None:
                    assert isinstance(value, int)
                    seen.append((now(), value * 2 + index))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            for pace in (0.5, 1, 1.5):
                tasks.create_task(consume(pace))
            tasks.create_task(collect())
        return seen

    first = testing.run(main, seed=7)
    assert all(testing.run(main, seed=7) == first for _ in range(5))
    assert testing.run(main, seed=8) != first


# Seeds


def test_the_seed_decides_what_select_chooses() -> None:
    async def main() -> list[int | None]:
        left, right = Channel[int](1000), Channel[int](1000)
        for number in range(1000):
            await left.send(number)
            await right.send(number)
        return [(await select(left.recv(), right.recv()))[0] for _ in range(100)]

    runs = {seed: testing.run(main, seed=seed) for seed in range(5)}
    assert len({tuple(chosen) for chosen in runs.values()}) == 5
    assert all(testing.run(main, seed=seed) == chosen for seed, chosen in runs.items())
    assert testing.run(main) == runs[0]


def test_a_coroutine_is_closed_when_its_seed_is_refused() -> None:
    async def main() -> None: ...

    made = main()
    seed: Any = "x"
    with pytest.raises(TypeError, match="seed must be a whole number, not 'x'"):
        testing.run(made, seed=seed)
    assert inspect.getcoroutinestate(made) == inspect.CORO_CLOSED


def test_a_seed_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(TypeError, match="whole number, not '3'"):
        VirtualClockLoop(seed="3")  # pyright: ignore[reportArgumentType]  # the point


# What holds the clock


def test_a_job_in_an_executor_holds_time() -> None:
    async def main() -> tuple[float, str]:
        started = threading.Event()

        def job() -> str:
            started.set()
            time.sleep(0.05)  # real work, in a real thread
            return "done"

        async with asyncio.timeout(0.001):
            result = await asyncio.to_thread(job)
        return now(), result

    assert testing.run(main) == (0.0, "done")


def test_idle_workers_of_an_executor_do_not_hold_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(3) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, time.sleep, 0.01) for _ in range(3)))
            await asyncio.to_thread(time.sleep, 0.01)
            await asyncio.sleep(86400)
        return now()

    started = time.monotonic()
    assert testing.run(main) == 86400
    assert time.monotonic() - started < 10


def test_an_abandoned_job_does_not_hold_time() -> None:
    release = threading.Event()

    async def main() -> float:
        job = asyncio.ensure_future(asyncio.to_thread(release.wait, 30))
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.wait([job])
        await asyncio.sleep(10)
        release.set()
        return now()

    assert testing.run(main) == 10


def test_a_stranger_among_the_threads_makes_the_clock_keep_real_time() -> None:
    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def elsewhere() -> None:
            time.sleep(0.2)
            loop.call_soon_threadsafe(answer.set_result, True)

        threading.Thread(target=elsewhere).start()
        async with asyncio.timeout(20):
            return await answer, now()

    answered, when = testing.run(main)
    assert answered
    assert 0 < when < 20


def test_a_stranger_that_ended_leaves_the_clock_exact() -> None:
    async def main() -> float:
        for _ in range(20):
            threading.Thread(target=int).start()
            await asyncio.sleep(1)
        return now()

    assert testing.run(main) == 20


def test_a_clock_that_stands_still_for_long_says_for_whom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tailrace.testing.clock.SUSPICIOUS", 0.01)

    async def main() -> None:
        await asyncio.to_thread(time.sleep, 0.1)

    testing.run(main)
    assert [record.message for record in caplog.records] == [
        "the virtual clock stands still, waiting for sleep in an executor"
    ]


# The outside world


@pytest.fixture
def sockets() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    return pair


def test_an_answer_from_a_socket_comes_before_the_timeout(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            return await loop.sock_recv(ours, 100)

    def answer() -> None:
        time.sleep(0.1)
        theirs.send(b"late")

    thread = threading.Thread(target=answer)  # before the loop is made: the loop cannot know it
    thread.start()
    with ours, theirs:
        assert testing.run(main) == b"late"
        thread.join()


def test_a_socket_makes_the_clock_keep_real_time_as_long_as_it_is_waited_for(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.get_running_loop().sock_recv(ours, 100)
        assert now() == pytest.approx(0.1)
        before = now()
        await asyncio.sleep(1000)
        return now() - before

    with ours, theirs:
        started = time.monotonic()
        assert testing.run(main) == 1000
        assert 0.05 < time.monotonic() - started < 20


def test_a_server_and_its_client_can_talk_on_the_virtual_loop() -> None:
    async def main() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"hello\n")
            async with asyncio.timeout(20):
                answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    assert testing.run(main) == b"hello\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the selector loop has no subprocesses there")
def test_a_child_process_is_waited_for() -> None:
    async def main() -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", "import time; time.sleep(0.1)"
        )
        async with asyncio.timeout(60):
            return await child.wait()

    assert testing.run(main) == 0


# run


def test_run_takes_a_coroutine_or_a_function_and_gives_its_result() -> None:
    async def main() -> int:
        return 3

    assert testing.run(main()) == 3
    assert testing.run(main) == 3


def test_run_refuses_what_is_neither() -> None:
    with pytest.raises(TypeError, match="not 3"):
        testing.run(3)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the point


def test_run_raises_what_main_raises() -> None:
    async def main() -> None:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        testing.run(main)


def test_run_cancels_what_is_left_and_shuts_generators_down() -> None:
    ended: list[str] = []

    async def leftover() -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(5)
            ended.append("task")

    async def main() -> None:
        task = asyncio.create_task(leftover())
        await asyncio.sleep(0)
        assert not task.done()

    testing.run(main)
    assert ended == ["task"]


def test_run_sees_the_context_of_its_caller_and_keeps_its_own_changes_to_itself() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)

    async def main() -> int:
        found = variable.get()
        variable.set(2)
        return found

    assert testing.run(main) == 1
    assert variable.get() == 1


def test_debug_mode_changes_nothing() -> None:
    async def main() -> float:
        await asyncio.sleep(3)
        return now()

    with asyncio.Runner(debug=True, loop_factory=VirtualClockLoop) as runner:
        assert runner.run(main()) == 3


def test_the_loop_says_what_it_is() -> None:
    async def main() -> str:
        await asyncio.sleep(1.5)
        return repr(asyncio.get_running_loop())

    assert testing.run(main, seed=4) == "<VirtualClockLoop at 1.5 s, seed 4, running>"


# wait_all_parked


@pytest.mark.virtual_time
async def test_wait_all_parked_returns_when_all_others_are_blocked_and_no_time_has_passed() -> None:
    steps: list[int] = []
    channel = Channel[int]()

    async def busy() -> None:
        for step in range(100):
            steps.append(step)
            await asyncio.sleep(0)
        await channel.recv()
        steps.append(-1)

    task = asyncio.create_task(busy())
    sleeper = asyncio.create_task(asyncio.sleep(1))
    await wait_all_parked()
    assert steps == list(range(100))
    assert now() == 0
    assert not sleeper.done()
    await channel.send(1)
    await wait_all_parked()
    assert task.done()
    assert steps[-1] == -1
    sleeper.cancel()


@pytest.mark.virtual_time
async def test_wait_all_parked_waits_for_jobs_in_executors() -> None:
    job = asyncio.create_task(asyncio.to_thread(time.sleep, 0.03))
    await wait_all_parked()
    assert job.done()


@pytest.mark.virtual_time
async def test_several_that_wait_for_the_others_are_woken_one_at_a_time() -> None:
    seen: list[str] = []

    async def watcher(name: str) -> None:
        await wait_all_parked()
        seen.append(name)
        for _ in range(3):
            await asyncio.sleep(0)
        seen.append(name)

    await asyncio.gather(*map(watcher, "abc"))
    assert seen == list("aabbcc")


@pytest.mark.virtual_time
async def test_a_cancelled_wait_all_parked_is_forgotten() -> None:
    waiting = asyncio.create_task(wait_all_parked())
    await asyncio.sleep(0)
    waiting.cancel()
    await wait_all_parked()
    assert waiting.cancelled()


@pytest.mark.virtual_time
async def test_who_waits_for_a_condition_can_look_again_after_each_change() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    count, looks = 0, 0

    async def counter() -> None:
        nonlocal count
        while count < 5:
            count += 1
            await asyncio.sleep(10)

    task = asyncio.create_task(counter())
    await loop.wait_all_parked()
    while count < 5:
        looks += 1
        await loop.wait_all_parked(again=True)
    assert (looks, now()) == (4, 40)
    await task


def test_who_waits_for_a_change_that_never_comes_is_in_a_deadlock() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        await loop.wait_all_parked()
        await loop.wait_all_parked(again=True)

    with pytest.raises(Deadlock):
        testing.run(main)


async def test_wait_all_parked_on_a_real_loop_says_what_it_needs() -> None:
    with pytest.raises(RuntimeError, match="virtual_time"):
        await wait_all_parked()


# The loop belongs to nobody else


def test_two_loops_in_two_threads_keep_two_clocks() -> None:
    both_there = threading.Barrier(2)  # else the later thread is a stranger to the earlier loop

    async def main(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return now()

    def run(seconds: float) -> float:
        both_there.wait(10)
        return testing.run(main(seconds))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, (1000, 2000))) == [1000, 2000]


def test_a_loop_that_deadlocked_can_still_be_run() -> None:
    loop = VirtualClockLoop()
    try:
        with pytest.raises(Deadlock):
            loop.run_until_complete(loop.create_future())
        assert loop.run_until_complete(asyncio.sleep(1, "alive")) == "alive"
        assert loop.time() == 1
    finally:
        loop.close()


def test_the_numbers_add_up_exactly() -> None:
    async def main() -> list[float]:
        async def steps(n: int) -> float:
            for _ in range(n):
                await asyncio.sleep(1 / n)
            return now()

        return await asyncio.gather(*map(steps, (1, 2, 4, 8)))

    assert testing.run(main) == [1.0] * 4
