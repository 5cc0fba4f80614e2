"""Small helpers between channels and Python's own iterables."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from types import AsyncGeneratorType
from typing import Any, Generic, TypeVar, cast

from tailrace.arguments import check_count
from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Closed
from tailrace.group.actor import Feed
from tailrace.select import select

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class emit(Generic[T]):  # noqa: N801  # used as a verb: go(emit(lines), out)
    """A source: ``go(emit(iterable), out)`` sends each item of an iterable, plain or async.

    A plain iterable runs on the event loop: one that blocks (a file, a database cursor) belongs
    in a thread actor. An asynchronous generator is closed when the actor ends. TypeError unless
    `items` is an iterable. After `Group.drain` it sends the current item, and draws no other.
    Cancelled: the current item was not sent, and is lost.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        if not isinstance(items, (Iterable, AsyncIterable)):
            raise TypeError(f"emit takes an iterable or asynchronous iterable, not {items!r}")
        self.items = items
        if isinstance(items, (Iterator, AsyncIterator)):
            self.no_restart = (
                "its items can be drawn only once; give emit an iterable that begins anew, such as "
                "a list, or draw the items in an actor of your own"
            )

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
        # Else its clean-up would run when the garbage collector finds it.
        generator: object = items
        if isinstance(generator, AsyncGeneratorType):
            await cast("AsyncGenerator[T]", generator).aclose()


async def collect(inbox: Receiver[T]) -> list[T]:
    """All values of a channel, as a list, once it has closed.

    Raises `Closed` if it closed with a cause. Cancelled: the values received so far are lost.
    """
    return [value async for value in inbox]


def amap(
    fn: Callable[[A], Awaitable[B]],
    items: Iterable[A] | AsyncIterable[A],
    *,
    concurrency: int,
    ordered: bool = False,
) -> AsyncGenerator[B, None]:
    """The results of ``await fn(item)`` as they come; at most `concurrency` calls run at once.

    With `ordered`, the results come in the order of the items. A call counts as running until its
    result has been given. One more item is read ahead. An exception of `fn` is raised at once, an
    exception of `items` after the results of the items before it. Then, and when the iteration is
    left early, the running calls are cancelled and waited for (at once with
    `contextlib.aclosing`). TypeError or ValueError unless `concurrency` is 1 or more.
    """
    check_count("concurrency", concurrency)
    return _amap(fn, items, concurrency, ordered)


async def _amap(
    fn: Callable[[A], Awaitable[B]],
    items: Iterable[A] | AsyncIterable[A],
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[B, None]:
    feed = Channel[A]()
    started: deque[asyncio.Future[B]] = deque()  # the results are not given yet
    finished: deque[asyncio.Future[B]] = deque()  # unless `ordered`: those that have finished
    news = Channel[None](1, overflow="drop_newest")  # a call has finished

    def note_finished(call: asyncio.Future[B]) -> None:
        if not ordered:
            finished.append(call)
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
                    begun.add_done_callback(note_finished)
                    started.append(begun)
                case _:
                    pass  # a call has finished
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
    """Take out the next call whose result is to be given, if that has finished."""
    if ordered:
        return started.popleft() if started and started[0].done() else None
    if not finished:
        return None
    started.remove(finished[0])
    return finished.popleft()


async def _feed(items: Iterable[A] | AsyncIterable[A], feed: Channel[A]) -> None:
    """Send all items, and close `feed` at the end. The reader then awaits this task."""
    try:
        await emit(items)(feed)
    finally:
        feed.close()
