"""What both cores share: the budget, the snapshot type, the checks of a channel's arguments.

A message or an error that a user can see is made here, once, so that the twins cannot differ.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    from tailrace._core.python import Operation

BUDGET: Final = 128
"""Operations in a row that may succeed without parking before one yields to the scheduler
(cooperative budgeting as in tokio, which uses the same figure)."""

TURN_STEPS: Final = 512
TURN_SECONDS: Final = 0.00025
"""How many steps one turn of the event loop has at most, and for how long it goes on."""

YIELD_STEPS: Final = 32
"""As how many steps a spent budget counts: what comes before it was that many times as long."""

Overflow: TypeAlias = Literal["block", "drop_newest", "drop_oldest"]
OVERFLOWS: Final[tuple[Overflow, ...]] = get_args(Overflow)
End: TypeAlias = Literal["send", "receive"]
Verb: TypeAlias = Literal["send", "receive", "done"]
WORDS: Final[dict[Verb, str]] = {
    "send": "sending to",
    "receive": "receiving from",
    "done": "waiting for",
}
"""How a `Verb` is put into words, before the name of its channel."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A channel at one instant. ``sent == received + buffered + dropped`` always holds.

    A value counts as sent once its send has completed (dropped ones included), and as received
    once it was handed over; one that a cancelled receiver gave back counts as buffered again.
    """

    buffered: int
    capacity: float
    sent: int
    received: int
    dropped: int
    waiting_senders: int
    waiting_receivers: int
    closed: bool


class Wait(NamedTuple):
    """One thing that a parked party waits for: to send to a channel, to receive from it, or for
    a future, task or Event (in the channel's place) to be done."""

    verb: Verb
    channel: Any


class ParkedThread(NamedTuple):
    """A thread asleep in an operation, by itself until then (of `time.monotonic`) at the latest."""

    operation: Operation[Any]
    until: float | None


class Sending(Protocol):
    """What `Sender.send_many` returns: await it once; `sent` counts what has been sent."""

    @property
    def sent(self) -> int:
        """How many values were sent so far, exact after any exception."""
        ...

    def __await__(self) -> Generator[Any, Any, None]: ...


def check_capacity(capacity: object) -> None:
    """TypeError or ValueError unless `capacity` is a whole number ≥ 0 or `math.inf`."""
    if not isinstance(capacity, int) or isinstance(capacity, bool):
        if capacity == math.inf:
            return
        raise TypeError(
            f"capacity must be a whole number (0 is a rendezvous) or math.inf, not {capacity!r}"
        )
    if capacity < 0:
        raise ValueError(f"capacity must be 0 or more, not {capacity!r}")


def check_overflow(overflow: object, capacity: float) -> None:
    """ValueError unless `overflow` is a known policy that makes sense with `capacity`."""
    if overflow not in OVERFLOWS:
        known = ", ".join(repr(policy) for policy in OVERFLOWS)
        raise ValueError(f"overflow must be one of {known}, not {overflow!r}")
    if overflow == "drop_oldest" and capacity == 0:
        raise ValueError(
            "overflow='drop_oldest' needs a capacity of at least 1: "
            "a channel of capacity 0 holds no oldest value"
        )


def check_timeout(timeout: float | None) -> float | None:
    """`timeout`, with no bound (`math.inf`) as None. TypeError or ValueError for no duration."""
    if timeout is None or timeout == math.inf:
        return None
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be seconds or None, not {timeout!r}")
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds, not nan")
    return min(timeout, threading.TIMEOUT_MAX)


def label(channel: object) -> str:
    """How a channel is called in messages: its name, or what it carries and where it is."""
    name = getattr(channel, "name", "")
    if name:
        return str(name)
    element = getattr(channel, "element", None)
    kind = "channel" if element is None else f"Channel[{getattr(element, '__name__', element)}]"
    return f"unnamed {kind} at {id(channel):#x}"
