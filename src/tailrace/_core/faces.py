"""What both cores show of their objects, and who holds which end of a channel: written once.

The Python core inherits these classes, the native one takes what they define over into its types
(`adopt`), so that nothing a user can read or a `Group` can rely on differs between the two.
Nothing here runs when a value moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Never, TypeAlias, TypeVar, cast

from tailrace._core.common import WORDS, ChannelStatistics, End, Verb, Wait, label
from tailrace._core.ends import Blocking, ReceivingEnd, SendingEnd
from tailrace._notes import is_a
from tailrace.errors import Closed

if TYPE_CHECKING:
    from tailrace._core.python import Channel, Operation

T = TypeVar("T")

# Not the lock that guards channels: values do not wait for holders that come and go.
_holding = threading.RLock()


def adopt(kind: type, face: type) -> None:
    """Give `kind`, a type written in C, all that `face` defines."""
    for name, value in vars(face).items():
        if callable(value) or isinstance(value, property):
            setattr(kind, name, value)


Hold: TypeAlias = "tuple[Channel[Any], End, str]"
"""One end of one channel, and the name of what it is held through."""

Holders: TypeAlias = dict[End, int]
"""How many hold each end of a channel."""

_LET_GO: Final = -1  # for their number, once the last of them has let go


def take_hold(holds: Iterable[Hold]) -> None:
    """One more holder of each end; of none, and ValueError, when the owners of one closed it."""
    with _holding:
        # Those that refuse first: letting go again of another would close it.
        for channel, end, _ in holds:
            holders = channel._ends
            if holders is not None and holders[end] == _LET_GO:
                raise ValueError(_refusal(channel, end))
        for channel, end, _ in holds:
            holders = channel._ends
            if holders is None:
                holders = channel._ends = {"send": 0, "receive": 0}
            holders[end] += 1


def let_go(holds: Iterable[Hold], cause: BaseException | None) -> list[Hold]:
    """One holder fewer of each end; the last one closes. Returns those that this closed."""
    last: list[Hold] = []
    with _holding:
        for hold in holds:
            channel, end, _ = hold
            holders = channel._ends
            assert holders is not None
            left = holders[end] - 1
            holders[end] = left or _LET_GO
            if not left:
                last.append(hold)
    return [hold for hold in last if hold[0]._close_when_free(cause)]


def was_let_go(channel: Channel[Any], end: End) -> bool:
    """Whether that end was held, and its last holder has let go of it."""
    holders = channel._ends
    return holders is not None and holders[end] == _LET_GO


def _refusal(channel: Channel[Any], end: End) -> str:
    side = "sending" if end == "send" else "receiving"
    return (
        f"the {side} end of {label(channel)} was closed when the last that held it ended; start "
        f"this one before that, or keep the end open meanwhile: `with channel.{side}():`"
    )


class Held(Generic[T]):
    """One end of a channel, held for the length of a block, which has `view` for it."""

    # No generator: contextlib sets attributes on the exceptions that pass, which may refuse them.

    __slots__ = ("_holds", "_view")

    def __init__(self, channel: Channel[Any], end: End, view: T) -> None:
        self._holds: list[Hold] = [(channel, end, "a block")]
        self._view = view

    def __repr__(self) -> str:
        return f"<hold on the {self._holds[0][1]} side of {label(self._holds[0][0])}>"

    def __enter__(self) -> T:
        take_hold(self._holds)
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        clean = is_a(error, Closed) and error.__cause__ is None
        ended = clean or is_a(error, GeneratorExit)  # these are no failure
        let_go(self._holds, None if ended else error)


class ChannelFace(Generic[T]):
    """A channel but for what moves its values."""

    __slots__ = ()

    if TYPE_CHECKING:
        _cause: BaseException | None
        _ends: Holders | None

        @property
        def capacity(self) -> float: ...
        @property
        def closed(self) -> bool: ...
        def _close(self, cause: BaseException | None, /) -> bool: ...
        def _counts(self) -> tuple[int, int, int, int, int]: ...

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
        return SendingEnd(cast("Channel[T]", self))

    @property
    def receiver(self) -> ReceivingEnd[T]:
        """The receiving end alone."""
        return ReceivingEnd(cast("Channel[T]", self))

    @property
    def sync(self) -> Blocking[T]:
        """The same channel for threads: its methods block instead of being awaited."""
        return Blocking(cast("Channel[T]", self))

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
        if self._holders("send"):
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
        return Held(cast("Channel[T]", self), "send", self.sender)

    def receiving(self) -> AbstractContextManager[ReceivingEnd[T]]:
        """Hold the receiving end for the length of the block; the last holder to leave closes
        the channel, so that senders stop."""
        return Held(cast("Channel[T]", self), "receive", self.receiver)

    def _close_when_free(self, cause: BaseException | None) -> bool:
        """Close as its last holder does, which may be a coroutine that the collector closes amid
        an operation of this thread."""
        return self._close(cause)

    def _holders(self, end: End) -> int:
        """How many hold `end`."""
        holders = self._ends
        return 0 if holders is None else max(0, holders[end])


class NoFuture:
    """What is awaited, and is no future to add callbacks to."""

    __slots__ = ()

    def add_done_callback(self, callback: object, /, *, context: object = None) -> Never:
        """TypeError, as for asyncio.wait: what is not awaited yet is no future."""
        raise TypeError(
            f"{self!r} is no future: await it, or give it to select; asyncio.wait takes tasks"
        )


class OperationFace:
    """An operation in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        channel: Channel[Any]
        does: str
        verb: Verb

        @property
        def _unused(self) -> bool: ...

    def __repr__(self) -> str:
        state = "not awaited yet" if self._unused else "used"
        return f"<{self.does} on {label(self.channel)}, {state}>"

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What somebody parked here waits for."""
        return (Wait(self.verb, self.channel),)

    @property
    def timed(self) -> bool:
        """Whether somebody parked here is resumed by a timeout of its own."""
        return False

    def describe(self) -> str:
        """What somebody parked here is doing: ``sending to to_store``."""
        return f"{WORDS[self.verb]} {label(self.channel)}"


class SendManyFace(OperationFace):
    """A `send_many` in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        sent: int

    def __repr__(self) -> str:
        return f"{OperationFace.__repr__(self)[:-1]}, {self.sent} sent>"


