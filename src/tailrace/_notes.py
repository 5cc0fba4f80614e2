"""What this library says about exceptions that are not its own: notes, and a line for a log.

An exception of a user's class may refuse attributes and notes, or fail to say what it is. Nothing
here raises for that reason: the exception itself is the news and must arrive.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("tailrace")


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
