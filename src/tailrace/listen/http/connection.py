"""Connection: the order of requests and answers on one HTTP/1.1 connection, without I/O.

The life of a connection. `state` names where it is; `deadline` is when the client must have acted,
and the server calls `deadline_passed` then:

| state | what happens | deadline | after the deadline |
|---|---|---|---|
| idle | no byte of a request has come | `keep_alive` | close |
| receiving | a request is incomplete | `receive_timeout` | answer 408, then linger |
| answering | a complete request has no answer yet | none | the route has a timeout of its own |
| unread | the client does not read its answers | `receive_timeout` | abort |
| lingering | the last answer is sent; input is dropped | LINGER | abort |
| closed | unsent bytes may still go out | `receive_timeout` or LINGER | abort |

A request takes the connection from idle through receiving and answering back to idle. `close` sends
what is unsent; `abort` drops it. A connection is ended by:

- its client: by ``Connection: close``, by the end of its input (`end_input`), or by a reset
  (`lost`);
- a refusal before the end of a request: linger, then close. If a socket is closed with bytes
  unread, the client may see a reset in place of the answer;
- a deadline, see the table;
- the server when it stops: `close_if_idle`, then `close_unless_reading`, then `abort`;
- the server when its memory is full of unread answers: `abort`.

Invariants:
- Requests are answered in the order in which they came. One request at a time is received and
  answered. The bytes of later requests wait in the parser while reading is paused, so backpressure
  reaches the client. Waiting bytes count against `body_memory`.
- A request that is answered before it is complete is the last one of its connection.
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

LINGER: Final = 5.0  # seconds that the client has to read the last answer
LINGER_BYTES: Final = 1024 * 1024  # a client that sends more than this while we linger is cut off
BURST: Final = 64  # requests of one client that are handled in one turn of the loop
CHUNKED_COST: Final = 8  # a chunked request may take this many bytes for each byte of `max_body`
SMALL_BODY: Final = 64 * 1024  # a refused body up to this size is read and dropped: the connection
# is kept for the next request

# The ends of heads, for usual lengths of bodies: formatting one would take 0.8 µs.
_LENGTHS: Final = tuple(b"%d\r\n\r\n" % length for length in range(1024))


class Wire(Protocol):
    """How a connection sends and closes. The wire reports by the connection's methods."""

    def write(self, data: bytes, /) -> None:
        """Send bytes, in order. May call the connection's `pause_writing`."""

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""

    def resume_reading(self) -> None:
        """Receive again."""

    def end_output(self) -> bool:
        """Tell the client that no more answers come. False: the client has reset the connection."""
        ...

    def close(self) -> bool:
        """Send what is unsent, then close. True: there are unsent bytes."""
        ...

    def abort(self) -> None:
        """Close now. Unsent bytes are lost."""


