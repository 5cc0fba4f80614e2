"""`go(…, restart=Restart(…))`: an actor that raises is started again while its stage lives on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tailrace import (
    Abort,
    Channel,
    Group,
    Hub,
    Message,
    Outcome,
    Receiver,
    Restart,
    Sender,
    SyncReceiver,
    batch,
    each,
    emit,
    expand,
    partition,
    submit,
    tee,
    throttle,
)
from tailrace.listen import read_lines

pytestmark = pytest.mark.virtual_time

QUICK = Restart(max=5, within=60.0, backoff=0.1, cap=5.0)


async def crash_on_bad(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data == "bad":
            raise ValueError("bad")
        await out.send(msg)


async def store(inbox: Receiver[Message[Any]]) -> None:
    async for msg in inbox:
        msg.ack()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def results(ch: Sender[Message[str]], *data: str) -> list[str]:
    return [(await submit(ch, each)).status for each in data]


async def test_the_actor_goes_on_with_the_next_message_and_the_stage_keeps_its_ends() -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    async with Group() as go:
        go(crash_on_bad, a, b, restart=QUICK)
        go(store, b)
        with a.sending() as out:
            assert await results(out, "x", "bad", "y") == ["stored", "lost", "stored"]
            (state,) = [each for each in go.actors() if each.stage == "crash_on_bad"]
            assert state.restarts == 1
        await go.wait()
    assert str(go.account()) == "3 in: 2 stored, 1 lost"


async def test_only_the_actor_that_failed_is_started_again_under_its_name() -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    names: list[str] = []

    async def work(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())
        await crash_on_bad(inbox, out)

    async with Group() as go:
        go(work, a, b, actors=3, restart=QUICK)
        go(store, b)
        with a.sending() as out:
            assert await results(out, "bad", "x") == ["lost", "stored"]
            await asyncio.sleep(0.2)
            counts = {each.name: each.restarts for each in go.actors() if each.stage == "work"}
            assert sorted(counts.values()) == [0, 0, 1]
    assert sorted(names[:3]) == ["work#1", "work#2", "work#3"]
    assert names[3] in names[:3]
    assert len(names) == 4
    assert counts[names[3]] == 1


async def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_quiet_time() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def fail() -> None:
        times.append(loop.time())
        if len(times) == 5:
            await asyncio.sleep(100)  # longer than `within`
        if len(times) < 7:
            raise ValueError

    async with Group() as go:
        go(fail, restart=Restart(max=5, within=60, backoff=1, cap=3))
    pauses = [round(b - a, 6) for a, b in pairwise(times)]
    assert pauses == [1, 2, 3, 3, 101, 2]


async def test_more_than_max_in_the_time_fails_the_group_with_the_error() -> None:
    calls = 0

    async def fail(inbox: Receiver[int]) -> None:
        nonlocal calls
        calls += 1
        raise ValueError(f"call {calls}")

    ch = Channel[int](name="ch")
    with ch.sending(), pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fail, ch, restart=Restart(max=3))
            await go.wait()
    (error,) = caught.value.exceptions
    assert str(error) == "call 4"
    assert calls == 4
    notes = "\n".join(error.__notes__)
    assert "fail was started again 3 times in the last 60 s" in notes
    assert "in actor 'fail' of stage 'fail', receiving from ch" in notes


async def test_each_actor_has_its_own_limit() -> None:
    ch = Channel[int](name="ch")
    seen: list[int] = []

    async def fail_each(inbox: Receiver[int]) -> None:
        async for value in inbox:
            seen.append(value)
            raise ValueError

    async with Group() as go:
        go(emit(range(10)), ch)
        go(fail_each, ch, actors=5, restart=Restart(max=2, backoff=0))
    assert sorted(seen) == list(range(10))


class Logs(logging.Handler):
    """Keeps records, with their errors."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Logs]:
    logs = Logs()
    log = logging.getLogger("tailrace")
    log.addHandler(logs)
    yield logs
    log.removeHandler(logs)


async def raises_plainly(msg: Message[str]) -> None:
    raise ValueError


async def keeps_it_in_a_variable(msg: Message[str]) -> None:
    try:
        raise ValueError
    except ValueError as raised:
        error = raised
    if msg:
        raise error


async def raises_in_a_task_group(msg: Message[str]) -> None:
    async def part(msg: Message[str]) -> None:
        await asyncio.sleep(0)
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(part(msg))
        group.create_task(part(msg))


async def raises_from_another(msg: Message[str]) -> None:
    async def first(data: Message[str]) -> None:
        raise KeyError

    try:
        await first(msg)
    except KeyError as cause:
        raise ValueError from cause


