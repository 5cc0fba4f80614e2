"""What `go` rejects: a stage wired to other elements, directions, numbers or orders of channels."""

from tailrace import (
    Channel,
    Group,
    Message,
    Receiver,
    Restart,
    Sender,
    SyncReceiver,
    each,
    submit,
)
from tailrace.listen import listen_http
from tailrace.store import store_postgres, store_sqlite, write_lines


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None: ...
async def parse(inbox: Receiver[Message[str]], out: Sender[Message[int]]) -> None: ...
async def count(inbox: Receiver[Message[int]], out: Sender[Message[float]]) -> None: ...
async def share(inbox: Receiver[int], *outs: Sender[int]) -> None: ...
def in_a_thread(inbox: SyncReceiver[int]) -> None: ...


async def results(inbox: Receiver[int]) -> int:
    return await inbox.recv()


def other_elements(go: Group) -> None:
    words, numbers = Channel[Message[str]](), Channel[Message[int]]()
    bare = Channel[str]()
    go(filter, words, numbers)  # error: sends words where numbers go
    go(filter, numbers, words)  # error: receives numbers as words
    go(filter, bare, words)  # error: strings without their message
    go(share, Channel[int](), Channel[int](), Channel[str]())  # error: the last one differs


def other_directions(go: Group) -> None:
    words, more = Channel[Message[str]](), Channel[Message[str]]()
    go(filter, words.sender, more)  # error: a sending end to receive from
    go(filter, words, more.receiver)  # error: a receiving end to send to


def other_numbers(go: Group) -> None:
    words, more, third = Channel[Message[str]](), Channel[Message[str]](), Channel[Message[str]]()
    go(filter, words)  # error: one missing
    go(filter)  # error: both missing
    go(filter, words, more, third)  # error: one too many


def wrong_order_in_the_third_stage(go: Group) -> None:
    words, numbers = Channel[Message[str]](), Channel[Message[int]]()
    ratios, kept = Channel[Message[float]](), Channel[Message[str]]()
    go(filter, words, kept)
    go(parse, kept, numbers)
    go(count, ratios, numbers)  # error: the wrong way round
    go(count, numbers, ratios)


def not_actors(go: Group) -> None:
    words, numbers = Channel[Message[str]](), Channel[int]()
    go(filter(words, words))  # error: called, where go calls it
    go(results, numbers)  # error: results travel on channels
    go(in_a_thread, numbers)  # error: a thread needs numbers.sync
    go(numbers)  # error: a channel is no actor


def unknown_options(go: Group) -> None:
    words, more = Channel[Message[str]](), Channel[Message[str]]()
    go(filter, words, more, actors="3")  # error: a number
    go(filter, words, more, workers=3)  # error: no such option


def upper(word: str) -> str:
    return word.upper()


def stock_actors(go: Group) -> None:
    words, numbers = Channel[Message[str]](), Channel[Message[int]]()
    go(each(upper), words, numbers)  # error: upper makes words
    go(each(upper), numbers, words)  # error: upper takes words
    go(listen_http("127.0.0.1:8080", "/incoming"), words.receiver)  # error: it sends
    go(store_sqlite("events.db"), words.sender)  # error: it receives
    go(store_postgres("postgresql://db", "t", int), words)  # error: words where numbers are stored
    store_postgres("postgresql://db", "t", str, key=abs)  # error: a key of numbers for words
    store_postgres(b"postgresql://db")  # error: bytes for the dsn
    go(write_lines("words.txt", format="text"), numbers)  # error: numbers are no texts
    write_lines("words.txt", format="xml")  # error: no such format
    write_lines("words.txt")  # error: the format is missing


async def length(word: str) -> int:
    return len(word)


async def show(inbox: Receiver[Message[str | bytes]]) -> None: ...


async def narrower_messages(go: Group, wide: Message[int | str], word: Message[str]) -> None:
    words, numbers = Channel[Message[str]](), Channel[Message[int]]()
    either, things = Channel[Message[int | str]](), Channel[Message[object]]()
    go(each(upper), either, words)  # error: not all of them are words
    go(each(length), things, numbers)  # error: nor are these
    go(each(abs), numbers, words)  # error: abs makes numbers
    go(show, either)  # error: some are numbers
    narrow: Message[int] = wide  # error: it may be a word
    await numbers.send(wide)  # error: it may be a word
    await submit(numbers, "one")  # error: a word where numbers go
    word.data = 1  # error: a number for a word
    word.with_data(1).data = "one"  # error: a word for a number
    print(narrow)


def no_value_comes_back(go: Group) -> None:
    words, more = Channel[Message[str]](), Channel[Message[str]]()
    task: str = go(filter, words, more)  # error: go returns None
    print(task)


def restarts(go: Group) -> None:
    words, more = Channel[Message[str]](), Channel[Message[str]]()
    go(filter, words, more, restart=5)  # error: it takes a Restart
    go(filter, words, more, restart=Restart("five"))  # error: max is a number
