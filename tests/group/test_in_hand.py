"""A message that an actor could not send, because nobody below takes it, is not called lost."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tailrace import (
    Channel,
    Group,
    Message,
    Outage,
    Outcome,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    each,
    select,
    submit,
)

virtual_time = pytest.mark.virtual_time

Relay = Callable[[Receiver[Message[str]], Sender[Message[str]]], Awaitable[None]]


async def plainly(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        await out.send(message)


async def with_other_data(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        await out.send(message.with_data(message.data.upper()))


async def by_a_helper(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async def pass_on(message: Message[str]) -> None:
        await out.send(message)

    async for message in inbox:
        await pass_on(message)


async def by_select(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        await select(out.send(message))


async def in_batches(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    batch: list[Message[str]] = []
    async for message in inbox:
        batch.append(message)
        del message
        while batch:
            await out.send(batch[0])
            del batch[0]


async def take_one(inbox: Receiver[Message[str]]) -> None:
    (await inbox.recv()).ack()


@virtual_time
@pytest.mark.parametrize(
    "relay", [plainly, with_other_data, by_a_helper, by_select, in_batches, each(str.upper)]
)
async def test_a_message_that_nobody_below_takes_fails_and_says_so(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    gc.disable()  # told at once, and not when the collector comes
    try:
        async with Group() as go:
            go(relay, a, b, name=f"relay {uuid.uuid4()}")  # each name has a log of its own
            go(take_one, b)
            assert (await submit(a, "one", timeout=1)).ok
            outcome = await submit(a, "two", id="m2", timeout=1)
    finally:
        gc.enable()
    assert (outcome.status, outcome.final, type(outcome.error)) == ("failed", False, Outage)
    assert outcome.reason == "Outage: the pipeline takes no more messages"
    said = [r.getMessage() for r in caplog.records if "m2" in r.getMessage()]
    assert len(said) == 1
    assert "failed for message m2: Outage: the pipeline takes no more messages" in said[0]


def in_a_thread(inbox: SyncReceiver[Message[str]], out: SyncSender[Message[str]]) -> None:
    for message in inbox:
        out.send(message)


async def test_a_message_that_a_thread_could_not_send_fails_too() -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    gc.disable()
    try:
        async with Group() as go:
            go(in_a_thread, a.sync.receiver, b.sync.sender)
            go(take_one, b)
            assert (await submit(a, "one", timeout=9)).ok
            outcome = await submit(a, "two", timeout=9)
    finally:
        gc.enable()
    assert outcome.reason == "Outage: the pipeline takes no more messages"


@virtual_time
async def test_a_message_that_somebody_else_has_is_left_alone() -> None:
    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    message = Message("mine")
    async with Group() as go:
        go(plainly, a, b)
        go(take_one, b)
        await a.send(Message("first"))
        await a.send(message)
    assert message.outcome is None


@virtual_time
async def test_a_message_that_a_stage_forgets_is_lost_as_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgets(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        message = await inbox.recv()
        await inbox.recv()
        await out.send(message)

    a, b = Channel[Message[str]](name="a"), Channel[Message[str]](name="b")
    async with Group() as go:
        go(forgets, a, b, name="forgets it")
        go(take_one, b)
        ending = asyncio.create_task(submit(a, "one", id="m1", timeout=1))
        await asyncio.sleep(0.1)
        with a.sending():
            pass
        assert (await ending).status == "lost"
    said = [r.getMessage() for r in caplog.records if "m1" in r.getMessage()]
    assert said == ["'forgets it' failed for message m1: lost: dropped before it was settled"]


@virtual_time
@pytest.mark.parametrize("kept", [False, True])
async def test_a_message_that_a_drained_source_could_not_send_is_no_bug(kept: bool) -> None:
    told: list[Outcome] = []

    async def source(out: Sender[Message[str]]) -> None:
        if kept:
            message = Message("foo", on_settle=told.append)
            await out.send(message)
        else:
            await out.send(Message("foo", on_settle=told.append))

    async def busy(inbox: Receiver[Message[str]]) -> None:
        await asyncio.sleep(60)

    channel = Channel[Message[str]](name="a")
    gc.disable()
    try:
        async with Group() as go:
            go(source, channel)
            go(busy, channel)
            await asyncio.sleep(1)
            go.drain()
            await asyncio.sleep(1)
            go.cancel()
    finally:
        gc.enable()
    why = "the pipeline is draining" if kept else "the actor that had it was cancelled"
    assert [outcome.reason for outcome in told] == [f"Outage: {why}"]


@virtual_time
async def test_what_user_code_does_to_an_error_keeps_no_group_waiting() -> None:
    class Meta(type):
        def __getattr__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Odd(metaclass=Meta):
        pass

    class Hidden(Exception):
        @property
        def __traceback__(self) -> Any:
            raise RuntimeError("hidden")

    told: list[Outcome] = []

    async def crashes(inbox: Receiver[Message[str]]) -> None:
        odd = Odd()
        message = await inbox.recv()
        raise Hidden(message.data) if odd is not None else ValueError

    channel = Channel[Message[str]](1)
    await channel.send(Message("foo", on_settle=told.append))
    with pytest.raises(ExceptionGroup) as failed:
        async with Group() as go:
            go(crashes, channel)
    assert type(failed.value.exceptions[0]) is Hidden
    del failed
    gc.collect()
    assert [outcome.status for outcome in told] == ["lost"]
