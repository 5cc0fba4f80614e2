"""Layer 0: how many messages the sources of a group let in, and what became of each.

A `Ledger` has the counts of one group. Two context variables lead from running code to a ledger;
the tasks and threads that an actor starts inherit them:

- `counting`: the ledger that counts the messages made here. None outside of groups, and in stages
  that are no source: they make messages of messages that are counted already.
- `surrounding`: the ledger of the group whose code runs here.

Invariants:
- A message is in one count of one ledger: in `open` until it is settled, then in that of its
  outcome. `Account.entered` is the sum of the counts, and no count is a difference of others.
- Counts that belong together change in successive statements without a call. With a GIL no other
  thread, signal handler or finaliser runs in between, since Python lets them run only at a call, a
  jump back or the start of a function. Free-threaded builds take a lock (`guarded`).
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, ParamSpec, TypeVar

from tailrace.account import Account

__all__ = ["FREE_THREADED", "Ledger", "counting", "guarded", "surrounding"]

P = ParamSpec("P")
R = TypeVar("R")

FREE_THREADED: Final[bool] = not getattr(sys, "_is_gil_enabled", lambda: True)()

_counts = threading.RLock()  # re-entrant, since a finaliser may settle a message at any call
_tree = threading.RLock()  # guards `Ledger._inner`: an inner group may run in another thread


def guarded(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn`, which changes counts; on free-threaded builds it takes the lock of all counts."""
    if not FREE_THREADED:
        return fn

    @functools.wraps(fn)
    def with_lock(*args: P.args, **kwargs: P.kwargs) -> R:
        with _counts:
            return fn(*args, **kwargs)

    return with_lock


class Ledger:
    """The counts of one group."""

    __slots__ = (
        "_ended",
        "_inner",
        "_outside",
        "_sweep_at",
        "aborted",
        "dead",
        "failed",
        "lost",
        "open",
        "rejected",
        "stored",
    )

    def __init__(self) -> None:
        self.open = 0
        self.stored = self.aborted = self.rejected = self.dead = self.failed = self.lost = 0
        self._inner: list[Ledger] = []  # of the groups inside, until their counts are added here
        self._sweep_at = 8  # at so many inner ledgers, look for those that have ended
        self._ended = False  # the group has
        self._outside: tuple[Ledger | None, Ledger | None] = (None, None)  # the variables there

    def __repr__(self) -> str:
        return f"<Ledger: {self.account()}>"

    @guarded
    def made(self) -> None:
        """A message was let in."""
        self.open += 1

    @guarded
    def settled(self, status: str, was_open: int = 1) -> None:
        """A message is settled. `was_open` is 0 for one that was not counted before."""
        if status == "stored":
            self.stored += 1
        elif status == "aborted":
            self.aborted += 1
        elif status == "rejected":
            self.rejected += 1
        elif status == "dead":
            self.dead += 1
        elif status == "failed":
            self.failed += 1
        else:
            self.lost += 1
        self.open -= was_open

    def account(self) -> Account:
        """The counts, with those of the groups inside."""
        with _tree:
            stored, aborted, rejected, dead, failed, lost, still = self._own()
            for inner in self._inner:
                more = inner.account()
                stored += more.stored
                aborted += more.aborted
                rejected += more.rejected
                dead += more.dead
                failed += more.failed
                lost += more.lost
                still += more.open
        entered = stored + aborted + rejected + dead + failed + lost + still
        return Account(entered, stored, aborted, rejected, dead, failed, lost, still)

    @guarded
    def _own(self) -> tuple[int, int, int, int, int, int, int]:
        return (
            self.stored,
            self.aborted,
            self.rejected,
            self.dead,
            self.failed,
            self.lost,
            self.open,
        )

    def enter(self) -> None:
        """The running code enters the block of the group, perhaps inside that of another one."""
        outer = surrounding.get()
        self._outside = counting.get(), outer
        counting.set(self)
        surrounding.set(self)
        if outer is not None:
            with _tree:
                outer._inner.append(self)
                if len(outer._inner) >= outer._sweep_at:
                    outer._forget_ended()

    def leave(self) -> None:
        """The group has ended. Once all its messages are settled, the outer ledger may add these
        counts to its own, and forget this ledger."""
        self._ended = True
        if surrounding.get() is self:  # else the block is left in another context
            counting.set(self._outside[0])
            surrounding.set(self._outside[1])
        self._outside = (None, None)

    def _forget_ended(self) -> None:
        """Add the counts of groups that have ended, so that a program may enter many of them."""
        kept: list[Ledger] = []
        for inner in self._inner:
            account = inner.account()
            if inner._ended and not account.open:
                self._add(account)
            else:
                kept.append(inner)
        self._inner = kept
        self._sweep_at = 2 * len(kept) + 8

    @guarded
    def _add(self, more: Account) -> None:
        self.stored += more.stored
        self.aborted += more.aborted
        self.rejected += more.rejected
        self.dead += more.dead
        self.failed += more.failed
        self.lost += more.lost


counting: ContextVar[Ledger | None] = ContextVar("tailrace.counting", default=None)
surrounding: ContextVar[Ledger | None] = ContextVar("tailrace.surrounding", default=None)

counting.set(None)  # a value that is set is found in a third of the time of a default
