"""What `go` accepts: any stage whose parameters fit what is wired to it."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import assert_type

from tailrace import (
    Account,
    Channel,
    Group,
    Message,
    Outcome,
    Receiver,
    Restart,
    Sender,
    SyncReceiver,
    SyncSender,
    amap,
    collect,
    each,
    emit,
    submit,
)
from tailrace.store import Store, store, store_postgres, write_lines


async def parse(inbox: Receiver[str], out: Sender[int]) -> None:
    async for word in inbox:
        await out.send(int(word))


async def share(inbox: Receiver[int], *outs: Sender[int]) -> None:
    async for number in inbox:
        for out in outs:
            await out.send(number)


async def show(inbox: Receiver[object], errors: Sender[str] | None) -> None:
    async for value in inbox:
        print(value, errors)


def in_a_thread(inbox: SyncReceiver[int], out: SyncSender[str]) -> None:
    for number in inbox:
        out.send(str(number))


class Doubler:
    async def __call__(self, inbox: Receiver[int], out: Sender[int]) -> None:
        async for number in inbox:
            await out.send(2 * number)


def stages(go: Group) -> None:
    words, more_words = Channel[str](name="words"), Channel[str](name="more_words")
    numbers, twice = Channel[int](64, name="numbers"), Channel[int](name="twice")
    assert_type(go(emit(["1", "2"]), words), None)
    go(parse, words, numbers, actors=4, name="parse")
    go(parse, words.receiver, numbers.sender, source=False)
    go(share, numbers, twice, twice, twice)
    go(share, numbers)
    go(show, numbers, None, background=True)
    go(show, words, more_words)
    go(in_a_thread, numbers.sync, words.sync)
    go(in_a_thread, numbers.sync.receiver, words.sync.sender)
    go(Doubler(), numbers, twice)


def upper(word: str) -> str:
    return word.upper()


async def length(word: str) -> int:
    return len(word)


def functions_of_data(go: Group) -> None:
    words, loud = Channel[Message[str]](), Channel[Message[str]]()
    lengths = Channel[Message[int]]()
    go(each(upper), words, loud)
    go(each(length, timeout=1.0), words, lengths, actors=8)


def parse_any(text: str | bytes) -> int:
    return int(text)


async def check(text: object) -> str:
    return repr(text)


async def show_messages(inbox: Receiver[Message[object]]) -> None:
    async for message in inbox:
        print(message.data)


async def answer(inbox: Receiver[Message[str]], out: Sender[Message[bool]]) -> None:
    async for message in inbox:
        await out.send(message.with_data(message.data == "yes"))


def functions_of_wider_data(go: Group) -> None:
    words, things = Channel[Message[str]](), Channel[Message[object]]()
    numbers, either = Channel[Message[int]](), Channel[Message[int | str]]()
    go(each(len), words, numbers)
    go(each(json.loads), words, things)
    go(each(parse_any), words, numbers)
    go(each(parse_any), words, either)
    go(each(parse_any, threads=True), words, either)
    go(each(check, timeout=1.0), numbers, either)
    go(answer, words, either)
    go(show_messages, numbers)
    go(store(write_any), numbers)
    of_int = store_postgres("postgresql://db/lab", "numbers", int, key=abs, schema="lab")
    assert_type(of_int, Store[int])
    go(of_int, numbers)
    go(store_postgres("host=db dbname=lab"), numbers)
    go(write_lines("words.txt", format="text"), words)
    go(write_lines("things.jsonl", format="json", gzip=True), things)
    assert_type(write_lines("numbers.csv", format="csv", type=int), Store[int])


def write_any(rows: Sequence[object]) -> None:
    print(rows)


async def wider_messages(message: Message[int], either: Channel[Message[int | str]]) -> None:
    wider: Message[int | str] = message
    assert_type(wider.with_data(b""), Message[bytes])
    await either.send(message)
    assert_type(await submit(either, 1), Outcome)
    joined: Message[list[int]] = Message.join([message, message])
    seen: Message[Sequence[object]] = joined
    print(seen)


def data_may_be_assigned(message: Message[int | str]) -> None:
    message.data = 1
    message.data = "one"


async def helpers(words: Channel[str], requests: Channel[Message[str]]) -> None:
    assert_type(await collect(words), list[str])
    assert_type(await submit(requests, "foo", timeout=1.0), Outcome)
    lengths: AsyncIterator[int] = amap(length, ["a", "bc"], concurrency=2)
    async for n in lengths:
        assert_type(n, int)


async def a_block_of_its_own(words: Channel[str], numbers: Channel[int]) -> None:
    async with Group(on_exit="drain") as go:
        assert_type(go, Group)
        go(parse, words, numbers)


async def messages(message: Message[str]) -> None:
    assert_type(message.data, str)
    assert_type(message.with_data(1), Message[int])
    assert_type(await message.settled(), Outcome)


def restarts(go: Group, words: Channel[str], numbers: Channel[int]) -> None:
    go(parse, words, numbers, actors=2, restart=Restart(max=3, within=10, backoff=0.5))
    go(parse, words, numbers, background=True, restart=None)
    assert_type(go.account(), Account)
    assert_type(go.account().stored, int)
