"""Connection: the order of requests and answers on one HTTP/1.1 connection, without I/O.

`receive` takes bytes, and a `Wire` sends bytes. Time comes from the service's clock: the server
compares it with `deadline` now and then, and calls `expire`.

Invariants:
- Requests are answered in the order in which they came. One request is at work at a time. The
  bytes of later requests wait in the parser, and reading is paused: so backpressure reaches the
  client.
- `deadline` is the time until which the client must act. It is infinite while the client waits
  for an answer.
- A request that is answered before its end is the last of its connection. Its remaining bytes are
  read and dropped for LINGER seconds before the connection is closed: if it were closed with bytes
  unread, the client might see a reset instead of the answer.
- The bytes that wait in the parser while reading is paused count against `body_memory`.
- `resume_writing` does not close the wire: asyncio would report the end twice.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Final, Protocol

from tailrace.listen.http import answers
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.exchange import Exchange
from tailrace.listen.http.parser import Parser
from tailrace.listen.http.request import Refusal, Request
from tailrace.listen.http.route import RECEIVE_IN_DRAIN
from tailrace.listen.http.service import MOST_UNSENT, Service, render

__all__ = ["Connection", "Wire"]

_log = logging.getLogger("tailrace.listen")

LINGER: Final = 5.0  # seconds in which the client may read the last answer
LINGER_BYTES: Final = 1024 * 1024  # that are dropped meanwhile
BURST: Final = 64  # requests of one client in one turn of the loop
CHUNKED_COST: Final = 8  # bytes received for a byte of body, at most
SMALL_BODY: Final = 64 * 1024  # a refused body of this size is read, so the connection is kept

# The ends of heads, for usual lengths of bodies. To format one takes 0.8 µs more.
_LENGTHS: Final = tuple(b"%d\r\n\r\n" % length for length in range(1024))


class Wire(Protocol):
    """How a connection sends. The connection is told of the rest by `pause_writing` and so on."""

    def write(self, data: bytes, /) -> None:
        """Send bytes in order. May call the connection's `pause_writing`."""

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""

    def resume_reading(self) -> None:
        """Receive again."""

    def end_output(self) -> bool:
        """Tell the client that no more answers come. False: the client has reset the connection."""
        ...

    def close(self) -> bool:
        """Close as soon as all is sent. True: some of it is unsent."""
        ...

    def abort(self) -> None:
        """Close now. What is unsent is lost."""


