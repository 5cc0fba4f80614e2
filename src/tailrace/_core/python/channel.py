"""Channel: send, receive, give back and close, each facing its opposite.

Invariants, whenever the lock is free
- A receiver is parked only while nothing is buffered or returned; a sender only while
  ``returned + buffered >= capacity``. So a running operation never overtakes a parked one.
- Returned values, given back by cancelled receivers, are kept by ticket: a value's number among all
  that were sent. They are older than the buffer, are received first, and no policy drops them.
- A closed channel has no parked operations.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Sequence
from typing import Any, TypeVar, cast

from tailrace._core.base import ChannelBase, SendManyBase, closed_error
from tailrace._core.common import End, Overflow, Sending, check_capacity, check_overflow
from tailrace._core.holds import Holders
from tailrace._core.python.operations import CoreOperation, Dropped, add_effect
from tailrace._core.python.parking import WaitQueue
from tailrace._core.python.scheduler import (
    WAIT,
    Effect,
    Outcome,
    Scheduler,
    acquire,
    budget,
    call_when_free,
    entered,
    get_ident,
    held,
    latest,
    locked,
    recover,
    reentered,
    release,
    running_loop,
    scheduler_here,
)
from tailrace.errors import Closed

T = TypeVar("T")


class Channel(ChannelBase[T]):
    __doc__ = ChannelBase.__doc__

    __slots__ = (
        "__orig_class__",
        "__weakref__",
        "_buffer",
        "_capacity",
        "_cause",
        "_closed",
        "_dropped",
        "_ends",
        "_name",
        "_overflow",
        "_receivers",
        "_returned",
        "_room",
        "_senders",
        "_sent",
    )

    def __init__(
        self, capacity: float = 0, *, name: str = "", overflow: Overflow = "block"
    ) -> None:
        check_capacity(capacity)
        check_overflow(overflow, capacity)
        self._capacity = capacity
        self._name = name
        self._overflow = overflow
        self._buffer: deque[T] = deque()
        self._returned: list[tuple[int, T]] = []  # a heap of ticket and value
        # ``capacity - len(_returned)``; negative if values were given back to a full channel
        self._room = capacity
        self._senders = WaitQueue()
        self._receivers = WaitQueue()
        self._sent = self._dropped = 0
        self._closed = False
        self._cause: BaseException | None = None
        self._ends: Holders | None = None

    def __len__(self) -> int:
        """How many values can be received without a sender."""
        return len(self._buffer) + len(self._returned)

    @property
    def name(self) -> str:
        """What logs and graphs call this channel."""
        return self._name

    @property
    def capacity(self) -> float:
        """How many values it holds: 0 for a rendezvous, `math.inf` for no bound."""
        return self._capacity

    @property
    def closed(self) -> bool:
        """Whether it was closed; values may still be buffered."""
        return self._closed

    # --- what users call: see `ChannelBase` --------------------------------------------------

    def send(self, value: T, /) -> CoreOperation[None]:
        return Send(self, value)

    def recv(self) -> CoreOperation[T]:
        return Recv(self)

    def send_nowait(self, value: T, /) -> None:
        Send(self, value).now()

    def recv_nowait(self) -> T:
        value: T = Recv(self).now()
        return value

    def send_many(self, values: Iterable[T], /) -> Sending:
        return SendMany(self, values)

    def recv_many(self, n: int, /) -> Awaitable[list[T]]:
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"recv_many takes a whole number of at least 1, not {n!r}")
        return RecvMany(self, n)

    def __aiter__(self) -> AsyncIterator[T]:
        """Receive until closed and drained; raises `Closed` if it was closed with a cause."""
        return self

    async def __anext__(self) -> T:
        # Does what `await Next(self)` does; if a value seems to be there, it makes no operation for
        # it. `entered` is written out: a call of it here costs 19 % of a buffered hop.
        here = latest.scheduler
        likely = self._buffer or self._senders
        if not likely or budget.left <= 0:
            return await Next(self)
        if here.thread != get_ident() and here.loop() is not running_loop():
            return await Next(self)
        if held():
            raise reentered()
        try:
            acquire()
            value, effect = self._take(here)
            release()
            if effect is not None and (effect.scheduler is not here or not here.scheduled):
                effect.apply(here)
        except BaseException:
            recover()
            raise
        if effect is WAIT:
            return await Next(self)
        budget.left -= 1
        taken: T = value
        return taken

    # --- the algorithm ----------------------------------------------------------------------
    # The caller holds the lock, and applies the returned effect once it has released it.

    def _send(self, value: T, here: Scheduler) -> Effect:
        """Send `value` if that is possible now, else return WAIT. `Closed`: nothing has changed."""
        if self._closed:
            raise closed_error(self)
        if self._receivers:
            effect = self._hand_over(value, self._sent + 1, here)
            if effect is not None:
                return effect
        if len(self._buffer) < self._room:
            self._buffer.append(value)
            self._sent += 1
            return None
        wait: Effect = WAIT
        return wait if self._overflow == "block" else self._drop(value)

    def _take(self, here: Scheduler) -> tuple[Any, Effect]:
        """Take the next value. Returns (value, effect), or (WAIT, WAIT) if there is none."""
        if self._returned:
            value: Any = heapq.heappop(self._returned)[1]
            self._room += 1
        elif self._buffer:
            value = self._buffer.popleft()
        else:
            return self._take_over(here)
        return value, self._refill(here) if self._senders else None

    def _hand_over(self, value: T, ticket: int, here: Scheduler) -> Effect:
        """Give `value` to the first parked receiver. Returns its wake-up, or None if none waits."""
        receiver: CoreOperation[T] | None = self._receivers.claim_first(here)
        if receiver is None:
            return None
        receiver.value = value
        receiver.ticket = ticket
        if ticket > self._sent:  # noqa: PLR1730 (no call between the claim and the append)
            self._sent = ticket  # a new value; one that was given back keeps its old ticket
        waiter = receiver.waiter
        waiter.scheduler.ready.append(waiter)
        return waiter

    def _take_over(self, here: Scheduler, buffer: deque[T] | None = None) -> tuple[Any, Effect]:
        """Take the first parked sender's value (into `buffer` too). Returns the same as `_take`."""
        sender: CoreOperation[None] | None = self._senders.claim_first(here)
        if sender is None:
            return WAIT, WAIT
        value: Any = sender.value
        sender.value = None
        if buffer is not None:
            buffer += (value,)  # not by a call: see the invariants of `scheduler`
        self._sent += 1
        waiter = sender.waiter
        waiter.scheduler.ready.append(waiter)
        return value, waiter

    def _drop(self, value: T) -> Outcome:
        """No room: drop `value`, or the oldest that is buffered; never one that was returned."""
        if self._overflow == "drop_oldest" and self._buffer:
            self._buffer.append(value)
            value = self._buffer.popleft()
        self._dropped += 1
        self._sent += 1
        return Dropped(value)

    def _refill(self, here: Scheduler) -> Effect:
        """After a value was taken: move the first parked sender's value into the buffer."""
        if len(self._buffer) >= self._room:
            return None
        _, effect = self._take_over(here, self._buffer)
        return None if effect is WAIT else effect

    def _give_back(self, value: T, ticket: int, here: Scheduler) -> Effect:
        """`value` is given back: to the next parked receiver, or to its place in the order."""
        effect = self._hand_over(value, ticket, here)
        if effect is None:
            heapq.heappush(self._returned, (ticket, value))
            self._room -= 1
        return effect

    def _take_older(
        self, ticket: int, most: int, effects: list[Outcome], here: Scheduler
    ) -> list[T]:
        """Take up to `most` returned values that are older than `ticket`."""
        older: list[T] = []
        while self._returned and self._returned[0][0] < ticket and len(older) < most:
            value, effect = self._take(here)
            older.append(value)
            add_effect(effects, effect)
        return older

    def _take_several(
        self, values: list[T], most: int, effects: list[Outcome], here: Scheduler
    ) -> None:
        """Extend `values` by what is there, up to `most`."""
        while len(values) < most:
            value, effect = self._take(here)
            if effect is WAIT:
                break
            values.append(value)
            add_effect(effects, effect)

    def _send_several(
        self, many: SendMany, values: Sequence[T], most: int, here: Scheduler
    ) -> list[Outcome]:
        """Send up to `most` of ``values[many.sent:]``: to parked receivers, and into the buffer."""
        if self._closed:
            raise closed_error(self)
        effects: list[Outcome] = []
        before, start = self._sent, many.sent
        stop = min(len(values), start + most)
        try:
            while self._receivers and start + self._sent - before < stop:
                value = values[start + self._sent - before]
                add_effect(effects, self._hand_over(value, self._sent + 1, here))
            at = start + self._sent - before
            fits = int(max(0, min(self._room - len(self._buffer), stop - at)))
            self._sent += fits
            self._buffer.extend(values[at : at + fits])
        finally:  # also if a signal handler raises: what was sent is counted
            many.sent = start + self._sent - before
        return effects

    def _shut(self, cause: BaseException | None) -> list[Outcome] | None:
        """Close, and claim all parked operations; None if it was closed."""
        if self._closed:
            return None
        self._closed = True
        self._cause = cause
        return [*self._receivers.claim_all(), *self._senders.claim_all()]

    # --- what `ChannelBase` calls -----------------------------------------------------------

    def _close(self, cause: BaseException | None) -> bool:
        """Close it; False if it was closed."""
        return entered(scheduler_here(), self._shut, cause) is not None

    def _let_go(self, end: End, cause: BaseException | None) -> bool:
        if not held():
            return super()._let_go(end, cause)
        # The garbage collector closed the holder, a coroutine, amid an operation of this thread.
        call_when_free(running_loop(), super()._let_go, end, cause)
        return True

    def _values(self) -> list[T]:
        """What can be received without a sender, at one instant; nothing is taken."""
        return locked(
            None, lambda: [value for _, value in sorted(self._returned)] + [*self._buffer]
        )

    def _counts(self) -> tuple[int, int, int, int, int]:
        """Buffered, sent, dropped, parked senders and parked receivers, at one instant."""
        return locked(None, self._count)

    def _count(self) -> tuple[int, int, int, int, int]:
        parked = self._senders.waiting(), self._receivers.waiting()
        return len(self), self._sent, self._dropped, *parked


