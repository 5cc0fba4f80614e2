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
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from tailrace.listen import _answers
from tailrace.listen._answers import Answer
from tailrace.listen._request import Refused, Request
from tailrace.listen._shown import log_error, shown
from tailrace.message import Outcome
from tailrace.message.message import message_of

if TYPE_CHECKING:
    from tailrace.listen._intake import Intake

__all__ = ["Exchange", "Gate", "Limits", "Respond", "too_large"]

Respond = Callable[[Answer], None]

_INTERNAL: Final = Refused(500, "an internal error")


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
        "_body",
        "_check",
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
        self._check: asyncio.Task[None] | None = None  # authorizes
        self._body: bytes | bytearray = b""  # what has come of it
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
            body = self._body
            if not body:
                self._body = chunk
            elif isinstance(body, bytearray):
                body += chunk
            else:  # a list of small chunks would take many times their size
                self._body = bytearray().join((body, chunk))

    def end(self) -> None:
        """The request is complete: authorize it, and make its message."""
        if self.answered:
            return
        self.complete = True
        body = self._body
        if body:
            self.request.body = bytes(body)
            self._body = b""
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
        self.refuse(self.late())

    def late(self) -> Refused:
        """What is said when `timeout` has passed."""
        intake = self._intake
        within = f"within {intake.timeout:g} s"
        if self._check is not None:
            return Refused(504, f"not authorized {within}; nothing was stored")
        if intake.out_of_order:
            why = f"not settled {within}: the store is out of order; it may still be stored"
            return Refused(503, why)
        return Refused(504, f"not settled {within}; it may still be stored")

    def abandon(self) -> None:
        """The listener was cancelled, and nobody will hear how the messages end."""
        self.refuse(Refused(504, "the server stopped first; it may still be stored"))

    def _finish(self) -> None:
        self.answered = True
        self._respond = None
        self._body = b""
        if self._check is not None:
            self._check.cancel()  # nobody waits for it any more
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
            if not inspect.isawaitable(allowed):
                self._authorized(allowed)
                return
        except KeyboardInterrupt:
            self.refuse(_INTERNAL)
            raise
        except BaseException as error:
            self._broken("authorize raised", error)
            return
        self._pending += 1  # the place is taken until the check has ended
        self._check = check = self._intake.spawn(self._authorize_later(allowed))
        check.add_done_callback(lambda _: self._ended_one())

    async def _authorize_later(self, allowed: Any) -> None:
        try:
            answer = await allowed
            if not self.answered:
                self._check = None  # or the answer would cancel it
                self._authorized(answer)
        except KeyboardInterrupt:
            self._check = None
            self.refuse(_INTERNAL)
            raise
        except BaseException as error:
            self._check = None
            check = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and check and check.cancelling():
                self.refuse(Refused(503, "the server is stopping"))
                raise
            self._broken("authorize raised", error)

    def _authorized(self, allowed: Any) -> None:
        if allowed is True:
            self._accept()
        elif allowed is False:
            self.refuse(Refused(403, "not allowed"))
        else:
            self._broken(f"authorize must return a bool, not {shown(allowed)}")

    def _broken(self, what: str, error: BaseException | None = None) -> None:
        """User code has failed: it is logged, and this request alone is answered 500."""
        self.log_broken(what, error)
        self.refuse(_INTERNAL)

    def log_broken(self, what: str, error: BaseException | None) -> None:
        """Log that user code has failed for this request."""
        request = self.request
        id = request.fields.get(b"idempotency-key", b"-")[:255].decode("latin-1")
        log_error("%s %s (id %s): %s", request.method, request.path, id, what, error=error)

    # --- the message ------------------------------------------------------------------------

    def _accept(self) -> None:
        request, decoder = self.request, self._intake.decoder
        digest = None
        try:
            key = request.idempotency_key
            written = decoder.written(self._media, request)
            if key is not None:
                digest = decoder.digest(written)
            data = decoder.typed(written)
        except Refused as refused:
            self._refuse_data(refused)
            return
        message = message_of(data, key, self, digest=digest)
        if self._json:
            self._id = message.id
        self._pending += 1
        self._intake.put(message)

    def _refuse_data(self, refused: Refused) -> None:
        if refused.status == 500:
            self._broken("the data's type raised", refused.__cause__)
        else:
            self.refuse(refused)

    def __call__(self, outcome: Outcome, data: Any) -> None:
        """The message ended so, with this data."""
        # May be called in another thread, or, for "lost", by the collector amid anything.
        intake = self._intake
        if get_ident() != intake.thread or outcome.status == "lost":
            intake.post(self._settled, outcome, data)
        else:
            self._settled(outcome, data)

    def outage(self) -> None:
        """An outage keeps the message from being stored for now."""
        self._intake.outage()

    def _settled(self, outcome: Outcome, data: Any) -> None:
        self._ended_one()
        if outcome.status == "stored":
            self._intake.out_of_order = False
        if not self.answered:
            self.answer(_answers.of_outcome(outcome, data, self._id, self._json))


def too_large(max_body: int) -> Refused:
    """A body above the limit."""
    return Refused(413, f"the body is larger than {max_body} bytes")
