"""One HTTP/1.1 connection: from bytes to exchanges, and from their answers to bytes.

llhttp (Node's parser) reads, in `_reader`; asyncio or uvloop carries; what is here is the
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
from tailrace.listen._reader import Reader
from tailrace.listen._request import Refused
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
        "_paused",
        "_reader",
        "_stash",
        "_transport",
        "_wire",
        "deadline",
        "engine",
        "made",
    )

    _transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.deadline = math.inf
        self.engine = engine
        self.made = False  # there is a transport
        self._reader = Reader(self, engine.max_head)
        self._current: Turn | None = None
        self._ahead: deque[Turn] = deque()
        self._stash = b""
        self._wire = 0  # bytes received since the request that is incomplete began
        self._begun = False  # a request is incomplete, and its time runs
        self._advancing = False
        self._paused = False  # reading
        self._choked = False  # writing: the client does not take in what we say
        self._deaf = False  # nothing more can be parsed
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else repr(self._current) if self._current else "idle"
        return f"<Connection {state}>"

    # --- what the transport says ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self.made = True
        engine = self.engine
        if self._closed or engine.stopped:
            self.abort()
            return
        self.deadline = engine.time() + engine.keep_alive

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it asked for completely is done still."""
        self._closed = True
        if not self.engine.lost(self):
            return
        turn = self._current
        if turn is not None and turn.exchange is not None:
            turn.exchange.gone()
            turn.exchange = None
        self._current = None
        self._reader.close()
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
        if turn is not None and turn.complete and not turn.answered and self.engine.tls is None:
            turn.keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """The client does not take in its answer."""
        self._choked = True
        self.deadline = self.engine.time() + self.engine.receive_timeout

    def resume_writing(self) -> None:
        """It does."""
        self._choked = False
        turn = self._current
        if not self._closed and turn is not None and turn.complete:
            self.deadline = math.inf
            self._advance()

    # --- reading ----------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if self._closed or self._deaf:
            return
        reader = self._reader
        before = reader.last
        self._parse(data)
        if self._closed:
            return
        turn, last = self._current, reader.last
        whole = turn.complete if turn is not None else last is not before and not reader.midway
        if not whole:
            self._still_incomplete(turn, len(data))

    def _parse(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except httptools.HttpParserUpgrade:
            self._go_deaf()
            if self._current is None:
                self.close()
            elif self._reader.last is not None:
                self._reader.last.keep_alive = False
        except httptools.HttpParserCallbackError as error:
            _log.error("%r failed", self, exc_info=error.__context__ or error)
            self.abort()
        except httptools.HttpParserError as error:
            self._unreadable(str(error))

    def _still_incomplete(self, turn: Turn | None, received: int) -> None:
        """Bytes came, and a request has begun but not ended: is it too much by now?"""
        engine = self.engine
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

    # --- what the reader says ---------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether what comes is looked at still."""
        return not (self._closed or self._deaf)

    def head_came(self, turn: Turn, too_large: bool) -> bool:
        """A request is to be let in or refused before its body comes. False: nor will it."""
        self._wire = 0
        if too_large:
            refused = self._head_too_large()
            turn.refusal = _answers.refusal(refused, json=False, last=True)
            self.engine.gate.answers[refused.status] += 1
        if self._current is None:
            self._current = turn
            self._open(turn)
        elif len(self._ahead) < MAX_AHEAD:
            self._ahead.append(turn)
        else:  # the answers to those before are all that this client gets here
            self._go_deaf()
            self._ahead[-1].keep_alive = False
            return False
        return True

    def body_came(self, turn: Turn, chunk: bytes) -> None:
        """A piece of the body."""
        if turn.answered:
            return
        if turn.exchange is not None:
            turn.exchange.feed(chunk)
        elif turn is not self._current:
            turn.hold(chunk)

    def end_came(self, turn: Turn) -> None:
        """The request is complete."""
        turn.complete = True
        if turn is self._current:
            self._wire = 0
            self._begun = False
            self.deadline = math.inf  # from now on the client waits for us
            self._completed(turn)

    # --- the turn of each request -----------------------------------------------------------

    def _open(self, turn: Turn) -> None:
        """It is this request's turn."""
        request = turn.request
        if turn.refusal is None:
            try:
                turn.understand()
                intake = self.engine.routes.get(request.path)
                if intake is None:
                    raise Refused(404, "nobody listens on this path")
                turn.exchange = intake.open(request, self.answer)
            except Refused as refused:
                self.engine.gate.answers[refused.status] += 1
                turn.refusal = _answers.refusal(refused, request.wants_json)
        if turn.refusal is None:
            if b"expect" in request.fields and not (turn.complete or turn.old):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif not turn.complete and turn.body_is_large:
            turn.refusal.last = True
            self.answer(turn.refusal)

    def _completed(self, turn: Turn) -> None:
        """The request at work is complete. This may answer it."""
        if turn.exchange is not None:
            turn.exchange.end()
        elif turn.answered:
            self._advance()
        elif turn.refusal is not None:
            self.answer(turn.refusal)

    def answer(self, answer: Answer) -> None:
        """Answer the request at work."""
        turn = self._current
        if turn is None or turn.answered or self._closed:
            return
        turn.answered = True
        turn.exchange = None
        engine = self.engine
        if answer.last or engine.draining:
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
            engine = self.engine
            self._begun = self._reader.midway
            wait = engine.receive_timeout if self._reader.midway else engine.keep_alive
            self.deadline = engine.time() + wait
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
            self.deadline = self.engine.time() + self.engine.receive_timeout

    # --- ends -------------------------------------------------------------------------------

    def _unreadable(self, why: str) -> None:
        """What came is not HTTP. Nothing after it can be parsed."""
        self._go_deaf()
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
                self.answer(_answers.refusal(refused, json=False, last=True))
            self.close()

    def _reply_and_close(self, refused: Refused) -> None:
        """Answer what never became a request."""
        self.engine.gate.answers[refused.status] += 1
        answer = _answers.refusal(refused, json=False)
        self._transport.write(render(self.engine.start_of_answer(answer), answer, None))
        self._go_deaf()
        self._linger()

    def _linger(self) -> None:
        """Say no more, but read on for a while, so that the client sees our last answer."""
        self.deadline = self.engine.time() + LINGER
        self._wire = 0
        if self.engine.tls is None and self._transport.can_write_eof():
            self._transport.write_eof()

    def retire(self, before: float) -> None:
        """Close if the client is idle, and has been since `before`."""
        idle_since = self.deadline - self.engine.keep_alive
        if self._current is None and not self._begun and idle_since <= before:
            self.close()

    def _go_deaf(self) -> None:
        """Nothing more that comes is a request."""
        self._deaf = True

    def close(self) -> None:
        """Close when what has been said is written."""
        if not self.made:
            return
        self._go_deaf()
        self._closed = True
        self.deadline = self.engine.time() + LINGER
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        if not self.made:
            return
        self._go_deaf()
        self._closed = True
        self._transport.abort()

    def _head_too_large(self) -> Refused:
        limit = self.engine.max_head
        return Refused(431, f"request line and headers are larger than {limit} bytes")

    def expire(self) -> None:
        """`deadline` has passed."""
        turn = self._current
        slow = Refused(408, f"no request within {self.engine.receive_timeout:g} s")
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
