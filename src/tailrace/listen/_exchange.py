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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast

from tailrace.listen import _answers
from tailrace.listen._access import log_access, printable
from tailrace.listen._answers import Answer, of_outcome
from tailrace.listen._decode import packing
from tailrace.listen._gzip import gunzip
from tailrace.listen._request import Headers, Refused, Request
from tailrace.listen._shown import shown
from tailrace.listen._sites import Sites
from tailrace.message import Outcome
from tailrace.message.internals import message_of
from tailrace.usercode import log_error

if TYPE_CHECKING:
    from tailrace.listen._intake import Intake

__all__ = ["Exchange", "Gate", "Limits", "Respond", "too_large"]

_log = logging.getLogger("tailrace.listen")

Respond = Callable[[Answer], None]

CHECK_ENDS: Final = 1.0  # seconds for an `authorize` that was cancelled to end

_INTERNAL: Final = Refused(500, "an internal error")


@dataclass(frozen=True)
class Limits:
    """What clients may do; see HttpServer."""

    connections: int | None  # as many as the limit of open files allows, within reason
    max_head: int
    receive_timeout: float
    keep_alive: float
    sites: Sites = field(default_factory=Sites)
    reuse_port: bool = False


class Gate:
    """Who is inside: requests and bytes of bodies, over all listeners of a server."""

    __slots__ = ("access_log", "answers", "bytes", "in_flight", "limit", "memory")

    def __init__(self, limit: int, memory: int, access_log: bool = False) -> None:
        self.access_log = access_log
        self.limit = limit
        self.memory = memory
        self.in_flight = 0
        self.bytes = 0
        self.answers: defaultdict[int, int] = defaultdict(int)  # by status

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight}/{self.limit} in flight, {self.bytes}/{self.memory} bytes>"

    def refused(self, request: Request | None, refusal: Answer) -> None:
        """Count a request that was not let in, or bytes that were none."""
        self.answers[refusal.status] += 1
        if self.access_log:
            log_access(request, refusal.status, len(refusal.body), None)


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
        "_more",
        "_pending",
        "_respond",
        "_size",
        "answered",
        "complete",
        "making",
        "request",
    )

    def __init__(
        self, intake: Intake, request: Request, media: str, respond: Respond | None
    ) -> None:
        self._intake = intake
        self._gate = intake.gate
        self._media = media
        self._more: dict[str, str] | None = None  # headers, from `authorize`
        self._respond = respond
        self._json = request.wants_json
        self._check: asyncio.Task[None] | None = None  # authorizes
        self._body: bytes | bytearray = b""  # what has come of it
        self._size: int = 0
        self._pending = 0
        self._id = ""
        self.request = request
        self.answered = False
        self.complete = False
        self.making = True  # it may make a message still

    def __repr__(self) -> str:
        state = "answered" if self.answered else "complete" if self.complete else "incomplete"
        return f"<{type(self).__name__} {self.request.method} {self.request.path}, {state}>"

    @property
    def max_body(self) -> int:
        """How large the body may be."""
        return self._intake.max_body

    @property
    def draining(self) -> bool:
        """Whether its listener lets nobody in any more."""
        return self._intake.draining

    # --- what the carrier of the request says -----------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """More of the body. Answers 413 or 503 as soon as it is too much."""
        if self.answered:
            return
        size = self._size + len(chunk)
        if size > self._intake.max_body:
            self.refuse(too_large(self._intake.max_body))
        elif self._gate.bytes + len(chunk) > self._gate.memory:
            self.refuse(Refused(503, "too many bodies are being received"))
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

    def refuse(self, refused: Refused) -> None:
        """Answer without making a message."""
        self.answer(_answers.refusal(refused, self._json))

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer, unless that has been done."""
        if self.answered:
            return
        respond = self._respond
        self._finish()
        if respond is not None:
            gate = self._gate
            gate.answers[answer.status] += 1
            if gate.access_log:
                request, body = self.request, answer.body
                log_access(request, answer.status, len(body), self._intake.since(request.began))
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
            self._intake.later(CHECK_ENDS, self._check_goes_on)
        self.made_all()
        self._intake.ended(self)
        if not self._pending:  # its place is free
            gate = self._gate
            gate.in_flight -= 1
            gate.bytes -= self._size

    def made_all(self) -> None:
        """No more messages are made of it: a listener that drains waits for that."""
        if self.making:
            self.making = False
            self._intake.made_all()

    def _ended_one(self) -> None:
        """One thing less is pending."""
        self._pending -= 1
        if self.answered and not self._pending:
            gate = self._gate
            gate.in_flight -= 1
            gate.bytes -= self._size

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
        check.add_done_callback(self._checked)  # it may have been cancelled before it began

    async def _authorize_later(self, allowed: Any) -> None:
        try:
            answer = await allowed
            self._checked()
            if not self.answered:
                self._authorized(answer)
        except KeyboardInterrupt:
            self._checked()
            self.refuse(_INTERNAL)
            raise
        except BaseException as error:
            self._checked()
            check = cast("asyncio.Task[None]", asyncio.current_task())
            cancelled = self.answered or self._intake.stopped  # by us, if it was cancelled
            if isinstance(error, asyncio.CancelledError) and cancelled and check.cancelling():
                self.refuse(Refused(503, "the server is stopping"))
                raise
            self._broken("authorize raised", error)

    def _check_goes_on(self) -> None:
        """The check was cancelled a while ago: if it ignores that, it loses its place."""
        if self._check is not None:
            self.log_broken("authorize did not end when it was cancelled; it is left behind", None)
            self._checked()

    def _checked(self, _: object = None) -> None:
        """The check that is in a task of its own has ended."""
        if self._check is not None:
            self._check = None
            self._ended_one()

    def _authorized(self, allowed: Any) -> None:
        if allowed is False:
            self.refuse(Refused(403, "not allowed"))
            return
        if allowed is not True:
            self._more = _headers_of(allowed)
            if self._more is None:
                what = "authorize must return a bool or a mapping of str to str, not "
                self._broken(what + shown(allowed))
                return
        self._accept()

    def _broken(self, what: str, error: BaseException | None = None) -> None:
        """User code has failed: it is logged, and this request alone is answered 500."""
        self.log_broken(what, error)
        self.refuse(_INTERNAL)

    def log_broken(self, what: str, error: BaseException | None) -> None:
        """Log that user code has failed for this request."""
        request, path = self.request, self._intake.path
        id = request.fields.get(self._intake.id_header, b"-")[:255].decode("latin-1")
        text = "%s %s (id %s): %s"
        log_error(_log, text, request.method, path, printable(id), what, error=error)

    # --- the message ------------------------------------------------------------------------

    def _accept(self) -> None:
        request, intake = self.request, self._intake
        decoder, digest = intake.decoder, None
        try:
            key = request.key(intake.id_header) if intake.id_header in request.fields else None
            if b"content-encoding" in request.fields:
                self.unpack()
            written = decoder.written(self._media, request)
            if key is not None:
                digest = decoder.digest(written)
            data = decoder.typed(written)
        except Refused as refused:
            self._refuse_data(refused)
            return
        if intake.authorize is None:  # else its request may be kept, and looked at
            request.body = b""
        headers = Headers(request.fields, intake.hidden, self._more)
        message = message_of(data, key, self, headers, digest)
        if self._json or intake.show == "id":
            self._id = message.id
        self._pending += 1
        intake.put(message)
        self.made_all()

    def unpack(self) -> None:
        """Unpack the body, if it came as gzip; Refused if that is not to be done."""
        request, gate = self.request, self._gate
        if not request.body or not packing(request):
            return
        body = gunzip(request.body, self._intake.max_body)
        more = max(len(body) - self._size, 0)
        if gate.bytes + more > gate.memory:
            raise Refused(503, "too many bodies are being received")
        gate.bytes += more
        self._size += more
        request.body = body

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
        intake = self._intake
        if outcome.status == "stored":
            intake.out_of_order = False
        if self.answered:
            self._ended_one()
            return
        self._pending -= 1  # `answer` gives the place back
        self.answer(of_outcome(outcome, data, self._id, self._json, intake.show))


def _headers_of(allowed: object) -> dict[str, str] | None:
    """What `authorize` returned, as headers; None if it is nothing of that kind."""
    if not isinstance(allowed, Mapping):
        return None
    more: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", allowed).items():
        if not isinstance(name, str) or not isinstance(value, str):
            return None
        more[name.lower()] = value
    return more


def too_large(max_body: int) -> Refused:
    """A body above the limit."""
    return Refused(413, f"the body is larger than {max_body} bytes")
