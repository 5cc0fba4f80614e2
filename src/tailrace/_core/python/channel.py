"""Channel: the state that operations work on.

Invariants, whenever the lock is free
- A receiver stands in line only while nothing is buffered or returned; a sender only while
  ``returned + buffered >= capacity``. So nobody who runs overtakes somebody who is parked.
- `_returned` holds values that cancelled receivers gave back, by hand-off ticket; they are older
  than anything in the buffer, are received first, and no overflow policy drops them.
- A closed channel has nobody in line.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any, Literal, TypeVar

from tailrace._core.common import (
    Overflow,
    Sending,
    check_capacity,
    check_overflow,
)
from tailrace._core.ends import resolver
from tailrace._core.faces import ChannelFace, Holders
from tailrace._core.python.operation import (
    FreshNext,
    FreshRecv,
    FreshRecvMany,
    FreshSend,
    FreshSendMany,
    Operation,
    block,
    do_now,
)
from tailrace._core.python.waiter import (
    PENDING,
    LoopState,
    ThreadWaiter,
    Waiter,
    WaitQueue,
    acquire,
    budget,
    get_ident,
    held,
    here_now,
    latest,
    recover,
    reentered,
    release,
    running_loop,
)
from tailrace.errors import Closed

T = TypeVar("T")


class Channel(ChannelFace[T]):
    """A typed, synchronised, optionally buffered pipe between actors, tasks and threads.

    ``Channel[int]()`` is a rendezvous: a send returns when a receiver has taken the value.
    ``Channel[int](64)`` holds up to 64 values, ``Channel[int](math.inf)`` any number (for
    feedback loops). `overflow` says what a send does when there is no room: wait ("block"), or
    drop the new or the oldest value, counted in `statistics`. `name` is how logs and graphs call
    it. TypeError or ValueError for a capacity or policy that is none.

    Any number of tasks, loops and threads may use one channel at once; each value goes to
    exactly one receiver, and both sides are served first in, first out.
    """

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
        self._returned: list[tuple[int, T]] = []
        self._senders = WaitQueue()
        self._receivers = WaitQueue()
        self._closed = False
        self._cause: BaseException | None = None
        self._sent = self._dropped = 0
        self._room = capacity  # what the buffer may hold: `capacity` less what was returned
        self._ends: Holders | None = None

    def __len__(self) -> int:
        """How many values can be received without a sender."""
        return len(self._buffer) + len(self._returned)

    def __bool__(self) -> Literal[True]:
        return True  # an empty channel is still a channel

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

    def send(self, value: T, /) -> Operation[None]:
        """Await it to send `value`: until a receiver took it, or at capacity ≥ 1 it is buffered.

        Raises `Closed` (also when the channel closes meanwhile: then `value` was not sent).
        Cancelled: CancelledError means it was not sent; a value taken in the same instant makes
        the await return, and the cancellation arrives at the task's next one.
        """
        return FreshSend(self, value)

    def recv(self) -> Operation[T]:
        """Await it for the next value. Raises `Closed` once the channel is closed and drained.

        Cancelled: a value handed over in the same instant goes back, in its place in the order.
        """
        return FreshRecv(self)

    def send_nowait(self, value: T, /) -> None:
        """Send at once, or raise `WouldBlock`; `Closed` as for `send`."""
        do_now(FreshSend(self, value))

    def recv_nowait(self) -> T:
        """Receive at once, or raise `WouldBlock`; `Closed` as for `recv`."""
        return do_now(FreshRecv(self))

    def send_many(self, values: Iterable[T], /) -> Sending:
        """Await it to send all `values`, in order. Not a case for `select`.

        After any exception, cancellation included, the operation's ``sent`` says how many were
        sent: go on with ``values[op.sent:]`` (an iterator may stand one further).
        """
        return FreshSendMany(self, values)

    def recv_many(self, n: int, /) -> Awaitable[list[T]]:
        """Await it for 1 to `n` values: waits for one, then takes what is there, in order.

        Raises `Closed` as `recv`. Cancelled: none was taken. Not a case for `select`.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"recv_many takes a whole number of at least 1, not {n!r}")
        return FreshRecvMany(self, n)

    def __aiter__(self) -> AsyncIterator[T]:
        """Receive until closed and drained; raises `Closed` if it was closed with a cause."""
        return self

    async def __anext__(self) -> T:
        # As `recv`, but without making an operation where there seems to be a value already.
        here = latest.state
        likely = self._buffer or self._senders
        if not likely or budget.left <= 0:
            return await FreshNext(self)
        if here.thread != get_ident() and here.loop() is not running_loop():
            return await FreshNext(self)
        if held():
            raise reentered()
        try:
            acquire()
            value, peer = self._take(here)
            release()
            if peer is not None and peer is not PENDING:
                peer.wake(here)
        except BaseException:
            recover()
            raise
        if peer is PENDING:
            return await FreshNext(self)
        budget.left -= 1
        return value  # type: ignore[no-any-return]  # the channel's word for it

    _block = staticmethod(block)

    def _counts(self) -> tuple[int, int, int, int, int]:
        """Buffered, sent, dropped, senders and receivers that wait, at one instant."""
        try:
            acquire()
            waiting = self._senders.waiting(), self._receivers.waiting()
            counts = (len(self), self._sent, self._dropped, *waiting)
            release()
        except BaseException:
            recover()
            raise
        return counts

    # The state, under the lock.

    def _close(self, cause: BaseException | None) -> bool:
        if held():
            raise reentered()
        here = here_now()
        woken: list[Waiter | ThreadWaiter] = []
        try:
            acquire()
            first = not self._closed
            if first:
                self._closed = True
                self._cause = cause
                woken = self._receivers.claim_all() + self._senders.claim_all()
            release()
            for waiter in woken:
                waiter.wake(here)
        except BaseException:
            recover()
            raise
        return first

    def _close_when_free(self, cause: BaseException | None) -> bool:
        if not held():
            return self._close(cause)
        loop = running_loop()
        if loop is not None:
            loop.call_soon_threadsafe(self._close, cause)
        else:  # nothing to post to: a thread of its own waits for the lock
            threading.Thread(target=self._close, args=(cause,), daemon=True).start()
        return True

    def _closed_error(self) -> Closed:
        error = Closed(self)
        error.__cause__ = self._cause
        return error

    def _returned_before(
        self, ticket: int, most: int, woken: list[Waiter | ThreadWaiter], here: LoopState
    ) -> list[T]:
        """Take values that were given back and are older than the one handed over as `ticket`;
        `woken` gets whom to wake for it."""
        older: list[T] = []
        while self._returned and self._returned[0][0] < ticket and len(older) < most:
            older.append(heapq.heappop(self._returned)[1])
            self._room += 1
            peer = self._move_up(here)
            if peer is not None:
                woken.append(peer)
        return older

    def _move_up(self, here: LoopState) -> Waiter | ThreadWaiter | None:
        """Where room was made, the first parked sender's value moves up; returns whom to wake."""
        if not self._senders or len(self._buffer) >= self._room:
            return None
        peer = self._senders.claim_first(here)
        if peer is None:
            return None
        moved: Any = peer.value
        self._buffer.append(moved)
        peer.value = None
        self._sent += 1
        waiter = peer.waiter
        waiter.state.ready.append(waiter)
        return waiter

    def _take(self, here: LoopState) -> tuple[Any, Any]:
        """The next value and whom to wake for it; `PENDING` twice if there is none."""
        buffer = self._buffer
        if self._returned:
            value: Any = heapq.heappop(self._returned)[1]
            self._room += 1
        elif buffer:
            value = buffer.popleft()
        else:
            peer = self._senders.claim_first(here) if self._senders else None
            if peer is None:
                return PENDING, PENDING
            value, peer.value = peer.value, None
            self._sent += 1
            waiter = peer.waiter
            waiter.state.ready.append(waiter)
            return value, waiter
        if self._senders:
            return value, self._move_up(here)
        return value, None

    def _give_back(self, ticket: int, value: T, here: LoopState) -> Waiter | ThreadWaiter | None:
        """A cancelled receiver returns what it was handed. Returns whom to wake."""
        peer = self._receivers.claim_first(here)
        if peer is not None:
            peer.ticket = ticket
            peer.value = value
            waiter = peer.waiter
            waiter.state.ready.append(waiter)
            return waiter
        heapq.heappush(self._returned, (ticket, value))
        self._room -= 1
        return None


resolve = resolver(Channel)
