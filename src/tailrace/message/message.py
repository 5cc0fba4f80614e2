"""A value on its way to being settled, once.

Invariants:
- The claim to settle is a swap of `_claim` with `_SETTLED` in one statement. Claim, outcome and
  count are one atomic step, for the reason that `ledger` gives. `_claim` has the `OnSettled` to
  call, which a settled message, as it may live on, does not keep alive. The order is: claim,
  outcome, count, waiters, `OnSettled`.
- Settling stores the outcome, then looks for waiters and posts to their loops; a waiter registers
  first, then looks for the outcome. Both may act; they cannot miss each other. No lock is held.
- `_ledger` counts what a source has made; parts and joins have none.
- A derived message (`with_data`) keeps its origin alive and settles it; it has no waiters.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

from tailrace.arguments import check_count, check_timeout
from tailrace.errors import Outage
from tailrace.ledger import FREE_THREADED, Ledger, counting, guarded
from tailrace.message.failures import log_failure, log_loss, running
from tailrace.message.headers import NO_HEADERS, headers_of
from tailrace.message.outcome import (
    LOST,
    STORED,
    OnSettled,
    Outcome,
    dropped,
    ended,
    failure,
    of_outcome,
    worst,
)
from tailrace.message.settlement import Settlement, Waiters
from tailrace.usercode import log_error, shown

__all__ = [
    "Message",
    "Parts",
    "delayed_by_outage",
    "digest_of",
    "message_of",
    "settle_failed",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

_log = logging.getLogger(__name__)

_new: Final = cast("Callable[[type], Any]", object.__new__)

_ledger_here: Final = counting.get  # bound once: each message calls it


def _SETTLED(outcome: Outcome, data: object) -> None:  # noqa: N802  # a mark, never called
    """In place of the `OnSettled` of a message that is settled."""


# Held while a message makes its id or its waiters on demand. Nothing is allocated under it, so no
# finaliser runs meanwhile; it is re-entrant all the same.
_making = threading.RLock()


class Message(Generic[T_co]):
    """A value that is settled once: by `ack`, `abort`, `reject` or `fail`.

    The first call settles; later ones change nothing and return False. A message that is collected
    unsettled (dropped by a bug, or by an actor that crashed) is settled as "lost", so nobody waits
    for it forever. All methods may be called from any thread.

    `data` may be changed in place; `with_data` is the typed way to go on with other data. To type
    checkers a `Message[int]` is a `Message[int | str]` too (covariant), so a function of wider
    data can be wired to a channel of narrower messages.
    `id` names the message in logs, and a store recognises a repeat by it. If none is given, one
    (32 hex digits) is made when first asked for. `headers` is a read-only copy, with names in lower
    case. TypeError for an id or a header that is no str, ValueError for an empty id and for names
    that differ in case only.

    `on_settle(outcome)` is called once, in the thread that settles, after waiters have been
    woken. For "lost" that is a finaliser: it must be quick, must not block, and must not use a
    channel (post to a loop instead). What it raises is logged.
    """

    __slots__ = (
        "__weakref__",
        "_claim",
        "_digest",
        "_headers",
        "_id",
        "_ledger",
        "_origin",
        "_outcome",
        "_waiters",
        "data",
    )

    data: T_co

    def __init__(
        self,
        data: T_co,
        *,
        id: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        on_settle: Callable[[Outcome], object] | None = None,
    ) -> None:
        if id is not None:
            if not isinstance(id, str):
                raise TypeError(f"the id of a message must be a str, not {id!r}")
            if not id:
                raise ValueError("the id of a message must not be empty: leave it out")
        self._headers = headers if headers is NO_HEADERS else headers_of(headers)
        self._id = id
        self.data = data
        self._origin: Message[Any] | None = None
        self._outcome: Outcome | None = None
        self._waiters: Waiters | None = None
        self._digest: bytes | None = None
        self._claim: OnSettled | None = None if on_settle is None else of_outcome(on_settle)
        self._ledger = ledger = _ledger_here()
        if ledger is not None:
            if FREE_THREADED:
                ledger.made()
            else:
                ledger.open += 1

    # --- settling ---------------------------------------------------------------------------

    def ack(self, result: object = None) -> bool:
        """Stored: the message did what it was sent for. True if this call settled it."""
        if result is not None or FREE_THREADED:
            return self._settle(STORED if result is None else ended("stored", "", None, result))
        # As `_settle`, written out: each call would add a tenth to the cost of a message.
        root = self if self._origin is None else self._origin
        on_settled, root._claim = root._claim, _SETTLED
        if on_settled is _SETTLED:
            return False
        root._outcome = STORED
        ledger = root._ledger
        if ledger is not None:
            ledger.open -= 1
            ledger.stored += 1
        if on_settled is not None or root._waiters is not None:
            self._tell(root, STORED, on_settled)
        return True

    def abort(self, reason: str) -> bool:
        """Dropped on purpose, which is nobody's fault. True if this call settled it."""
        return self._settle(ended("aborted", reason, None, None))

    def reject(self, reason: str) -> bool:
        """Invalid, which is the sender's fault. True if this call settled it."""
        return self._settle(ended("rejected", reason, None, None))

    def fail(self, error: BaseException | str) -> bool:
        """Failed, with an exception or a text. True if this call settled it.

        The failure is logged with the id: at once, then at most every ten seconds for each actor,
        with a count.
        """
        if settled := settle_failed(self, error):
            log_failure(self.id, error)
        return settled

    def _settle(self, outcome: Outcome) -> bool:
        root = self if self._origin is None else self._origin
        on_settled = _claim(root, outcome)
        if on_settled is _SETTLED:
            return False
        if on_settled is not None or root._waiters is not None:
            self._tell(root, outcome, on_settled)
        return True

    def _tell(self, root: Message[Any], outcome: Outcome, on_settled: OnSettled | None) -> None:
        """Wake the waiters of `root`, and call its `OnSettled`."""
        waiters = root._waiters
        if waiters is not None:
            waiters.settle(outcome, self.data)
        if on_settled is not None:
            try:
                on_settled(outcome, self.data)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                # Nothing may reach the actor that settles, not even a CancelledError (of a future
                # that `on_settle` reads, say).
                log_error(_log, "on_settle of %r raised; the outcome stands", root, error=error)

    def __discarded__(self, reason: str) -> None:
        """Called by a channel whose overflow policy drops this message: it fails, not logged."""
        settle_failed(self, reason)

    def __abandoned__(self, channel: str) -> None:
        """Called by a channel that has this message when nobody holds its receiving end: it is
        lost. A channel may outlive its group, and the message with it."""
        reason = f"left in {channel}, whose receivers have ended"
        self._lose(ended("lost", reason, None, None), repr(channel))

    def _lose(self, outcome: Outcome, where: str | None = None) -> None:
        waiters = (self if self._origin is None else self._origin)._waiters
        if self._settle(outcome):
            lost = "lost: " if outcome.status == "lost" else ""
            loss = self.id, f"{lost}{outcome.reason}", where or running()
            if waiters is not None and waiters.sending:
                waiters.loss = loss
            else:
                log_loss(*loss)

    def __dropped__(self, stage: str, why: str) -> None:
        """For a group whose actor ended with it in hand: not sent for the reason `why`, or lost."""
        outcome = failure(Outage(why)) if why else LOST
        if self._settle(outcome):
            log_failure(self.id, outcome.reason if why else f"lost: {outcome.reason}", stage)

    def __unsettled__(self) -> str:
        """This message in words, "" once it is settled: for a group that finds it in a variable of
        an actor that waits for its next value."""
        return f"message {self.id}" if self.outcome is None else ""

    def __del__(self) -> None:
        try:
            unsettled = self._claim is not _SETTLED
        except AttributeError:
            return  # __init__ was called wrongly, and there is nothing to settle
        if unsettled:
            self._lose(dropped())

    # --- looking ----------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None until then."""
        return self._outcome if self._origin is None else self._origin._outcome

    @property
    def id(self) -> str:
        """The id of this message; a derived message has that of its origin."""
        root = self if self._origin is None else self._origin
        if root._id is None:
            # Milliseconds first, as in UUID version 7: rows of one time lie together in an index.
            fresh = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
            with _making:
                if root._id is None:
                    root._id = fresh
        return root._id

    @property
    def headers(self) -> Mapping[str, str]:
        """What the source knows about the message besides the data; read-only."""
        return self._headers

    def settled(self, timeout: float | None = None) -> Settlement:
        """A `Settlement`, to await the outcome for at most `timeout` seconds.

        It does not keep the message alive. But a variable that still holds the message does, and
        then "lost" never comes. To be told of a loss, delete the variable first, as `submit` does:

            ending = message.settled()
            await channel.send(message)
            del message
            outcome = await ending
        """
        root = self if self._origin is None else self._origin
        waiters = root._waiters
        if waiters is None:
            fresh = Waiters()
            with _making:
                if root._waiters is None:
                    root._waiters = fresh
            waiters = root._waiters
        outcome = root._outcome
        if outcome is not None and waiters.outcome is None:
            waiters.settle(outcome, self.data)
        return Settlement(waiters, None if timeout is None else check_timeout(timeout))

    def __repr__(self) -> str:
        outcome = self.outcome
        status = "open" if outcome is None else outcome.status
        name = self.id if len(self.id) <= 20 else f"{self.id[:8]}…{self.id[-4:]}"
        return f"<Message {name} {shown(self.data)} {status}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # A copy would be settled, or lost, on behalf of the original.
        raise TypeError("a Message cannot be copied or pickled; with_data() makes a derived one")

    # --- deriving ---------------------------------------------------------------------------

    def with_data(self, data: U) -> Message[U]:
        """The same message with other data: settling either settles both.

        Id and headers stay. The message is lost when neither is left.
        """
        derived: Message[U] = _new(Message)
        derived.data = data
        derived._origin = self if self._origin is None else self._origin
        derived._outcome = None
        derived._claim = _SETTLED  # its origin has the claim
        derived._headers = self._headers
        return derived

    def split(self, n: int) -> list[Message[T_co]]:
        """`n` messages with this one's data and headers; it is settled when all of them are.

        The worst outcome wins: lost, failed, dead, rejected, aborted, stored. If all are stored
        and one has a result, the result is the list of the parts' results. The parts' ids are
        this message's with ``.0``, ``.1``, … appended, so that a repeat splits into repeats.
        TypeError or ValueError unless `n` is 1 or more.
        """
        check_count("split: n", n)  # where there are no parts, settle the message instead
        parts = Parts(self)
        made = [parts.part(self.data) for _ in range(n)]
        parts.end()
        return made

    @staticmethod
    def join(messages: Iterable[Message[U]]) -> Message[list[U]]:
        """One message for many, with the list of their data; its outcome goes to all of them.

        It has an id of its own and no headers. ValueError if there are no messages, TypeError
        for what is no message.
        """
        members = list(messages)
        if not members:
            raise ValueError("join: there are no messages to join")
        for member in members:
            if not isinstance(cast("object", member), Message):
                raise TypeError(f"join takes messages, not {shown(member)}")
        return message_of([m.data for m in members], None, _Joined(members))


