"""`partition`: an actor that sends messages of one key by one channel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from tailrace.actors.stock import RAISED, Stock, check_sync, name_of
from tailrace.channel import Receiver, Sender
from tailrace.message import Message

__all__ = ["partition"]

T = TypeVar("T")


class partition(Stock, Generic[T]):  # noqa: N801 (it is called as a function is)
    """An actor that sends each message to the lane of its key: ``go(partition(key), a, b, c)``.

    ``key(data)`` may be anything hashable. Messages of one key go to one lane, in the order in
    which they came; keys are spread over the lanes by their hash. A lane that is full delays those
    behind it. Write ``partition[Order](lambda order: order.user)`` to have the key checked too.

    If `key` raises, or gives what cannot be hashed, `Abort` and `Reject` settle the message, any
    other exception fails it and is logged; the actor goes on.

    ValueError for no lanes; TypeError for a `key` that is no plain function, and for a value that
    is no `Message`. A lane that is closed ends the actor by that `Closed`: the message in hand
    fails. Cancelled: the message in hand fails.
    """

    def __init__(self, key: Callable[[T], Hashable]) -> None:
        check_sync("partition", "key", key)
        super().__init__(f"partition({name_of(key)})")
        self._key = key

    async def __call__(self, inbox: Receiver[Message[T]], *lanes: Sender[Message[T]]) -> None:
        """The actor: until `inbox` ends."""
        if not lanes:
            raise ValueError(
                f"{self!r} needs at least one channel to send to: go(partition(key), inbox, a, b)"
            )
        try:
            async for message in inbox:
                if self._is_open(message):
                    code: Any = self._apply(message, self._hash)
                    if code is not RAISED:
                        lane: Sender[Message[T]] = lanes[int(code) % len(lanes)]
                        await self._pass_on(message, lane)
                del message
        finally:
            self._failures.rest()

    def _hash(self, data: T) -> int:
        return hash(self._key(data))
