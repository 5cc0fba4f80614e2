"""Route: the requests of one path, from admission until they are answered.

Complete requests wait in a queue, in order of arrival. One task, the listener's actor, sends their
messages (`forward`), so a request needs no task of its own. If the channel is slow, the queue grows
until `in_flight` requests are in it: further clients are answered 503.

Everything runs on one loop, except `post`, which any thread may call.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.channel import Sender
from tailrace.ledger import counting
from tailrace.listen.http.answers import NotTakenError
from tailrace.listen.http.decode import NDJSON
from tailrace.listen.http.exchange import Exchange, Respond, RouteBase, too_large
from tailrace.listen.http.lines import LinesExchange
from tailrace.listen.http.request import Refusal, Request
from tailrace.message import Message

__all__ = ["RECEIVE_IN_DRAIN", "Route"]

RECEIVE_IN_DRAIN: Final = 5.0  # seconds for an incomplete request, once a drain has begun

Source = Message[Any] | LinesExchange
"""What is queued: a message, or a request that makes many."""


@dataclass(eq=False, repr=False, kw_only=True)
class Route(RouteBase):
    """The requests of one path: admits them, and sends their messages."""

    bearer: bytes | None  # the `Authorization` that clients need
    receiving: set[asyncio.Timeout] = field(init=False, default_factory=set[asyncio.Timeout])
    """The timeouts of incomplete ASGI requests."""
    _queue: deque[Source] = field(init=False, default_factory=deque[Source])

    def __repr__(self) -> str:
        return f"<Route {self.path}: {len(self._queue)} queued, {self.unanswered} unanswered>"

    # --- for the listener -------------------------------------------------------------------

    def start(self) -> None:
        """Admit requests from now on, on the running loop."""
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.thread = threading.get_ident()
        self.ledger = counting.get()
        self.stopped = False
        self.accepting = not self.draining

    async def forward(self, out: Sender[Any]) -> None:
        """Send messages until drained and no request can make a message any more.

        Raises what a send raises. Cancelled: a message that no channel took is failed.
        """
        queue = self._queue
        while True:
            while queue:
                message: Any = queue.popleft()
                if isinstance(message, LinesExchange):
                    many, message = message, message.take()
                    if many.more:
                        queue.append(many)  # behind the requests that came meanwhile
                    del many
                    if message is None:
                        await asyncio.sleep(0)  # bad lines take time too: let the loop turn
                        continue
                try:
                    await out.send(message)
                except BaseException:
                    message.fail(NotTakenError("no channel took the message"))
                    raise
                del message  # else a message that the program drops would not be collected
            if self.draining and not self.may_send:
                return
            await self._woken()

    def drain(self) -> None:
        """Admit no more requests. `forward` returns when all messages have been sent."""
        self.draining = True
        self.accepting = False
        for timeout in self.receiving:
            when, soon = timeout.when(), self.now() + RECEIVE_IN_DRAIN
            if not timeout.expired() and when is not None and soon < when:
                timeout.reschedule(soon)
        self._wake_up()

    def refuse_queued(self, reason: str) -> None:
        """Admit no more requests, and refuse the queued ones."""
        self.accepting, self.stopped = False, True
        while self._queue:
            first = self._queue.popleft()
            if isinstance(first, Message):
                first.fail(NotTakenError(reason))
            else:
                first.not_taken(reason)

    def abandon(self) -> None:
        """Answer all complete requests now, with 504."""
        for exchange in list(self._deadlines):
            exchange.give_up(Refusal(504, "the server stopped first; it may still be stored"))

    async def all_answered(self) -> None:
        """Wait until all requests are answered: at the latest, until their timeouts."""
        while self.unanswered:
            await self._woken()

    def stop(self) -> None:
        """The listener's actor has ended, and all requests are answered."""
        self.accepting, self.stopped = False, True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()

    # --- for transports ---------------------------------------------------------------------

    def open(self, request: Request, respond: Respond) -> Exchange:
        """Admit a request at its head. Raises Refusal, which the caller answers and counts."""
        fields = request.fields
        methods = self.decoder.methods
        if request.method not in methods:
            allowed = ((b"allow", ", ".join(methods).encode()),)
            raise Refusal(405, f"use {' or '.join(methods)}", allowed)
        if self.bearer is not None:
            _check_token(fields.get(b"authorization", b""), self.bearer)
        if not self.accepting:
            raise Refusal(503, "the server is stopping" if self.draining else "not running")
        media = self.decoder.media(request)
        length = fields.get(b"content-length")
        if length is not None and int(length) > self.max_body:  # `framing` has checked the number
            raise too_large(self.max_body)
        if self.admission.in_flight >= self.admission.limit:
            raise Refusal(503, "too many requests in flight")
        self.unanswered += 1
        self.may_send += 1
        self.admission.in_flight += 1
        if self.admission.access_log:
            request.began = self.now()
        return (LinesExchange if media == NDJSON else Exchange)(self, request, media, respond)

    # --- for exchanges ----------------------------------------------------------------------

    def put(self, source: Source) -> None:
        """Queue a source of messages. It is refused if nothing sends them any more."""
        if not self.stopped:
            self._queue.append(source)
            if self._wake is not None:
                self._wake_up()
        elif isinstance(source, Message):
            source.fail(NotTakenError("the server is stopping"))
        else:
            source.not_taken("the server is stopping")


def _check_token(authorization: bytes, bearer: bytes) -> None:
    if hmac.compare_digest(authorization, bearer):
        return
    scheme, _, given = authorization.partition(b" ")  # other case of the scheme, or more spaces
    right = hmac.compare_digest(b"Bearer " + given.strip(), bearer)
    if not right or scheme.lower() != b"bearer":
        raise Refusal(401, "a token is needed", ((b"www-authenticate", b"Bearer"),))
