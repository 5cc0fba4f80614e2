"""`batch`: an actor that makes one message of several."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from tailrace.actors.stock import Stock
from tailrace.arguments import check_count, check_seconds
from tailrace.channel import Receiver, Sender
from tailrace.errors import Closed, WouldBlock
from tailrace.message import Message
from tailrace.select import select

__all__ = ["batch"]

T = TypeVar("T")


class batch(Stock):  # noqa: N801 (it is called as a function is)
    """An actor that joins up to `max_items` messages into one, whose data is the list of theirs.

    A batch goes out when it is full, when `max_seconds` have passed since its first message came,
    and when `inbox` ends. Its outcome goes to all of its messages. It has an id of its own and no
    headers, so a store below it does not recognise repeats.

    With several actors each fills a batch of its own. A message that is settled already is left
    out.

    TypeError or ValueError for limits that are none. Called as an actor it raises TypeError for a
    value that is no `Message`. Cancelled: the messages in hand fail.
    """

    def __init__(self, max_items: int = 100, max_seconds: float = 1.0) -> None:
        check_count("batch: max_items", max_items)
        check_seconds("batch: max_seconds", max_seconds)
        super().__init__(f"batch({max_items}, {max_seconds:g})")
        self._max_items = max_items
        self._max_seconds = max_seconds

    async def __call__(self, inbox: Receiver[Message[T]], out: Sender[Message[list[T]]]) -> None:
        """The actor: until `inbox` ends."""
        members: list[Message[T]] = []
        end: Closed | None = None
        try:
            while end is None:
                end = await self._fill(members, inbox)
                ready = [message for message in members if message.outcome is None]
                members.clear()
                if ready:
                    await self._pass_on(Message.join(ready), out)
                del ready
            if end.__cause__ is not None:
                raise end
        except BaseException as error:
            for message in members:
                self._not_passed(message, error)
            raise
        finally:
            members.clear()  # a traceback refers to this frame
            del end
            self._failures.rest()

    async def _fill(self, members: list[Message[T]], inbox: Receiver[Message[T]]) -> Closed | None:
        """Receive until the batch is full, or due, or `inbox` has ended: then the `Closed`."""
        try:
            self._add(members, await inbox.recv())
            loop = asyncio.get_running_loop()
            due = loop.time() + self._max_seconds
            while len(members) < self._max_items:
                try:
                    self._add(members, inbox.recv_nowait())
                except WouldBlock:
                    # A select with a timeout, unlike a receive, does not look idle.
                    match await select(inbox.recv(), timeout=max(0.0, due - loop.time())):
                        case None, _:
                            break
                        case _, Closed() as end:
                            return end
                        case _, message:
                            self._add(members, message)
                            del message
        except Closed as end:
            return end
        return None

    def _add(self, members: list[Message[T]], message: Message[T]) -> None:
        if self._is_open(message):
            members.append(message)
