"""`in_order`: several messages at once, out in the order of arrival, and none ever lost."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from tailrace import testing
from tailrace.actors import DeadLetter, in_order
from tailrace.actors.handler import EachStatistics
from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Abort, Closed, Reject
from tailrace.group import Group
from tailrace.message import Message, Settlement, current_message, submit
from tailrace.retry import Retry

virtual_time = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


class Work:
    """Sleeps for as long as its data says, then ends as that says; counts how many run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began: list[Any] = []

    async def __call__(self, data: Any) -> Any:
        seconds, what = data
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.append(what)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1
        if isinstance(what, BaseException):
            raise what
        return what


class Line:
    """`actor` between a source of all data and a store."""

    def __init__(self, actor: Any, *data: Any, seconds: float = 0, dead: Any = None) -> None:
        self.actor = actor
        self.data = data
        self.seconds = seconds
        self.inbox = Channel[Message[Any]](name="inbox")
        self.out = Channel[Message[Any]](name="out")
        self.dead = dead
        self.stored: list[Any] = []
        self.letters: list[DeadLetter[Any]] = []
        self.times: list[float] = []
        self.ends: list[Settlement] = []

    async def source(self, out: Sender[Message[Any]]) -> None:
        for n, value in enumerate(self.data):
            message = Message(value, id=f"m{n}")
            self.ends.append(message.settled())
            await out.send(message)
            del message

    async def store(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            self.stored.append(message.data)
            self.times.append(now())
            message.ack()
            del message

    async def bury(self, inbox: Receiver[Message[DeadLetter[Any]]]) -> None:
        async for message in inbox:
            self.letters.append(message.data)
            message.ack()
            del message

    def start(self, go: Group) -> None:
        if self.dead is None:
            go(self.actor, self.inbox, self.out)
        else:
            go(self.actor, self.inbox, self.out, self.dead)
            go(self.bury, self.dead)
        go(self.source, self.inbox)
        go(self.store, self.out)

    async def __call__(self) -> list[str]:
        async with Group() as go:
            self.start(go)
        return await self.all_ended()

    async def all_ended(self) -> list[str]:
        async with asyncio.timeout(1):
            return [(await end).status for end in self.ends]


# --- order ----------------------------------------------------------------------------------


@virtual_time
async def test_messages_are_handled_at_once_and_go_on_in_the_order_of_arrival() -> None:
    work = Work()
    line = Line(in_order(work, 3), (3, "a"), (1, "b"), (2, "c"), (1, "d"))
    assert await line() == ["stored"] * 4
    assert line.stored == ["a", "b", "c", "d"]
    assert line.times == [3, 3, 3, 4]
    assert work.most == 3
    assert line.actor.statistics() == EachStatistics(passed=4)


@virtual_time
@pytest.mark.parametrize("seed", range(5))
async def test_any_mixture_of_times_and_ends_keeps_the_order(seed: int) -> None:
    draw = random.Random(seed)
    data = [
        (
            draw.random() * 3,
            draw.choice([n, n, n, Abort("no"), Reject("bad"), OSError("away"), ValueError("odd")]),
        )
        for n in range(60)
    ]
    line = Line(in_order(Work(), 7, retry=Retry(2, 0.5)), *data, seconds=0.2, dead=Channel[Any]())
    ended = Counter(await line())
    good = [what for _, what in data if isinstance(what, int)]
    assert line.stored == good
    assert sum(ended.values()) == 60
    kinds = Counter(type(what) for _, what in data)
    assert (ended["aborted"], ended["rejected"]) == (kinds[Abort], kinds[Reject])
    assert ended["dead"] == len(line.letters) == kinds[OSError] + kinds[ValueError]


@virtual_time
async def test_no_more_are_in_hand_than_it_may_have() -> None:
    work = Work()
    line = Line(in_order(work, 2), (5, "slow"), (0, "b"), (0, "c"), (0, "d"))
    async with Group() as go:
        line.start(go)
        await asyncio.sleep(1)
        assert work.began == ["slow", "b"]
    assert line.stored == ["slow", "b", "c", "d"]


@virtual_time
async def test_what_ends_here_makes_room_at_once_behind_a_slow_message() -> None:
    work = Work()
    bad = [(0, error) for error in (ValueError("x"), Abort("y"), Reject("z"))]
    line = Line(in_order(work, 2), (9, "slow"), *bad, *bad, (0, "late"), dead=Channel[Any](9))
    async with Group() as go:
        line.start(go)
        await asyncio.sleep(1)
        assert work.began[-1] == "late"
        assert len(line.letters) == 2
    assert line.stored == ["slow", "late"]


@virtual_time
async def test_a_dead_letter_that_waits_keeps_its_place_but_not_those_behind_it() -> None:
    dead = Channel[Message[DeadLetter[Any]]](name="dead")
    line = Line(in_order(Work(), 2), (0, ValueError()), (0, "b"), (0, "c"))
    async with Group(on_exit="cancel") as go:
        go(line.actor, line.inbox, line.out, dead)
        go(line.source, line.inbox)
        go(line.store, line.out)
        await asyncio.sleep(1)
        assert line.stored == [], "a message before them may yet come back"
        (await dead.recv()).ack()
        await asyncio.sleep(1)
        assert line.stored == ["b", "c"]


@virtual_time
async def test_the_message_in_hand_is_the_current_one_of_its_call() -> None:
    seen: list[tuple[Any, str]] = []

    async def look(data: float) -> float:
        await asyncio.sleep(data)
        message = current_message()
        assert message is not None
        seen.append((data, message.id))
        return data

    await Line(in_order(look, 3), 3, 2, 1)()
    assert seen == [(1, "m2"), (2, "m1"), (3, "m0")]


@virtual_time
async def test_plain_functions_keep_the_order_too() -> None:
    line = Line(in_order(lambda data: data[1], 4), (0, "a"), (0, "b"))
    assert await line() == ["stored"] * 2
    assert line.stored == ["a", "b"]


async def test_each_call_has_a_thread_of_its_own() -> None:
    together = threading.Barrier(3)

    def blocks(data: int) -> int:
        together.wait(10)
        time.sleep((3 - data % 3) / 100)
        return data

    line = Line(in_order(blocks, 3, threads=True), *range(6))
    assert await line() == ["stored"] * 6
    assert line.stored == list(range(6))


async def test_threads_that_are_stuck_are_waited_for_before_more_is_received() -> None:
    release, calls = threading.Event(), list[int]()

    def blocks(data: int) -> int:
        calls.append(data)
        if data < 2:
            release.wait(10)
        return data

    line = Line(in_order(blocks, 2, threads=True, timeout=0.3), *range(4))
    async with Group() as go:
        line.start(go)
        while len(calls) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # both have timed out
        assert sorted(calls) == [0, 1]  # two threads begin in any order
        release.set()
    assert await line.all_ended() == ["failed", "failed", "stored", "stored"]


# --- attempts -------------------------------------------------------------------------------


@virtual_time
async def test_a_message_that_is_tried_again_delays_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retry, "delays", lambda self: iter([5.0]))

    async def fn(data: str) -> str:
        if data == "a" and now() < 5:
            raise OSError
        return data

    line = Line(in_order(fn, 3, retry=Retry()), "a", "b", "c", "d")
    await line()
    assert line.stored == ["a", "b", "c", "d"]
    assert line.times == [5] * 4


