"""What the stock actors share: a message that comes in goes out or is settled, never dropped.

That includes the message in hand when the actor is cancelled, or when the channel it would go to
turns out to be closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from tailrace.channel import Sender
from tailrace.errors import Abort, Closed, Outage, Reject
from tailrace.message import Message, Outcome
from tailrace.message.internals import FailureLog, ended, failure
from tailrace.usercode import is_a, is_async, is_generator, unwrapped

__all__ = ["RAISED", "Stock", "check_sync", "is_being_cancelled", "name_of", "outcome_of"]

T = TypeVar("T")

RAISED: Final = object()
"""What `Stock._apply` returns when a function raised."""


class Stock:
    """A stock actor: its name in logs, and how it ends with a message in hand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._failures = FailureLog(name)
        self._skipped: int = 0

    def __repr__(self) -> str:
        return self.name

    def _is_open(self, message: Message[Any]) -> bool:
        """Whether it is still to be settled. TypeError for what is no message."""
        if not isinstance(cast("object", message), Message):
            raise TypeError(f"{self!r} takes messages, but was sent {message!r}")
        if message.outcome is None:
            return True
        self._skipped += 1
        return False

    async def _pass_on(self, message: Message[T], out: Sender[Message[T]]) -> None:
        """Send it, or fail it and raise what prevented that."""
        try:
            await out.send(message)
        except BaseException as error:
            self._not_passed(message, error)
            raise
        finally:
            del message  # the traceback refers to this frame

    def _not_passed(self, message: Message[Any], error: BaseException) -> bool:
        """The actor ends with `message` in hand: fail it, so that no sender waits in vain. True if
        this call settled it."""
        outcome = self._ending(error)
        settled = message._settle(outcome)
        if settled:  # without the traceback of an error that the group reports
            self._failures.add(message.id, outcome.reason)
        return settled

    def _ending(self, error: BaseException) -> Outcome:
        """The outcome of a message in hand when the actor ends by `error`."""
        if isinstance(error, asyncio.CancelledError):
            return failure(f"{self!r} was cancelled while it had the message in hand")
        if is_a(error, Closed):  # nobody below takes it: it may be sent again later
            outage = Outage("the pipeline takes no more messages")
            outage.__cause__ = error
            return failure(outage)
        return failure(error)

    def _apply(self, message: Message[Any], fn: Callable[..., Any], *args: Any) -> Any:
        """``fn(data, *args)``, or `RAISED`: then the message is settled, and the actor goes on."""
        try:
            return fn(message.data, *args)
        except (Exception, asyncio.CancelledError) as error:  # not ours: nothing is awaited here
            outcome = outcome_of(error)
            if message._settle(outcome) and outcome.error is not None:
                self._failures.add(message.id, error)
            return RAISED
        except BaseException as error:
            self._not_passed(message, error)
            raise


def outcome_of(error: BaseException) -> Outcome:
    """What an exception of a user's function says of its message."""
    if isinstance(error, Abort):
        return ended("aborted", error.reason, None, None)
    if isinstance(error, Reject):
        return ended("rejected", error.reason, None, None)
    return failure(error)


def check_sync(actor: str, what: str, fn: Callable[..., Any]) -> None:
    """TypeError unless `fn` is a function that returns its result at once."""
    if not callable(fn):
        raise TypeError(f"{actor} takes a function as {what}, not {fn!r}")
    if is_async(fn) or is_generator(fn):
        raise TypeError(f"{actor}: {what} must be a plain function, not async and no generator")


def name_of(fn: Callable[..., Any]) -> str:
    """What logs call a function."""
    fn = unwrapped(fn)
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def is_being_cancelled() -> bool:
    """Whether the running task is being cancelled: else a CancelledError is of something that it
    awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