# --- its operations -------------------------------------------------------------------------------


class Send(CoreOperation[None]):
    """`Channel.send`."""

    __slots__ = ()
    method = "Channel.send"
    verb = "send"
    gives_back = False  # the receiver has it

    def attempt(self, here: Scheduler) -> Effect:
        effect: Effect = self.channel._send(self.value, here)
        if effect is not WAIT:
            self.value = None
        return effect

    def enqueue(self) -> None:
        self.queued = True
        self.channel._senders.append(self)

    def withdraw(self) -> None:
        self.channel._senders.leave(self)


class Recv(CoreOperation[T]):
    """`Channel.recv`."""

    __slots__ = ()
    method = "Channel.recv"
    verb = "receive"
    receives = True

    def attempt(self, here: Scheduler) -> Effect:
        channel = self.channel
        effect: Effect
        value, effect = channel._take(here)
        if effect is not WAIT:
            self.value = value
        elif channel._closed:
            raise self.closed_error(closed_error(channel))
        return effect

    def closed_error(self, closed: Closed) -> Exception:
        """What a receive raises on a channel that is closed and drained."""
        return closed

    def enqueue(self) -> None:
        self.queued = True
        self.channel._receivers.append(self)

    def withdraw(self) -> None:
        self.channel._receivers.leave(self)

    def undo(self, here: Scheduler) -> Effect:
        value, self.value = self.value, None
        effect: Effect = self.channel._give_back(value, self.ticket, here)
        return effect


