"""Select: one waiter standing in several lines, so that exactly one of its cases happens."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from typing import Any, TypeVar

from tailrace._core.cancellation import rearmed
from tailrace._core.common import check_timeout
from tailrace._core.faces import NoFuture, SelectFace
from tailrace._core.python.operation import Fresh, Operation, RecvMany, SendMany
from tailrace._core.python.waiter import (
    CANCELLED,
    PENDING,
    TIMED_OUT,
    LoopState,
    ThreadWaiter,
    Waiter,
    acquire,
    budget,
    held,
    here_now,
    recover,
    reentered,
    release,
    thread,
)
from tailrace._core.watch import Watch
from tailrace.errors import Closed, WouldBlock

T = TypeVar("T")


class Select(NoFuture, SelectFace):
    """What `select` returns: await it once for ``(index, value)``."""

    __slots__ = ("cases", "priority", "timeout", "used", "waiter")

    def __init__(
        self, cases: tuple[Operation[Any] | None, ...], timeout: float | None, priority: bool
    ) -> None:
        self.used = True  # until the arguments are found good there is nothing to await
        self.waiter: Waiter | None = None
        spend(cases)
        timeout = check_timeout(timeout)
        if timeout is None and all(case is None for case in cases):
            raise ValueError("select without a case and without a timeout would wait forever")
        self.cases = cases
        self.timeout = timeout
        self.priority = priority
        self.used = False

    def __del__(self) -> None:
        if not getattr(self, "used", True):  # it has none yet where `__init__` is interrupted
            warnings.warn("select was never awaited", RuntimeWarning, stacklevel=2, source=self)

    @property
    def since(self) -> float:
        """The loop's time at which a task parked here."""
        assert self.waiter is not None
        return self.waiter.since

    @property
    def parked(self) -> bool:
        """Whether somebody sleeps in it, whom nobody has woken."""
        return self.waiter is not None and self.waiter.winner is None

    def __await__(self) -> Generator[Any, Any, tuple[int | None, Any]]:
        if self.used:
            raise RuntimeError("select was awaited already: it is used once")
        self.used = True
        return self.drive()

    def drive(self) -> Generator[Any, Any, tuple[int | None, Any]]:
        """Attempt each case, and if none is ready sleep in all lines, until one happened."""
        here = here_now()
        while True:
            if budget.left <= 0:
                yield budget.anew()
            if held():
                raise reentered()
            self.waiter = None
            order = order_of(self.cases, self.priority)
            index = closed = None
            asleep = False
            try:
                acquire()
                index, peer, closed = attempt_one(self.cases, order, here)
                if index is None:
                    self.waiter = self.park(here, order)
                release()
                if peer is not None:
                    peer.wake(here)
                if self.waiter is not None:
                    asleep = True
                    yield from self.sleep()
            except BaseException as interrupt:
                if not asleep:  # else the collector may be closing this amid another operation
                    recover()
                if self.waiter is None or self.interrupted(self.waiter, interrupt):
                    raise
            if self.waiter is None:
                budget.left -= 1
                assert index is not None
                try:
                    return index, outcome(self.cases[index], closed)
                finally:
                    del closed
            winner = self.waiter.winner
            self.waiter = None  # it leads to the task, which may keep this select
            if winner is TIMED_OUT:
                return None, None
            if isinstance(winner, Operation):
                winner.forget()
                index = self.cases.index(winner)
                return index, outcome(self.cases[index], None)
            # A channel was closed: look again, that case is ready now.

    def park(self, here: LoopState, order: list[int]) -> Waiter:
        """Under the lock: stand in every line; of two cases in one line neither is favoured."""
        self.waiter = waiter = Waiter(here)  # first: what is interrupted is given up by that
        for index in order:
            case = self.cases[index]
            if case is not None:
                case.waiter = waiter
                case.enqueue()
        return waiter

    def sleep(self) -> Generator[Any, Any, None]:
        """Sleep until claimed, and leave the other lines."""
        waiter = self.waiter
        assert waiter is not None
        timer = None
        try:
            for case in self.cases:
                if case is not None and case.watches:
                    case.watch()
            if self.timeout is not None:
                loop = waiter.get_loop()
                timer = loop.call_later(self.timeout, waiter.claim_and_wake, TIMED_OUT)
            while waiter.winner is None:
                waiter._asyncio_future_blocking = True
                yield waiter
        except BaseException:
            del waiter  # the traceback has this frame, and must not lead to the task
            raise
        finally:
            if timer is not None:
                timer.cancel()
        try:
            acquire()
            self.withdraw(waiter)
            release()
        except BaseException:
            recover()
            raise

    def withdraw(self, waiter: Waiter) -> None:
        """Under the lock: leave every line but the winner's own, which was left by the claim."""
        for case in self.cases:
            if case is not None and case is not waiter.winner:
                case.withdraw()
                case.forget()

    def interrupted(self, waiter: Waiter, interrupt: BaseException) -> bool:
        """As `Operation.interrupted`, for all cases."""
        if held():
            waiter.state.call_soon_threadsafe(self.interrupted, waiter, interrupt)
            return True
        here = here_now()
        peer = None
        try:
            acquire()
            winner = waiter.winner = waiter.winner or CANCELLED
            self.withdraw(waiter)
            happened = isinstance(winner, Operation)
            if isinstance(winner, Operation) and winner.reversible:
                happened = False
                peer = winner.undo(here)
            release()
            if peer is not None:
                peer.wake(here)
        except BaseException:
            recover()
            raise
        if happened and rearmed(interrupt, waiter.requests()):
            return False
        if isinstance(winner, Operation):
            winner.forget()
        self.waiter = None
        return True


