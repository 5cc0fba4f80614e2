"""Stock actors in right wirings: elements and directions fit."""

from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import assert_type

from tailrace import Channel, DeadLetter, Group, Message, Receiver, Retry
from tailrace.actors import Hub, Tee, batch, each, expand, in_order, partition, tee, throttle


@dataclass
class Order:
    user: str
    lines: list[int]


def lines(order: Order) -> list[int]:
    return order.lines


async def lines_later(order: Order) -> tuple[int, ...]:
    return tuple(order.lines)


def lines_yielded(order: Order) -> Iterator[int]:
    yield from order.lines


async def lines_streamed(order: Order) -> AsyncIterator[int]:
    for line in order.lines:
        yield line


def stages(go: Group) -> None:
    orders, more = Channel[Message[Order]](), Channel[Message[Order]]()
    numbers, batches = Channel[Message[int]](), Channel[Message[list[int]]]()
    wider = Channel[Message[int | str]]()
    go(expand(lines), orders, numbers, actors=2)
    go(expand(lines_later), orders, numbers)
    go(expand(lines_yielded), orders, numbers)
    go(expand(lines_streamed), orders, numbers)
    go(batch(100, 1.0), numbers, batches)
    go(batch(), orders, Channel[Message[list[Order]]]())
    go(tee, orders, more, more)
    go(tee, numbers, numbers, wider)
    go(Tee(copy=deepcopy), orders, more, more)
    go(partition[Order](lambda order: order.user), orders, more, more)
    go(partition(lines_key), orders, more)
    go(throttle(100.0), orders, more)
    go(throttle(0.5, burst=10), numbers, numbers)
    hub = Hub[Order]()
    go(hub, orders)
    with hub.subscribe(100, "drop_oldest") as inbox:
        assert_type(inbox, Receiver[Order])


def lines_key(order: Order) -> int:
    return len(order.lines)


def price(order: Order) -> int:
    return len(order.lines)


async def price_later(order: Order) -> int:
    return len(order.lines)


def failures(go: Group) -> None:
    orders, prices = Channel[Message[Order]](), Channel[Message[int]]()
    texts, wider = Channel[Message[str]](), Channel[Message[int | str]]()
    dead = Channel[Message[DeadLetter[Order]]](10)
    dead_of_any = Channel[Message[DeadLetter[Order | str]]](10)
    go(each(price), orders, prices, actors=2)
    go(each(price_later, timeout=1.0, retry=Retry(5)), orders, prices)
    go(each(price, threads=True, timeout=1.0), orders, prices, dead)
    go(each(price_later, retry=Retry(also=KeyError), on_error="abort"), orders, wider, dead)
    go(each(price), orders, prices, dead_of_any)
    go(each(shout), texts, texts, dead_of_any)
    go(each(len), texts, wider)
    go(in_order(price, 4), orders, prices)
    go(in_order(price_later, 4, timeout=1.0, retry=Retry(5)), orders, wider, dead)
    go(in_order(price, concurrency=4, threads=True), orders, prices, dead_of_any)


def shout(text: str) -> str:
    return text.upper()