async def raises_while_it_handles(msg: Message[str]) -> None:
    async def first(data: Message[str]) -> None:
        raise KeyError

    try:
        await first(msg)
    except KeyError:
        raise ValueError from None


async def fails_on_a_future(msg: Message[str]) -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError())
    await future


async def leaves_a_generator(msg: Message[str]) -> None:
    def parts(message: Message[str]) -> Iterator[Message[str]]:
        with contextlib.suppress(KeyError):
            raise KeyError
        yield message
        yield message

    for _ in parts(msg):
        raise ValueError


async def leaves_an_asynchronous_generator(msg: Message[str]) -> None:
    async def parts(message: Message[str]) -> AsyncIterator[Message[str]]:
        yield message
        yield message

    async for _ in parts(msg):
        raise ValueError


async def leaves_a_generator_that_the_error_went_through(msg: Message[str]) -> None:
    def swallow(message: Message[str]) -> Iterator[BaseException]:
        try:
            raise KeyError
        except KeyError as error:
            caught = error
        yield caught  # suspended, in a frame of the traceback of what it gives

    generator = swallow(msg)
    raise ValueError from next(generator)


async def keeps_each_error(msg: Message[str]) -> None:
    errors: list[Exception] = []
    for _ in range(2):
        try:
            raise KeyError
        except KeyError as error:
            errors.append(error)
    raise errors[0]


WAYS = [
    raises_plainly,
    keeps_it_in_a_variable,
    raises_in_a_task_group,
    raises_from_another,
    raises_while_it_handles,
    fails_on_a_future,
    leaves_a_generator,
    leaves_an_asynchronous_generator,
    leaves_a_generator_that_the_error_went_through,
    keeps_each_error,
]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", WAYS)
async def test_what_it_had_in_hand_is_lost_at_once_however_the_error_is_kept(
    way: Any, kept: Logs
) -> None:
    async def work(inbox: Receiver[Message[str]]) -> None:
        async for msg in inbox:
            await way(msg)

    loop = asyncio.get_running_loop()
    ch = Channel[Message[str]](name="ch")
    async with Group() as go:
        go(work, ch, restart=Restart(backoff=3))
        with ch.sending() as out:
            began = loop.time()
            outcome: Outcome = await submit(out, "x")
            assert outcome.status == "lost"
            assert loop.time() - began <= 0.1
    errors = [record.exc_info[1] for record in kept.records if record.exc_info]
    assert any(isinstance(error, (ValueError, KeyError, ExceptionGroup)) for error in errors)


@pytest.mark.usefixtures("no_collector")
async def test_another_actor_that_has_caught_the_same_error_is_not_disturbed(kept: Logs) -> None:
    ch, shared = Channel[Message[str]](name="ch"), asyncio.get_running_loop().create_future()
    steps: list[str] = []

    async def survive(gate: asyncio.Event) -> None:
        try:
            await shared
        except ValueError as error:
            caught = error
            steps.append("caught")
            await gate.wait()
            steps.append(type(caught).__name__)

    async def crash(inbox: Receiver[Message[str]], gate: asyncio.Event) -> None:
        async for msg in inbox:
            try:
                await shared
            finally:
                steps.append(msg.data)

    gate = asyncio.Event()
    async with Group() as go:
        go(survive, gate)
        go(crash, ch, gate, restart=QUICK)
        with ch.sending() as out:
            ending = asyncio.create_task(submit(out, "x"))
            await asyncio.sleep(1)
            shared.set_exception(ValueError())
            assert (await ending).status == "lost"
            gate.set()
    assert sorted(steps) == ["ValueError", "caught", "x"]


async def test_a_plain_function_in_a_thread_is_started_again() -> None:
    ch = Channel[Message[str]](name="ch")

    def work(inbox: SyncReceiver[Message[str]]) -> None:
        for msg in inbox:
            if msg.data == "bad":
                raise ValueError
            msg.ack()

    async with Group() as go:
        go(work, ch.sync, restart=QUICK)
        with ch.sending() as out:
            assert await results(out, "x", "bad", "y") == ["stored", "lost", "stored"]