class SelectFace:
    """A select in words."""

    __slots__ = ()

    if TYPE_CHECKING:
        cases: tuple[Any, ...]
        timeout: float | None

    def __repr__(self) -> str:
        return f"<select among {self.describe()}>"

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What somebody parked here waits for: the first of these ends the wait."""
        return tuple(Wait(each.verb, each.channel) for each in self.cases if each is not None)

    @property
    def timed(self) -> bool:
        """Whether somebody parked here is resumed by a timeout of its own."""
        return self.timeout is not None

    def describe(self) -> str:
        """The cases in words: ``receiving from a or sending to b``."""
        return " or ".join(case.describe() for case in self.cases if case is not None) or "nothing"

    @property
    def receives(self) -> bool:
        """Whether every case is a receive."""
        return all(case.receives for case in self.cases if case is not None)


class ThreadActorFace:
    """An actor on a thread of its own, but for how it is woken."""

    __slots__ = (
        "__weakref__",
        "_posting",
        "alive",
        "cancelled",
        "loop",
        "on_park",
        "operation",
        "since",
        "thread",
        "until",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self.loop = loop
        self.thread = thread
        self.alive = True
        self.cancelled = False
        self.operation: Operation[Any] | None = None  # what it parked on last
        self.since = loop.time()
        self.until: float | None = None
        # Called on the loop's thread, each once, when the thread has parked next, or ended.
        self.on_park: deque[Callable[[], object]] = deque()
        self._posting = False

    def park(self, operation: Operation[Any], until: float | None) -> None:
        """By the thread itself, in the queue of a channel: remember what it will sleep on, and
        the time, of `time.monotonic`, at which it gives up."""
        self._posting = bool(self.on_park)
        self.until = until
        self.operation = operation
        self.since = self.loop.time()

    def tell(self) -> None:
        """Have `on_park` called. A virtual clock must not take the thread for parked before."""
        with contextlib.suppress(RuntimeError):  # the loop has gone without waiting for us
            while self.on_park:
                self.loop.call_soon_threadsafe(self.on_park.popleft())
        self._posting = False

    def __repr__(self) -> str:
        state = "parked" if self.parked else "running" if self.alive else "ended"
        return f"<ThreadActor {state}{', cancelled' if self.cancelled else ''}>"

    @property
    def parked(self) -> bool:
        """Whether the thread sleeps in a channel operation that nobody has completed."""
        return not self._posting and self.operation is not None and self.operation.parked
