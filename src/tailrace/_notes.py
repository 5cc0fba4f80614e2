"""What this library asks and says of exceptions that are not its own: their class, notes, and a
line for a log.

An exception of a user's class may refuse attributes and notes, or fail to say what it is. Nothing
here raises for that reason: the exception itself is the news and must arrive.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TypeGuard, TypeVar

_log = logging.getLogger("tailrace")


E = TypeVar("E", bound=BaseException)


def is_a(error: object, classes: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """As `isinstance`, but for exceptions of any class: that would ask for its `__class__`."""
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


def log_error(log: logging.Logger, text: str, *args: object, error: BaseException) -> None:
    """Log `error` under `text`, and raise nothing, whatever `error` or a logging handler does.

    To format a traceback, logging asks an exception whether it is true, and for its attributes.
    """
    try:
        log.error(text, *args, exc_info=error)
    except KeyboardInterrupt:
        raise  # the process is to end
    except BaseException:
        described = type(error).__name__
    else:
        return
    with contextlib.suppress(Exception):
        log.error(f"{text}: %s", *args, described)


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
