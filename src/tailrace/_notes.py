"""Exceptions of users' classes: their class, their notes, and how they are logged.

Such an exception may refuse attributes and notes, or fail to say what it is. Nothing here raises
for that reason: the exception itself is the news and must arrive.
"""

from __future__ import annotations

import logging
from typing import TypeGuard, TypeVar

_log = logging.getLogger("tailrace")


E = TypeVar("E", bound=BaseException)


def is_a(error: object, classes: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """As `isinstance`, which would call a `__class__` of the exception's own."""
    return issubclass(type(error), classes)


def add_note(error: BaseException, text: str) -> None:
    """Add `text` to the notes of `error`, unless it is there already.

    An exception that refuses notes (a frozen dataclass, an `add_note` that raises) stays as it
    is, and `text` is logged.
    """
    try:
        notes = getattr(error, "__notes__", None)
        if not isinstance(notes, list) or text not in notes:
            error.add_note(text)
    except (KeyboardInterrupt, SystemExit):
        raise  # the process is to end
    except BaseException:  # a refusal may be anything: callers have bookkeeping to finish
        _log.error("%s: %s", describe(error), text)  # of the refusal nobody needs to hear


def log_error(
    log: logging.Logger, text: str, *args: object, error: BaseException | None = None
) -> None:
    """Log `text`, with the traceback of `error`. Raises nothing, whatever the exception, a handler
    or a filter does.

    To format a traceback, logging asks an exception whether it is true, and for its attributes. An
    exception that raises then is logged by the name of its class.
    """
    try:
        log.error(text, *args, exc_info=error)
    except KeyboardInterrupt:
        raise  # the process is to end
    except BaseException:
        if error is not None:
            log_error(log, f"{text}: %s", *args, type(error).__name__)


def describe(error: BaseException) -> str:
    """The class and the text of `error`, or the class alone if it has no text."""
    name = type(error).__name__
    try:
        text = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        text = "(its __str__ failed)"
    return f"{name}: {text}" if text else name
