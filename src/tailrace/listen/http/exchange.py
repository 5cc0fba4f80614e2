"""Exchange: one request, from its head to its answer.

A transport (`connection`, or `asgi`) opens an exchange, feeds it the body, and reports the body's
end or the loss of the client. The exchange calls `respond` on the listener's loop.

Invariants:
- `respond` is called once, or never if the client left first.
- An exchange is *in flight* until it is answered *and* its messages are settled: until then it
  counts against `Admission` (one request, the bytes of its body). So memory is bounded even if
  clients time out faster than the pipeline works. It is *unanswered* until it is answered: a
  listener that ends waits for this.
- A complete request becomes a message even if the client left.
- An exchange keeps no reference to a message that it has sent. So a message that the program drops
  is collected, and its client is told.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, Final, cast

from tailrace.ledger import Ledger
from tailrace.listen.http import answers
from tailrace.listen.http.access import log_access, printable
from tailrace.listen.http.admission import Admission
from tailrace.listen.http.answers import Answer, Show, of_outcome
from tailrace.listen.http.decode import Decoder, compression
from tailrace.listen.http.gzip import gunzip
from tailrace.listen.http.request import Headers, Refusal, Request
from tailrace.message import Outcome
from tailrace.message.internals import message_of
from tailrace.usercode import log_error, shown

__all__ = ["Exchange", "Respond", "RouteBase", "too_large"]

_log = logging.getLogger("tailrace.listen")

Respond = Callable[[Answer], None]

CHECK_ENDS: Final = 1.0  # seconds that a cancelled `authorize` has to end

_TICK: Final = 0.01  # the shortest time in seconds between two looks for late requests

_INTERNAL: Final = Refusal(500, "an internal error")


@dataclass(eq=False, repr=False, kw_only=True)
class RouteBase:
    """The part of a `Route` that exchanges use: its options, and what it knows of its exchanges.

    Everything runs on one loop, except `post`, which any thread and any finaliser may call.
    """

    path: str
    decoder: Decoder[Any]
    admission: Admission
    timeout: float
    max_body: int
    authorize: Callable[[Request], Any] | None
    id_header: bytes
    hidden: frozenset[bytes]  # headers that messages do not have
    show: Show
    draining = False
    stopped = True  # nothing sends messages: the listener's actor has ended, or has not begun
    accepting = False  # requests are admitted
    out_of_order = False  # an outage was reported, and nothing has been stored since
    unanswered: int = field(init=False, default=0)  # requests: admitted, not answered
    may_send = 0  # requests: admitted, and perhaps still to make a message
    thread = 0  # of the loop
    ledger: Ledger | None = None  # counts the messages
    loop: asyncio.AbstractEventLoop = field(init=False)  # the listener's, once it runs
    now: Callable[[], float] = field(init=False)  # the loop's clock
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)
    _wake: asyncio.Future[None] | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set[asyncio.Task[None]])
    _deadlines: dict[Exchange, float] = field(init=False, default_factory=dict["Exchange", float])
    """Of complete requests that are not answered; the earliest first."""

    def put(self, source: Any) -> None:
        """Queue a message, or a LinesExchange that makes messages, for the channel."""
        raise NotImplementedError

    def exchange_complete(self, exchange: Exchange) -> None:
        """A request is complete: its timeout begins."""
        self._deadlines[exchange] = self.now() + self.timeout
        if self._timer is None:
            self._timer = self.loop.call_later(self.timeout, self._refuse_late)

    def no_more_messages(self) -> None:
        """One more request makes no more messages."""
        self.may_send -= 1
        if self.draining and not self.may_send:
            self._wake_up()

    def exchange_ended(self, exchange: Exchange) -> None:
        """A request is answered, or its client left before it was complete."""
        self._deadlines.pop(exchange, None)  # an incomplete request is not in it
        self.unanswered -= 1
        if not self.unanswered and not self.accepting:
            self._wake_up()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task, which is cancelled when the listener's actor ends."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def post(self, report: Callable[..., None], *values: object) -> None:
        """Call a function on the loop, from another thread or a finaliser."""
        try:
            self.loop.call_soon_threadsafe(report, *values)
        except RuntimeError:
            pass  # the loop is closed, so no client waits

    def _refuse_late(self) -> None:
        """Answer the requests whose timeout has passed."""
        now = self.now()
        due: list[Exchange] = []
        self._timer = None
        for exchange, deadline in self._deadlines.items():
            if deadline > now:
                self._timer = self.loop.call_later(max(deadline - now, _TICK), self._refuse_late)
                break
            due.append(exchange)
        for exchange in due:
            exchange.give_up(exchange.timeout_refusal())

    async def _woken(self) -> None:
        """Wait for `_wake_up`."""
        self._wake = self.loop.create_future()
        await self._wake

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)


class Exchange:
    """A request that makes one message."""

    __slots__ = (
        "_admission",
        "_body",
        "_check",
        "_id",
        "_json",
        "_media",
        "_more_headers",
        "_respond",
        "_size",
        "_unsettled",
        "answered",
        "complete",
        "may_send",
        "request",
        "route",
    )

    def __init__(
        self, route: RouteBase, request: Request, media: str, respond: Respond | None
    ) -> None:
        self.route = route
        self._admission = route.admission
        self._media = media
        self._more_headers: dict[str, str] | None = None  # from `authorize`
        self._respond = respond
        self._json = b"accept" in request.fields and request.wants_json
        self._check: asyncio.Task[None] | None = None  # the task of an async `authorize`
        self._body: bytes | bytearray = b""  # as far as it has come
        self._size: int = 0  # bytes counted against `body_memory`
        self._unsettled = 0  # messages, and the task of `authorize`
        self._id = ""  # of the message, if the answer shows it
        self.request = request
        self.answered = False
        self.complete = False
        self.may_send = True  # it may still make messages

    def __repr__(self) -> str:
        state = "answered" if self.answered else "complete" if self.complete else "incomplete"
        return f"<{type(self).__name__} {self.request.method} {self.request.path}, {state}>"

    # --- what the transport reports ---------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """More of the body has come. Answers 413 or 503 as soon as it is too large."""
        if self.answered:
            return
        size = self._size + len(chunk)
        if size > self.route.max_body:
            self.refuse(too_large(self.route.max_body))
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
        route = self.route
        route.exchange_complete(self)
        if route.authorize is None:
            self._accept()
        else:
            self._authorize(route.authorize)

    def client_left(self) -> None:
        """The client left. The message of a complete request goes on to its store."""
        self._respond = None
        if not self.complete and not self.answered:
            self._mark_answered()

    def refuse(self, refusal: Refusal) -> None:
        """Answer without a message."""
        self.answer(answers.of_refusal(refusal, self._json))

    # --- answering --------------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Answer, unless the request is answered already."""
        if self.answered:
            return
        respond = self._respond
        self._mark_answered()
        if respond is not None:
            admission = self._admission
            admission.answers[answer.status] += 1
            if admission.access_log:
                request, body = self.request, answer.body
                log_access(request, answer.status, len(body), self.route.now() - request.began)
            respond(answer)

    def give_up(self, refusal: Refusal) -> None:
        """Answer now, though messages are unsettled."""
        self.refuse(refusal)

    def timeout_refusal(self) -> Refusal:
        """The refusal of this request once `timeout` has passed."""
        route = self.route
        within = f"within {route.timeout:g} s"
        if self._check is not None:
            return Refusal(504, f"not authorized {within}; nothing was stored")
        if route.out_of_order:
            why = f"not settled {within}: the store is out of order; it may still be stored"
            return Refusal(503, why)
        return Refusal(504, f"not settled {within}; it may still be stored")

    def _mark_answered(self) -> None:
        """The request is answered, or its client left before it was complete."""
        self.answered = True
        self._respond = None
        self._body = b""
        if self._check is not None:
            self._check.cancel()
            self.route.loop.call_later(CHECK_ENDS, self._close_check)
        if self.may_send:
            self.no_more_messages()
        self.route.exchange_ended(self)
        if not self._unsettled:  # no longer in flight
            admission = self._admission
            admission.in_flight -= 1
            admission.bytes -= self._size

    def no_more_messages(self) -> None:
        """The request makes no more messages. A draining listener waits for this."""
        if self.may_send:
            self.may_send = False
            self.route.no_more_messages()

    def _one_settled(self) -> None:
        """A message is settled, or the task of `authorize` has ended."""
        self._unsettled -= 1
        if self.answered and not self._unsettled:
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
            self._user_code_failed("authorize raised", error)
            return
        self._unsettled += 1  # the request is in flight until the check has ended
        self._check = check = self.route.spawn(self._authorize_later(allowed))
        check.add_done_callback(self._check_ended)  # also if it is cancelled before it begins

    async def _authorize_later(self, allowed: Any) -> None:
        try:
            answer = await allowed
            self._check_ended()
            if not self.answered:
                self._authorized(answer)
        except KeyboardInterrupt:
            self._check_ended()
            self.refuse(_INTERNAL)
            raise
        except BaseException as error:
            if self._check is None and self.answered:
                raise asyncio.CancelledError from None  # `_close_check` has closed it
            self._check_ended()
            check = cast("asyncio.Task[None]", asyncio.current_task())
            cancelled = self.answered or self.route.stopped  # then we cancelled the task
            if isinstance(error, asyncio.CancelledError) and cancelled and check.cancelling():
                self.refuse(Refusal(503, "the server is stopping"))
                raise
            self._user_code_failed("authorize raised", error)

    def _close_check(self) -> None:
        """CHECK_ENDS after it was cancelled: if `authorize` still runs, close its coroutine.

        A task that ignores its cancellation would keep the process when the program has ended.
        """
        check = self._check
        if check is None:
            return
        what = "authorize did not end when it was cancelled"
        coroutine: Any = check.get_coro()
        self._check_ended()
        try:
            coroutine.cr_await.close()  # raises GeneratorExit in user code
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.log_user_error(f"{what}, nor when it was closed; it is left behind", error)
        else:
            self.log_user_error(what, None)
        check.cancel()  # wakes the task, which finds that `authorize` has ended

    def _check_ended(self, _: object = None) -> None:
        """The task of `authorize` has ended, or is counted no more."""
        if self._check is not None:
            self._check = None
            self._one_settled()

    def _authorized(self, allowed: Any) -> None:
        if allowed is False:
            self.refuse(Refusal(403, "not allowed"))
            return
        if allowed is not True:
            self._more_headers = _headers_of(allowed)
            if self._more_headers is None:
                what = "authorize must return a bool or a mapping of str to str, not "
                self._user_code_failed(what + shown(allowed))
                return
        self._accept()

    def _user_code_failed(self, what: str, error: BaseException | None = None) -> None:
        """User code has failed: log the error, and answer this request 500."""
        self.log_user_error(what, error)
        self.refuse(_INTERNAL)

    def log_user_error(self, what: str, error: BaseException | None) -> None:
        """Log that user code has failed for this request."""
        request, path = self.request, self.route.path
        id = request.fields.get(self.route.id_header, b"-")[:255].decode("latin-1")
        text = "%s %s (id %s): %s"
        log_error(_log, text, request.method, path, printable(id), what, error=error)

    # --- the message ------------------------------------------------------------------------

    def _accept(self) -> None:
        request, route = self.request, self.route
        decoder, digest = route.decoder, None
        try:
            key = request.key(route.id_header) if route.id_header in request.fields else None
            if b"content-encoding" in request.fields:
                self.unpack()
            written = decoder.extract(self._media, request)
            if key is not None:
                digest = decoder.digest(written)
            data = decoder.decode(written)
        except Refusal as refusal:
            if refusal.status == 500:
                self._user_code_failed("the data's type raised", refusal.__cause__)
            else:
                self.refuse(refusal)
            return
        if route.authorize is None:  # else `authorize` may have kept the request
            request.body = b""
        headers = Headers(request.fields, route.hidden, self._more_headers)
        message = message_of(data, key, self, headers, digest, route.ledger)
        if self._json or route.show == "id":
            self._id = message.id
        self._unsettled += 1
        route.put(message)
        self.no_more_messages()

    def unpack(self) -> None:
        """Unpack a gzip body. Raises Refusal if it is broken or too large."""
        request, admission = self.request, self._admission
        if not request.body or not compression(request):
            return
        body = gunzip(request.body, self.route.max_body)
        more = max(len(body) - self._size, 0)
        if admission.bytes + more > admission.memory:
            raise Refusal(503, "too many bodies are being received")
        admission.bytes += more
        self._size += more
        request.body = body

    def __call__(self, outcome: Outcome, data: Any) -> None:
        """The message is settled; `data` is its data at the end."""
        # Runs in the thread that settles; for "lost" possibly in a finaliser, anywhere.
        route = self.route
        if get_ident() != route.thread or outcome.status == "lost":
            route.post(self._settled, outcome, data)
        else:
            self._settled(outcome, data)

    def outage(self) -> None:
        """An outage keeps a message from being stored for now. Any thread may call this."""
        self.route.out_of_order = True

    def _settled(self, outcome: Outcome, data: Any) -> None:
        route = self.route
        if outcome.status == "stored":
            route.out_of_order = False
        if self.answered:
            self._one_settled()
            return
        self._unsettled -= 1  # `answer` ends the count against admission
        self.answer(of_outcome(outcome, data, self._id, self._json, route.show))


def _headers_of(allowed: object) -> dict[str, str] | None:
    """The mapping that `authorize` returned, as headers; None if it is not one of str to str."""
    if not isinstance(allowed, Mapping):
        return None
    more: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", allowed).items():
        if not isinstance(name, str) or not isinstance(value, str):
            return None
        more[name.lower()] = value
    return more


def too_large(max_body: int) -> Refusal:
    """The refusal of a body above the limit."""
    return Refusal(413, f"the body is larger than {max_body} bytes")
