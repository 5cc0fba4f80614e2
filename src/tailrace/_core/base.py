"""What users read and call of channels, operations and selects. Both cores inherit it.

- `Operation`, `SendManyBase`, `SelectBase`: words, and what is refused.
- The ends of a channel, each with its half of the methods, and the view for threads. An end adds a
  call to each operation and nothing else.
- `ChannelBase`: a channel but for what moves its values.
- `closed_error`, `tell_dropped`: what a core calls when an operation fails, or drops a value.

Nothing here runs when a value moves.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, TypeVar

from tailrace._core.common import WORDS, ChannelStatistics, Claim, End, Sending, Verb, Wait, label
from tailrace._core.holds import Held, Holders, holders_of
from tailrace._core.threads import block
from tailrace.errors import Closed

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


# --- operations -----------------------------------------------------------------------------------


class NoFuture:
    """What is awaited, and is no future to add callbacks to."""

    __slots__ = ()

    def add_done_callback(self, callback: object, /, *, context: object = None) -> Never:
        """TypeError, as for asyncio.wait: what is not awaited yet is no future."""
        raise TypeError(
            f"{self!r} is no future: await it, or give it to select; asyncio.wait takes tasks"
        )


class Operation(NoFuture, Generic[T_co]):
    """One channel operation that has not happened yet: await it, or give it to `select`, once.

    Awaiting raises `Closed` as its channel's semantics say. When the await raises
    `CancelledError` the operation did not happen; when it happened, the await returns.
    Dropping one unused warns ``RuntimeWarning: … was never awaited``.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        channel: Any
        method: str  # "Channel.send": what messages call it
        verb: Verb
        receives: bool

        @property
        def parked(self) -> bool: ...
        @property
        def since(self) -> float: ...
        @property
        def _unused(self) -> bool: ...
        # See `twin.OperationLike`.
        @property
        def _claim(self) -> int: ...
        def _begin(self) -> None: ...
        def _attempt(self, lock: threading.Lock | None, /) -> bool: ...
        def _wake(self, claim: Claim, /) -> bool: ...
        def _give_up(self) -> None: ...
        def take_value(self) -> T_co: ...

    def __await__(self) -> Generator[Any, Any, T_co]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{in_words(self)}>"

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What a task or thread that is parked here waits for."""
        return (Wait(self.verb, self.channel),)

    @property
    def timed(self) -> bool:
        """Whether a timeout of its own resumes a task that is parked here."""
        return False

    def describe(self) -> str:
        """What a task or thread that is parked here is doing: ``sending to to_store``."""
        return f"{WORDS[self.verb]} {label(self.channel)}"


def in_words(operation: Any) -> str:
    """What an operation is, and whether it was used."""
    state = "not awaited yet" if operation._unused else "used"
    return f"{operation.method} on {label(operation.channel)}, {state}"


class SendManyBase:
    """A `send_many` in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        sent: int

    def __repr__(self) -> str:
        return f"<{in_words(self)}, {self.sent} sent>"


class SelectBase(NoFuture):
    """A select in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        cases: tuple[Any, ...]
        timeout: float | None

    def __repr__(self) -> str:
        return f"<select among {self.describe()}>"

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What a task that is parked here waits for: the first of these ends the wait."""
        return tuple(Wait(each.verb, each.channel) for each in self.cases if each is not None)

    @property
    def timed(self) -> bool:
        """Whether a timeout of its own resumes a task that is parked here."""
        return self.timeout is not None

    def describe(self) -> str:
        """The cases in words: ``receiving from a or sending to b``."""
        return " or ".join(case.describe() for case in self.cases if case is not None) or "nothing"

    @property
    def receives(self) -> bool:
        """Whether every case is a receive."""
        return all(case.receives for case in self.cases if case is not None)


# --- the ends of a channel ------------------------------------------------------------------------


class _End(Generic[T]):
    """What the ends have in common: two of one channel are equal."""

    __slots__ = ("_channel",)

    def __init__(self, channel: ChannelBase[T]) -> None:
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