async def test_a_drain_ends_the_pause_of_a_stage_that_has_values_left() -> None:
    loop = asyncio.get_running_loop()
    a, b = Channel[Message[str]](8, name="a"), Channel[Message[str]](name="b")
    async with Group() as go:
        go(emit([Message(data) for data in ("x", "bad", "y", "z")]), a)
        go(crash_on_bad, a, b, restart=Restart(backoff=500, cap=500))
        go(store, b)
        await asyncio.sleep(1)
        states = {each.name: each for each in go.actors()}
        assert states["crash_on_bad"].verb == "restart"
        assert str(states["crash_on_bad"]) == "crash_on_bad: pausing before a restart"
        before = loop.time()
        go.drain()
        await go.wait()
        assert loop.time() - before < 1
    assert str(go.account()) == "4 in: 3 stored, 1 lost"


async def test_a_drain_in_the_pause_of_a_source_draws_no_more() -> None:
    calls = 0

    async def source(out: Sender[int]) -> None:
        nonlocal calls
        calls += 1
        await out.send(calls)
        raise ValueError

    ch, got = Channel[int](name="ch"), []

    async def take(inbox: Receiver[int]) -> None:
        async for value in inbox:
            got.append(value)

    async with Group() as go:
        go(source, ch, restart=Restart(backoff=500, cap=500))
        go(take, ch)
        await asyncio.sleep(1)
        go.drain()
        await go.wait()
    assert got == [1]


async def test_a_source_that_raises_while_it_is_drained_is_not_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    async def source(out: Sender[int]) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("at the end")

    ch = Channel[int](name="ch")
    async with Group() as go:
        with ch.receiving():
            go(source, ch, restart=QUICK)
            await asyncio.sleep(1)
            go.drain()
            await go.wait()
    assert calls == 1
    assert "source raised while it was drained, and is not started again" in caplog.text


async def test_a_cancellation_ends_the_pause() -> None:
    loop = asyncio.get_running_loop()
    ch = Channel[int](name="ch")

    async def fail(inbox: Receiver[int]) -> None:
        raise ValueError

    with ch.sending():
        async with Group() as go:
            go(fail, ch, restart=Restart(backoff=500, cap=500))
            await asyncio.sleep(1)
            before = loop.time()
            go.cancel()
            await go.wait()
    assert loop.time() - before < 1


async def test_a_group_with_a_pausing_actor_is_not_idle() -> None:
    ch, seen = Channel[int](name="ch"), []

    async def work(inbox: Receiver[int]) -> None:
        async for value in inbox:
            seen.append(value)
            if value == 1:
                raise ValueError

    with ch.sending() as out:
        async with Group(on_exit="cancel") as go:
            go(work, ch, restart=Restart(backoff=5))
            for value in (1, 2):
                sending = asyncio.create_task(_send(out, value))
            await go.idle()
            await sending
    assert seen == [1, 2]


async def _send(out: Sender[int], value: int) -> None:
    await out.send(value)


async def test_a_background_stage_is_started_again_and_ends_with_the_others() -> None:
    calls: list[float] = []
    loop = asyncio.get_running_loop()

    async def report() -> None:
        calls.append(loop.time())
        await asyncio.sleep(1)
        raise ValueError

    async def main() -> None:
        await asyncio.sleep(10)

    async with Group() as go:
        go(report, background=True, restart=Restart(max=100, backoff=1, cap=1))
        go(main)
    assert len(calls) == 5


async def test_a_channel_that_closed_ends_the_actor_or_fails_it_at_once() -> None:
    calls = 0

    async def receive_one(inbox: Receiver[int]) -> None:
        nonlocal calls
        calls += 1
        await inbox.recv()

    well = Channel[int](name="well")
    async with Group() as go:
        go(receive_one, well, restart=QUICK)
        with well.sending():
            await asyncio.sleep(1)
    assert calls == 1

    badly = Channel[int](name="badly")
    with pytest.raises(ExceptionGroup, match="1 failed"):
        async with Group() as go:
            go(receive_one, badly, restart=QUICK)
            try:
                with badly.sending():
                    await asyncio.sleep(1)
                    raise RuntimeError("the sender failed")
            except RuntimeError:
                pass
            await go.wait()
    assert calls == 2


async def test_cancelled_error_and_base_exceptions_are_not_survived() -> None:
    async def cut_off() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(cut_off, restart=QUICK)
    assert "nobody cancelled it" in str(caught.value.exceptions[0])

    class Odd(BaseException):
        pass

    async def odd() -> None:
        raise Odd

    with pytest.raises(BaseExceptionGroup):
        async with Group() as go:
            go(odd, restart=QUICK)


