"""One request, from its head to its answer.

Whatever carries the request (a connection of ours, an ASGI server) opens an `Exchange`, feeds it
the body, says when that is complete or that the client is gone, and is told the answer through
`respond`, once, on the listener's loop.

Invariants:
- `respond` is called once, unless the client is gone first.
- The exchange counts against admission (one request, the bytes of its body) until it is answered
  *and* its messages are settled. So memory is bounded even if clients time out faster than the
  pipeline works.
- A request that was received completely makes its message, whether the client is there or not.
- No exchange holds a message that has been handed on: a message that a program drops is collected,
  and its client hears of it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from threading import get_ident
from typing import Any, Final, Protocol, cast

from tailrace.listen.http import answers
from tailrace.listen.http.access import log_access, printable
from tailrace.listen.http.admission import Admission
from tailrace.listen.http.answers import Answer, Show, of_outcome
from tailrace.listen.http.decode import Decoder, packing
from tailrace.listen.http.gzip import gunzip
from tailrace.listen.http.request import Headers, Refusal, Request
from tailrace.listen.http.shown import shown
from tailrace.message import Outcome
from tailrace.message.internals import message_of
from tailrace.usercode import log_error

__all__ = ["Exchange", "Owner", "Respond", "too_large"]

_log = logging.getLogger("tailrace.listen")

Respond = Callable[[Answer], None]

CHECK_ENDS: Final = 1.0  # seconds for an `authorize` that was cancelled to end

_INTERNAL: Final = Refusal(500, "an internal error")


class Owner(Protocol):
    """The route of an exchange: its options, and what an exchange reports."""

    path: str
    decoder: Decoder[Any]
    admission: Admission
    timeout: float
    max_body: int
    authorize: Callable[[Request], Any] | None
    id_header: bytes
    hidden: frozenset[bytes]  # headers that messages do not have
    show: Show
    draining: bool
    thread: int  # of the listener's loop
    out_of_order: bool  # an outage was reported, and nothing has been stored since

    @property
    def stopped(self) -> bool:
        """Whether the listener's actor has ended."""
        ...

    def put(self, source: Any) -> None:
        """Queue a message, or a LinesExchange, for the channel."""

    def began(self, exchange: Exchange) -> None:
        """The request is complete: its timeout begins."""

    def made_all(self) -> None:
        """An exchange makes no more messages."""

    def ended(self, exchange: Exchange) -> None:
        """The exchange is answered, or its client left before the request was complete."""

    def outage(self) -> None:
        """An outage keeps a message from being stored for now. Any thread may call this."""

    def since(self, began: float) -> float:
        """Seconds since a time of the loop's clock."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function on the loop after some seconds."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that ends with the listener's actor at the latest."""
        ...

    def post(self, report: Callable[..., None], *values: object) -> None:
        """Call a function on the loop. Any thread and any finaliser may call this."""


