"""Dead letters: what is kept of a message that could not be handled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tailrace.message import Message, Outcome
from tailrace.message.internals import delayed_by_outage, ended, failure, message_of, stage_running

__all__ = ["DeadLetter", "dead_letter"]

A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class DeadLetter(Generic[A_co]):
    """A message that could not be handled, on its way to where such messages are kept.

    `id` and `headers` are those of the message, `data` is what came in. `error` is the type and the
    text of the last error ("ValueError: …"), `attempts` how often `stage` has tried. Stores have a
    column for each field; `data` and `headers` are JSON.

    The function may have changed `data` in place: then the dead letter, as each further attempt,
    has what it left there. A function that returns new data, or runs in a process, leaves `data` as
    it came.
    """

    id: str
    data: A_co
    error: str
    attempts: int
    stage: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    # Both names are taken, `id` by the field: this is the column for the id of a letter itself.
    __id_column__ = "letter_id"


def dead_letter(
    message: Message[Any], data: A, error: BaseException, attempts: int, stage: str
) -> Message[DeadLetter[A]]:
    """A message with the dead letter of `message`, which it settles.

    When the dead letter is stored, `message` is dead. However else it ends, `message` fails.
    `stage` is the name of the stage where no actor of a group runs.
    """
    headers = message.headers
    why = failure(error).reason
    where = stage_running() or stage
    letter = DeadLetter(message.id, data, _writable(why), attempts, where, dict(headers))
    return message_of(letter, None, _Burial(message, why, error), headers)


def _writable(text: str) -> str:
    """`text` with escapes for what no database takes: NUL and lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


class _Burial:
    """Settles a message as its dead letter is settled."""

    __slots__ = ("_error", "_message", "_why")

    def __init__(self, message: Message[Any], why: str, error: BaseException) -> None:
        self._message = message
        self._why = why
        self._error = error

    def __call__(self, outcome: Outcome, data: object) -> None:
        if outcome.status == "stored":
            found = ended("dead", self._why, self._error, None)
        else:
            how = f"{outcome.status}: {outcome.reason}"
            reason = f"{self._why} (and its dead letter was not stored, but {how})"
            found = ended("failed", reason, self._error, None)
        self._message._settle(found)

    def outage(self) -> None:
        delayed_by_outage(self._message)