class SyncSendingEnd(_End[T]):
    """The sending end of a channel, for threads."""

    __slots__ = ()

    def send(self, value: T, timeout: float | None = None) -> None:
        """Send, blocking this thread for at most `timeout` seconds (None: for ever).

        Raises `Closed`; TimeoutError (then it was not sent); RuntimeError on the thread of a
        running event loop; CancelledError in the thread of a cancelled actor (not sent).
        """
        block(self._channel.send(value), timeout)


class SyncReceivingEnd(_End[T]):
    """The receiving end of a channel, for threads."""

    __slots__ = ()

    def recv(self, timeout: float | None = None) -> T:
        """Receive, blocking this thread for at most `timeout` seconds (None: for ever).

        Raises as `SyncSendingEnd.send`; then nothing was received.
        """
        return block(self._channel.recv(), timeout)

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


class SyncChannel(SyncSendingEnd[T], SyncReceivingEnd[T]):
    """A channel as threads use it: `send`, `recv`, ``for v in …``; `Channel.sync` gives it."""

    __slots__ = ()

    @property
    def sender(self) -> SyncSendingEnd[T]:
        """The sending end alone, for threads."""
        return SyncSendingEnd(self._channel)

    @property
    def receiver(self) -> SyncReceivingEnd[T]:
        """The receiving end alone, for threads."""
        return SyncReceivingEnd(self._channel)


# --- the channel ----------------------------------------------------------------------------------


