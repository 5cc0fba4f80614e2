"""The message that the running code handles, so that log records can name it."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any

from tailrace.message.message import Message

__all__ = ["current", "current_message", "make_current"]

# Weak, since contexts are copied into every task that is started meanwhile: a forgotten task must
# not keep the message alive, or its loss would never be told.
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
    """For actors: from now on this task, and the tasks that it starts, handle `message`.

    It need not be reset after the message, which is not kept alive.
    """
    current.set(weakref.ref(message))