@dataclass(slots=True, eq=False, repr=False)
class Connection:
    """One client's connection."""

    _service: Service
    _wire: Wire  # until `lost`
    deadline: float = field(init=False, default=math.inf)
    closed: bool = field(init=False, default=False)  # or it is about to be
    _client: str = field(init=False, default="")  # its address
    _parser: Parser = field(init=False)
    _request: Request | None = field(init=False, default=None)
    """At work: its head has come; it is not answered."""
    _complete: bool = field(init=False, default=False)  # the body of the request at work has come
    _exchange: Exchange | None = field(init=False, default=None)
    """Of the request at work, if it is admitted."""
    _deferred_answer: Answer | None = field(init=False, default=None)
    """A refusal, sent when the body has come."""
    _bytes_received: int = field(init=False, default=0)
    """Of the incomplete request, or after the last answer."""
    _bytes_waiting: int = field(init=False, default=0)
    """In the parser, counted against `body_memory`."""
    _request_begun: bool = field(init=False, default=False)
    """A request is incomplete, and `receive_timeout` runs."""
    _reading: bool = field(init=False, default=False)  # `_read` runs
    _reading_paused: bool = field(init=False, default=False)
    _write_paused: bool = field(init=False, default=False)  # the client does not read its answer
    _last_answered: bool = field(init=False, default=False)
    """To be closed once the client has read its answer."""
    _eof: bool = field(init=False, default=False)  # the client sends no more, but may read
    _input_ended: bool = field(init=False, default=False)  # no request is read any more

    def __post_init__(self) -> None:
        self._parser = Parser(self._service.max_head)

    def __repr__(self) -> str:
        state = "closed" if self.closed else repr(self._request) if self._request else "idle"
        return f"<Connection {state}>"

    # --- what the wire reports --------------------------------------------------------------

    def begin(self, client: str) -> None:
        """The connection is made; `client` is the address of its client."""
        self._client = client
        self.deadline = self._service.time() + self._service.keep_alive

    def receive(self, data: bytes) -> None:
        """Bytes came: parse them, or keep them until the request at work is answered."""
        if self._input_ended:
            self._drop(data)
            return
        self._parser.feed(data)
        if (self._request is None or not self._complete) and not self._write_paused:
            self._read(len(data))
        else:
            self._pause()

    def end_input(self) -> bool:
        """The client sends no more. True: answers are owed, so the wire must stay open."""
        self._eof = True
        if self._input_ended or self._service.tls:
            return False
        at_work = self._request is not None and self._complete
        return at_work or self._write_paused or self._reading_paused

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        self._write_paused = True
        self.deadline = self._service.time() + self._service.receive_timeout

    def resume_writing(self) -> None:
        """The client has read so much of its answer that the wire takes bytes again."""
        self._write_paused = False
        if not self._input_ended:  # else the time to linger runs on
            self.deadline = math.inf
        self._service.call_soon(self._go_on)

    def lost(self) -> None:
        """The connection has ended. A complete request is still carried out."""
        self.closed = self._input_ended = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.gone()
        self._request = self._deferred_answer = None
        self._discard()
        del self._wire  # which refers to this connection

    # --- what the server asks ---------------------------------------------------------------

    def hurry(self) -> None:
        """A listener drains: an incomplete request for it must be complete soon."""
        if self._request_begun and self._draining():
            self.deadline = min(self.deadline, self._service.time() + RECEIVE_IN_DRAIN)

    def retire(self, before: float) -> None:
        """The server stops: close if the client has been idle since `before`."""
        if self._request is not None or self._request_begun:
            return
        if self._write_paused:
            self._last_answered = True
        elif self.deadline - self._service.keep_alive <= before:
            self.close()

    def conclude(self) -> None:
        """The server stops: close, unless the client is reading an answer."""
        service = self._service
        if self._write_paused or self.closed:
            self.deadline = max(self.deadline, service.time() + service.receive_timeout)
        elif self._input_ended:
            pass  # `deadline` ends it
        elif self._deferred_answer is not None:
            self.answer(self._deferred_answer)
        elif self._request_begun and self._request is None:
            self._refuse_unread(Refusal(503, "the server is stopping"))
        else:
            self.close()

    def expire(self) -> None:
        """`deadline` has passed."""
        slow = Refusal(408, f"no request within {self._service.receive_timeout:g} s")
        if self._draining():
            slow = Refusal(503, "the server is stopping")
        if self._write_paused or self._input_ended:
            self.abort()
        elif self._exchange is not None:
            self._exchange.refuse(slow)
        elif self._deferred_answer is not None:  # the body does not come
            self.answer(self._deferred_answer)
        elif self._request_begun and self._request is None:
            self._refuse_unread(slow)
        else:
            self.close()

    def _draining(self) -> bool:
        return (self._service if self._exchange is None else self._exchange.route).draining

    def close(self) -> None:
        """Close when all answers are sent."""
        if self.closed:  # asyncio's TLS fails if it is closed twice
            return
        self._input_ended = self.closed = True
        service = self._service
        unsent = self._wire.close()
        self.deadline = service.time() + (service.receive_timeout if unsent else LINGER)

    def abort(self) -> None:
        """Close now."""
        self._input_ended = self.closed = True
        self._discard()
        self._wire.abort()

    def _discard(self) -> None:
        """Drop what has been received and not been read."""
        self._parser.clear()
        self._count_waiting(0)

    def _count_waiting(self, waiting: int) -> None:
        """Count the bytes that wait in the parser."""
        self._service.admission.bytes += waiting - self._bytes_waiting
        self._bytes_waiting = waiting

    # --- reading ----------------------------------------------------------------------------

    def _read(self, received: int) -> None:
        """Read requests until one is at work, or nothing is left. `received` bytes are new."""
        if self._reading:
            return  # a request was answered at once: the loop below goes on
        self._reading = True
        try:
            for _ in range(BURST):
                if self._input_ended or self._write_paused:
                    break
                if self._request is None:
                    request = self._parser.head()
                    if request is None:
                        self._wait_for_head()
                        break
                    self._begin(request)
                elif self._complete:
                    break
                else:
                    self._receive_body(received)
                    if not self._complete:
                        break
            else:
                self._read_later()
        except Refusal as refusal:
            self._refuse_unreadable(refusal)
        except Exception:
            _log.exception("%r failed", self)
            self.abort()
        finally:
            self._reading = False

    def _read_later(self) -> None:
        """Read on in the next turn of the loop, so that other connections are served."""
        self._pause()
        self._service.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Read on, or close, if nothing prevents it any more."""
        if self.closed or self._write_paused:
            return
        if self._last_answered:
            self._end()
        elif self._request is not None and self._complete:
            self.deadline = math.inf
        elif not self._input_ended:
            if self.deadline == math.inf:
                self._set_deadline()
            self._resume()
            self._read(0)

    def _wait_for_head(self) -> None:
        """All requests that have come are answered."""
        if self._eof:
            self.close()
        elif self._parser.waiting and not self._request_begun:
            self._request_begun = True
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Set the deadline of a client that is to send."""
        service = self._service
        seconds = service.receive_timeout if self._request_begun else service.keep_alive
        if service.draining:
            seconds = min(seconds, RECEIVE_IN_DRAIN)
        self.deadline = service.time() + seconds

    def _begin(self, request: Request) -> None:
        """A head has come: admit the request or refuse it, before its body comes."""
        self._request = request
        request.client = self._client
        self._complete = complete = self._parser.ended
        self._bytes_received = 0
        service, fields = self._service, request.fields
        try:
            if request.refusal is not None:
                raise request.refusal
            if service.sites.restricted or b"origin" in fields or b"sec-fetch-site" in fields:
                service.sites.check(fields, service.scheme)
            route = service.routes.get(request.path)
            if route is None:
                raise Refusal(404, "nobody listens on this path")
            self._exchange = route.open(request, self.answer)
        except Refusal as refusal:
            answer = answers.of_refusal(refusal, request.wants_json)
            service.admission.count_refusal(request, answer)
            self._deferred_answer = answer
            if not complete and _body_is_large(request):
                self.answer(answer)  # the last one, as the request is incomplete
        else:
            if request.expects and not complete and not self._parser.waiting:
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if complete:
            self._completed()

    def _receive_body(self, received: int) -> None:
        """More of the body of the request at work may have come."""
        parser, exchange = self._parser, self._exchange
        piece = parser.body()
        if piece and exchange is not None:
            exchange.feed(piece)  # this may answer it
        if self._input_ended:
            return
        if parser.ended:
            self._complete = True
            self._completed()
        elif parser.more:
            self._read_later()
        elif self._eof:
            self.close()
        else:
            self._wait_for_body(received)

    def _wait_for_body(self, received: int) -> None:
        """The request at work is still incomplete. Refuse it if it takes too many bytes."""
        self._bytes_received += received
        if not self._request_begun:
            self._request_begun = True
            self._set_deadline()
        exchange, limit = self._exchange, self._service.max_head + SMALL_BODY
        if exchange is not None:
            limit += CHUNKED_COST * exchange.route.max_body
            if self._bytes_received > limit:
                exchange.refuse(Refusal(413, "too much chunking for so little body"))

    def _completed(self) -> None:
        """The request at work is complete: the client waits for the answer."""
        self._request_begun = False
        self.deadline = math.inf
        if self._exchange is not None:
            self._exchange.end()  # this may answer it
        elif self._deferred_answer is not None:
            self.answer(self._deferred_answer)

    def _pause(self) -> None:
        if not self._reading_paused and not self._eof:
            self._reading_paused = True
            self._wire.pause_reading()
        self._count_waiting(self._parser.waiting)
        admission, request = self._service.admission, self._request
        if admission.bytes > admission.memory and request is not None and self._complete:
            self._discard()  # requests that were not begun: the client may repeat them
            request.keep_alive = False

    def _resume(self) -> None:
        self._count_waiting(0)
        if self._reading_paused:
            self._reading_paused = False
            self._wire.resume_reading()

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer the request at work, then read the next one, or close."""
        request = self._request
        if request is None or self.closed:
            return
        self._request = self._exchange = self._deferred_answer = None
        service, write, body = self._service, self._wire.write, answer.body
        last = not self._complete or service.draining or not request.keep_alive
        if self._eof and not self._parser.waiting:
            last = True
        head = service.heads.get((answer.status, answer.kind)) or service.answer_head(answer)
        if last or request.old or answer.headers or request.method == "HEAD":
            write(render(head, answer, request, last))
        elif len(body) < len(_LENGTHS):
            write(head + _LENGTHS[len(body)] + body)
        elif len(body) <= MOST_UNSENT:
            write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:  # to join a large body to its head would copy it
            write(b"%b%d\r\n\r\n" % (head, len(body)))
            write(body)
        if last:
            if not self._complete:
                self._linger()
            elif self._write_paused:
                self._last_answered = True
            else:
                self._end()
        elif not self._write_paused:
            self.deadline = service.time() + service.keep_alive
            if self._reading_paused or self._bytes_waiting:
                self._resume()
            if self._parser.waiting or self._eof:
                self._read(0)

    def _end(self) -> None:
        """The last answer is sent, and its request was complete."""
        if self._parser.waiting or self._reading_paused:  # bytes are unread
            self._linger()
        else:
            self.close()

    def _refuse_unreadable(self, refusal: Refusal) -> None:
        """What came is not HTTP. What follows it cannot be read either."""
        request, exchange = self._request, self._exchange
        if request is None:
            self._refuse_unread(refusal)
        elif exchange is not None:
            exchange.refuse(refusal)
        else:
            self.answer(answers.of_refusal(refusal, request.wants_json))

    def _refuse_unread(self, refusal: Refusal) -> None:
        """Answer bytes that are no request. This is the last answer."""
        answer = answers.of_refusal(refusal, json=False)
        self._service.admission.count_refusal(None, answer)
        self._wire.write(render(self._service.answer_head(answer), answer, None, last=True))
        self._linger()

    def _linger(self) -> None:
        """Send no more, but read and drop for a while, so that the client sees the answer."""
        self._input_ended = True
        self._bytes_received = 0
        self.deadline = self._service.time() + LINGER
        if not self._wire.end_output():
            self.abort()
        elif self._eof:
            self.close()
        else:
            self._resume()

    def _drop(self, data: bytes) -> None:
        """Drop bytes that came after the last answer."""
        if not self.closed:
            self._bytes_received += len(data)
            if self._bytes_received > LINGER_BYTES:
                self.close()


def _body_is_large(request: Request) -> bool:
    """Whether the body of a refused request is too large to be read, or may never come.

    A client that sends `Expect` may wait for the answer and then send no body.
    """
    fields = request.fields
    length = fields.get(b"content-length")
    return length is None or b"expect" in fields or int(length) > SMALL_BODY
