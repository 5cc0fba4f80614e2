"""Group rules 7 and 3, further: what a group says of itself, and only when it is so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from tailrace import (
    Channel,
    Group,
    Message,
    Receiver,
    Sender,
    SyncReceiver,
    after,
    done,
    select,
    submit,
    ticker,
)

pytestmark = pytest.mark.virtual_time


async def swap(inbox: Receiver[int], out: Sender[int]) -> None:
    await out.send(1)
    await inbox.recv()


async def receive(inbox: Receiver[int]) -> None:
    async for _ in inbox:
        pass


async def receive_first(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value)


def blocking(inbox: SyncReceiver[int]) -> None:
    for _ in inbox:
        pass


async def beat(ticks: Receiver[float]) -> None:
    async for _ in ticks:
        pass


async def send(out: Sender[int]) -> None:
    await out.send(1)


class Collects(logging.Handler):
    """Keeps the texts of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def said() -> Generator[list[str]]:
    """What the library logs as warnings. The outcomes of messages are errors."""
    # No change to the handler of `caplog`: that is one object for all tests.
    collects, logger = Collects(), logging.getLogger("tailrace")
    collects.addFilter(lambda record: record.levelno == logging.WARNING)
    logger.addHandler(collects)
    yield collects.texts
    logger.removeHandler(collects)


async def test_states_are_data_and_are_put_into_words_last() -> None:
    a, b, c = Channel[int](name="in"), Channel[int](name="in"), Channel[int](name="c")
    event = asyncio.Event()

    async def both(x: Receiver[int], y: Sender[int]) -> None:
        await select(x.recv(), y.send(1), done(event), timeout=50)

    def threaded(inbox: SyncReceiver[int]) -> None:
        inbox.recv()

    async with Group() as go:
        go(receive, a, name="first")
        go(receive, b, name="second")
        go(both, a, c)
        go(threaded, a.sync)
        await asyncio.sleep(1)
        first, second, third, fourth = go.actors()
        assert (first.verb, first.waits, first.seconds) == ("park", (("receive", "in"),), 1)
        assert second.state == "receiving from in (2)"
        assert third.waits[:2] == (("receive", "in"), ("send", "c"))
        assert third.state.startswith("receiving from in or sending to c or waiting for Event")
        assert (third.parked, third.receiving, first.receiving) == (True, False, True)
        assert (fourth.in_thread, fourth.state) == (True, "receiving from in, in thread")
        go.cancel()


async def test_an_actor_whose_channels_are_named_like_the_words_is_told_as_it_is() -> None:
    names = ["receiving from", "sending to", "or", "ing"]
    async with Group() as go:
        for name in names:
            go(receive, Channel[int](name=name))
        await asyncio.sleep(0)
        assert [each.state for each in go.actors()] == [f"receiving from {name}" for name in names]
        go.cancel()


async def test_a_stall_is_logged_once(said: list[str]) -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")
    async with Group(stall_after=2.0) as go:
        go(swap, a, b, name="left")
        go(swap, b, a, name="right")
        await asyncio.sleep(1.9)
        assert not said
        await asyncio.sleep(1)
        await asyncio.sleep(20)
        go.cancel()
    (text,) = said
    assert text.splitlines() == [
        "every actor waits for another:",
        "  left: sending to b for 2.9 s",
        "  right: sending to a for 2.9 s",
    ]


@pytest.mark.parametrize(("seconds", "stalled"), [(29.5, False), (30.5, True)])
async def test_a_stall_is_one_after_half_a_minute_unless_told_otherwise(
    said: list[str], seconds: float, stalled: bool
) -> None:
    async with Group() as go:
        go(swap, a := Channel[int](), b := Channel[int]())
        go(swap, b, a)
        await asyncio.sleep(seconds)
        assert bool(said) is stalled
        go.cancel()


async def test_a_stall_is_not_of_a_group_without_actors(said: list[str]) -> None:
    async with Group(stall_after=2.0) as go:
        go(asyncio.sleep, 1)
        await asyncio.sleep(50)
    assert not said