@virtual_time
async def test_dead_letters_name_the_stage_and_not_the_task() -> None:
    line = Line(in_order(Work(), 2), (0, ValueError("odd")), dead=Channel[Any]())
    async with Group() as go:
        go(line.actor, line.inbox, line.out, line.dead, name="price")
        go(line.bury, line.dead)
        go(line.source, line.inbox)
        go(line.store, line.out)
    assert [letter.stage for letter in line.letters] == ["price"]


@virtual_time
async def test_an_error_may_end_the_actor_and_all_in_hand_fail() -> None:
    data = [(9, "a"), (1, ValueError("odd")), (9, "c")]
    line = Line(in_order(Work(), 3, on_error="raise"), *data)
    with pytest.raises(ExceptionGroup) as failed:
        await line()
    assert isinstance(failed.value.exceptions[0], ValueError)
    assert await line.all_ended() == ["failed"] * 3
    assert now() == 1


# --- the end --------------------------------------------------------------------------------


@virtual_time
async def test_it_is_not_idle_while_it_has_work() -> None:
    line = Line(in_order(Work(), 3), (3, "a"), (5, "b"))
    inbox = line.inbox
    async with Group(on_exit="cancel") as go:
        go(line.actor, inbox, line.out)
        go(line.store, line.out)
        for value in line.data:
            await inbox.send(Message(value))
        await go.idle()
        assert (now(), line.stored) == (5, ["a", "b"])


