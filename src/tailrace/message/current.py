"""The message in hand, so that ordinary log records can name it."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any

from tailrace.message.message import Message

__all__ = ["current", "current_message", "make_current"]

# Weak, since contexts are copied into every task that is started meanwhile: a forgotten one must
# not keep the message, and with it its sender's hope, alive.
current: ContextVar[weakref.ref[Message[Any]] | None] = ContextVar(
    "tailrace.current_message", default=None
)


def current_message() -> Message[Any] | None:
    """The message that the running code is handling, if a stock actor (`each`) called it.

    For log records, in a `logging.Filter` (there is no message where no actor runs):

        message = current_message()
        record.message_id = "-" if message is None else message.id
    """
    reference = current.get()
    return None if reference is None else reference()


def make_current(message: Message[Any]) -> None:
    """For actors: `message` is the one in hand of this task, and of tasks that it starts.

    Until the next one; there is no need to say when it is out of hand, as it is not kept alive.
    """
    current.set(weakref.ref(message))
