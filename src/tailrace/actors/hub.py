"""`Hub`: an actor that copies what it receives to whoever has subscribed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar

from tailrace._core import Overflow
from tailrace.actors.fanout import send_to_all
from tailrace.actors.stock import Stock
from tailrace.channel import Channel, Receiver, Sender
from tailrace.message import Message

__all__ = ["Hub"]

T = TypeVar("T")


class Hub(Stock, Generic[T]):
    """An actor that sends the data of each message to every subscriber.

        hub = Hub[Event]()
        go(hub, events)
        ...
        with hub.subscribe(100, "drop_oldest") as inbox:
            async for event in inbox: ...

    Subscribers come and go at any time; each hears what comes after it has subscribed, by a channel
    of its own, which ends with the hub. A message is acked once every subscriber's channel has
    taken or dropped its data; without subscribers it is aborted ("nobody listens"). A slow
    subscriber with "block" slows all of them; one that drops slows nobody.

    Called as an actor it raises TypeError for a value that is no `Message`. Cancelled: the message
    in hand fails; some subscribers may have heard of it.
    """

    def __init__(self) -> None:
        super().__init__("hub")
        self._subscribers: dict[Channel[T], ExitStack] = {}  # with the hold of its sending end
        self._actors = 0
        self._ended = False

    @contextmanager
    def subscribe(
        self, capacity: float = 0, overflow: Overflow = "block"
    ) -> Generator[Receiver[T], None, None]:
        """Receive all data until the block ends. Capacity and overflow are those of `Channel`.

        The channel closes when the hub ends; then, or if it has ended already, what is buffered is
        the last. If the hub fails, its error is the cause.
        """
        channel = Channel[T](capacity, name="subscriber", overflow=overflow)
        with channel.receiving() as inbox, ExitStack() as hold:
            if self._ended:
                channel.close()
            else:
                hold.enter_context(channel.sending())
                self._subscribers[channel] = hold
            try:
                yield inbox
            finally:
                self._subscribers.pop(channel, None)

    async def __call__(self, inbox: Receiver[Message[T]]) -> None:
        """The actor: until `inbox` ends."""
        self._ended = False
        self._actors += 1
        cause: BaseException | None = None
        try:
            async for message in inbox:
                if self._is_open(message):
                    await self._publish(message)
                del message
        except BaseException as error:
            cause = error
            raise
        finally:
            self._actors -= 1
            if self._actors == 0:
                self._end(cause)
            self._failures.rest()
            del cause  # its traceback refers to this frame

    async def _publish(self, message: Message[T]) -> None:
        sends: dict[Channel[T], tuple[Sender[Any], Any]]
        sends = {channel: (channel, message.data) for channel in list(self._subscribers)}
        left: list[Channel[T]] = []
        listening = len(sends)
        try:
            await send_to_all(sends, lambda channel, _: left.append(channel))
        except BaseException as error:
            self._not_passed(message, error)
            raise
        if len(left) < listening:
            message.ack()
        else:
            message.abort("nobody listens")

    def _end(self, cause: BaseException | None) -> None:
        """Close the channels of all subscribers."""
        self._ended = True
        holds = list(self._subscribers.values())
        self._subscribers.clear()
        for hold in holds:
            hold.__exit__(None if cause is None else type(cause), cause, None)
