"""What once went wrong in a core: at the edges of memory, of loops and of cancellation."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from tailrace.errors import WouldBlock

from .actors import spawn

unused_is_fine = pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning")


def begun(operation: Any) -> Any:
    """Await an operation by hand, up to where it parks; what to resume, and to keep until then."""
    steps = operation.__await__()
    parked = next(steps)
    while parked is None:  # it yielded to the loop
        parked = next(steps)
    parked.add_done_callback(lambda _: None)
    return steps


def ended(steps: Any) -> Any:
    """Resume what was awaited by hand; its value."""
    with pytest.raises(StopIteration) as stop:
        while True:  # it may yield, for the budget
            next(steps)
    return stop.value.value


# What an operation promises.


async def test_recv_many_that_takes_returned_values_moves_a_parked_sender_up(
    core: Any, any_loop: Any, start: Any, settle: Any, outcome: Any
) -> None:
    channel = core.Channel(1)
    ends: list[Any] = []
    cancelled = start(outcome(channel.recv(), []))
    await settle()
    receiving = begun(channel.recv_many(2))
    channel.send_nowait("first")
    channel.send_nowait("second")
    cancelled.cancel()
    await settle()
    assert len(channel) == 1  # given back, and in the way of the sender
    start(outcome(channel.send("third"), ends))
    await settle()
    assert ends == []
    assert ended(receiving) == ["first", "second"]
    assert len(channel) == 1
    assert channel.statistics().waiting_senders == 0
    await settle()
    assert ends == [None]
    assert channel.recv_nowait() == "third"


async def test_send_many_that_is_closed_twice_counts_each_value_once(core: Any) -> None:
    channel = core.Channel()
    operation = channel.send_many([1, 2, 3])
    steps = begun(operation)
    assert channel.recv_nowait() == 1
    for _ in range(2):
        steps.close()
        assert operation.sent == 1


@unused_is_fine
def test_an_operation_that_is_unpacked_instead_of_awaited_is_a_type_error_and_takes_nothing(
    core: Any,
) -> None:
    channel = core.Channel(1)
    channel.send_nowait((1, 2))
    with pytest.raises(TypeError, match="itera"):
        _a, _b = channel.recv()
    assert channel.recv_nowait() == (1, 2)


def test_close_with_a_class_for_a_cause_is_a_type_error_and_closes_nothing(core: Any) -> None:
    channel = core.Channel(1)
    with pytest.raises(TypeError, match="exception"):
        channel.close(ValueError)
    channel.send_nowait(1)
    assert channel.recv_nowait() == 1


@pytest.mark.parametrize("selecting", [False, True])
async def test_when_sent_is_false_for_a_task_that_is_parked_in_done(
    core: Any, any_loop: Any, start: Any, settle: Any, outcome: Any, selecting: bool
) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ends: list[Any] = []
    told: list[str] = []
    waiting = core.done(future)
    task = start(outcome(core.select(waiting) if selecting else waiting, ends))
    await settle()
    assert core.when_sent(task, lambda: told.append("sent")) is False
    future.set_result(1)
    await settle()
    assert ends == [(0, 1) if selecting else 1]
    assert told == []


def test_a_policy_that_is_no_str_but_equal_to_one_does_no_harm(core: Any) -> None:
    with contextlib.suppress(TypeError):
        channel = core.Channel(1, overflow=mock.ANY)
        channel.send_nowait(1)
        assert channel.recv_nowait() == 1


# Loops: none, other ones, and those that fail.


def test_a_select_whose_done_cannot_be_watched_leaves_its_lines(core: Any, any_loop: Any) -> None:
    loop = any_loop()
    channel = core.Channel()
    with pytest.raises(RuntimeError, match="no running event loop"):
        begun(core.select(channel.recv(), core.done(loop.create_future())))
    assert channel.statistics().waiting_receivers == 0
    with pytest.raises(WouldBlock):
        channel.send_nowait("nobody is there")
    loop.close()


def test_a_select_with_a_timeout_that_is_resumed_without_a_loop_ends_in_no_other_error(
    core: Any, any_loop: Any
) -> None:
    quiet, busy = core.Channel(), core.Channel(1000)
    loop = any_loop()

    async def yielding() -> Any:
        for n in range(core.BUDGET):
            await busy.send(n)
        steps = core.select(quiet.recv(), timeout=1).__await__()
        next(steps)  # it yields before it parks
        return steps

    steps = loop.run_until_complete(yielding())
    try:
        next(steps)
    except RuntimeError as error:
        assert "no running event loop" in str(error)  # noqa: PT017  # or it parks
    steps.close()
    assert quiet.statistics().waiting_receivers == 0
    loop.close()


class Unwell(asyncio.SelectorEventLoop):
    """A loop whose `is_closed()` may be told to do something else, once."""

    instead: Any = None

    def is_closed(self) -> bool:
        if self.instead is None:
            return super().is_closed()
        instead, self.instead = self.instead, None
        closed: bool = instead()
        return closed


@pytest.fixture
def unwell() -> Iterator[Unwell]:
    loop = Unwell()
    yield loop
    loop.close()


def test_a_loop_that_fails_to_say_whether_it_is_closed_keeps_its_waiter(
    core: Any,
    settle: Any,
    unwell: Unwell,
    unraisable: list[BaseException],
) -> None:
    def fail() -> bool:
        raise Interrupted

    class Interrupted(Exception):
        pass

    async def receive() -> Any:
        return await channel.recv()

    channel = core.Channel()
    task = unwell.create_task(receive())
    unwell.run_until_complete(settle())
    assert channel.statistics().waiting_receivers == 1
    unwell.instead = fail
    try:
        channel.send_nowait("value")
    except Interrupted:  # then nothing was sent
        channel.send_nowait("value")
    else:
        assert [type(error) for error in unraisable] == [Interrupted]
    assert unwell.run_until_complete(task) == "value"


async def test_values_given_back_while_another_is_being_given_back_are_all_received(
    core: Any, settle: Any, unwell: Unwell
) -> None:
    """By the code of a foreign loop, which is asked whether its waiter is still there."""
    channel = core.Channel()
    receiving = [begun(channel.recv()) for _ in range(6)]
    for n in range(6):
        channel.send_nowait(n)
    here = asyncio.get_running_loop()
    asyncio._set_running_loop(unwell)
    try:
        elsewhere = begun(channel.recv())
    finally:
        asyncio._set_running_loop(here)

    def give_back() -> bool:
        for each in receiving[1:]:
            each.close()
        return True

    unwell.instead = give_back
    receiving[0].close()
    await settle()
    elsewhere.close()  # it may have been handed one of them
    assert [channel.recv_nowait() for _ in range(len(channel))] == list(range(6))


# Memory.


def test_channels_within_each_other_however_deep_can_be_let_go(core: Any) -> None:
    channel = core.Channel(1)
    gc.disable()  # it would look at all of them again and again
    for _ in range(30_000 if core.__name__.endswith("python") else 300_000):
        outer = core.Channel(1)
        outer.send_nowait(channel)
        channel = outer
    gc.enable()
    gone = weakref.ref(channel)
    del channel, outer
    assert gone() is None


@unused_is_fine
def test_a_channel_that_holds_an_operation_on_itself_is_collected(core: Any) -> None:
    channel = core.Channel(1)
    channel.send_nowait([channel.recv()])
    gone = weakref.ref(channel)
    del channel
    gc.collect()
    assert gone() is None


async def test_selects_that_hold_each_other_can_all_be_let_go(core: Any) -> None:
    """However many there are: each is let go in the middle of letting go the one before."""
    channel = core.Channel(1000)

    def used(value: Any) -> Any:
        select = core.select(channel.recv(), core.Channel().send(value))
        channel.send_nowait(0)
        ended(select.__await__())
        return select

    for _ in range(3):
        select = None
        for _ in range(100):
            select = used([select])
        del select
        again = [core.select(channel.recv(), timeout=1) for _ in range(150)]
        assert len(set(map(id, again))) == 150
        for each in again:
            each.close() if hasattr(each, "close") else each.__await__().close()


def test_every_operation_that_is_not_awaited_warns_whatever_was_collected_before(
    core: Any,
) -> None:
    def litter() -> None:
        channel = core.Channel(2)
        operation = channel.recv()
        channel.send_nowait(1)
        ended(operation.__await__())
        channel.send_nowait([operation])  # a cycle: the collector finalises it

    gc.disable()
    try:
        for _ in range(300):
            litter()
        gc.collect()
    finally:
        gc.enable()
    channel = core.Channel()
    with pytest.warns(RuntimeWarning, match="never awaited") as warned:
        hold = [channel.recv() for _ in range(300)]
        del hold
    assert len(warned) == 300


@unused_is_fine
@pytest.mark.parametrize("how", ["destructor", "weakref"])
async def test_operations_made_while_others_are_collected_are_new_ones(core: Any, how: str) -> None:
    channel = core.Channel(1)
    made: list[Any] = []
    hold = [channel.recv() for _ in range(300)]  # so that none is kept for the next use

    def make(_: object = None) -> None:
        made.extend(channel.recv() for _ in range(8))

    class Last:
        def __del__(self) -> None:
            make()

    def litter() -> Any:
        cycle: list[Any] = []
        # The collector knows no array, so that it goes while the garbage is being cleared.
        last = Last() if how == "destructor" else array.array("b", [1])
        watch = weakref.ref(last, make) if how == "weakref" else None
        cycle += [cycle, last]
        for _ in range(8):
            operation = channel.recv()
            operation.__await__()
            cycle.append(operation)
        return watch

    gc.disable()
    try:
        watch = litter()
        gc.collect()
    finally:
        gc.enable()
    assert len(made) == 8
    for operation in made:
        assert operation.channel is channel
        channel.send_nowait("value")
        assert await operation == "value"
    del hold, watch


async def test_an_operation_left_behind_by_whoever_awaited_it_is_not_used_again(
    core: Any, any_loop: Any, settle: Any
) -> None:
    @types.coroutine
    def by_hand(operation: Any) -> Any:
        yield next(operation.__await__())  # never resumed, never closed

    async def forget() -> None:
        await by_hand(core.Channel().recv())

    def litter() -> None:
        loop = asyncio.new_event_loop()

        async def main() -> None:
            for _ in range(50):
                spawn(core, forget(), "forgotten")._log_destroy_pending = False
            await settle()

        loop.run_until_complete(main())
        loop.close()

    async def receive(channel: Any) -> None:
        while True:
            await channel.recv()

    elsewhere = threading.Thread(target=litter)
    elsewhere.start()
    elsewhere.join()
    gc.collect()
    tasks = [spawn(core, receive(core.Channel()), "an actor") for _ in range(60)]
    await settle()
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_stop_that_was_caught_keeps_its_value_and_gathers_no_traceback(
    core: Any, start: Any
) -> None:
    channel = core.Channel(10)
    lengths: list[int] = []
    stops: list[StopIteration] = []

    class Wrapped:
        def __init__(self, operation: Any) -> None:
            self.steps = operation.__await__()

        def __await__(self) -> Any:
            while True:
                try:
                    step = next(self.steps)
                except StopIteration as stop:
                    at, n = stop.__traceback__, 0
                    stops.append(stop)
                    while at is not None:
                        at, n = at.tb_next, n + 1
                    lengths.append(n)
                    return stop.value
                yield step

    async def main() -> None:
        for n in range(50):
            await channel.send([n])
            assert await Wrapped(channel.recv()) == [n]
            stops.clear()
        await channel.send("kept")
        await Wrapped(channel.recv())
        await asyncio.sleep(0)
        await channel.send("other")
        assert await channel.recv() == "other"
        assert stops.pop().value == "kept"

    await start(main())
    assert set(lengths) == {1}


# The end of the interpreter.

KEPT = """
import sys
import tailrace._core.{core} as core
channel = core.Channel()
class Kept:
    def __init__(self):
        self.me = self
        self.operations = [channel.recv() for _ in range({n})]
    def __del__(self):
        pass
sys.kept = Kept()
"""

CLEARED = """
import gc, sys
import tailrace._core.{core} as core
class Kept: pass
def make():
    channel = core.Channel()
    kept = Kept()
    kept.me = kept
    kept.operations = [channel.recv() for _ in range({n})]
make()
for name in [name for name in sys.modules if name.startswith("tailrace")]:
    del sys.modules[name]
del core, name
gc.collect()
gc.collect()
"""


@pytest.mark.parametrize("n", [3, 300])
@pytest.mark.parametrize("program", [KEPT, CLEARED], ids=["kept", "cleared"])
def test_operations_may_outlive_the_module(core: Any, program: str, n: int) -> None:
    name = core.__name__.rpartition(".")[2]
    code = program.format(core=name, n=n)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
