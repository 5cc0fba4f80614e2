"""Route: what is let in for one path, and the line in which it waits for the channel.

Requests stand in a line, in order of arrival; one task (the actor, in `forward`) is the only one
who sends, so requests cost no task each, and a slow channel makes the line, and then the admission,
full: clients hear 503 rather than pile up.

All of it happens on one loop, but for `post`, which is called from anywhere.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tailrace.channel import Sender
from tailrace.listen.http.admission import Admission
from tailrace.listen.http.answers import NotTakenError, Show
from tailrace.listen.http.decode import NDJSON, Decoder
from tailrace.listen.http.exchange import Exchange, Respond, too_large
from tailrace.listen.http.lines import LinesExchange
from tailrace.listen.http.request import SECRET, Refusal, Request
from tailrace.message import Message

__all__ = ["RECEIVE_IN_DRAIN", "Route"]

RECEIVE_IN_DRAIN: Final = 5.0  # seconds for a request to come to its end, once a drain has begun

_TICK = 0.01  # seconds: timeouts are looked at no more often than that

Source = Message[Any] | LinesExchange
"""What stands in line: a message, or a request that makes many."""


class Route:
    """The requests for one path, between the moment they are let in and their answers."""

    def __init__(
        self,
        path: str,
        decoder: Decoder[Any],
        admission: Admission,
        *,
        timeout: float,
        max_body: int,
        authorize: Callable[[Request], Any] | None,
        token: str | None,
        id_header: str,
        keep_headers: frozenset[str],
        show: Show,
    ) -> None:
        self.path = path
        self.decoder = decoder
        self.admission = admission
        self.timeout = timeout
        self.max_body = max_body
        self.authorize = authorize
        self.id_header = id_header.encode()
        self.hidden = SECRET - {name.encode() for name in keep_headers}
        self.show: Show = show
        self.draining = False
        self.inside = 0  # requests let in and not answered, whether their bodies are complete
        self.making = 0  # of those, the requests that may still make a message
        self._bearer = None if token is None else b"Bearer " + token.encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.receiving: set[asyncio.Timeout] = set()  # of ASGI requests that are incomplete
        self.accepting = False  # requests are let in
        self._now: Callable[[], float] = time.monotonic  # of the loop
        self.out_of_order = False  # an outage was heard of, and nothing was stored since
        self._sending = False  # what stands in line will be sent, or refused by `refuse_line`
        self._line: deque[Source] = deque()
        self._unanswered: dict[Exchange, float] = {}  # with their deadlines, oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Route {self.path}: {len(self._line)} in line, {self.inside} not answered>"

    # --- what the actor does ----------------------------------------------------------------

    def start(self) -> None:
        """Let requests in, from now on, on this loop."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self.thread = threading.get_ident()
        self._sending = True
        self.accepting = not self.draining

    async def forward(self, out: Sender[Any]) -> None:
        """Send what is let in, until drained and no request can make a message any more. Raises
        what a send raises."""
        line = self._line
        while True:
            while line:
                message: Any = line.popleft()
                if isinstance(message, LinesExchange):
                    many, message = message, message.take()
                    if many.more:
                        line.append(many)  # its next line comes after those who came meanwhile
                    del many
                    if message is None:
                        await asyncio.sleep(0)  # decoding lines that make no message takes time
                        continue
                try:
                    await out.send(message)
                except BaseException:
                    message.fail(NotTakenError("no channel took the message"))
                    raise
                del message  # or one that is dropped downstream would not be lost
            if self.draining and not self.making:
                return
            await self._roused()

    def drain(self) -> None:
        """Let nobody in any more; `forward` returns when all messages have been sent."""
        self.draining = True
        self.accepting = False
        for timeout in self.receiving:
            when, soon = timeout.when(), self._now() + RECEIVE_IN_DRAIN
            if not timeout.expired() and when is not None and soon < when:
                timeout.reschedule(soon)
        self._rouse()

    def refuse_line(self, reason: str) -> None:
        """Let nobody in any more, and send nothing of what stands in line."""
        self.accepting = self._sending = False
        while self._line:
            first = self._line.popleft()
            if isinstance(first, Message):
                first.fail(NotTakenError(reason))
            else:
                first.not_taken(reason)

    def abandon(self) -> None:
        """Answer at once all who wait."""
        for exchange in list(self._unanswered):
            exchange.abandon()

    async def all_answered(self) -> None:
        """Wait until every request has been answered, at the latest by its timeout."""
        while self.inside:
            await self._roused()

    def stop(self) -> None:
        """The actor has ended."""
        self.accepting = self._sending = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()

    @property
    def stopped(self) -> bool:
        """Whether the listener's actor has ended."""
        return not self._sending

    async def _roused(self) -> None:
        assert self._loop is not None
        self._wake = self._loop.create_future()
        await self._wake

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    # --- what carriers of requests ask ------------------------------------------------------

    def open(self, request: Request, respond: Respond) -> Exchange:
        """Let a request in, at its head. Refusal if it is not: answer that, and count it."""
        fields = request.fields
        if request.method not in self.decoder.methods:
            methods = self.decoder.methods
            allowed = ", ".join(methods).encode()
            raise Refusal(405, f"use {' or '.join(methods)}", ((b"allow", allowed),))
        if self._bearer is not None:
            self._check_token(fields.get(b"authorization", b""), self._bearer)
        if not self.accepting:
            raise Refusal(503, "the server is stopping" if self.draining else "not running")
        media = self.decoder.media(request)
        if b"content-length" in fields and request.content_length > self.max_body:
            raise too_large(self.max_body)
        if self.admission.in_flight >= self.admission.limit:
            raise Refusal(503, "too many requests in flight")
        self.inside += 1
        self.making += 1
        self.admission.in_flight += 1
        if self.admission.access_log:
            request.began = self._now()
        return (LinesExchange if media == NDJSON else Exchange)(self, request, media, respond)

    def _check_token(self, authorization: bytes, bearer: bytes) -> None:
        if hmac.compare_digest(authorization, bearer):
            return
        scheme, _, given = authorization.partition(b" ")  # in another case, or with more spaces
        right = hmac.compare_digest(b"Bearer " + given.strip(), bearer)
        if not right or scheme.lower() != b"bearer":
            raise Refusal(401, "a token is needed", ((b"www-authenticate", b"Bearer"),))

    def check_loop(self) -> None:
        """RuntimeError if the running loop is not the actor's (before it started there is none)."""
        if self.accepting and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"the actor of {self.path} runs on another loop than this request")

    # --- what exchanges say -----------------------------------------------------------------

    def put(self, source: Source) -> None:
        """Stand in line to be sent."""
        if self._sending:
            self._line.append(source)
            if self._wake is not None:
                self._rouse()
        elif isinstance(source, Message):
            source.fail(NotTakenError("the server is stopping"))
        else:
            source.not_taken("the server is stopping")

    def made_all(self) -> None:
        """A request that was let in makes no more messages."""
        self.making -= 1
        if self.draining and not self.making:
            self._rouse()

    def since(self, began: float) -> float:
        """Seconds since then."""
        return self._now() - began

    def began(self, exchange: Exchange) -> None:
        """The time for `exchange` starts to run."""
        self._unanswered[exchange] = self._now() + self.timeout
        if self._timer is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(self.timeout, self._expire)

    def ended(self, exchange: Exchange) -> None:
        """`exchange` is answered, or its client is gone before it was complete."""
        self._unanswered.pop(exchange, None)  # it is not there while its body comes
        self.inside -= 1
        if not self.inside and not self.accepting:
            self._rouse()

    def _expire(self) -> None:
        assert self._loop is not None
        now = self._now()
        due: list[Exchange] = []
        self._timer = None
        for exchange, deadline in self._unanswered.items():
            if deadline > now:
                self._timer = self._loop.call_later(max(deadline - now, _TICK), self._expire)
                break
            due.append(exchange)
        for exchange in due:
            exchange.expire()

    def outage(self) -> None:
        """An outage keeps a message from being stored for now. Called from any thread."""
        self.out_of_order = True

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call that after so many seconds."""
        assert self._loop is not None
        self._loop.call_later(seconds, call)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background, at most as long as the actor."""
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def post(self, report: Callable[..., None], *values: object) -> None:
        """Tell an exchange of an outcome on the loop, from another thread or a finaliser."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(report, *values)
        except RuntimeError:
            pass  # the loop is closed, and its connections with it