@dataclass(slots=True, eq=False, repr=False)
class Connection:
    """One client's connection."""

    _service: Service
    _wire: Wire  # until `lost`
    deadline: float = field(init=False, default=math.inf)  # on the service's clock
    closed: bool = field(init=False, default=False)  # `close`, `abort` or `lost` was called
    _client: str = field(init=False, default="")  # its address
    _parser: Parser = field(init=False)
    _request: Request | None = field(init=False, default=None)
    """The current request: its head has come, its answer is not sent."""
    _body_complete: bool = field(init=False, default=False)  # of the current request
    _exchange: Exchange | None = field(init=False, default=None)
    """Of the current request, if that is admitted."""
    _deferred_answer: Answer | None = field(init=False, default=None)
    """The refusal of the current request. It is sent when the body has come."""
    _bytes_received: int = field(init=False, default=0)
    """Of the current request; while we linger, since the last answer."""
    _bytes_waiting: int = field(init=False, default=0)
    """In the parser, as counted against `body_memory`."""
    _receiving: bool = field(init=False, default=False)  # a request, or its head, is incomplete
    _in_read_requests: bool = field(init=False, default=False)  # guards against recursion
    _reading_paused: bool = field(init=False, default=False)
    _unread: bool = field(init=False, default=False)  # the client does not read its answers
    _close_when_read: bool = field(init=False, default=False)  # the unread answer is the last one
    _eof: bool = field(init=False, default=False)  # the client sends no more, but may read
    _no_more_requests: bool = field(init=False, default=False)  # no request is read any more

    def __post_init__(self) -> None:
        self._parser = Parser(self._service.max_head)

    def __repr__(self) -> str:
        request = "" if self._request is None else f" {self._request!r}"
        return f"<Connection {self.state}{request}>"

    @property
    def state(self) -> str:
        """The state, as in the table at the head of this module."""
        if self.closed:
            return "closed"
        if self._no_more_requests:
            return "lingering"
        if self._unread:
            return "unread"
        if self._request is not None and self._body_complete:
            return "answering"
        return "idle" if self._request is None and not self._receiving else "receiving"

    # --- what the wire reports --------------------------------------------------------------

    def begin(self, client: str) -> None:
        """The connection is open; `client` is the address of its client."""
        self._client = client
        self.deadline = self._service.time() + self._service.keep_alive

    def receive(self, data: bytes) -> None:
        """Bytes have come: parse them, or keep them until the current request is answered."""
        if self._no_more_requests:
            self._drop_after_last(data)
            return
        self._parser.feed(data)
        if (self._request is None or not self._body_complete) and not self._unread:
            self._read_requests(len(data))
        else:
            self._pause()

    def end_input(self) -> bool:
        """The client sends no more. True: the wire must stay open, as answers will follow."""
        self._eof = True
        if self._no_more_requests or self._service.tls:
            return False
        answering = self._request is not None and self._body_complete
        return answering or self._unread or self._reading_paused

    def pause_writing(self) -> None:
        """The wire is full: the client does not read its answers."""
        self._unread = True
        self.deadline = self._service.time() + self._service.receive_timeout

    def resume_writing(self) -> None:
        """The client reads: the wire takes bytes again."""
        self._unread = False
        if not self._no_more_requests:  # while lingering, the deadline stays
            self.deadline = math.inf
        self._service.call_soon(self._continue)

    def lost(self) -> None:
        """The wire has closed. The message of a complete request goes on to its store."""
        self.closed = self._no_more_requests = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()
        self._request = self._deferred_answer = None
        self._drop_waiting()
        del self._wire  # it refers to this connection: a reference cycle

    # --- what the server orders -------------------------------------------------------------

    def shorten_deadline(self) -> None:
        """A listener drains: its incomplete requests get RECEIVE_IN_DRAIN seconds at most."""
        if self._receiving and self._draining():
            self.deadline = min(self.deadline, self._service.time() + RECEIVE_IN_DRAIN)

    def close_if_idle(self, since: float) -> None:
        """The server stops: close if the client has been idle since that time, or before."""
        if self._request is not None or self._receiving:
            return
        if self._unread:
            self._close_when_read = True
        elif self.deadline - self._service.keep_alive <= since:
            self.close()

    def close_unless_reading(self) -> None:
        """The server stops: answer an incomplete request 503, and close. A client that reads an
        answer may go on."""
        service = self._service
        if self._unread or self.closed:
            self.deadline = max(self.deadline, service.time() + service.receive_timeout)
        elif self._no_more_requests:
            pass  # lingering: its deadline is soon
        elif self._deferred_answer is not None:
            self.answer(self._deferred_answer)
        elif self._receiving and self._request is None:
            self._refuse_without_request(Refusal(503, "the server is stopping"))
        else:
            self.close()

    def deadline_passed(self) -> None:
        """`deadline` has passed: refuse an incomplete request, or end the connection."""
        slow = Refusal(408, f"no request within {self._service.receive_timeout:g} s")
        if self._draining():
            slow = Refusal(503, "the server is stopping")
        if self._unread or self._no_more_requests:
            self.abort()
        elif self._exchange is not None:
            self._exchange.refuse(slow)
        elif self._deferred_answer is not None:  # the body has not come
            self.answer(self._deferred_answer)
        elif self._receiving and self._request is None:
            self._refuse_without_request(slow)
        else:
            self.close()

    def _draining(self) -> bool:
        """Whether the listener of the current request drains; without one, whether all do."""
        return (self._service if self._exchange is None else self._exchange.route).draining

    def close(self) -> None:
        """Read no more, send what is unsent, and close."""
        if self.closed:  # asyncio's TLS fails if it is closed twice
            return
        self._no_more_requests = self.closed = True
        service = self._service
        unsent = self._wire.close()
        self.deadline = service.time() + (service.receive_timeout if unsent else LINGER)

    def abort(self) -> None:
        """Close now. Unsent answers are lost."""
        self._no_more_requests = self.closed = True
        self._drop_waiting()
        self._wire.abort()

    def _drop_waiting(self) -> None:
        """Drop the bytes that wait in the parser."""
        self._parser.clear()
        self._count_waiting(0)

    def _count_waiting(self, waiting: int) -> None:
        """Count `waiting` bytes in the parser against `body_memory`."""
        self._service.admission.bytes += waiting - self._bytes_waiting
        self._bytes_waiting = waiting

    # --- reading ----------------------------------------------------------------------------

    def _read_requests(self, received: int) -> None:
        """Read requests until one has no answer yet, or no bytes wait. `received` bytes are new."""
        if self._in_read_requests:
            return  # `_request_complete` has answered at once: the loop below reads on
        self._in_read_requests = True
        try:
            for _ in range(BURST):
                if self._no_more_requests or self._unread:
                    break
                if self._request is None:
                    request = self._parser.head()
                    if request is None:
                        self._wait_for_head()
                        break
                    self._admit(request)
                elif self._body_complete:
                    break
                else:
                    self._receive_body(received)
                    if not self._body_complete:
                        break
            else:
                self._read_later()
        except Refusal as refusal:
            self._refuse_broken(refusal)
        except Exception:
            _log.exception("%r failed", self)
            self.abort()
        finally:
            self._in_read_requests = False

    def _read_later(self) -> None:
        """Read on in the next turn of the loop, so that other connections are served first."""
        self._pause()
        self._service.call_soon(self._continue)

    def _continue(self) -> None:
        """Go on after a pause: read requests, or close after the last answer."""
        if self.closed or self._unread:
            return
        if self._close_when_read:
            self._close_after_last()
        elif self._request is not None and self._body_complete:
            self.deadline = math.inf
        elif not self._no_more_requests:
            if self.deadline == math.inf:
                self._set_deadline()
            self._resume()
            self._read_requests(0)

    def _wait_for_head(self) -> None:
        """No complete head waits in the parser, and all requests are answered."""
        if self._eof:
            self.close()
        elif self._parser.waiting and not self._receiving:
            self._receiving = True
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Set the deadline by which the client must send a request, or the end of one."""
        service = self._service
        seconds = service.receive_timeout if self._receiving else service.keep_alive
        if service.draining:
            seconds = min(seconds, RECEIVE_IN_DRAIN)
        self.deadline = service.time() + seconds

    def _admit(self, request: Request) -> None:
        """A head has come: admit the request, or refuse it before its body comes."""
        self._request = request
        request.client = self._client
        self._body_complete = complete = self._parser.ended
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
                self.answer(answer)  # the request is incomplete, so the connection ends
        else:
            if request.expects and not complete and not self._parser.waiting:
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if complete:
            self._request_complete()

    def _receive_body(self, received: int) -> None:
        """More of the current request's body may have come."""
        parser, exchange = self._parser, self._exchange
        piece = parser.body()
        if piece and exchange is not None:
            exchange.feed(piece)  # this may answer it
        if self._no_more_requests:
            return
        if parser.ended:
            self._body_complete = True
            self._request_complete()
        elif parser.more:
            self._read_later()
        elif self._eof:
            self.close()
        else:
            self._wait_for_body(received)

    def _wait_for_body(self, received: int) -> None:
        """The body is still incomplete. Refuse the request if its chunks take too many bytes."""
        self._bytes_received += received
        if not self._receiving:
            self._receiving = True
            self._set_deadline()
        exchange, limit = self._exchange, self._service.max_head + SMALL_BODY
        if exchange is not None:
            limit += CHUNKED_COST * exchange.route.max_body
            if self._bytes_received > limit:
                exchange.refuse(Refusal(413, "too much chunking for so little body"))

    def _request_complete(self) -> None:
        """The current request is complete: now the client waits for its answer."""
        self._receiving = False
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
        if admission.bytes > admission.memory and request is not None and self._body_complete:
            self._drop_waiting()  # later requests, which the client may repeat
            request.keep_alive = False

    def _resume(self) -> None:
        self._count_waiting(0)
        if self._reading_paused:
            self._reading_paused = False
            self._wire.resume_reading()

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer the current request, then read the next one, or close."""
        request = self._request
        if request is None or self.closed:
            return
        self._request = self._exchange = self._deferred_answer = None
        service, write, body = self._service, self._wire.write, answer.body
        last = not self._body_complete or service.draining or not request.keep_alive
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
            if not self._body_complete:
                self._linger()
            elif self._unread:
                self._close_when_read = True
            else:
                self._close_after_last()
        elif not self._unread:
            self.deadline = service.time() + service.keep_alive
            if self._reading_paused or self._bytes_waiting:
                self._resume()
            if self._parser.waiting or self._eof:
                self._read_requests(0)

    def _close_after_last(self) -> None:
        """The last answer is sent, and its request was complete: close, or linger."""
        if self._parser.waiting or self._reading_paused:  # there are unread bytes
            self._linger()
        else:
            self.close()

    def _refuse_broken(self, refusal: Refusal) -> None:
        """The parser cannot read what has come, nor what follows: answer, and end."""
        request, exchange = self._request, self._exchange
        if request is None:
            self._refuse_without_request(refusal)
        elif exchange is not None:
            exchange.refuse(refusal)
        else:
            self.answer(answers.of_refusal(refusal, request.wants_json))

    def _refuse_without_request(self, refusal: Refusal) -> None:
        """Answer a client whose head is incomplete or broken. This is the last answer."""
        answer = answers.of_refusal(refusal, json=False)
        self._service.admission.count_refusal(None, answer)
        self._wire.write(render(self._service.answer_head(answer), answer, None, last=True))
        self._linger()

    def _linger(self) -> None:
        """Send no more, and drop input for LINGER seconds, so that the client sees the answer."""
        self._no_more_requests = True
        self._bytes_received = 0
        self.deadline = self._service.time() + LINGER
        if not self._wire.end_output():
            self.abort()
        elif self._eof:
            self.close()
        else:
            self._resume()

    def _drop_after_last(self, data: bytes) -> None:
        """Drop input that comes after the last answer."""
        if not self.closed:
            self._bytes_received += len(data)
            if self._bytes_received > LINGER_BYTES:
                self.close()


def _body_is_large(request: Request) -> bool:
    """Whether the body of a refused request is too large to be read, or may never come.

    A client that sends `Expect` waits for the answer: if that is a refusal, it may send no body.
    """
    fields = request.fields
    length = fields.get(b"content-length")
    return length is None or b"expect" in fields or int(length) > SMALL_BODY