def message_of(
    data: T,
    id: str | None,
    on_settled: OnSettled,
    headers: Mapping[str, str] = NO_HEADERS,
    digest: bytes | None = None,
    ledger: Ledger | None = None,
) -> Message[T]:
    """A message that calls `on_settled` with its outcome, and the data it was settled with.

    For sources of this library. `headers` is not copied, so it must not change. `digest` is of what
    a client sent, if the client chose the id; see `digest_of`. `ledger` counts it. Takes half
    the time of the constructor: before 3.13 a call of a class with an `__init__` is slow.
    """
    message: Message[T] = _new(Message)
    message.data = data
    message._origin = message._outcome = message._waiters = None
    message._claim = on_settled
    message._id = id
    message._headers = headers
    message._digest = digest
    message._ledger = ledger
    if ledger is not None:
        if FREE_THREADED:
            ledger.made()
        else:
            ledger.open += 1
    return message


@guarded
def _claim(root: Message[Any], outcome: Outcome) -> OnSettled | None:
    """Settle `root` and count it. Returns what it calls then; `_SETTLED` if it was settled."""
    on_settled, root._claim = root._claim, _SETTLED
    if on_settled is not _SETTLED:
        root._outcome = outcome
        if root._ledger is not None:
            root._ledger.settled(outcome.status)
    return on_settled


