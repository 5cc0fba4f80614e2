"""Operations: what `send` and `recv` return, and the one algorithm by which they happen.

`attempt` is that algorithm, for every capacity: a waiting peer, else the buffer, else not now.
Awaiting, selecting, blocking a thread and the `*_nowait` calls are four ways to drive it, so a
value moves by the same lines whoever moves it.

Cancellation is decided by the waiter's claim and by nothing else. An operation that was claimed
happened: a send then returns and the cancellation follows at the next await; a receive gives its
value back, under the ticket it was handed over with, so that order is kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from tailrace._core.cancellation import rearmed
from tailrace._core.common import ParkedThread, Verb, check_timeout, label
from tailrace._core.faces import NoFuture, OperationFace, SendManyFace
from tailrace._core.python.waiter import (
    CANCELLED,
    PENDING,
    TIMED_OUT,
    LoopState,
    ThreadWaiter,
    Waiter,
    acquire,
    budget,
    get_ident,
    held,
    here_now,
    latest,
    no_loop,
    parked_threads,
    recover,
    reentered,
    release,
    running_loop,
    state_of,
    thread,
)
from tailrace.errors import Closed, WouldBlock

if TYPE_CHECKING:
    from tailrace._core.python.channel import Channel

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Operation(NoFuture, OperationFace, Generic[T_co]):
    """One channel operation that has not happened yet: await it, or give it to `select`, once.

    Awaiting raises `Closed` as its channel's semantics say. When the await raises
    `CancelledError` the operation did not happen; when it happened, the await returns.
    Dropping one unused warns ``RuntimeWarning: … was never awaited``.
    """

    # Only `channel` and `value` are set from the start: most operations never park, and each
    # store is paid for by all. `queued` and `waiter` come with parking, `ticket` with a value
    # handed over.
    __slots__ = ("channel", "queued", "ticket", "value", "waiter")

    does = "operation"  # what messages call it
    verb: Verb = "done"
    receives = False
    reversible = True  # whether `undo` gives back what a cancelled waiter was handed
    watches = False  # whether `watch` is to be called once it is parked
    plain = True  # whether `finish` does nothing but hand out the value

    queued: bool
    ticket: int
    waiter: Waiter | ThreadWaiter

    def __init__(self, channel: Channel[Any], value: Any = None) -> None:
        self.channel = channel
        self.value = value

    @property
    def _unused(self) -> bool:
        return isinstance(self, Fresh)

    @property
    def parked(self) -> bool:
        """Whether somebody sleeps in it, whom nobody has woken."""
        waiter = getattr(self, "waiter", None)  # asked from other threads
        return waiter is not None and waiter.winner is None

    @property
    def since(self) -> float:
        """The loop's time at which a task parked here."""
        assert isinstance(self.waiter, Waiter)
        return self.waiter.since

    def __await__(self) -> Generator[Any, Any, T_co]:
        self.begin()
        raise AssertionError  # for type checkers: begin has raised

    # What a driver calls, in this order.

    def begin(self) -> None:
        """Spend the operation. RuntimeError here: one that is still good is `Fresh`."""
        raise RuntimeError(f"{self.does} was awaited already: it is used once")

    def attempt(self, here: LoopState) -> Any:
        """Under the lock: take effect if that is possible now.

        Returns `PENDING` if it is not, else whom to wake once the lock is let go, or None.
        Raises `Closed`; then it did not happen either.
        """
        raise NotImplementedError

    def enqueue(self) -> None:
        """Under the lock, with `waiter` set: stand in line."""
        raise NotImplementedError

    def watch(self) -> None:
        """Outside the lock, after `enqueue`, for one that `watches`: user code."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """Under the lock, after `enqueue`: leave the line, if still in it."""
        raise NotImplementedError

    def undo(self, here: LoopState) -> Waiter | ThreadWaiter | None:
        """Under the lock, after a claim: give back what was handed over; returns whom to wake."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop the waiter, if there is one: an operation that is kept must not lead to the task."""
        if hasattr(self, "waiter"):
            del self.waiter

    def finish(self) -> Any:
        """Outside the lock, once it happened: the value."""
        value, self.value = self.value, None
        return value

    def interrupted(self, waiter: Waiter, interrupt: BaseException) -> bool:
        """Settle what an exception at the await means; True if it is to be raised."""
        if held():  # the garbage collector closed this coroutine amid another operation
            waiter.state.call_soon_threadsafe(self.interrupted, waiter, interrupt)
            return True
        here = here_now()
        peer = None
        try:
            acquire()
            happened = waiter.winner is self
            if not happened:
                waiter.winner = waiter.winner or CANCELLED
                self.withdraw()
            elif self.reversible:
                peer = self.undo(here)
            release()
            if peer is not None:
                peer.wake(here)
        except BaseException:
            recover()
            raise
        if happened and not self.reversible and rearmed(interrupt, waiter.requests()):
            return False
        self.forget()
        if happened:
            self.ticket = 0  # that it happened, for a `send_many` that counts it all the same
        self.value = None
        return True


