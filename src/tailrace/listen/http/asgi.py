"""The listeners as an ASGI application, to be served by another server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

from tailrace.listen.http import answers
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.exchange import Exchange
from tailrace.listen.http.request import METHODS, Refusal, Request, check_host, expects, framing
from tailrace.listen.http.route import Route

__all__ = ["App"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class App:
    """The ASGI 3 application that `HttpServer.app` returns."""

    def __init__(self, routes: Mapping[str, Route], admission: Admission, limits: Limits) -> None:
        self._routes = routes
        self._admission = admission
        self._limits = limits

    def __repr__(self) -> str:
        return f"<ASGI app of {', '.join(self._routes) or 'no paths'}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Cancelled: a complete request is still carried out."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"{self!r} does not serve {kind!r}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request | None = None
        answer: Answer | None
        try:
            _limit_head(scope, self._limits.max_head)
            request = _request(scope)
            _check(scope, request)
            self._limits.sites.check(request.fields, scope.get("scheme", "http").encode())
            route = self._routes.get(request.path)
            if route is None:
                raise Refusal(404, "nobody listens on this path")
            loop = asyncio.get_running_loop()
            if route.accepting and loop is not route.loop:
                raise RuntimeError(
                    f"the actor of {route.path} runs on another loop than this request"
                )
            answered: asyncio.Future[Answer] = loop.create_future()
            exchange = route.open(request, partial(_set, answered))
        except Refusal as refusal:
            json = request is not None and request.wants_json
            answer = answers.of_refusal(refusal, json)
            self._admission.count_refusal(request, answer)
        else:
            try:
                answer = await answered if await self._receive(exchange, route, receive) else None
            finally:
                if not answered.done() or answered.cancelled():
                    exchange.client_left()
        if answer is None:
            return  # the client left
        headers = [
            (b"content-type", answer.kind),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
        ]
        body = b"" if scope["method"] == "HEAD" else answer.body
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except OSError:
            pass  # the client left

    async def _receive(self, exchange: Exchange, route: Route, receive: Receive) -> bool:
        """Feed the body to the exchange. False: the client left before the body ended."""
        seconds = self._limits.receive_timeout
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                route.receiving.add(timeout)  # a drain makes it shorter
                while not exchange.answered:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return False
                    body = event.get("body", b"")
                    if body:
                        exchange.feed(body)
                    if not event.get("more_body", False):
                        exchange.end()
                        break
        except TimeoutError:
            if route.draining:
                exchange.refuse(Refusal(503, "the server is stopping"))
            else:
                exchange.refuse(Refusal(408, f"no body within {seconds:g} s"))
        finally:
            route.receiving.discard(timeout)
        return True


def _set(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not answered.done():  # the request may have been cancelled in this turn of the loop
        answered.set_result(answer)


def _limit_head(scope: Scope, most: int) -> None:
    """Raise Refusal(431) if request line and headers are too large: not all servers limit them."""
    size = len(scope["path"]) + len(scope.get("query_string", b""))
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    if size > most:
        raise Refusal(431, f"request line and headers are larger than {most} bytes")


def _request(scope: Scope) -> Request:
    fields: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        name = name.lower()
        fields[name] = fields[name] + b", " + value if name in fields else value
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :].startswith("/"):
        path = path[len(root) :]  # mounted
    request = Request(scope["method"], path, scope.get("query_string", b""), fields)
    client = scope.get("client")
    if client:
        request.client = str(client[0])
    return request


def _check(scope: Scope, request: Request) -> None:
    """Raise Refusal for what our own parser would refuse, if the server let it through."""
    version = scope.get("http_version")
    names = [name.lower() for name, _ in scope["headers"]]
    for single in (b"host", b"content-length"):
        if names.count(single) > 1:
            raise Refusal(400, f"the {single.decode()} header is given twice")
    check_host(request.fields, needed=version == "1.1")
    framing(request.fields, old=version == "1.0")
    target: bytes = scope.get("raw_path") or b""
    if b"#" in target or (request.path == "*" and request.method != "OPTIONS"):
        raise Refusal(400, "the request target is not valid")
    if request.method.encode() not in METHODS:
        raise Refusal(501, "the method is not known")
    if version != "1.0":
        expects(request.fields)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