def digest_of(message: Message[Any]) -> bytes | None:
    """The digest of what the client sent, if the client chose the id (`Idempotency-Key`).

    For stores. The same id with the same digest is a repeat, even if the data differ because a
    stage added a time; the same id with another digest is another request. None if no client chose
    the id: compare the data. `PLACE` if the id says where the data are: the id alone makes a
    repeat. Derived messages and the parts of a split have the digest of their origin, a join has
    none.
    """
    return (message if message._origin is None else message._origin)._digest


def settle_failed(message: Message[Any], error: BaseException | str) -> bool:
    """As `Message.fail`, for actors that log to a `FailureLog` of their own."""
    return message._settle(failure(error))


def delayed_by_outage(message: Message[Any]) -> None:
    """Called by stores, from any thread: an outage delays `message`.

    This calls the method `outage` of its `OnSettled`, if there is one, perhaps more than once. The
    source can then name the outage to a client whose time runs out meanwhile.
    """
    root = message if message._origin is None else message._origin
    outage = getattr(root._claim, "outage", None)
    if outage is not None:
        outage()


class Parts:
    """Makes the parts of `message`, and settles it once `end` was called and all are settled.

    The worst outcome wins. If nothing calls `end`, the message is lost as soon as nothing refers to
    it: its parts do until they are settled. No lock is taken: if two parts are settled at once,
    both may find that all are, and settle.
    """

    __slots__ = ("_done", "_made", "_special", "_total", "message")

    def __init__(self, message: Message[Any]) -> None:
        self.message = message
        self._made = 0
        self._total = -1  # unknown until `end`
        self._done: list[None] = []  # one for each settled part: `append` is atomic
        self._special: dict[int, Outcome] = {}  # of parts that were not merely stored

    @property
    def made(self) -> int:
        """How many parts there are."""
        return self._made

    def part(self, data: T, id: str | None = None) -> Message[T]:
        """The next part, with the message's headers. Its id is the message's with its number."""
        index = self._made
        self._made += 1
        message = self.message
        name = f"{message.id}.{index}" if id is None else id
        return message_of(data, name, _Part(self, index), message.headers, digest_of(message))

    def end(self, outcome: Outcome = STORED) -> None:
        """No part is made from now on. `outcome` counts as that of one more part."""
        if outcome is not STORED:
            self._special[self._made] = outcome
        self._total = self._made
        self._settle_if_all()

    def _part_settled(self, index: int, outcome: Outcome) -> None:
        if outcome is not STORED:
            self._special[index] = outcome
        self._done.append(None)
        self._settle_if_all()

    def _settle_if_all(self) -> None:
        if len(self._done) == self._total:
            self.message._settle(self._outcome())

    def _outcome(self) -> Outcome:
        special = dict(self._special)
        if not special:
            return STORED
        found = worst([special[index] for index in sorted(special)])
        if found.status != "stored":
            return found
        results = [special[i].result if i in special else None for i in range(self._total)]
        return ended("stored", "", None, results)


class _Part:
    """Tells `Parts` of the outcome of one."""

    __slots__ = ("_index", "_parts")

    def __init__(self, parts: Parts, index: int) -> None:
        self._parts = parts
        self._index = index

    def __call__(self, outcome: Outcome, data: object) -> None:
        self._parts._part_settled(self._index, outcome)

    def outage(self) -> None:
        delayed_by_outage(self._parts.message)


class _Joined:
    """Settles the members of a joined message with its outcome."""

    __slots__ = ("_members",)

    def __init__(self, members: list[Message[Any]]) -> None:
        self._members = members

    def __call__(self, outcome: Outcome, data: object) -> None:
        for message in self._members:
            message._settle(outcome)

    def outage(self) -> None:
        for message in self._members:
            delayed_by_outage(message)
