"""One request, from its head to its answer.

Whatever carries the request (a connection of ours, an ASGI server) opens an `Exchange`, feeds it
the body, says when that is complete or that the client is gone, and is told the answer through
`respond`, once, on the listener's loop.

Invariants:
- `respond` is called once, unless the client is gone first.
- The exchange takes one place at the gate, and the bytes of its body, until it is answered *and*
  its messages are settled. So memory is bounded even when clients time out faster than the
  pipeline works, and a message that is still under way counts.
- A request that was received completely makes its message, whether the client is there or not.
- No exchange holds a message that has been handed on: a message that a program drops is collected,
  and its client hears of it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

from tailrace.listen import _answers
from tailrace.listen._answers import Answer
from tailrace.listen._request import Refused, Request
from tailrace.message import Outcome
from tailrace.message.message import message_of

if TYPE_CHECKING:
    from tailrace.listen._intake import Intake

__all__ = ["Exchange", "Gate", "Limits", "Respond", "too_large"]

_log = logging.getLogger("tailrace.listen")

Respond = Callable[[Answer], None]


@dataclass(frozen=True)
class Limits:
    """What clients may do; see HttpServer."""

    connections: int | None  # as many as the limit of open files allows, within reason
    max_head: int
    receive_timeout: float
    keep_alive: float


class Gate:
    """Who is inside: requests and bytes of bodies, over all listeners of a server."""

    __slots__ = ("answers", "bytes", "in_flight", "limit", "memory")

    def __init__(self, limit: int, memory: int) -> None:
        self.limit = limit
        self.memory = memory
        self.in_flight = 0
        self.bytes = 0
        self.answers: defaultdict[int, int] = defaultdict(int)  # by status

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight}/{self.limit} in flight, {self.bytes}/{self.memory} bytes>"


class Exchange:
    """A request that makes one message."""

    __slots__ = (
        "_chunks",
        "_gate",
        "_id",
        "_intake",
        "_json",
        "_media",
        "_pending",
        "_respond",
        "_size",
        "answered",
        "complete",
        "request",
    )

    def __init__(
        self, intake: Intake, request: Request, media: str, respond: Respond | None
    ) -> None:
        self._intake = intake
        self._gate = intake.gate
        self._media = media
        self._respond = respond
        self._json = request.wants_json
        self._chunks: list[bytes] | None = None
        self._size = 0
        self._pending = 0
        self._id = ""
        self.request = request
        self.answered = False
        self.complete = False

    def __repr__(self) -> str:
        state = "answered" if self.answered else "complete" if self.complete else "incomplete"
        return f"<{type(self).__name__} {self.request.method} {self.request.path}, {state}>"

    @property
    def max_body(self) -> int:
        """How large the body may be."""
        return self._intake.max_body

    # --- what the carrier of the request says -----------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """More of the body. Answers 413 or 503 as soon as it is too much."""
        if self.answered:
            return
        size = self._size + len(chunk)
        if size > self._intake.max_body:
            self.refuse(too_large(self._intake.max_body), last=True)
        elif self._gate.bytes + len(chunk) > self._gate.memory:
            self.refuse(Refused(503, "too many bodies are being received"), last=True)
        else:
            self._size = size
            self._gate.bytes += len(chunk)
            if self._chunks is None:
                self._chunks = []
            self._chunks.append(chunk)

    def end(self) -> None:
        """The request is complete: authorize it, and make its message."""
        if self.answered:
            return
        self.complete = True
        chunks = self._chunks
        if chunks:
            self.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._chunks = None
        intake = self._intake
        intake.began(self)
        if intake.authorize is None:
            self._accept()
        else:
            self._authorize(intake.authorize)

    def gone(self) -> None:
        """The client is gone. If its request is complete, what it asked for is done still."""
        self._respond = None
        if not self.complete and not self.answered:
            self._finish()

    def refuse(self, refused: Refused, last: bool = False) -> None:
        """Answer without making a message."""
        self.answer(_answers.refusal(refused, self._json, last))

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer, unless that has been done."""
        if self.answered:
            return
        respond = self._respond
        self._finish()
        if respond is not None:
            self._gate.answers[answer.status] += 1
            respond(answer)

    def expire(self) -> None:
        """`timeout` has passed."""
        reason = f"not settled within {self._intake.timeout:g} s; it may still be stored"
        self.refuse(Refused(504, reason))

    def abandon(self) -> None:
        """The listener was cancelled, and nobody will hear how the messages end."""
        self.refuse(Refused(504, "the server stopped first; it may still be stored"))

    def _finish(self) -> None:
        self.answered = True
        self._respond = None
        self._chunks = None
        self._intake.ended(self)
        if not self._pending:
            self._release()

    def _release(self) -> None:
        """Give the place back: it is answered, and nothing is pending any more."""
        gate = self._gate
        gate.in_flight -= 1
        gate.bytes -= self._size

    def _ended_one(self) -> None:
        """One thing less is pending."""
        self._pending -= 1
        if self.answered and not self._pending:
            self._release()

    # --- authorize --------------------------------------------------------------------------

    def _authorize(self, authorize: Callable[[Request], Any]) -> None:
        try:
            allowed = authorize(self.request)
        except Exception:
            self._authorize_failed()
            return
        if inspect.isawaitable(allowed):
            self._pending += 1  # the place is taken until the check has ended
            self._intake.spawn(self._authorize_later(allowed))
        else:
            self._authorized(allowed)

    async def _authorize_later(self, allowed: Any) -> None:
        try:
            answer = await allowed
        except asyncio.CancelledError:
            self.refuse(Refused(503, "the server is stopping"))
            raise
        except Exception:
            self._authorize_failed()
        else:
            if not self.answered:
                self._authorized(answer)
        finally:
            self._ended_one()

    def _authorized(self, allowed: object) -> None:
        if allowed is True:
            self._accept()
        elif allowed is False:
            self.refuse(Refused(403, "not allowed"))
        else:
            _log.error("authorize of %r must return a bool, not %r", self._intake, allowed)
            self.refuse(Refused(500, "an internal error"))

    def _authorize_failed(self) -> None:
        _log.exception("authorize of %r raised for %r", self._intake, self.request)
        self.refuse(Refused(500, "an internal error"))

    # --- the message ------------------------------------------------------------------------

    def _accept(self) -> None:
        request = self.request
        try:
            key = request.idempotency_key
            data = self._intake.decoder.one(self._media, request)
        except Refused as refused:
            self.refuse(refused)
            return
        message = message_of(data, key, self.told)
        if self._json:
            self._id = message.id
        self._pending += 1
        self._intake.put(message)

    def told(self, outcome: Outcome, data: Any) -> None:
        """The message ended so, with this data."""
        # May be called in another thread, or, for "lost", by the collector amid anything.
        intake = self._intake
        if get_ident() != intake.thread or outcome.status == "lost":
            intake.post(self._settled, outcome, data)
        else:
            self._settled(outcome, data)

    def _settled(self, outcome: Outcome, data: Any) -> None:
        self._ended_one()
        if not self.answered:
            self.answer(_answers.of_outcome(outcome, data, self._id, self._json))


def too_large(max_body: int) -> Refused:
    """A body above the limit."""
    return Refused(413, f"the body is larger than {max_body} bytes")
