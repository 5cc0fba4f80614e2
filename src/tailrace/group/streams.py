"""Small helpers between channels and Python's own iterables."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from types import AsyncGeneratorType
from typing import Any, Generic, TypeVar, cast

from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Closed
from tailrace.group.actor import Feed
from tailrace.select import select

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class emit(Generic[T]):  # noqa: N801  # used as a verb: go(emit(lines), out)
    """A source: ``go(emit(iterable), out)`` sends each item of an iterable, plain or async.

    A plain iterable is stepped on the event loop: one that blocks (a file, a database cursor)
    belongs in a thread actor. An asynchronous generator is closed when the actor ends. TypeError
    for what cannot be iterated. `Group.drain` lets it send the item in hand and draws no other.
    Cancelled: the item being sent was not sent, and is lost with the iterator's place.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        if not isinstance(items, (Iterable, AsyncIterable)):
            raise TypeError(f"emit takes an iterable or asynchronous iterable, not {items!r}")
        self.items = items

    def __repr__(self) -> str:
        return f"emit({self.items!r:.60})"

    async def __call__(self, out: Sender[T]) -> None:
        """Send all items to `out`."""
        with Feed() as feed:
            if isinstance(self.items, AsyncIterable):
                await _send_drawn(self.items, out, feed)
            else:
                for item in self.items:
                    await out.send(item)
                    if feed.stopping:
                        break
            if feed.stopping:
                await feed.end()


async def _send_drawn(items: AsyncIterable[T], out: Sender[T], feed: Feed) -> None:
    try:
        feed.drawing = True
        async for item in items:
            feed.drawing = False
            await out.send(item)
            if feed.stopping:
                return
            feed.drawing = True
    finally:
        feed.drawing = False
        # Else its own clean-up would be left to the garbage collector's day.
        generator: object = items
        if isinstance(generator, AsyncGeneratorType):
            await cast("AsyncGenerator[T]", generator).aclose()


async def collect(inbox: Receiver[T]) -> list[T]:
    """All values of a channel, as a list, once it has closed.

    Raises `Closed` if it closed with a cause. Cancelled: what was received until then is lost.
    """
    return [value async for value in inbox]


def amap(
    fn: Callable[[A], Awaitable[B]],
    items: Iterable[A] | AsyncIterable[A],
    *,
    concurrency: int,
    ordered: bool = False,
) -> AsyncGenerator[B, None]:
    """The results of ``await fn(item)``, at most `concurrency` at once, as they come.

    `ordered` gives them in the order of the items instead. Either way at most `concurrency`
    items are started and not yet given, and one more is read ahead. The first exception of `fn`
    is raised at once, one of `items` after the results of what came before; what is still
    running is then cancelled and waited for. So it is when the iteration is left early (at once
    with `contextlib.aclosing`). ValueError unless `concurrency` is 1 or more.
    """
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise ValueError(f"concurrency must be a whole number of at least 1, not {concurrency!r}")
    return _amap(fn, items, concurrency, ordered)


async def _amap(
    fn: Callable[[A], Awaitable[B]],
    items: Iterable[A] | AsyncIterable[A],
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[B, None]:
    feed = Channel[A]()
    started: deque[asyncio.Future[B]] = deque()  # and not given yet
    finished: deque[asyncio.Future[B]] = deque()  # of those, in the order in which they did
    news = Channel[None](1, overflow="drop_newest")  # something has finished since

    def tell(one: asyncio.Future[B]) -> None:
        if not ordered:
            finished.append(one)
        news.send_nowait(None)

    feeder = asyncio.ensure_future(_feed(items, feed))
    try:
        while started or not feed.closed:
            match await select(
                feed.recv() if len(started) < concurrency and not feed.closed else None,
                news.recv() if started else None,
            ):
                case 0, Closed():
                    pass
                case 0, item:
                    begun = asyncio.ensure_future(fn(item))
                    begun.add_done_callback(tell)
                    started.append(begun)
                case _:
                    pass  # whose turn it is, is seen below
            while next_done := _next_done(started, finished, ordered):
                yield next_done.result()
        await feeder
    finally:
        running: list[asyncio.Future[Any]] = [feeder, *started]
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _next_done(
    started: deque[asyncio.Future[B]], finished: deque[asyncio.Future[B]], ordered: bool
) -> asyncio.Future[B] | None:
    """Take out the next whose result is due, if it is there."""
    if ordered:
        return started.popleft() if started and started[0].done() else None
    if not finished:
        return None
    started.remove(finished[0])
    return finished.popleft()


async def _feed(items: Iterable[A] | AsyncIterable[A], feed: Channel[A]) -> None:
    """Send all items; whatever ends it, the reader hears the end and asks this task why."""
    try:
        await emit(items)(feed)
    finally:
        feed.close()