class Next(Recv[T]):
    """One step of ``async for``."""

    __slots__ = ()
    method = "Channel.__anext__"

    def closed_error(self, closed: Closed) -> Exception:
        return StopAsyncIteration() if closed.__cause__ is None else closed


class RecvMany(Recv[Any]):
    """`Channel.recv_many`: a receive that takes what else is there when it resumes."""

    __slots__ = ("most",)
    method = "Channel.recv_many"
    simple_value = False
    selectable = False

    def __init__(self, channel: Channel[Any], most: int) -> None:
        super().__init__(channel)
        self.most = most

    def take_value(self) -> list[Any]:
        """Without the lock, once, after it happened: the value."""
        first = super().take_value()
        values: list[Any] = []
        here = scheduler_here()
        locked(here, self._take_more, values, first, here)
        budget.left -= len(values) - 1
        return values

    def _take_more(self, values: list[Any], first: Any, here: Scheduler) -> list[Outcome]:
        effects: list[Outcome] = []
        channel = self.channel
        if hasattr(self, "ticket"):  # handed over: others may have given back older values
            values += channel._take_older(self.ticket, self.most - 1, effects, here)
        values.append(first)
        channel._take_several(values, self.most, effects, here)
        return effects


class SendMany(SendManyBase, Send):
    """`Channel.send_many`: sends one after another; `sent` counts those that happened."""

    __slots__ = ("sent", "values")
    method = "Channel.send_many"
    selectable = False

    def __init__(self, channel: Channel[T], values: Iterable[T]) -> None:
        super().__init__(channel)
        self.values: Iterable[Any] = values
        self.sent = 0

    def _drive(self) -> Generator[Any, Any, None]:
        values = self.values
        if type(values) not in (list, tuple, range) or self.channel._overflow != "block":
            # An iterator or a subclass of list is user code, which must not run under the lock.
            for value in values:
                yield from self._send_one(value)
            return
        plain = cast("Sequence[Any]", values)
        while self.sent < len(plain):
            if budget.left <= 0 or not self._send_several(plain):
                yield from self._send_one(plain[self.sent])

    def _send_one(self, value: Any) -> Generator[Any, Any, None]:
        self.value = value
        yield from super()._drive()
        self.sent += 1

    def undo(self, here: Scheduler) -> None:
        self.sent += 1  # a receiver took the value before the exception came: count it

    def _send_several(self, values: Sequence[Any]) -> int:
        """Send what can be sent at once. Returns how many that were."""
        here, before = scheduler_here(), self.sent
        try:
            locked(here, self.channel._send_several, self, values, budget.left, here)
        except BaseException:
            budget.left -= 1
            raise
        budget.left -= self.sent - before
        return self.sent - before
