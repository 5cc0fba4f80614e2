"""One HTTP/1.1 connection: from bytes to exchanges, and from their answers to bytes.

llhttp (Node's parser, by way of httptools) reads; asyncio or uvloop carries; what is here is the
order of things. Measured against uvicorn and Granian as the server, with the same pipeline behind
it, this costs half of what they do a request, since no request needs a task, a scope, or a trip
between threads; and what they leave to their application (the size of heads, slow clients,
admission before the body, an orderly drain) is in one place here.

Invariants:
- Requests are answered in the order in which they came. One at a time is at work (`_current`);
  those that came in the same packet wait (`_ahead`), what comes later is not even parsed
  (`_stash`), and then reading stops: that is how backpressure reaches the socket.
- `deadline` says until when the client may keep the connection in its present state; the engine
  looks at it every now and then. While the client waits for us there is none.
- After an answer to a request that is not read to its end, the rest is read and dropped for a
  while before the connection is closed, or the client might see a reset instead of the answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import httptools

from tailrace.listen import _answers
from tailrace.listen._answers import Answer
from tailrace.listen._request import Refused, Request
from tailrace.listen._turn import SMALL_BODY, Turn, render

if TYPE_CHECKING:
    from tailrace.listen._engine import Engine

__all__ = ["Connection"]

_log = logging.getLogger("tailrace.listen")

LINGER: Final = 5.0  # seconds to let a client take in an answer before the connection is cut
LINGER_BYTES: Final = 1024 * 1024
MAX_AHEAD: Final = 64
CHUNKED_COST: Final = 8  # bytes on the wire for a byte of body, at worst


class Connection(asyncio.Protocol):
    """What the loop calls for one client."""

    __slots__ = (
        "_advancing",
        "_ahead",
        "_begun",
        "_choked",
        "_closed",
        "_current",
        "_deaf",
        "_engine",
        "_fields",
        "_half_closed",
        "_head",
        "_in_head",
        "_last",
        "_parser",
        "_paused",
        "_stash",
        "_transport",
        "_url",
        "_wire",
        "deadline",
    )

    _transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.deadline = math.inf
        self._engine = engine
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._current: Turn | None = None
        self._last: Turn | None = None  # the one that is being parsed
        self._ahead: deque[Turn] = deque()
        self._stash = b""
        self._url = b""
        self._fields: dict[bytes, bytes] = {}
        self._head = 0  # bytes of the head that is being parsed
        self._wire = 0  # bytes received since the request that is incomplete began
        self._in_head = False
        self._begun = False  # a request is incomplete, and its time runs
        self._advancing = False
        self._paused = False  # reading
        self._choked = False  # writing: the client does not take in what we say
        self._half_closed = False
        self._deaf = False  # nothing more can be parsed
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else repr(self._current) if self._current else "idle"
        return f"<Connection {state}>"

    # --- what the transport says ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        engine = self._engine
        if engine.stopped:
            self.abort()
            return
        full = len(engine.connections) >= engine.max_connections
        engine.connections.add(self)
        self.deadline = engine.time() + engine.keep_alive
        if full:
            self._reply_and_close(Refused(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it asked for completely is done still."""
        self._closed = True
        self._engine.lost(self)
        turn = self._current
        if turn is not None and turn.exchange is not None:
            turn.exchange.gone()
        self._current = self._last = self._parser = None
        self._ahead.clear()
        self._stash = b""

    def data_received(self, data: bytes) -> None:
        """Bytes came: parse them, or keep them until the request at work is answered."""
        turn = self._current
        if turn is not None and turn.complete:
            self._stash += data
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        """The client says no more; it may still listen."""
        turn = self._current
        waits = turn is not None and turn.complete and not turn.answered
        if waits and self._engine.tls is None:
            self._half_closed = True
            return True
        return False

    def pause_writing(self) -> None:
        """The client does not take in its answer."""
        self._choked = True
        self.deadline = self._engine.time() + self._engine.receive_timeout

    def resume_writing(self) -> None:
        """It does."""
        self._choked = False
        turn = self._current
        if not self._closed and turn is not None and turn.complete:
            self.deadline = math.inf
            self._advance()

    # --- what the parser says ---------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if self._closed or self._deaf or self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True
            if self._current is None:
                self.close()
            elif self._last is not None:
                self._last.keep_alive = False
        except httptools.HttpParserCallbackError as error:
            _log.error("%r failed", self, exc_info=error.__context__ or error)
            self.abort()
        except httptools.HttpParserError as error:
            self._unreadable(str(error))
        if self._closed:
            return
        turn = self._current
        if turn is None or not turn.complete:
            self._still_incomplete(turn, len(data))

    def _still_incomplete(self, turn: Turn | None, received: int) -> None:
        """Bytes came, and a request has begun but not ended: is it too much by now?"""
        engine = self._engine
        self._wire += received
        if not self._begun:
            self._begun = True
            self.deadline = engine.time() + engine.receive_timeout
        if turn is None:
            if self._wire > engine.max_head:
                self._reply_and_close(self._head_too_large())
        elif turn.answered:
            if self._wire > LINGER_BYTES:
                self.close()
        elif turn.exchange is not None and self._wire > engine.max_head + SMALL_BODY + (
            CHUNKED_COST * turn.exchange.max_body
        ):
            turn.exchange.refuse(Refused(413, "too much chunking for so little body"), last=True)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._url = b""
        self._fields = {}
        self._head = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._head += len(url)
        if self._head <= self._engine.max_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer, which nobody needs."""
        if not self._in_head:
            return
        self._head += len(name) + len(value) + 4
        if self._head > self._engine.max_head:
            return
        name = name.lower()
        fields = self._fields
        if name in fields:
            value = fields[name] + b", " + value
        fields[name] = value

    def on_headers_complete(self) -> None:
        """The head is complete: the request is let in or refused before its body comes."""
        self._in_head = False
        parser = self._parser
        if self._closed or self._deaf or parser is None:
            return
        self._wire = 0
        fields = self._fields
        # Each question to the parser costs; most requests leave nothing to ask.
        plain = b"host" in fields and b"connection" not in fields
        request = Request(parser.get_method().decode(), "", self._url, fields)
        turn = Turn(
            request,
            keep_alive=parser.should_keep_alive() and (plain or not parser.should_upgrade()),
            old=not plain and parser.get_http_version() == "1.0",
        )
        if self._head > self._engine.max_head:
            refused = self._head_too_large()
            turn.refusal = _answers.refusal(refused, json=False, last=True)
            self._engine.gate.count(refused.status)
        if self._current is None:
            self._last = self._current = turn
            self._open(turn)
        elif len(self._ahead) < MAX_AHEAD:
            self._last = turn
            self._ahead.append(turn)
        else:  # the answers to those before are all that this client gets here
            self._deaf = True
            self._ahead[-1].keep_alive = False

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body."""
        turn = self._last
        if turn is None or turn.answered or self._deaf:
            return
        if turn.exchange is not None:
            turn.exchange.feed(chunk)
        elif turn is not self._current:
            turn.hold(chunk)

    def on_message_complete(self) -> None:
        """The request is complete."""
        turn = self._last
        if turn is None or self._closed or self._deaf:
            return
        turn.complete = True
        if turn is self._current:
            self._begun = False
            self._wire = 0
            self.deadline = math.inf
            self._completed(turn)

    # --- the turn of each request -----------------------------------------------------------

    def _open(self, turn: Turn) -> None:
        """It is this request's turn."""
        request = turn.request
        if turn.refusal is None:
            try:
                turn.understand()
                intake = self._engine.routes.get(request.path)
                if intake is None:
                    raise Refused(404, "nobody listens on this path")
                turn.exchange = intake.open(request, self._answer)
            except Refused as refused:
                self._engine.gate.count(refused.status)
                turn.refusal = _answers.refusal(refused, request.wants_json)
        if turn.refusal is None:
            if b"expect" in request.fields and not (turn.complete or turn.old):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif not turn.complete and turn.body_is_large:
            turn.refusal.last = True
            self._answer(turn.refusal)

    def _completed(self, turn: Turn) -> None:
        """The request at work is complete. This may answer it."""
        if turn.exchange is not None:
            turn.exchange.end()
        elif turn.answered:
            self._advance()
        elif turn.refusal is not None:
            self._answer(turn.refusal)

    def _answer(self, answer: Answer) -> None:
        """Answer the request at work."""
        turn = self._current
        if turn is None or turn.answered or self._closed:
            return
        turn.answered = True
        turn.exchange = None
        engine = self._engine
        if answer.last or self._half_closed or engine.draining:
            turn.keep_alive = False
        self._transport.write(render(engine.start_of_answer(answer), answer, turn))
        if turn.complete:
            self._advance()
        else:
            self._linger()

    def _advance(self) -> None:
        """The request at work is answered: go on with the next, or be idle."""
        if self._advancing:
            return  # from `_open` below, which may answer at once: a loop, not a recursion
        turn = self._current
        while turn is not None and turn.complete:
            if not turn.answered or self._choked:
                return
            if not turn.keep_alive:
                self.close()
                return
            self._current = turn = self._ahead.popleft() if self._ahead else None
            if turn is not None:
                self._advancing = True
                try:
                    self._catch_up(turn)
                finally:
                    self._advancing = False
        if turn is None:
            self.deadline = self._engine.time() + self._engine.keep_alive
        # Idle, or at a request that has not come to its end: read on.
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._stash:
            data, self._stash = self._stash, b""
            self._feed(data)

    def _catch_up(self, turn: Turn) -> None:
        """It is the turn of a request whose body may be here already."""
        self._open(turn)
        held, turn.held = turn.held, None
        for chunk in held or ():
            if turn.exchange is not None:
                turn.exchange.feed(chunk)
        if turn.complete:
            self._completed(turn)
        else:
            self._begun = True
            self.deadline = self._engine.time() + self._engine.receive_timeout

    # --- ends -------------------------------------------------------------------------------

    def _unreadable(self, why: str) -> None:
        """What came is not HTTP. Nothing after it can be parsed."""
        self._deaf = True
        turn = self._current
        refused = Refused(400, f"this is not HTTP/1.1: {why}")
        if turn is None:
            self._reply_and_close(refused)
        elif turn.complete:  # what came before it is answered first
            if self._ahead and not self._ahead[-1].complete:
                self._ahead.pop()
            (self._ahead[-1] if self._ahead else turn).keep_alive = False
        else:
            if turn.exchange is not None:
                turn.exchange.refuse(refused, last=True)
            elif not turn.answered:
                self._answer(_answers.refusal(refused, json=False, last=True))
            self.close()

    def _reply_and_close(self, refused: Refused) -> None:
        """Answer what never became a request."""
        self._engine.gate.count(refused.status)
        answer = _answers.refusal(refused, json=False)
        self._transport.write(render(self._engine.start_of_answer(answer), answer, None))
        self._deaf = True
        self._linger()

    def _linger(self) -> None:
        """Say no more, but read on for a while, so that the client sees our last answer."""
        self.deadline = self._engine.time() + LINGER
        self._wire = 0
        if self._engine.tls is None and self._transport.can_write_eof():
            self._transport.write_eof()

    def retire(self, before: float) -> None:
        """Close if the client is idle, and has been since `before`."""
        idle_since = self.deadline - self._engine.keep_alive
        if self._current is None and not self._begun and idle_since <= before:
            self.close()

    def close(self) -> None:
        """Close when what has been said is written."""
        self._closed = True
        self.deadline = self._engine.time() + LINGER
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._closed = True
        self._transport.abort()

    def _head_too_large(self) -> Refused:
        limit = self._engine.max_head
        return Refused(431, f"request line and headers are larger than {limit} bytes")

    def expire(self) -> None:
        """`deadline` has passed."""
        turn = self._current
        slow = Refused(408, f"no request within {self._engine.receive_timeout:g} s")
        if self._closed or self._choked or self._deaf or (turn is not None and turn.answered):
            self.abort()
        elif turn is None:
            if self._begun:
                self._reply_and_close(slow)
            else:
                self.close()
        elif turn.exchange is not None:
            turn.exchange.refuse(slow, last=True)
        else:
            self.close()