class ChannelBase(Generic[T]):
    """A typed, synchronised, optionally buffered pipe between actors, tasks and threads.

    ``Channel[int]()`` is a rendezvous: a send returns when a receiver has taken the value.
    ``Channel[int](64)`` holds up to 64 values, ``Channel[int](math.inf)`` any number (for
    feedback loops). `overflow` says what a send does when there is no room: wait ("block"), or
    drop the new or the oldest value, counted in `statistics`. `name` is how logs and graphs call
    it. TypeError or ValueError for a capacity or policy that is none.

    Any number of tasks, loops and threads may use one channel at once; each value goes to
    exactly one receiver, and both sides are served first in, first out.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _ends: Holders | None

        _cause: BaseException | None

        @property
        def name(self) -> str: ...
        @property
        def capacity(self) -> float: ...
        @property
        def closed(self) -> bool: ...
        def __aiter__(self) -> AsyncIterator[T]: ...
        def __anext__(self) -> Awaitable[T]: ...
        # See `twin.ChannelLike`.
        def _close(self, cause: BaseException | None, /) -> bool: ...
        def _counts(self) -> tuple[int, int, int, int, int]: ...
        def _values(self) -> list[Any]: ...

    # A core writes these six. Its methods show the docstrings of these.

    def send(self, value: T, /) -> Operation[None]:
        """Await it to send `value`: until a receiver took it, or at capacity ≥ 1 it is buffered.

        Raises `Closed` (also when the channel closes meanwhile: then `value` was not sent).
        Cancelled: CancelledError means it was not sent; a value taken in the same instant makes
        the await return, and the cancellation arrives at the task's next one.
        """
        raise NotImplementedError

    def recv(self) -> Operation[T]:
        """Await it for the next value. Raises `Closed` once the channel is closed and drained.

        Cancelled: a value handed over in the same instant goes back, in its place in the order.
        """
        raise NotImplementedError

    def send_nowait(self, value: T, /) -> None:
        """Send at once, or raise `WouldBlock`; `Closed` as for `send`."""
        raise NotImplementedError

    def recv_nowait(self) -> T:
        """Receive at once, or raise `WouldBlock`; `Closed` as for `recv`."""
        raise NotImplementedError

    def send_many(self, values: Iterable[T], /) -> Sending:
        """Await it to send all `values`, in order. Not a case for `select`.

        After any exception, cancellation included, the operation's ``sent`` says how many were
        sent: go on with ``values[op.sent:]``. An iterator may already have given out the value
        that was not sent.
        """
        raise NotImplementedError

    def recv_many(self, n: int, /) -> Awaitable[list[T]]:
        """Await it for 1 to `n` values: waits for one, then takes what is there, in order.

        Raises `Closed` as `recv`. Cancelled: none was taken. Not a case for `select`.
        """
        raise NotImplementedError

    def __bool__(self) -> Literal[True]:
        return True  # an empty channel is still a channel

    def __repr__(self) -> str:
        buffered, _, _, senders, receivers = self._counts()
        parts = [f"<Channel {label(self)}: {buffered}/{self.capacity} buffered"]
        if senders:
            parts.append(f"{senders} sending waiting")
        if receivers:
            parts.append(f"{receivers} receiving waiting")
        if self.closed:
            parts.append("closed" if self._cause is None else f"closed by {self._cause!r}")
        return ", ".join(parts) + ">"

    @property
    def sender(self) -> SendingEnd[T]:
        """The sending end alone."""
        return SendingEnd(self)

    @property
    def receiver(self) -> ReceivingEnd[T]:
        """The receiving end alone."""
        return ReceivingEnd(self)

    @property
    def sync(self) -> SyncChannel[T]:
        """The same channel for threads: its methods block instead of being awaited."""
        return SyncChannel(self)

    @property
    def element(self) -> Any:
        """The element type written in ``Channel[T]()``; None if it was not."""
        origin = getattr(self, "__orig_class__", None)
        element = origin.__args__[0] if origin is not None else None
        return None if isinstance(element, TypeVar) else element

    def statistics(self) -> ChannelStatistics:
        """A frozen snapshot of the counters."""
        buffered, sent, dropped, senders, receivers = self._counts()
        return ChannelStatistics(
            buffered=buffered,
            capacity=self.capacity,
            sent=sent,
            received=sent - dropped - buffered,
            dropped=dropped,
            waiting_senders=senders,
            waiting_receivers=receivers,
            closed=self.closed,
        )

    def close(self, cause: BaseException | None = None) -> None:
        """End the stream: what is buffered can still be received, then receivers hear `Closed`
        (with `cause` as its ``__cause__``). Parked senders get `Closed`: they did not send.

        Closing twice is fine. RuntimeError while an actor or ``sending()`` holds the sending
        end: it closes when the last of those lets go.
        """
        if cause is not None and not isinstance(cause, BaseException):
            raise TypeError(f"a channel is closed with an exception or None, not {cause!r}")
        if holders_of(self, "send"):
            raise RuntimeError(
                f"{label(self)} is closed by those who hold its sending end, when the last of "
                f"them ends; closing it by hand would cut them off"
            )
        self._close(cause)

    def sending(self) -> AbstractContextManager[SendingEnd[T]]:
        """Hold the sending end for the length of the block; the last holder to leave closes it.

        An exception that leaves the block becomes the close's cause, unless it is the clean end
        of another channel or GeneratorExit: a generator that is closed early has ended well.
        """
        return Held(self, "send", self.sender)

    def receiving(self) -> AbstractContextManager[ReceivingEnd[T]]:
        """Hold the receiving end for the length of the block; the last holder to leave closes
        the channel, so that senders stop."""
        return Held(self, "receive", self.receiver)

    def _let_go(self, end: End, cause: BaseException | None) -> bool:
        """The last holder of `end` has let go: close; False if it was closed.

        Values that are left when nobody holds the receiving end are told so, by the method
        ``__abandoned__`` of their type: a message among them must not be waited for.
        """
        closed = self._close(cause)
        if end == "receive":
            values: list[object] = self._values()
            for value in values:
                abandoned = getattr(type(value), "__abandoned__", None)
                if abandoned is not None:
                    abandoned(value, label(self))
        return closed


def closed_error(channel: Any) -> Closed:
    """A new error that says that `channel` is closed."""
    error = Closed(channel)
    error.__cause__ = channel._cause
    return error


def tell_dropped(value: object) -> None:
    """An overflow policy dropped `value`: call its ``__discarded__``, if its type has one."""
    discarded: Any = getattr(type(value), "__discarded__", None)
    if discarded is not None:
        discarded(value, "overflow")


def resolve_end(value: object) -> tuple[Any, End | None] | None:
    """The channel behind `value` and which end of it that is (None: both); None if neither."""
    if isinstance(value, ChannelBase):
        return value, None  # pyright: ignore[reportUnknownVariableType]  # of any element
    if not isinstance(value, _End):
        return None
    channel: ChannelBase[Any] = value._channel  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(value, SyncChannel):
        return channel, None
    return channel, "send" if isinstance(value, (SendingEnd, SyncSendingEnd)) else "receive"