@pytest.mark.parametrize("beside", ["background", "sleeping", "thread", "listening"])
async def test_a_stall_is_logged_beside_actors_that_have_no_part_in_it(
    said: list[str], beside: str
) -> None:
    a, b, c = (Channel[int](name=name) for name in "abc")

    async with Group(stall_after=2.0) as go:
        go(swap, a, b, name="left")
        go(swap, b, a, name="right")
        match beside:
            case "background":
                go(beat, ticker(1), background=True)
            case "sleeping":
                go(asyncio.sleep, 1000)
            case "thread":
                go(blocking, c.sync)
            case _:
                go(receive, c)
        with c.sending():
            await asyncio.sleep(9)
        go.cancel()
    (text,) = said
    assert [line.partition(" for ")[0] for line in text.splitlines()[1:]] == [
        "  left: sending to b",
        "  right: sending to a",
    ]


@pytest.mark.parametrize("how", ["closure", "argument", "object", "idle"])
async def test_no_stall_is_where_another_actor_of_the_group_can_go_on(
    said: list[str], how: str
) -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")

    class Holder:
        channel = None

        def __init__(self) -> None:
            self.channel = [a]

        async def __call__(self) -> None:
            await asyncio.sleep(20)
            await self.channel[0].recv()

    async def closure() -> None:
        await asyncio.sleep(20)
        await a.recv()

    async def argument(channel: Channel[int]) -> None:
        await asyncio.sleep(20)
        await channel.recv()

    async with Group(stall_after=2.0) as go:
        match how:
            case "closure":
                go(closure)
            case "argument":
                go(argument, a)
            case "object":
                go(Holder())
            case _:
                go(asyncio.sleep, 20)  # a feedback loop that is done does not end yet
        go(swap if how != "idle" else receive_first, a, b, name="left")
        go(swap if how != "idle" else receive_first, b, a, name="right")
        await asyncio.sleep(15)
        assert not said
        go.cancel()


OUTSIDE = ("held", "after", "ticker", "done", "timeout", "select", "unheld")


@pytest.mark.parametrize("outside", OUTSIDE)
async def test_no_stall_is_where_somebody_outside_or_a_timer_can_go_on(
    said: list[str], outside: str
) -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")
    never = asyncio.Event()

    async def patient(inbox: Receiver[int], out: Sender[int]) -> None:
        match outside:
            case "after":
                await select(inbox.recv(), after(1e3).recv())
            case "ticker":
                await select(inbox.recv(), ticker(1e3).recv())
            case "done":
                await select(inbox.recv(), done(never))
            case "timeout":
                async with asyncio.timeout(1e3):
                    await inbox.recv()
            case "select":
                await select(inbox.recv(), timeout=1e3)
            case _:
                await inbox.recv()

    async with Group(stall_after=2.0) as go:
        go(patient, a, b)
        if outside != "unheld":
            go(receive, b)
            go(patient, b, a, name="other")
        with a.sending() if outside == "held" else Channel[int]().sending():
            for _ in range(10):
                await asyncio.sleep(2)
        go.cancel()
    assert not [each for each in said if "every actor" in each]


async def test_an_end_that_another_group_holds_is_outside(said: list[str]) -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")

    async def sleepy(out: Sender[int]) -> None:
        await asyncio.sleep(20)

    async with Group(stall_after=2.0) as go, Group() as other:
        go(swap, a, b, name="left")
        go(swap, b, a, name="right")
        other(sleepy, a)
        go(receive, a)
        for _ in range(9):
            await asyncio.sleep(2)
        assert not said
        go.cancel()
        other.cancel()


# Rule 3: an end that nobody holds.


async def test_nobody_receives_is_said_once_after_a_second(said: list[str]) -> None:
    a, b = Channel[int](name="a"), Channel[int](name="b")

    async def show(inbox: Receiver[int], out: Sender[int]) -> None:
        async for value in inbox:
            await out.send(value)

    async with Group() as go:
        go(send, a)
        go(show, b, a)  # the wrong way round
        go(receive, b)
        await asyncio.sleep(0.9)
        assert not said
        await asyncio.sleep(1)
        assert [each.partition(",")[0] for each in said] == [
            "nobody receives from `a`",
            "nobody sends to `b`",
        ]
        await asyncio.sleep(100)
        assert len(said) == 2
        go.cancel()