@virtual_time
async def test_a_drain_lets_all_in_hand_go_on() -> None:
    line = Line(in_order(Work(), 3), *[(5, n) for n in range(9)])
    async with Group() as go:
        line.start(go)
        await asyncio.sleep(1)
        go.drain()
    assert line.stored == [0, 1, 2, 3], "three in hand, and one in a send that was finished"
    assert (await line.all_ended())[:4] == ["stored"] * 4


@virtual_time
async def test_an_inbox_that_ends_with_a_failure_ends_it_after_what_it_has_in_hand() -> None:
    actor = in_order(Work(), 3)
    inbox, out = Channel[Message[Any]](2), Channel[Message[Any]](3)
    messages = [Message((2, "a")), Message((1, "b"))]
    await inbox.send_many(messages)
    task = asyncio.create_task(actor(inbox, out))
    await asyncio.sleep(0.5)
    inbox.close(OSError("upstream"))
    with pytest.raises(Closed) as closed:
        await task
    assert isinstance(closed.value.__cause__, OSError)
    assert [out.recv_nowait().data, out.recv_nowait().data] == ["a", "b"]


@virtual_time
async def test_a_failure_that_comes_down_while_it_sends_is_not_taken_for_that_of_its_output() -> (
    None
):
    actor = in_order(Work(), 3)
    inbox, out = Channel[Message[Any]](2), Channel[Message[Any]]()
    await inbox.send_many([Message((0, "a")), Message((1, "b"))])
    task = asyncio.create_task(actor(inbox, out))
    await asyncio.sleep(5)  # "a" is parked in its send
    inbox.close(OSError("upstream"))
    await asyncio.sleep(1)
    assert [(await out.recv()).data, (await out.recv()).data] == ["a", "b"]
    with pytest.raises(Closed):
        await task


@virtual_time
async def test_an_output_that_closes_ends_it_and_fails_what_it_has_in_hand() -> None:
    actor = in_order(Work(), 3)
    inbox, out = Channel[Message[Any]](3), Channel[Message[Any]]()
    messages = [Message((1, "a")), Message((1, "b")), Message((9, "c"))]
    await inbox.send_many(messages)
    task = asyncio.create_task(actor(inbox, out))
    await asyncio.sleep(3)
    out.close()
    with pytest.raises(Closed) as closed:
        await task
    assert closed.value.channel is out
    assert [m.outcome.status for m in messages if m.outcome] == ["failed"] * 3
    assert now() == 3


@virtual_time
async def test_a_function_that_refuses_to_end_is_waited_for() -> None:
    async def stubborn(data: int) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(5)
        return data

    actor = in_order(stubborn, 2)
    inbox, out = Channel[Message[int]](1), Channel[Message[int]](1)
    message = Message(1)
    await inbox.send(message)
    task = asyncio.create_task(actor(inbox, out))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    assert message.outcome is not None, "its sender is told at once"
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), now(), len(out)) == (True, 6, 0)