async def test_a_group_inside_an_actor_begins_anew_with_it() -> None:
    ch = Channel[Message[str]](name="ch")

    async def work(inbox: Receiver[Message[str]]) -> None:
        inner = Channel[Message[str]](name="inner")
        async with Group() as go:
            go(crash_on_bad, inbox, inner)
            go(store, inner)

    async with Group() as go:
        with ch.receiving():
            go(work, ch, restart=QUICK)
            with ch.sending() as out:
                assert await results(out, "x") == ["stored"]
                assert await results(out, "bad") == ["lost"]
    assert str(go.account()) == "2 in: 1 stored, 1 lost"


async def test_restarts_are_logged_with_the_error_at_once_and_then_counted(kept: Logs) -> None:
    async def fail() -> None:
        fails.append(None)
        if len(fails) <= 4:
            raise ValueError(f"number {len(fails)}")

    fails: list[None] = []
    async with Group() as go:
        go(fail, restart=QUICK)
    texts = [record.getMessage() for record in kept.records]
    assert texts == [
        "fail raised, and is started again in 0.1 s (1 of 5)",
        "fail raised 3 more times",
    ]
    assert kept.records[0].exc_info is not None


async def test_the_account_is_exact_through_stock_actors_that_crash() -> None:
    names = "abcdefgh"
    a, b, c, d, e, f, g, h = (Channel[Message[Any]](name=name) for name in names)
    statuses: list[str] = []
    heard: list[int] = []

    async def client(out: Sender[Message[int]], first: int) -> None:
        for n in range(first, first + 30):
            statuses.append((await submit(out, n)).status)

    def two(n: int) -> list[int]:
        return [n, -n]

    def work(n: int) -> int:
        if abs(n) % 10 == 7:
            raise ValueError(n)
        if abs(n) % 10 == 5:
            raise Abort("five")
        return n

    async def crash(inbox: Receiver[Message[int]], out: Sender[Message[int]]) -> None:
        async for msg in inbox:
            if abs(msg.data) % 10 == 3:
                raise RuntimeError(msg.data)
            await out.send(msg)
            del msg

    async def listen(hub: Hub[list[int]]) -> None:
        with hub.subscribe(100, "drop_oldest") as inbox:
            async for values in inbox:
                heard.extend(values)

    often = Restart(max=1000, backoff=0.01, cap=0.01)
    hub = Hub[list[int]]()
    async with Group() as go:
        for first in (0, 100):
            go(client, a, first)
        go(throttle(100.0, 10), a, b, restart=often)
        go(expand(two), b, c, restart=often)
        go(each(work, on_error="raise"), c, d, actors=2, restart=often)
        go(crash, d, e, actors=2, restart=often)
        go(partition(abs), e, f, f, restart=often)
        go(tee, f, g, h, restart=often)
        go(batch(3, 0.05), g, i := Channel[Message[Any]](name="i"), restart=often)
        go(hub, i, restart=often)
        go(store, h, restart=often)
        go(listen, hub, background=True)
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    assert set(counts) == {"aborted", "failed", "lost", "stored"}
    shown = go.account()._asdict()
    assert {name: count for name, count in shown.items() if count} == {"entered": 60, **counts}
    assert heard


async def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        raise AssertionError

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max": 0}, "max must be a whole number of at least 1, not 0"),
        ({"max": 1.5}, "max must be a whole number"),
        ({"within": 0}, "within must be seconds"),
        ({"backoff": -1}, "backoff must be seconds"),
        ({"backoff": 2, "cap": 1}, "cap must be at least backoff, which is 2, not 1"),
        ({"cap": "5"}, "cap must be seconds"),
    ]
    for options, text in wrong:
        with pytest.raises((TypeError, ValueError), match=text):
            Restart(**options)
    lines, numbers = Channel[Message[str]](1), Channel[int](1)
    async with Group() as go:
        with pytest.raises(TypeError, match=r"takes a Restart, such as Restart\(max=5\), not 5"):
            go(work, restart=5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"read_lines\(.*cannot be started again"):
            go(read_lines(tmp_path / "x"), lines, restart=QUICK)
        with pytest.raises(ValueError, match=r"emit cannot be started again.*begins anew"):
            go(emit(iter([1])), numbers, restart=QUICK)


async def test_emit_of_a_list_sends_it_again_from_the_beginning() -> None:
    class Once:
        failed = False

        def __iter__(self) -> Iterator[int]:
            yield 1
            if not self.failed:
                self.failed = True
                raise OSError
            yield 2

    ch, got = Channel[int](name="ch"), []

    async def take(inbox: Receiver[int]) -> None:
        async for value in inbox:
            got.append(value)

    async with Group() as go:
        go(emit(Once()), ch, restart=QUICK)
        go(take, ch)
    assert got == [1, 1, 2]