class Fresh(Operation[T_co]):
    """An operation not used yet. Its use changes its class, so that only these need `__del__`."""

    __slots__ = ()
    spent: ClassVar[Any]  # the class that a used one has; a type would not be assignable

    def __del__(self) -> None:
        warnings.warn(f"{self.does} was never awaited", RuntimeWarning, stacklevel=2, source=self)

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Attempt, and if need be sleep, until it happened."""
        self.__class__ = self.spent  # same slots, fewer methods
        while True:
            if budget.left <= 0:
                yield budget.anew()
            here = latest.state
            if here.thread != get_ident():  # not resumed by `LoopState.run`
                loop = running_loop()
                if here.loop() is not loop:
                    here = state_of(loop)
            if held():
                raise reentered()
            waiter = None
            try:
                acquire()  # in here: a signal handler that raises does so as this call returns
                peer = self.attempt(here)
                if peer is PENDING:
                    waiter = self.waiter = Waiter(here)
                    self.enqueue()
                    release()
                    if self.watches:
                        self.watch()
                else:
                    release()
                    if peer is not None:
                        if peer.state is not here:
                            peer.wake(here)
                        elif not here.scheduled:  # as `wake` does, without the call
                            here.schedule()
            except BaseException as interrupt:
                recover()
                if waiter is not None:
                    self.interrupted(waiter, interrupt)
                budget.left -= 1  # it did not park: whoever goes on after `Closed` yields too
                raise
            if waiter is None:
                budget.left -= 1
                break
            while True:
                try:
                    yield waiter
                except BaseException as interrupt:
                    if self.interrupted(waiter, interrupt):
                        del waiter  # the traceback has this frame, and must not lead to the task
                        raise
                if waiter.winner is not None:
                    break
                waiter._asyncio_future_blocking = True  # resumed by nobody's claim: it sleeps on
            if waiter.winner is self:
                del self.waiter  # each refers to the other: not to be left to the collector
                break
            # The channel was closed: look again, something is ready now.
            if not self.queued:  # else that close was interrupted amid its claims
                del self.waiter
        if self.plain:
            value: Any = self.value
            self.value = None
            return value  # type: ignore[no-any-return]  # the channel's word for it
        del waiter  # `finish` may raise
        return self.finish()  # type: ignore[no-any-return]  # as above

    def begin(self) -> None:
        self.__class__ = self.spent


class Discarded:
    """A value that an overflow policy dropped: told so where a peer would be woken."""

    __slots__ = ("kind", "value")
    state = None  # of no loop

    def __init__(self, value: object) -> None:
        self.value = value
        self.kind = type(value)

    def wake(self, here: LoopState) -> None:
        """Outside the lock: call the value's ``__discarded__``, if its type has one."""
        discarded: Any = getattr(self.kind, "__discarded__", None)
        if discarded is not None:
            try:
                discarded(self.value, "overflow")
            except Exception as error:  # none of the sender's business, who need not know the value
                ignore(error)


class _Ignored:
    __slots__ = ("error",)

    error: Exception

    def __del__(self) -> None:
        raise self.error


def ignore(error: Exception) -> None:
    """Give it to `sys.unraisablehook`, as a finaliser's."""
    ignored = _Ignored()
    ignored.error = error


class Send(Operation[None]):
    """`Channel.send`."""

    __slots__ = ()
    does = "Channel.send"
    verb = "send"
    reversible = False  # the receiver has it

    def attempt(self, here: LoopState) -> Any:
        channel = self.channel
        if channel._closed:
            raise channel._closed_error()
        if channel._receivers:
            peer = channel._receivers.claim_first(here)
            if peer is not None:
                peer.ticket = channel._sent = channel._sent + 1
                peer.value = self.value
                self.value = None
                waiter = peer.waiter
                waiter.state.ready.append(waiter)
                return waiter
        if len(channel._buffer) < channel._room:
            channel._buffer.append(self.value)
            self.value = None
        elif channel._overflow == "block":
            return PENDING
        else:
            discarded, self.value = self.value, None
            # With nothing but values given back, which no policy drops, the new one is dropped.
            if channel._overflow == "drop_oldest" and channel._buffer:
                channel._buffer.append(discarded)
                discarded = channel._buffer.popleft()
            channel._dropped += 1
            channel._sent += 1
            return Discarded(discarded)
        channel._sent += 1
        return None

    def enqueue(self) -> None:
        self.queued = True
        self.channel._senders.append(self)

    def withdraw(self) -> None:
        self.channel._senders.leave(self)