async def test_an_end_that_is_used_or_held_by_hand_is_not_missed(said: list[str]) -> None:
    held, used, sent, loose = (Channel[int](1, name=name) for name in "husl")

    async def unheld(channel: Channel[int]) -> None:
        await asyncio.sleep(50)

    async def many(out: Sender[int]) -> None:
        for n in range(10):
            await out.send(n)

    async with Group() as go:
        with held.sending():
            go(receive, held, name="held")
            go(many, used, name="used")
            await used.recv()
            go(receive, sent, name="sent")
            await sent.send(1)
            go(receive, loose, name="loose")
            go(unheld, loose)
            go(receive, ticker(30), name="timer")  # type: ignore[arg-type]  # of floats
            go(receive, Channel[int](name="late"), name="late")
            await asyncio.sleep(0.5)
            for _ in range(8):
                await asyncio.sleep(5)
        go.cancel()
    assert [each.partition(",")[0] for each in said] == ["nobody sends to `late`"]


@pytest.mark.parametrize("end", ["send", "receive"])
async def test_nobody_is_said_when_who_held_no_end_has_used_the_channel_and_ended(
    said: list[str], end: str
) -> None:
    async def uses(channel: Channel[int]) -> None:
        await asyncio.sleep(5)
        for n in range(2):
            await (channel.send(n) if end == "send" else channel.recv())

    async def sends(out: Sender[int]) -> None:
        for n in range(9):
            await out.send(n)

    a = Channel[int](name="a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100), Group(stall_after=None) as go:
            go(uses, a)
            go(receive if end == "send" else sends, a)
    (text,) = said
    assert text.startswith(f"nobody {'sends to' if end == 'send' else 'receives from'} `a`")


@pytest.mark.parametrize("where", ["closure", "method", "object", "partial"])
@pytest.mark.parametrize("end", ["send", "receive"])
async def test_nobody_is_said_when_an_actor_that_used_a_channel_around_it_has_ended(
    said: list[str], end: str, where: str
) -> None:
    a = Channel[int](name="a")

    async def uses() -> None:
        for n in range(2):
            await (a.send(n) if end == "send" else a.recv())

    class User:
        def __init__(self) -> None:
            self.channel = a

        async def use(self) -> None:
            await uses()

        async def __call__(self) -> None:
            await uses()

    user = User()

    actors: dict[str, Callable[[], Awaitable[None]]] = {
        "closure": uses,
        "method": user.use,
        "object": user,
        "partial": functools.partial(user.use),
    }

    async def sends(out: Sender[int]) -> None:
        for n in range(9):
            await out.send(n)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100), Group(stall_after=None) as go:
            go(actors[where])
            go(receive if end == "send" else sends, a)
    (text,) = said
    assert text.startswith(f"nobody {'sends to' if end == 'send' else 'receives from'} `a`")


async def test_nobody_is_said_whichever_actor_of_a_stage_waits(said: list[str]) -> None:
    working: list[bool] = []

    async def works_or_sends(out: Sender[int]) -> None:
        if working:
            await out.send(1)
        working.append(True)
        while True:
            await asyncio.sleep(0.5)

    async with Group() as go:
        go(works_or_sends, Channel[int](name="a"), actors=2)
        await asyncio.sleep(20)
        go.cancel()
    (text,) = said
    assert text.startswith("nobody receives from `a`, and `works_or_sends#2` is waiting")


async def test_an_actor_that_goes_on_within_the_second_is_not_told_of(said: list[str]) -> None:
    a = Channel[int](math.inf, name="a")

    async def slow(out: Sender[int]) -> None:
        for n in range(9):
            await asyncio.sleep(3)
            await out.send(n)

    async with Group() as go:
        go(slow, a)
        await asyncio.sleep(40)
    assert not said


# A message that nobody can settle.