@virtual_time
async def test_a_message_that_is_settled_already_takes_no_place() -> None:
    actor = in_order(Work(), 2)
    inbox, out = Channel[Message[Any]](2), Channel[Message[Any]](2)
    settled, other = Message((0, "a")), Message((0, "b"))
    settled.abort("before")
    await inbox.send_many([settled, other])
    inbox.close()
    await actor(inbox, out)
    assert [message.data async for message in _closed(out)] == ["b"]
    assert actor.statistics() == EachStatistics(passed=1, skipped=1)


def _closed(channel: Channel[Any]) -> Channel[Any]:
    channel.close()
    return channel


@virtual_time
async def test_what_is_no_message_ends_it_with_a_clear_error() -> None:
    inbox, out = Channel[Any](1), Channel[Any](1)
    await inbox.send("text")
    with pytest.raises(TypeError, match=r"in_order\(Work, 2\) takes messages, but was sent 'text'"):
        await in_order(Work(), 2)(inbox, out)


@virtual_time
async def test_an_idle_actor_keeps_no_message_alive() -> None:
    async def drops(inbox: Channel[Message[Any]]) -> None:
        while True:
            await inbox.recv()

    inbox, out = Channel[Message[Any]](), Channel[Message[Any]]()
    tasks = [
        asyncio.create_task(in_order(Work(), 2)(inbox, out)),
        asyncio.create_task(drops(out)),
    ]
    assert (await submit(inbox, (1, "a"), timeout=5)).status == "lost"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@virtual_time
async def test_more_than_one_actor_is_refused_where_it_is_started() -> None:
    actor = in_order(Work(), 2)
    async with Group() as go:
        with pytest.raises(ValueError, match="one actor keeps the order"):
            go(actor, Channel[Message[Any]](), Channel[Message[Any]](), actors=2)
        await testing.wait_all_parked()
        assert go.actors() == []


@pytest.mark.parametrize(
    ("concurrency", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_a_concurrency_that_is_none_is_refused(concurrency: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"in_order\(Work\): concurrency"):
        in_order(Work(), concurrency)


def test_it_shows_its_options() -> None:
    assert repr(in_order(Work(), 3)) == "in_order(Work, 3)"
    assert repr(in_order(Work(), 3, timeout=2)) == "in_order(Work, 3, timeout=2)"


# --- at any point ---------------------------------------------------------------------------


def mixed(n: int) -> tuple[float, Any]:
    return [(0.0, n), (0.2, n), (0.0, ValueError(n)), (0.1, OSError(n)), (0.3, n)][n % 5]


@pytest.mark.parametrize("turns", range(40))
@pytest.mark.parametrize("with_dead", [False, True])
@virtual_time
async def test_a_cancellation_at_any_turn_leaves_no_message_open(
    turns: int, with_dead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    line = Line(
        in_order(Work(), 3, retry=Retry(2, 0.1)),
        *map(mixed, range(10)),
        seconds=0.1,
        dead=Channel[Any]() if with_dead else None,
    )

    async def pipeline() -> None:
        async with Group() as go:
            line.start(go)

    task = asyncio.create_task(pipeline())
    for _ in range(min(turns, 20)):
        await asyncio.sleep(0)
    if turns > 20:
        await asyncio.sleep((turns - 20) / 17)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    before = now()
    await line.all_ended()
    assert now() == before


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("which", ["store", "bury"])
@virtual_time
async def test_a_neighbour_that_dies_leaves_no_message_open(which: str, after: int) -> None:
    async def dies(inbox: Receiver[Message[Any]]) -> None:
        for _ in range(after):
            (await inbox.recv()).ack()
        await inbox.recv()
        raise OSError("gone")

    line = Line(in_order(Work(), 3), *map(mixed, range(20)), dead=Channel[Any]())
    setattr(line, which, dies)
    with suppress(ExceptionGroup):
        await line()
    await line.all_ended()
