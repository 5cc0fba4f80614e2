"""Who holds which end of a channel. The last holder of an end to let go closes the channel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from tailrace._core.common import End, label
from tailrace.errors import Closed
from tailrace.usercode import is_a

T = TypeVar("T")

# Not the lock that guards channels: values do not wait for holders that come and go.
_lock = threading.RLock()


class Stoppable(Protocol):
    """What a drain stops: see `enclosing`."""

    @property
    def stopping(self) -> bool:
        """Whether a drain has stopped it."""
        ...


enclosing: ContextVar[Stoppable | None] = ContextVar("tailrace.enclosing", default=None)
"""What the running code belongs to: a stage, or the main function of `run`. Tasks and threads that
an actor starts inherit it."""


class Holders(dict[End, int]):
    """How many hold each end of a channel."""

    __slots__ = ("ledger",)

    def __init__(self) -> None:
        super().__init__({"send": 0, "receive": 0})
        self.ledger: object = None  # given by those who took the receiving end last


_LET_GO: Final = -1
"""In place of their number, once the last holder has let go."""


class Holdable(Protocol):
    """What holds need of a channel."""

    _ends: Holders | None

    def _let_go(self, end: End, cause: BaseException | None, /) -> bool: ...


Hold: TypeAlias = tuple[Any, End, str]
"""A channel, which end of it is held, and the name of what it is held through."""


def take_hold(holds: Sequence[Hold], ledger: object = None) -> None:
    """Hold each end once more. ValueError, and nothing held, if one end's last holder let go.

    `ledger` is what `ledger_of` returns for the channels whose receiving ends these are.
    """
    with _lock:
        # All refusals first: to let go again of another end would close it.
        for channel, end, _ in holds:
            if was_let_go(channel, end):
                raise ValueError(_refusal(channel, end))
        for channel, end, _ in holds:
            holders = channel._ends
            if holders is None:
                holders = channel._ends = Holders()
            holders[end] += 1
            if end == "receive" and ledger is not None:
                holders.ledger = ledger


def let_go(holds: Sequence[Hold], cause: BaseException | None) -> list[Hold]:
    """Hold each end once less; the last holder closes its channel. Returns the holds that did."""
    last: list[Hold] = []
    with _lock:
        for hold in holds:
            channel, end, _ = hold
            holders = channel._ends
            assert holders is not None
            left = holders[end] - 1
            holders[end] = left or _LET_GO
            if not left:
                last.append(hold)
    return [hold for hold in last if hold[0]._let_go(hold[1], cause)]


def holders_of(channel: Holdable, end: End) -> int:
    """How many hold `end`."""
    holders = channel._ends
    return 0 if holders is None else max(0, holders[end])


def ledger_of(channel: Holdable) -> object:
    """What was given to `take_hold` for the receiving end last; None if nothing was."""
    holders = channel._ends
    return None if holders is None else holders.ledger


def was_let_go(channel: Holdable, end: End) -> bool:
    """Whether that end was held, and its last holder has let go of it."""
    holders = channel._ends
    return holders is not None and holders[end] == _LET_GO


def _refusal(channel: Holdable, end: End) -> str:
    side = "sending" if end == "send" else "receiving"
    return (
        f"the {side} end of {label(channel)} was closed when the last that held it ended; start "
        f"this one before that, or keep the end open meanwhile: `with channel.{side}():`"
    )


class Held(Generic[T]):
    """One end of a channel, held for the length of a block, which gets `view` for it."""

    # Not made by contextlib, which sets attributes on the exceptions that pass: some refuse that.

    __slots__ = ("_holds", "_view")

    def __init__(self, channel: Holdable, end: End, view: T) -> None:
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
        end = self._holds[0][1]
        let_go(self._holds, None if error is None or _is_no_failure(error, end) else error)


def _is_no_failure(error: BaseException, end: End) -> bool:
    """Whether the holder of `end` that `error` ends has not failed.

    A cancelled sender cuts a stream off, unless a drain has stopped it. A receiver may always stop.
    """
    if is_a(error, Closed):
        return error.__cause__ is None
    if is_a(error, asyncio.CancelledError):
        around = enclosing.get()
        return end == "receive" or (around is not None and around.stopping)
    return is_a(error, GeneratorExit)
