"""The ends of a channel, each only its half of the methods, and the view for threads.

For both cores. An end adds a call to each operation and nothing else: what it does is what its
channel does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from tailrace._core.common import End, Sending, label
from tailrace.errors import Closed

if TYPE_CHECKING:
    from tailrace._core.python import Channel, Operation

T = TypeVar("T")


class _End(Generic[T]):
    """What the ends have in common: two of one channel are equal."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel[T]) -> None:
        self._channel = channel

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._channel is self._channel

    def __hash__(self) -> int:
        return hash((type(self), id(self._channel)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {label(self._channel)}>"

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._channel.name

    @property
    def element(self) -> Any:
        """The channel's element type, where written."""
        return self._channel.element


class SendingEnd(_End[T]):
    """The sending end of a channel: `send`, `send_nowait`, `send_many`, and no more."""

    __slots__ = ()

    def send(self, value: T, /) -> Operation[None]:
        """As `Channel.send`."""
        return self._channel.send(value)

    def send_nowait(self, value: T, /) -> None:
        """As `Channel.send_nowait`."""
        self._channel.send_nowait(value)

    def send_many(self, values: Iterable[T], /) -> Sending:
        """As `Channel.send_many`."""
        return self._channel.send_many(values)


class ReceivingEnd(_End[T]):
    """The receiving end: `recv`, `recv_nowait`, `recv_many`, `async for`, and no more."""

    __slots__ = ()

    def recv(self) -> Operation[T]:
        """As `Channel.recv`."""
        return self._channel.recv()

    def recv_nowait(self) -> T:
        """As `Channel.recv_nowait`."""
        return self._channel.recv_nowait()

    def recv_many(self, n: int, /) -> Awaitable[list[T]]:
        """As `Channel.recv_many`."""
        return self._channel.recv_many(n)

    def __aiter__(self) -> AsyncIterator[T]:
        return self._channel


class BlockingSender(_End[T]):
    """The sending end of a channel, for threads."""

    __slots__ = ()

    def send(self, value: T, timeout: float | None = None) -> None:
        """Send, blocking this thread for at most `timeout` seconds (None: for ever).

        Raises `Closed`; TimeoutError (then it was not sent); RuntimeError on the thread of a
        running event loop; CancelledError in the thread of a cancelled actor (not sent).
        """
        channel = self._channel
        channel._block(channel.send(value), timeout)


class BlockingReceiver(_End[T]):
    """The receiving end of a channel, for threads."""

    __slots__ = ()

    def recv(self, timeout: float | None = None) -> T:
        """Receive, blocking this thread for at most `timeout` seconds (None: for ever).

        Raises as `BlockingSender.send`; then nothing was received.
        """
        channel = self._channel
        return channel._block(channel.recv(), timeout)

    def __iter__(self) -> Iterator[T]:
        """Receive until closed and drained; raises `Closed` if it was closed with a cause."""
        while True:
            try:
                value = self.recv()
            except Closed as closed:
                if closed.channel is not self._channel or closed.__cause__ is not None:
                    raise
                return
            yield value


class Blocking(BlockingSender[T], BlockingReceiver[T]):
    """A channel as threads use it: `send`, `recv`, ``for v in …``; `Channel.sync` gives it."""

    __slots__ = ()

    @property
    def sender(self) -> BlockingSender[T]:
        """The sending end alone, for threads."""
        return BlockingSender(self._channel)

    @property
    def receiver(self) -> BlockingReceiver[T]:
        """The receiving end alone, for threads."""
        return BlockingReceiver(self._channel)


Resolve: TypeAlias = "Callable[[object], tuple[Channel[Any], End | None] | None]"


def resolver(kind: type[Channel[Any]]) -> Resolve:
    """How channels of that `kind`, and ends, are known from other things."""

    def resolve(value: object) -> tuple[Channel[Any], End | None] | None:
        """The channel behind `value` and which end of it that is (None: both); None if neither."""
        if isinstance(value, kind):
            return value, None  # pyright: ignore[reportUnknownVariableType]  # of any element
        if isinstance(value, _End):
            channel: Channel[Any] = value._channel  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if not isinstance(value, Blocking):
                sends = isinstance(value, (SendingEnd, BlockingSender))
                return channel, "send" if sends else "receive"
            return channel, None
        return None

    return resolve