async def test_a_message_that_a_loop_variable_holds_unsettled_is_told_of_once(
    said: list[str],
) -> None:
    async def forgets(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            message.data += "!"

    inbox = Channel[Message[str]](name="inbox")
    async with Group() as go:
        go(forgets, inbox, actors=2)
        with inbox.sending() as out:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await submit(out, "kept", id="7", timeout=3)
            await asyncio.sleep(100)
    (text,) = said
    assert text.startswith("`forgets#1` waits for its next value, and one of its variables has")
    assert "reference to message 7, unsettled (test_watch.py:" in text
    assert "in forgets)" in text


async def test_of_several_messages_that_are_kept_one_is_told_of(said: list[str]) -> None:
    async def forgets(inbox: Receiver[Message[str]]) -> None:
        first = await inbox.recv()
        second = await inbox.recv()
        await inbox.recv()
        first.ack()
        second.ack()

    inbox = Channel[Message[str]]()
    async with Group() as go:
        go(forgets, inbox)
        with inbox.sending() as out:
            for _ in range(2):
                await out.send(Message("x"))
            await asyncio.sleep(20)
            go.cancel()
    assert len(said) == 1


async def test_a_message_that_is_kept_is_told_of_although_one_of_another_stage_was(
    said: list[str],
) -> None:
    async def forgets(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            message.data += "!"

    first, second = Channel[Message[str]](), Channel[Message[str]]()
    async with Group() as go:
        go(forgets, first, name="first")
        go(forgets, second, name="second")
        with first.sending(), second.sending():
            for inbox in (first, second):
                await inbox.send(Message("x"))
                await asyncio.sleep(20)
            go.cancel()
    assert [text.partition(" ")[0] for text in said] == ["`first`", "`second`"]


async def test_a_message_that_a_generator_holds_unsettled_is_told_of(said: list[str]) -> None:
    @types.coroutine
    def receive_once(inbox: Receiver[int], kept: Message[int]) -> Generator[Any, Any, None]:
        yield from inbox.recv().__await__()
        kept.ack()

    async def forgets(inbox: Receiver[int]) -> None:
        await receive_once(inbox, Message(1, id="7"))

    inbox = Channel[int](name="inbox")
    async with Group() as go:
        go(forgets, inbox)
        with inbox.sending():
            await asyncio.sleep(100)
    (text,) = said
    assert "message 7, unsettled" in text
    assert "in receive_once)" in text


async def test_what_is_settled_shared_or_waited_with_is_not_told_of(said: list[str]) -> None:
    kept: list[object] = []

    async def settles(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            message.ack()

    async def shares(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            kept.append(message)

    async def waits(inbox: Receiver[Message[str]]) -> None:
        message = await inbox.recv()
        await select(inbox.recv(), timeout=50)
        message.ack()

    inboxes = [Channel[Message[str]]() for _ in range(3)]
    async with Group() as go:
        for fn, inbox in zip((settles, shares, waits), inboxes, strict=True):
            go(fn, inbox)
            await inbox.send(Message("x"))
        for _ in range(10):
            await asyncio.sleep(4)
        go.cancel()
    assert not [text for text in said if "unsettled" in text]


# An actor that was cancelled and does not end.


@pytest.mark.parametrize("how", ["cancel", "drain", "failure", "background"])
async def test_an_actor_that_does_not_end_when_cancelled_is_told_of_once(
    said: list[str], how: str
) -> None:
    async def stubborn() -> None:
        for _ in range(20):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass

    async def fails() -> None:
        raise ValueError

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.5)

    with contextlib.suppress(ExceptionGroup):
        async with Group() as go:
            go(stubborn, background=how == "background")
            if how != "background":
                go(cleans_up)
            await asyncio.sleep(0.1)
            match how:
                case "cancel":
                    go.cancel()
                case "drain":
                    go.drain()
                case "failure":
                    go(fails)
                case _:
                    pass
    (text,) = said
    assert text.startswith("cancelled 1 s ago, and not ended yet: `stubborn`, at test_watch.py:")
    assert text.endswith(" in stubborn; waiting for that")