def spend(cases: tuple[object, ...]) -> None:
    """Mark every operation used, so that a refusal of one does not make the others warn."""
    refused: Exception | None = None
    for index, case in enumerate(cases):
        if case is None:
            continue
        if not isinstance(case, Operation) or isinstance(case, (RecvMany, SendMany)):
            refused = refused or TypeError(
                f"case {index} of select is {case!r}: give it an operation, such as "
                f"channel.recv(), channel.send(value) or done(future), or None for no case"
            )
        elif not isinstance(case, Fresh):
            refused = refused or RuntimeError(f"case {index} of select was used already: {case!r}")
        if isinstance(case, Fresh):
            case.begin()
    if refused is not None:
        raise refused


def order_of(cases: tuple[object, ...], priority: bool) -> list[int]:
    """The cases in the order of their chances: random, or as listed with `priority`."""
    return list(range(len(cases))) if priority else thread.shuffled(len(cases))


def attempt_one(
    cases: tuple[Operation[Any] | None, ...], order: list[int], here: LoopState
) -> tuple[int | None, Waiter | ThreadWaiter | None, Closed | None]:
    """Under the lock: the first case, in this order, that can happen now.

    Gives its index, whom to wake, and the error if it was ready because its channel is closed.
    """
    for index in order:
        case = cases[index]
        if case is not None:
            try:
                peer = case.attempt(here)
            except Closed as closed:
                return index, None, closed
            if peer is not PENDING:
                return index, peer, None
    return None, None, None


def outcome(case: Operation[Any] | None, closed: Closed | None) -> Any:
    """The value of the case that was chosen; raises where it stands for an error."""
    assert case is not None
    try:
        if closed is None:
            return case.finish()
        if case.receives and closed.__cause__ is None:
            return closed
        raise closed
    finally:
        del closed  # its traceback has this frame, and the frames that call this: no cycle


def done(source: asyncio.Future[T] | asyncio.Event) -> Operation[T]:
    """See `tailrace.done`."""
    return FreshDone(source)


def select(
    *cases: Operation[Any] | None, timeout: float | None = None, priority: bool = False
) -> Select:
    """Wait until one of `cases` can happen, do that one and no other: ``(index, value)``.

    A case is an operation (``channel.recv()``, ``channel.send(value)``, ``done(future)``) or
    None, which never happens (Go's nil channel). Among several that are ready the choice is
    uniformly random; with `priority` the first listed wins. After `timeout` seconds the answer
    is ``(None, None)``.

    A receive from a closed, drained channel is ready, with the `Closed` instance as its value;
    if it was closed with a cause, that `Closed` is raised. A send on a closed channel raises
    `Closed` when it is the case chosen.

    TypeError for what is not an operation; ValueError when nothing could ever happen.
    Cancelled: no case happened. A send that was taken in the same instant makes the await
    return, and the cancellation arrives at the task's next one.
    """
    return Select(cases, timeout, priority)


def select_nowait(*cases: Operation[Any] | None, priority: bool = False) -> tuple[int, Any]:
    """Do one of `cases` if one can happen at once, else raise `WouldBlock` (Go's ``default``).

    Cases, choice and values are as for `select`.
    """
    spend(cases)
    if held():
        raise reentered()
    here = here_now()
    order = order_of(cases, priority)
    try:
        acquire()
        index, peer, closed = attempt_one(cases, order, here)
        release()
        if peer is not None:
            peer.wake(here)
    except BaseException:
        recover()
        raise
    if index is None:
        raise WouldBlock("no case of select is ready")
    try:
        return index, outcome(cases[index], closed)
    finally:
        del closed


class Done(Operation[T]):
    """A future, task or Event as a case of select; see `tailrace.done`."""

    __slots__ = ("source", "watched")
    does = "done"
    verb = "done"
    plain = False
    watches = True

    def __init__(self, source: asyncio.Future[T] | asyncio.Event) -> None:
        what: Any = source  # in the channel's place: what messages name
        super().__init__(what)
        self.source = source
        self.watched: Watch | None = None

    def attempt(self, here: LoopState) -> Any:
        source = self.source
        ready = source.is_set() if isinstance(source, asyncio.Event) else source.done()
        return None if ready else PENDING

    def enqueue(self) -> None:
        self.queued = True

    def watch(self) -> None:
        self.watched = Watch(self.source, self.fired)

    def fired(self) -> None:
        if self.queued:
            self.queued = False
            waiter = getattr(self, "waiter", None)  # none any more, if a wait has just ended
            if isinstance(waiter, Waiter):
                waiter.claim_and_wake(self)

    def withdraw(self) -> None:
        self.queued = False
        if self.watched is not None:
            self.watched.stop()
            self.watched = None

    def undo(self, here: LoopState) -> None:
        self.withdraw()  # nothing was taken: it is still done

    def finish(self) -> Any:
        if isinstance(self.source, asyncio.Event):
            return True
        return self.source.result()


class FreshDone(Fresh[T], Done[T]):
    __slots__ = ()
    spent = Done