class Recv(Operation[T]):
    """`Channel.recv`."""

    __slots__ = ()
    does = "Channel.recv"
    verb = "receive"
    receives = True

    def attempt(self, here: LoopState) -> Any:
        channel = self.channel
        value, peer = channel._take(here)
        if peer is not PENDING:
            self.value = value
        elif channel._closed:
            raise self.end(channel._closed_error())
        return peer

    def end(self, closed: Closed) -> Exception:
        """What a receive raises on a channel that is closed and drained."""
        return closed

    def enqueue(self) -> None:
        self.queued = True
        self.channel._receivers.append(self)

    def withdraw(self) -> None:
        self.channel._receivers.leave(self)

    def undo(self, here: LoopState) -> Waiter | ThreadWaiter | None:
        return self.channel._give_back(self.ticket, self.finish(), here)


class Next(Recv[T]):
    """One step of ``async for``."""

    __slots__ = ()
    does = "Channel.__anext__"

    def end(self, closed: Closed) -> Exception:
        return StopAsyncIteration() if closed.__cause__ is None else closed


class RecvMany(Recv[Any]):
    """`Channel.recv_many`: a receive that takes what else is there when it resumes."""

    __slots__ = ("most",)
    does = "Channel.recv_many"
    plain = False

    def __init__(self, channel: Channel[Any], most: int) -> None:
        super().__init__(channel)
        self.most = most

    def finish(self) -> list[Any]:
        values = [super().finish()]
        here = here_now()
        woken: list[Waiter | ThreadWaiter] = []
        try:
            acquire()
            if hasattr(self, "ticket"):  # handed over: others may have given back older values
                older = self.channel._returned_before(self.ticket, self.most - 1, woken, here)
                values = older + values
            self.take_more(values, woken, here)
            release()
            for waiter in woken:
                waiter.wake(here)
        except BaseException:
            recover()
            raise
        budget.left -= len(values) - 1
        return values

    def take_more(
        self, values: list[Any], woken: list[Waiter | ThreadWaiter], here: LoopState
    ) -> None:
        """Under the lock: take what there is, up to `most`."""
        while len(values) < self.most:
            value, peer = self.channel._take(here)
            if peer is PENDING:
                break
            values.append(value)
            if peer is not None:
                woken.append(peer)

    def undo(self, here: LoopState) -> Waiter | ThreadWaiter | None:
        return self.channel._give_back(self.ticket, super().finish(), here)


class SendMany(SendManyFace, Send):
    """`Channel.send_many`: sends one after another; `sent` counts those that happened."""

    __slots__ = ("sent", "values")
    does = "Channel.send_many"

    def __init__(self, channel: Channel[T], values: Iterable[T]) -> None:
        super().__init__(channel)
        self.values: Iterable[Any] = values
        self.sent = 0

    def _send_one(self, value: Any) -> Generator[Any, Any, None]:
        """Send and count it: also where it was taken, and what is raised is not about that."""
        one = FreshSend(self.channel, value)
        try:
            yield from one.__await__()
        except BaseException:
            self.sent += hasattr(one, "ticket")
            raise
        self.sent += 1

    def fill(self, values: Sequence[Any]) -> int:
        """Hand over and buffer what goes at once; returns how many that were."""
        channel = self.channel
        here = here_now()
        woken: list[Waiter | ThreadWaiter] = []
        start = self.sent
        try:
            acquire()
            if channel._closed:
                raise channel._closed_error()
            self.hand_over(values, woken, here)
            room = channel._room - len(channel._buffer)
            left = budget.left - (self.sent - start)
            fits = int(max(0, min(room, len(values) - self.sent, left)))
            channel._buffer.extend(values[self.sent : self.sent + fits])
            channel._sent += fits
            self.sent += fits
            release()
            for waiter in woken:
                waiter.wake(here)
        except BaseException:
            recover()
            budget.left -= 1
            raise
        budget.left -= self.sent - start
        return self.sent - start

    def hand_over(
        self, values: Sequence[Any], woken: list[Waiter | ThreadWaiter], here: LoopState
    ) -> None:
        """Under the lock: give values to the receivers that are waiting."""
        channel = self.channel
        most = min(len(values), self.sent + budget.left)
        while channel._receivers and self.sent < most:
            peer = channel._receivers.claim_first(here)
            if peer is not None:
                peer.ticket = channel._sent = channel._sent + 1
                peer.value = values[self.sent]
                self.sent += 1
                waiter = peer.waiter
                waiter.state.ready.append(waiter)
                woken.append(waiter)


