"""Route: the requests of one path, from admission until they are answered.

Complete requests wait in a queue, in order of arrival. One task, the listener's actor, sends their
messages (`forward`), so a request needs no task. If the channel is slow, the queue grows until
admission is full: further clients are answered 503.

Everything runs on one loop, except `post` and `outage`, which any thread may call.
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

RECEIVE_IN_DRAIN: Final = 5.0  # seconds for an incomplete request, once a drain has begun

_TICK = 0.01  # seconds between checks of timeouts, at least

Source = Message[Any] | LinesExchange
"""What is queued: a message, or a request that makes many."""


class Route:
    """The options of one path, and its requests that are in flight."""

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
        self.in_flight = 0  # requests that are admitted and not answered
        self.making = 0  # requests in flight that may still make a message
        self._bearer = None if token is None else b"Bearer " + token.encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.receiving: set[asyncio.Timeout] = set()  # of ASGI requests that are incomplete
        self.accepting = False  # requests are admitted
        self._now: Callable[[], float] = time.monotonic  # of the loop
        self.out_of_order = False  # an outage was reported, and nothing has been stored since
        self._sending = False  # False: what is queued is refused, not sent
        self._queue: deque[Source] = deque()
        self._unanswered: dict[Exchange, float] = {}  # with their deadlines, earliest first
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Route {self.path}: {len(self._queue)} queued, {self.in_flight} in flight>"

    # --- for the listener -------------------------------------------------------------------

    def start(self) -> None:
        """Admit requests from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self.thread = threading.get_ident()
        self._sending = True
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
                        queue.append(many)  # requests that came meanwhile go first
                    del many
                    if message is None:
                        await asyncio.sleep(0)  # decoding lines that make no message takes time
                        continue
                try:
                    await out.send(message)
                except BaseException:
                    message.fail(NotTakenError("no channel took the message"))
                    raise
                del message  # a reference here would keep a message that downstream drops
            if self.draining and not self.making:
                return
            await self._woken()

    def drain(self) -> None:
        """Admit no more requests. `forward` returns when all messages have been sent."""
        self.draining = True
        self.accepting = False
        for timeout in self.receiving:
            when, soon = timeout.when(), self._now() + RECEIVE_IN_DRAIN
            if not timeout.expired() and when is not None and soon < when:
                timeout.reschedule(soon)
        self._wake_up()

    def refuse_queued(self, reason: str) -> None:
        """Admit no more requests, and refuse the queued ones."""
        self.accepting = self._sending = False
        while self._queue:
            first = self._queue.popleft()
            if isinstance(first, Message):
                first.fail(NotTakenError(reason))
            else:
                first.not_taken(reason)

    def abandon(self) -> None:
        """Answer all requests now."""
        for exchange in list(self._unanswered):
            exchange.abandon()

    async def all_answered(self) -> None:
        """Wait until all requests are answered, at the latest by their timeouts."""
        while self.in_flight:
            await self._woken()

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

    async def _woken(self) -> None:
        assert self._loop is not None
        self._wake = self._loop.create_future()
        await self._wake

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    # --- for transports ---------------------------------------------------------------------

    def open(self, request: Request, respond: Respond) -> Exchange:
        """Admit a request at its head. Raises Refusal, which the caller answers and counts."""
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
        self.in_flight += 1
        self.making += 1
        self.admission.in_flight += 1
        if self.admission.access_log:
            request.began = self._now()
        return (LinesExchange if media == NDJSON else Exchange)(self, request, media, respond)

    def _check_token(self, authorization: bytes, bearer: bytes) -> None:
        if hmac.compare_digest(authorization, bearer):
            return
        scheme, _, given = authorization.partition(b" ")  # other case of the scheme, or more spaces
        right = hmac.compare_digest(b"Bearer " + given.strip(), bearer)
        if not right or scheme.lower() != b"bearer":
            raise Refusal(401, "a token is needed", ((b"www-authenticate", b"Bearer"),))

    def check_loop(self) -> None:
        """Raise RuntimeError if the actor runs on another loop than the caller."""
        if self.accepting and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"the actor of {self.path} runs on another loop than this request")

    # --- for exchanges: see exchange.Owner --------------------------------------------------

    def put(self, source: Source) -> None:
        """Queue a source. It is refused if the route sends no more."""
        if self._sending:
            self._queue.append(source)
            if self._wake is not None:
                self._wake_up()
        elif isinstance(source, Message):
            source.fail(NotTakenError("the server is stopping"))
        else:
            source.not_taken("the server is stopping")

    def made_all(self) -> None:
        """A request makes no more messages."""
        self.making -= 1
        if self.draining and not self.making:
            self._wake_up()

    def since(self, began: float) -> float:
        """Seconds since a time of the loop's clock."""
        return self._now() - began

    def began(self, exchange: Exchange) -> None:
        """A request is complete: its timeout begins."""
        self._unanswered[exchange] = self._now() + self.timeout
        if self._timer is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(self.timeout, self._expire)

    def ended(self, exchange: Exchange) -> None:
        """A request is answered, or its client left before it was complete."""
        self._unanswered.pop(exchange, None)  # an incomplete request is not in it
        self.in_flight -= 1
        if not self.in_flight and not self.accepting:
            self._wake_up()

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
        """An outage keeps a message from being stored for now. Any thread may call this."""
        self.out_of_order = True

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function after some seconds."""
        assert self._loop is not None
        self._loop.call_later(seconds, call)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that ends with the actor at the latest."""
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def post(self, report: Callable[..., None], *values: object) -> None:
        """Call a function on the loop, from another thread or a finaliser."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(report, *values)
        except RuntimeError:
            pass  # the loop is closed, so no client waits
