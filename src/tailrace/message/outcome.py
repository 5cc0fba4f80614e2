"""The six outcomes of a message; the worst wins where several become one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from tailrace.errors import Outage
from tailrace.usercode import shown

__all__ = [
    "LOST",
    "STORED",
    "OnSettled",
    "Outcome",
    "Status",
    "dropped",
    "ended",
    "failure",
    "of_outcome",
    "worst",
]

Status: TypeAlias = Literal["stored", "aborted", "rejected", "dead", "failed", "lost"]


class Outcome(NamedTuple):
    """How a message ended. Immutable; compared by its fields.

    `status` is "stored", "aborted" (dropped on purpose: not the sender's fault), "rejected"
    (invalid: the sender's fault), "dead" (stored as a dead letter), "failed", or "lost" (dropped
    unsettled: a bug). `reason` is a text for all but "stored"; `error` is the exception
    given to `Message.fail`, if one was; `result` is what was given to `Message.ack`. It does not
    name the message, as many share one outcome: bind the id to `on_settle` where it is needed.
    """

    status: Status
    reason: str = ""
    error: BaseException | None = None
    result: Any = None

    @property
    def ok(self) -> bool:
        """Whether the message was stored."""
        return self.status == "stored"

    @property
    def final(self) -> bool:
        """Whether the message must not be sent again. False for "failed" and "lost"."""
        return self.status != "failed" and self.status != "lost"

    def __repr__(self) -> str:
        parts: list[str] = [self.status]
        if self.reason:
            parts.append(f"reason={shown(self.reason)}")
        if self.error is not None:
            parts.append(f"error={shown(self.error)}")
        if self.result is not None:
            parts.append(f"result={shown(self.result)}")
        return f"Outcome({', '.join(parts)})"


OnSettled: TypeAlias = Callable[[Outcome, Any], object]
"""Called with the outcome of a message and the data it was settled with; else as `on_settle`.

A source that wants to be told of outages gives an object with a method `outage()` too; see
`delayed_by_outage`.
"""


def of_outcome(on_settle: Callable[[Outcome], object]) -> OnSettled:
    """`on_settle` as an `OnSettled`."""
    return lambda outcome, _: on_settle(outcome)


# Three times as fast as the constructor that NamedTuple writes. Each settling makes one.
_new_outcome: Callable[[type[Outcome], tuple[object, ...]], Outcome] = cast(Any, tuple).__new__


def ended(status: Status, reason: str, error: BaseException | None, result: object) -> Outcome:
    """An `Outcome`, made without its constructor."""
    return _new_outcome(Outcome, (status, reason, error, result))


STORED: Final = Outcome("stored")
LOST: Final = Outcome("lost", "dropped before it was settled")


def dropped() -> Outcome:
    """The outcome of a message that the running task drops unsettled.

    It is lost by a bug, unless the task is being cancelled: then it fails.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return LOST
    if task is None or not task.cancelling():
        return LOST
    return failure(Outage("the actor that had it was cancelled"))


# The worst wins where several outcomes become one.
_BADNESS: Final[Mapping[Status, int]] = {
    "stored": 0,
    "aborted": 1,
    "rejected": 2,
    "dead": 3,
    "failed": 4,
    "lost": 5,
}


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The first outcome of the worst kind. If all are stored and one has a result, the result is
    the list of their results.
    """
    found = max(outcomes, key=lambda outcome: _BADNESS[outcome.status])
    if found.status == "stored" and any(o.result is not None for o in outcomes):
        return ended("stored", "", None, [o.result for o in outcomes])
    return found


def failure(error: BaseException | str) -> Outcome:
    """The outcome "failed", for an exception or a text."""
    if issubclass(type(error), BaseException):  # isinstance would call a `__class__` of user code
        exception = cast(BaseException, error)
        return ended("failed", _describe(exception), exception, None)
    return ended("failed", cast(str, error), None, None)


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the error of a message must not end the actor that reports it
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name
