"""One HTTP/1.1 connection: from bytes to exchanges, and from their answers to bytes.

`_parser` reads, asyncio or uvloop carries; what is here is the order of things. Measured against
uvicorn and Granian as the server, with the same pipeline behind it, this costs half of what they
do a request, since no request needs a task, a scope, or a trip between threads; and what they
leave to their application (the size of heads, slow clients, admission before the body, an orderly
drain) is in one place here.

Invariants:
- Requests are answered in the order in which they came. One at a time is at work (`_request`);
  the bytes of later ones wait in the parser, and reading from the socket is paused: that is how
  backpressure reaches the client.
- `deadline` says until when the client may keep the connection in its present state; the engine
  looks at it every now and then. While the client waits for us there is none.
- After an answer to a request that is not read to its end, the rest is read and dropped for a
  while before the connection is closed, or the client might see a reset instead of the answer.
- What a client makes this connection keep counts in `body_memory`: the bytes that wait in the
  parser while reading is paused, and what the transport could not write of an answer.
- The transport is never closed from within `resume_writing`: asyncio would report the end twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final, cast

from tailrace.listen.http import answers
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.bind import unacknowledged
from tailrace.listen.http.exchange import Exchange
from tailrace.listen.http.parser import Parser
from tailrace.listen.http.request import Refusal, Request
from tailrace.listen.http.route import RECEIVE_IN_DRAIN

if TYPE_CHECKING:
    from tailrace.listen.http.server import Connections

__all__ = ["Connection", "render"]

_log = logging.getLogger("tailrace.listen")

LINGER: Final = 5.0  # seconds to let a client take in an answer before the connection is cut
LINGER_BYTES: Final = 1024 * 1024
BURST: Final = 64  # requests of one client in one turn of the loop
CHUNKED_COST: Final = 8  # bytes on the wire for a byte of body, at worst
MOST_UNSENT: Final = 64 * 1024  # bytes of answers that are not written, before we say no more
STALLED: Final = 5.0  # seconds in which a client took in nothing of an answer, once we stop
SMALL_BODY: Final = 64 * 1024  # a refused body up to here is read, to keep the connection

# The ends of heads, for lengths of bodies that are usual: to format one takes 0.8 µs more.
_LENGTHS: Final = tuple(b"%d\r\n\r\n" % length for length in range(1024))


class Connection(asyncio.Protocol):
    """What the loop calls for one client."""

    __slots__ = (
        "_begun",
        "_bytes_received",
        "_client",
        "_closed",
        "_complete",
        "_deferred_answer",
        "_ended",
        "_exchange",
        "_input_ended",
        "_kept",
        "_last",
        "_left",
        "_moved",
        "_parser",
        "_paused",
        "_reading",
        "_request",
        "_rest",
        "_transport",
        "_unsent",
        "_write_paused",
        "deadline",
        "engine",
        "made",
    )

    _transport: asyncio.Transport

    def __init__(self, engine: Connections) -> None:
        self.deadline = math.inf
        self.engine = engine
        self.made = False  # there is a transport
        self._client = ""  # its address
        self._parser = Parser(engine.max_head)
        self._request: Request | None = None  # at work: its head has come, and it is not answered
        self._complete = False  # its body has come too
        self._exchange: Exchange | None = None  # what became of it, if it was let in
        self._deferred_answer: Answer | None = None  # to be given when its body has come
        self._bytes_received = 0  # of the incomplete request, or after the last answer
        self._kept = 0  # bytes counted, that wait in the parser
        self._rest = memoryview(b"")  # of an answer: what the transport has not been given
        self._unsent = 0  # bytes counted, of answers that the transport could not write
        self._left = math.inf  # bytes of answers that the client had not taken in at `_moved`
        self._moved = 0.0
        self._begun = False  # a request is incomplete, and its time runs
        self._reading = False  # `_read` runs
        self._paused = False  # reading from the socket
        self._write_paused = False  # writing: the client does not take in what we say
        self._last = False  # the last answer is given; close when it is written
        self._ended = False  # the client says no more, but may listen
        self._input_ended = False  # nothing more that comes is a request
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else repr(self._request) if self._request else "idle"
        return f"<Connection {state}>"

    # --- what the transport says ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self.made = True
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and peer:
            self._client = str(cast("tuple[object, ...]", peer)[0])
        engine = self.engine
        if self._closed or engine.stopped:
            self.abort()
            return
        self.deadline = engine.time() + engine.keep_alive
        if engine.tls is not None:  # asyncio's TLS would take eight times that
            self._transport.set_write_buffer_limits(MOST_UNSENT)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it asked for completely is done still."""
        self._closed = self._input_ended = True
        if not self.engine.lost(self):
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.gone()
        self._request = self._deferred_answer = None
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Bytes came: parse them, or keep them until the request at work is answered."""
        if self._input_ended:
            self._drop(data)
            return
        self._parser.feed(data)
        if (self._request is None or not self._complete) and not self._write_paused:
            self._read(len(data))
        else:
            self._pause()

    def eof_received(self) -> bool:
        """The client says no more; it may still listen."""
        self._ended = True
        if self._input_ended or self.engine.tls is not None:
            return False
        # Answers are owed: to the request at work, and to complete ones that wait behind it.
        return (self._request is not None and self._complete) or self._write_paused or self._paused

    def pause_writing(self) -> None:
        """The client does not take in its answer."""
        self._write_paused = True
        self.deadline = self.engine.time() + self.engine.receive_timeout
        self.count_unsent()
        self.engine.choked(self)

    def resume_writing(self) -> None:
        """It does."""
        if self._rest:  # until all of it is given, the client does not take in its answer
            self.engine.call_soon(self._write_rest)
            return
        self._write_paused = False
        if not self._input_ended:  # else the time after its last answer runs on
            self.deadline = math.inf
        self.count_unsent()
        self.engine.unchoked(self)
        self.engine.call_soon(self._go_on)

    def count_unsent(self) -> None:
        """Count what the transport keeps of answers, against `body_memory`."""
        unsent = 0
        if self._write_paused:
            unsent = self._transport.get_write_buffer_size() + len(self._rest)
        self.engine.admission.bytes += unsent - self._unsent
        self._unsent = unsent

    def _keep(self, waiting: int) -> None:
        """Count what waits in the parser."""
        self.engine.admission.bytes += waiting - self._kept
        self._kept = waiting

    def _forget(self) -> None:
        """Nothing that came or was said is of use any more."""
        self._parser.clear()
        self._keep(0)
        self._rest = memoryview(b"")
        self._write_paused = False
        self.count_unsent()
        self.engine.unchoked(self)

    # --- reading ----------------------------------------------------------------------------

    def _read(self, received: int) -> None:
        """Go on with what has come, as far as the request at work and the client let us."""
        if self._reading:
            return  # an answer that was given at once: the loop below goes on
        self._reading = True
        try:
            for _ in range(BURST):
                if self._input_ended or self._write_paused:
                    break
                if self._request is None:
                    request = self._parser.head()
                    if request is None:
                        self._wait_for_more()
                        break
                    self._begin(request)
                elif self._complete:
                    break
                else:
                    self._receive(received)
                    if not self._complete:
                        break
            else:
                self._read_later()
        except Refusal as refusal:
            self._unreadable(refusal)
        except Exception:
            _log.exception("%r failed", self)
            self.abort()
        finally:
            self._reading = False

    def _read_later(self) -> None:
        """Let others have their turn first."""
        self._pause()
        self.engine.call_soon(self._go_on)

    def _go_on(self) -> None:
        """What kept this connection from reading may be over."""
        if self._closed or self._write_paused:
            return
        if self._last:
            self._end()
        elif self._request is not None and self._complete:
            self.deadline = math.inf
        elif not self._input_ended:
            if self.deadline == math.inf:  # else it runs already
                self._run_time()
            self._resume()
            self._read(0)

    def _wait_for_more(self) -> None:
        """All requests that have come as a whole are answered."""
        if self._ended:
            self.close()
        elif self._parser.waiting and not self._begun:
            self._begun = True
            self._run_time()

    def _run_time(self) -> None:
        """Set the deadline of a client that we wait for."""
        engine = self.engine
        seconds = engine.receive_timeout if self._begun else engine.keep_alive
        if engine.draining:
            seconds = min(seconds, RECEIVE_IN_DRAIN)
        self.deadline = engine.time() + seconds

    def _begin(self, request: Request) -> None:
        """The head of a request has come: let it in, or refuse it, before its body comes."""
        self._request = request
        request.client = self._client
        self._complete = complete = self._parser.ended
        self._bytes_received = 0
        engine = self.engine
        try:
            if request.refusal is not None:
                raise request.refusal
            fields = request.fields
            if engine.sites.restricted or b"origin" in fields or b"sec-fetch-site" in fields:
                engine.sites.check(fields, engine.scheme)
            route = engine.routes.get(request.path)
            if route is None:
                raise Refusal(404, "nobody listens on this path")
            self._exchange = exchange = route.open(request, self.answer)
        except Refusal as refusal:
            self._deferred_answer = answers.of_refusal(refusal, request.wants_json)
            engine.admission.count_refusal(request, self._deferred_answer)
            if complete:
                self._completed()
            elif _body_is_large(request):
                self.answer(self._deferred_answer)  # the last one, as the request is incomplete
            return
        if complete:
            self._begun = False
            self.deadline = math.inf
            exchange.end()
        elif request.expects and not self._parser.waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _receive(self, received: int) -> None:
        """More of the body of the request at work has come."""
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
        elif self._ended:
            self.close()
        else:
            self._still_incomplete(received)

    def _still_incomplete(self, received: int) -> None:
        """Bytes came, and the request at work has not ended: is it too much by now?"""
        self._bytes_received += received
        if not self._begun:
            self._begun = True
            self._run_time()
        exchange, limit = self._exchange, self.engine.max_head + SMALL_BODY
        if exchange is not None and self._bytes_received > limit + CHUNKED_COST * exchange.max_body:
            exchange.refuse(Refusal(413, "too much chunking for so little body"))

    def _completed(self) -> None:
        """The request at work is complete: from now on the client waits for us."""
        self._begun = False
        self.deadline = math.inf
        if self._exchange is not None:
            self._exchange.end()  # this may answer it
        elif self._deferred_answer is not None:
            self.answer(self._deferred_answer)

    def _pause(self) -> None:
        if not self._paused and not self._ended:
            self._paused = True
            self._transport.pause_reading()
        self._keep(self._parser.waiting)
        admission, request = self.engine.admission, self._request
        if admission.bytes > admission.memory and request is not None and self._complete:
            self._parser.clear()  # requests that nobody has looked at: the client may repeat them
            self._keep(0)
            request.keep_alive = False

    def _resume(self) -> None:
        self._keep(0)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer the request at work."""
        request = self._request
        if request is None or self._closed:
            return
        self._request = self._exchange = self._deferred_answer = None
        engine = self.engine
        over = not self._complete or engine.draining or not request.keep_alive
        if self._ended and not self._parser.waiting:
            over = True
        start = engine.starts.get((answer.status, answer.kind)) or engine.start_of_answer(answer)
        if over or request.old or answer.headers or request.method == "HEAD":
            self._write(render(start, answer, request, over))
        else:
            body = answer.body
            if len(body) < len(_LENGTHS):
                self._transport.write(start + _LENGTHS[len(body)] + body)
            elif len(body) <= MOST_UNSENT:
                self._transport.write(b"%b%d\r\n\r\n%b" % (start, len(body), body))
            else:  # together it would be a copy
                self._transport.write(b"%b%d\r\n\r\n" % (start, len(body)))
                self._write(body)
        if not over:
            if not self._write_paused:
                self.deadline = engine.time() + engine.keep_alive
                if self._paused or self._kept:
                    self._resume()
                if self._parser.waiting or self._ended:
                    self._read(0)
        elif self._complete and self._write_paused:
            self._last = True
        elif self._complete:
            self._end()
        else:
            self._linger()

    def _write(self, said: bytes) -> None:
        """Write a part of an answer. TLS gets it in pieces: both loops encrypt at once whatever
        they are given, hand it on, and then tell of nothing that is unsent."""
        if self.engine.tls is None or len(said) <= MOST_UNSENT:
            self._transport.write(said)
            return
        self._rest = memoryview(said)
        if not self._write_paused:  # by its head: then `resume_writing` comes
            self._write_pieces()

    def _write_pieces(self) -> None:
        while self._rest and not self._write_paused:
            piece, self._rest = self._rest[:MOST_UNSENT], self._rest[MOST_UNSENT:]
            self._transport.write(piece)  # this may call `pause_writing`
        if self._write_paused:
            self.count_unsent()

    def _write_rest(self) -> None:
        """The client has taken in what the transport was given of its answer."""
        if self._closed:
            return
        until, self._write_paused = self.deadline, False
        self._write_pieces()
        if self._write_paused:
            self.deadline = until  # which is that of the whole answer
        else:
            self.resume_writing()

    def _end(self) -> None:
        """The last answer is given, to a request that was complete."""
        if self._parser.waiting or self._paused:  # or the client might see a reset
            self._linger()
        else:
            self.close()

    def _unreadable(self, refusal: Refusal) -> None:
        """What came is not HTTP. Nothing after it can be parsed."""
        request, exchange = self._request, self._exchange
        if request is None:
            self._reply_and_close(refusal)
        elif exchange is not None:
            exchange.refuse(refusal)
        else:
            self.answer(answers.of_refusal(refusal, request.wants_json))

    def _reply_and_close(self, refusal: Refusal) -> None:
        """Answer what never became a request."""
        answer = answers.of_refusal(refusal, json=False)
        self.engine.admission.count_refusal(None, answer)
        self._transport.write(render(self.engine.start_of_answer(answer), answer, None, True))
        self._linger()

    # --- ends -------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Say no more, but read on for a while, so that the client sees our last answer."""
        self._input_ended = True
        self._bytes_received = 0
        self.deadline = self.engine.time() + LINGER
        if self.engine.tls is None and self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:  # the client has reset the connection: it reads no answer
                self.abort()
                return
        if self._ended:
            self.close()
        else:
            self._resume()

    def _drop(self, data: bytes) -> None:
        """Bytes came after the last answer."""
        if not self._closed:
            self._bytes_received += len(data)
            if self._bytes_received > LINGER_BYTES:
                self.close()

    def retire(self, before: float) -> None:
        """Close if the client is idle, and has been since `before`."""
        idle_since = self.deadline - self.engine.keep_alive
        if self._rest:
            self._last = True
        elif self._request is None and not self._begun and idle_since <= before:
            self.close()

    def close(self) -> None:
        """Close when what has been said is written."""
        if not self.made or self._closed:  # asyncio's TLS forgets itself when it is closed twice
            return
        self._input_ended = self._closed = True
        engine = self.engine
        unsent = self._transport.get_write_buffer_size()
        self.deadline = engine.time() + (engine.receive_timeout if unsent else LINGER)
        self._transport.close()

    def hurry(self) -> None:
        """A drain has begun: what is incomplete must come soon."""
        exchange, engine = self._exchange, self.engine
        draining = engine.draining if exchange is None else exchange.draining
        if self._begun and draining:
            self.deadline = min(self.deadline, engine.time() + RECEIVE_IN_DRAIN)

    def conclude(self) -> None:
        """The server stops: close, unless the client takes in an answer."""
        engine = self.engine
        if self._write_paused or self._closed:
            self.deadline = max(self.deadline, engine.time() + engine.receive_timeout)
        elif self._input_ended:
            pass  # it ends by its deadline
        elif self._deferred_answer is not None:
            self.answer(self._deferred_answer)
        elif self._begun and self._request is None:
            self._reply_and_close(Refusal(503, "the server is stopping"))
        else:
            self.close()

    def stalled(self) -> bool:
        """Whether the client takes in nothing, though there may be something."""
        left = self._transport.get_write_buffer_size() + len(self._rest) if self.made else 0
        if left or (self.made and self.engine.tls is not None):  # TLS does not tell of all it has
            left += unacknowledged(self._transport.get_extra_info("socket"))
        if not left:
            return True
        now = self.engine.time()
        if left < self._left:
            self._left = left
            self._moved = now
        return now - self._moved > STALLED

    def abort(self) -> None:
        """Cut the connection off."""
        if not self.made:
            return
        self._input_ended = self._closed = True
        self._forget()
        self._transport.abort()

    def expire(self) -> None:
        """`deadline` has passed."""
        exchange, engine = self._exchange, self.engine
        if engine.draining if exchange is None else exchange.draining:
            slow = Refusal(503, "the server is stopping")
        else:
            slow = Refusal(408, f"no request within {engine.receive_timeout:g} s")
        if self._write_paused or self._input_ended:
            self.abort()
        elif self._exchange is not None:
            self._exchange.refuse(slow)
        elif self._deferred_answer is not None:  # its body does not come
            self.answer(self._deferred_answer)
        elif self._begun and self._request is None:
            self._reply_and_close(slow)
        else:
            self.close()


def _body_is_large(request: Request) -> bool:
    """Whether the body of a refused request is too large to be read, or may never come: a client
    that sends `Expect` may wait for the answer first, and then send no body."""
    fields = request.fields
    length = fields.get(b"content-length")
    return length is None or b"expect" in fields or int(length) > SMALL_BODY


def render(start: bytes, answer: Answer, request: Request | None, last: bool) -> bytes:
    """The bytes of an answer. `start` is its head up to the value of Content-Length; `request` is
    None for the answer to what never became one."""
    body = answer.body
    length = len(body)
    more = b"".join([b"%b: %b\r\n" % header for header in answer.headers])
    if last:
        more += b"connection: close\r\n"
    elif request is not None and request.old:
        more += b"connection: keep-alive\r\n"
    if request is not None and request.method == "HEAD":
        body = b""
    return b"%b%d\r\n%b\r\n%b" % (start, length, more, body)