class Exchange:
    """A request that makes one message."""

    __slots__ = (
        "_admission",
        "_body",
        "_check",
        "_id",
        "_json",
        "_media",
        "_more",
        "_pending",
        "_respond",
        "_route",
        "_size",
        "answered",
        "complete",
        "making",
        "request",
    )

    def __init__(self, owner: Owner, request: Request, media: str, respond: Respond | None) -> None:
        self._route = owner
        self._admission = owner.admission
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
        return self._route.max_body

    @property
    def draining(self) -> bool:
        """Whether its listener lets nobody in any more."""
        return self._route.draining

    # --- what the carrier of the request says -----------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """More of the body. Answers 413 or 503 as soon as it is too much."""
        if self.answered:
            return
        size = self._size + len(chunk)
        if size > self._route.max_body:
            self.refuse(too_large(self._route.max_body))
        elif self._admission.bytes + len(chunk) > self._admission.memory:
            self.refuse(Refusal(503, "too many bodies are being received"))
        else:
            self._size = size
            self._admission.bytes += len(chunk)
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
        route = self._route
        route.began(self)
        if route.authorize is None:
            self._accept()
        else:
            self._authorize(route.authorize)

    def gone(self) -> None:
        """The client is gone. If its request is complete, what it asked for is done still."""
        self._respond = None
        if not self.complete and not self.answered:
            self._finish()

    def refuse(self, refusal: Refusal) -> None:
        """Answer without making a message."""
        self.answer(answers.of_refusal(refusal, self._json))

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer, unless that has been done."""
        if self.answered:
            return
        respond = self._respond
        self._finish()
        if respond is not None:
            admission = self._admission
            admission.answers[answer.status] += 1
            if admission.access_log:
                request, body = self.request, answer.body
                log_access(request, answer.status, len(body), self._route.since(request.began))
            respond(answer)

    def expire(self) -> None:
        """`timeout` has passed."""
        self.refuse(self.late())

    def late(self) -> Refusal:
        """What is said when `timeout` has passed."""
        route = self._route
        within = f"within {route.timeout:g} s"
        if self._check is not None:
            return Refusal(504, f"not authorized {within}; nothing was stored")
        if route.out_of_order:
            why = f"not settled {within}: the store is out of order; it may still be stored"
            return Refusal(503, why)
        return Refusal(504, f"not settled {within}; it may still be stored")

    def abandon(self) -> None:
        """The listener was cancelled, and nobody will hear how the messages end."""
        self.refuse(Refusal(504, "the server stopped first; it may still be stored"))

    def _finish(self) -> None:
        self.answered = True
        self._respond = None
        self._body = b""
        if self._check is not None:
            self._check.cancel()  # nobody waits for it any more
            self._route.later(CHECK_ENDS, self._check_goes_on)
        self.made_all()
        self._route.ended(self)
        if not self._pending:  # its place is free
            admission = self._admission
            admission.in_flight -= 1
            admission.bytes -= self._size

    def made_all(self) -> None:
        """No more messages are made of it: a listener that drains waits for that."""
        if self.making:
            self.making = False
            self._route.made_all()

    def _one_settled(self) -> None:
        """One thing less is pending."""
        self._pending -= 1
        if self.answered and not self._pending:
            admission = self._admission
            admission.in_flight -= 1
            admission.bytes -= self._size

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
        self._check = check = self._route.spawn(self._authorize_later(allowed))
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
            cancelled = self.answered or self._route.stopped  # by us, if it was cancelled
            if isinstance(error, asyncio.CancelledError) and cancelled and check.cancelling():
                self.refuse(Refusal(503, "the server is stopping"))
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
            self._one_settled()

    def _authorized(self, allowed: Any) -> None:
        if allowed is False:
            self.refuse(Refusal(403, "not allowed"))
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
        request, path = self.request, self._route.path
        id = request.fields.get(self._route.id_header, b"-")[:255].decode("latin-1")
        text = "%s %s (id %s): %s"
        log_error(_log, text, request.method, path, printable(id), what, error=error)

    # --- the message ------------------------------------------------------------------------

    def _accept(self) -> None:
        request, route = self.request, self._route
        decoder, digest = route.decoder, None
        try:
            key = request.key(route.id_header) if route.id_header in request.fields else None
            if b"content-encoding" in request.fields:
                self.unpack()
            written = decoder.written(self._media, request)
            if key is not None:
                digest = decoder.digest(written)
            data = decoder.typed(written)
        except Refusal as refusal:
            self._refuse_data(refusal)
            return
        if route.authorize is None:  # else its request may be kept, and looked at
            request.body = b""
        headers = Headers(request.fields, route.hidden, self._more)
        message = message_of(data, key, self, headers, digest)
        if self._json or route.show == "id":
            self._id = message.id
        self._pending += 1
        route.put(message)
        self.made_all()

    def unpack(self) -> None:
        """Unpack the body, if it came as gzip; Refusal if that is not to be done."""
        request, admission = self.request, self._admission
        if not request.body or not packing(request):
            return
        body = gunzip(request.body, self._route.max_body)
        more = max(len(body) - self._size, 0)
        if admission.bytes + more > admission.memory:
            raise Refusal(503, "too many bodies are being received")
        admission.bytes += more
        self._size += more
        request.body = body

    def _refuse_data(self, refusal: Refusal) -> None:
        if refusal.status == 500:
            self._broken("the data's type raised", refusal.__cause__)
        else:
            self.refuse(refusal)

    def __call__(self, outcome: Outcome, data: Any) -> None:
        """The message ended so, with this data."""
        # May be called in another thread, or, for "lost", by the collector amid anything.
        route = self._route
        if get_ident() != route.thread or outcome.status == "lost":
            route.post(self._settled, outcome, data)
        else:
            self._settled(outcome, data)

    def outage(self) -> None:
        """An outage keeps the message from being stored for now."""
        self._route.outage()

    def _settled(self, outcome: Outcome, data: Any) -> None:
        route = self._route
        if outcome.status == "stored":
            route.out_of_order = False
        if self.answered:
            self._one_settled()
            return
        self._pending -= 1  # `answer` gives the place back
        self.answer(of_outcome(outcome, data, self._id, self._json, route.show))


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


def too_large(max_body: int) -> Refusal:
    """A body above the limit."""
    return Refusal(413, f"the body is larger than {max_body} bytes")
