"""Stock actors in wrong wirings: other elements, directions and numbers of channels."""

from tailrace import Channel, DeadLetter, Group, Message, Retry
from tailrace.actors import Hub, Tee, batch, each, expand, in_order, partition, tee, throttle


def words(text: str) -> list[str]:
    return text.split()


def expanded(go: Group) -> None:
    texts, numbers = Channel[Message[str]](), Channel[Message[int]]()
    go(expand(words), numbers, texts)  # error: receives numbers
    go(expand(words), texts, numbers)  # error: sends numbers
    go(expand(words), texts.sender, texts)  # error: a sending end to receive from
    go(expand(words), texts)  # error: one missing
    expand(len)  # error: an int is no iterable


def batched(go: Group) -> None:
    numbers = Channel[Message[int]]()
    go(batch(10), numbers, numbers)  # error: a list is sent
    go(batch(10), numbers, Channel[Message[list[str]]]())  # error: of other elements
    go(batch(10), numbers)  # error: one missing
    batch("10")  # error: a number


def branched(go: Group) -> None:
    texts, numbers = Channel[Message[str]](), Channel[Message[int]]()
    go(tee, texts, texts, numbers)  # error: the last one differs
    go(tee, texts, texts, texts.receiver)  # error: a receiving end to send to
    go(Tee(), numbers, texts)  # error: other elements


def laned(go: Group) -> None:
    texts, numbers = Channel[Message[str]](), Channel[Message[int]]()
    go(partition[str](len), texts, texts, numbers)  # error: the last one differs
    go(partition[str](len), numbers, texts)  # error: receives numbers
    partition[int](words)  # error: a key of texts


def throttled(go: Group) -> None:
    texts, numbers = Channel[Message[str]](), Channel[Message[int]]()
    go(throttle(1.0), texts, numbers)  # error: other elements
    go(throttle(1.0), texts)  # error: one missing
    throttle("1")  # error: a number


def subscribed(go: Group) -> None:
    numbers = Channel[Message[int]]()
    go(Hub[str](), numbers)  # error: receives numbers
    go(Hub[int](), numbers, numbers)  # error: one too many
    Hub[int]().subscribe(1, "drop")  # error: no such policy


def price(text: str) -> int:
    return len(text)


async def price_later(text: str) -> int:
    return len(text)


def failures(go: Group) -> None:
    texts, numbers = Channel[Message[str]](), Channel[Message[int]]()
    dead = Channel[Message[DeadLetter[str]]]()
    go(each(price), numbers, numbers)  # error: receives numbers
    go(each(price), texts, texts)  # error: sends texts
    go(each(price), texts)  # error: one missing
    go(each(price), texts, numbers, numbers)  # error: no dead letters
    go(each(price), texts, numbers, Channel[Message[DeadLetter[int]]]())  # error: of other data
    go(each(price_later), texts, numbers, texts)  # error: no dead letters
    go(each(price), texts, numbers, dead.receiver)  # error: a receiving end to send to
    go(each(price), texts, numbers, dead, dead)  # error: one too many
    go(in_order(price, 4), numbers, numbers)  # error: receives numbers
    go(in_order(price, 4), texts, texts)  # error: sends texts
    go(in_order(price, 4), texts, numbers, texts)  # error: no dead letters
    go(in_order(price_later, 4), texts, numbers, Channel[Message[DeadLetter[int]]]())  # error: of other data
    in_order(price)  # error: how many at once
    in_order(price, "4")  # error: a number
    each(price, retry=5)  # error: a policy
    Retry(also="OSError")  # error: types of exceptions
