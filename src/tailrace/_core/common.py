"""What both cores share: constants, claims, the snapshot type, the checks of arguments.

A text that a user can see is made in a module that both cores share, so that the twins cannot
differ.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

BUDGET: Final = 128
"""How many operations in a row may succeed without parking before one yields to the scheduler
(cooperative budgeting as in tokio, which uses the same figure)."""

TURN_STEPS: Final = 512
TURN_SECONDS: Final = 0.00025
"""How many steps a turn of a scheduler has at most, and for how long it goes on. A turn is one
callback of the event loop, a step one resume of a task."""

YIELD_STEPS: Final = 32
"""As how many steps a spent budget counts: the step before it was about that many times as long."""


class Claim(IntEnum):
    """Why a waiter was woken. At most one claim of a waiter succeeds; it decides what happened."""

    UNCLAIMED = 0
    HAPPENED = 1
    ATTEMPT_AGAIN = 2  # a channel was closed
    TIMED_OUT = 3
    CANCELLED = 4


UNCLAIMED: Final = Claim.UNCLAIMED
HAPPENED: Final = Claim.HAPPENED
ATTEMPT_AGAIN: Final = Claim.ATTEMPT_AGAIN
TIMED_OUT: Final = Claim.TIMED_OUT
CANCELLED: Final = Claim.CANCELLED

Overflow: TypeAlias = Literal["block", "drop_newest", "drop_oldest"]
OVERFLOWS: Final[tuple[Overflow, ...]] = get_args(Overflow)
End: TypeAlias = Literal["send", "receive"]
Verb: TypeAlias = Literal["send", "receive", "done"]
WORDS: Final[dict[Verb, str]] = {
    "send": "sending to",
    "receive": "receiving from",
    "done": "waiting for",
}
"""A `Verb` in words, before the name of its channel."""


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
    """One thing that a parked task or thread waits for: to send to a channel, to receive from it,
    or for a future, task or Event (in the channel's place) to be done."""

    verb: Verb
    channel: Any


class ParkedThread(NamedTuple):
    """A thread that is parked in an operation; until `deadline` (of `time.monotonic`) at most."""

    operation: Any
    deadline: float | None


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


def kind_of(channel: object) -> str:
    """What an unnamed channel is called: ``Channel[int]``, or ``channel``."""
    element = getattr(channel, "element", None)
    return "channel" if element is None else f"Channel[{getattr(element, '__name__', element)}]"


def label(channel: object) -> str:
    """The name of a channel in messages, or its element type and address."""
    name = getattr(channel, "name", "")
    return str(name) if name else f"unnamed {kind_of(channel)} at {id(channel):#x}"