class FreshSend(Fresh[None], Send):
    __slots__ = ()
    spent = Send


class FreshRecv(Fresh[T], Recv[T]):
    __slots__ = ()
    spent = Recv


class FreshNext(Fresh[T], Next[T]):
    __slots__ = ()
    spent = Next


class FreshSendMany(Fresh[None], SendMany):
    __slots__ = ()
    spent = SendMany

    def __await__(self) -> Generator[Any, Any, None]:
        self.begin()
        values = self.values
        if type(values) not in (list, tuple, range) or self.channel._overflow != "block":
            # Pulling from an iterator (or from a list that is more than a list) is foreign code,
            # which must not run under the lock.
            for value in values:
                yield from self._send_one(value)
            return
        plain = cast("Sequence[Any]", values)
        while self.sent < len(plain):
            if budget.left <= 0 or not self.fill(plain):
                yield from self._send_one(plain[self.sent])


class FreshRecvMany(Fresh[Any], RecvMany):
    __slots__ = ()
    spent = RecvMany


def do_now(operation: Operation[T]) -> T:
    """Drive without waiting: for the `*_nowait` calls. WouldBlock where it would park."""
    operation.begin()
    if held():
        raise reentered()
    here = here_now()
    try:
        acquire()
        peer = operation.attempt(here)
        release()
        if peer is not None and peer is not PENDING:
            peer.wake(here)
    except BaseException:
        recover()
        raise
    if peer is PENDING:
        raise WouldBlock(f"{operation.does} on {label(operation.channel)} would wait")
    return operation.finish()  # type: ignore[no-any-return]  # the value's type is the caller's


def block(operation: Operation[T], timeout: float | None) -> T:
    """Drive from a thread, which sleeps meanwhile.

    TimeoutError after `timeout` seconds; CancelledError in the thread of a cancelled actor. Then
    it did not happen.
    """
    operation.begin()
    if running_loop() is not None:
        raise RuntimeError(
            f"a blocking {operation.does} would stop this thread's event loop; await it instead"
        )
    seconds = check_timeout(timeout)
    deadline = None if seconds is None else time.monotonic() + seconds
    actor = thread.actor
    while True:
        if held():
            raise reentered()
        waiter = None
        try:
            acquire()
            if actor is not None and actor.cancelled:
                raise asyncio.CancelledError
            peer = operation.attempt(no_loop)
            if peer is PENDING:
                waiter = operation.waiter = ThreadWaiter(deadline)
                operation.enqueue()
                if actor is not None:
                    actor.park(operation, deadline)
            release()
            if waiter is not None:
                if actor is not None and actor.on_park:
                    actor.tell()
                _sleep(operation, waiter)
            elif peer is not None:
                peer.wake(no_loop)
        except BaseException:
            recover()
            if waiter is not None:
                _give_up(operation, waiter)
            raise
        if waiter is None or waiter.winner is operation:
            if waiter is not None:
                del operation.waiter
            return operation.finish()  # type: ignore[no-any-return]  # as above


def _sleep(operation: Operation[Any], waiter: ThreadWaiter) -> None:
    """Sleep until claimed. TimeoutError or CancelledError where that was not by a peer."""
    me = threading.get_ident()
    parked_threads[me] = ParkedThread(operation, waiter.until)
    try:
        if waiter.winner is None:  # else whoever claimed it may not have known of this thread yet
            seconds = -1 if waiter.until is None else max(0.0, waiter.until - time.monotonic())
            waiter.state.gate.acquire(timeout=seconds)
    finally:
        del parked_threads[me]
    try:
        acquire()
        winner = waiter.winner = waiter.winner or TIMED_OUT
        release()
    except BaseException:
        recover()
        raise
    if winner is TIMED_OUT:
        raise TimeoutError(f"{operation.does} on {label(operation.channel)} timed out")
    if winner is CANCELLED:
        raise asyncio.CancelledError


def _give_up(operation: Operation[Any], waiter: ThreadWaiter) -> None:
    """The sleep ends by an exception: nobody can claim it any more, and what it was handed goes
    back."""
    peer = None
    try:
        acquire()
        waiter.winner = waiter.winner or CANCELLED
        if waiter.winner is not operation:
            operation.withdraw()
        elif operation.reversible:
            peer = operation.undo(no_loop)
        release()
        if peer is not None:
            peer.wake(no_loop)
    except BaseException:
        recover()
        raise
