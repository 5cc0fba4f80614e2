"""HttpServer and its listeners: what programs use, and the actor that makes messages."""

from __future__ import annotations

import asyncio
import builtins
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, cast, get_args, overload

from tailrace.arguments import check_count, check_seconds
from tailrace.channel import Sender
from tailrace.listen.http import arguments
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.answers import Show
from tailrace.listen.http.arguments import TlsFiles
from tailrace.listen.http.asgi import App
from tailrace.listen.http.decode import Decoder
from tailrace.listen.http.request import SECRET, Request
from tailrace.listen.http.route import Route
from tailrace.listen.http.server import Server
from tailrace.listen.http.sites import Sites
from tailrace.listen.http.sockets import Address, Place, UnixPath, parse_bind, url_of
from tailrace.message import Message

__all__ = ["HttpServer", "HttpStatistics", "ListenHttp", "listen_http"]

T = TypeVar("T")

Verdict = bool | Mapping[str, str]
Authorize = Callable[[Request], Verdict | Awaitable[Verdict]]
Body = Literal["auto", "json"]
MiB = 1024 * 1024


@dataclass(frozen=True)
class HttpStatistics:
    """A snapshot of a server's counters.

    - `connections`: open ones. `in_flight`: requests whose messages are not settled.
    - `body_bytes`: bytes that count against `body_memory`. `answers`: how many, by status.
    """

    connections: int
    in_flight: int
    body_bytes: int
    answers: Mapping[int, int]


class HttpServer:
    """An HTTP/1.1 server for one or more listeners, which `listen` makes.

    It listens from the start of its first listener to the end of its last listener.

    - `bind`: ``"127.0.0.1:8080"``, ``":8080"`` (the loopback), ``"0.0.0.0:80"`` (everybody),
      port 0 for a free one; ``"unix:/run/app.sock"``, where the umask says who may connect;
      ``"fd:3"``, a listening socket that this process was started with; None to open no socket and
      be mounted (`app`) only.
    - `reuse_port`: share the port with other processes that do the same; the system spreads clients
      over them.
    - `tls`: an SSLContext, or the files of certificate and key.
    - `in_flight`: how many requests may be unsettled at once; further ones are answered 503.
    - `body_memory`: how many bytes they may take together; further bodies are answered 503.
    - `connections`: how many there may be, TLS handshakes included. Further ones are answered 503;
      with TLS they are closed. None: 4096, or fewer if the limit of open files is lower. A quarter
      of that limit, at most 256, is always left to the rest of the program.
    - `max_head`: bytes of request line and headers; larger ones are answered 431.
    - `receive_timeout`: seconds in which a client must send a request, or read an answer.
      `keep_alive`: seconds that a connection may be idle.
    - `access_log`: whether each answer is logged, at INFO to the logger ``tailrace.access``. The
      query is left out, as it may be the data.
    - `origins`: the sites whose pages may send here, besides the server's own:
      ``["https://app.example.com"]``, or ``"*"``. A browser that sends for another page
      (a foreign `Origin`, or `Sec-Fetch-Site: cross-site`) is answered 403.
    - `hosts`: the names that the server answers for, ``["localhost", "127.0.0.1"]``; with a port
      if it must be that one. Requests with another `Host` are answered 403. None: any.

    ValueError, TypeError or OSError, which name the argument, for what cannot work.
    """

    def __init__(
        self,
        bind: str | None,
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | TlsFiles | None = None,
        in_flight: int = 1024,
        body_memory: int = 256 * MiB,
        connections: int | None = None,
        max_head: int = 16 * 1024,
        receive_timeout: float = 30.0,
        keep_alive: float = 75.0,
        access_log: bool = False,
        origins: Iterable[str] = (),
        hosts: Iterable[str] | None = None,
    ) -> None:
        limits = Limits(
            connections=None if connections is None else check_count("connections", connections),
            max_head=check_count("max_head", max_head),
            receive_timeout=check_seconds("receive_timeout", receive_timeout, positive=True),
            keep_alive=check_seconds("keep_alive", keep_alive, positive=True),
            sites=Sites(hosts, origins),
            reuse_port=reuse_port,
        )
        in_flight = check_count("in_flight", in_flight)
        admission = Admission(in_flight, check_count("body_memory", body_memory), access_log)
        requested = None if bind is None else parse_bind(bind)
        if reuse_port and not isinstance(requested, Address):
            raise ValueError(f"reuse_port is for a host and a port, not for bind={bind!r}")
        if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("reuse_port: this system cannot share a port")
        self._server = Server(requested, arguments.tls(tls), limits, admission)
        self._app = App(self._server.routes, admission, limits)

    def __repr__(self) -> str:
        server = self._server
        paths = ", ".join(server.routes) or "no paths"
        return f"<HttpServer {server.bind}: {paths}, {server.admission.in_flight} in flight>"

    @property
    def address(self) -> str:
        """Where it listens: ``"127.0.0.1:8080"`` (the real port, if 0 was asked for), or
        ``"unix:/run/app.sock"``.

        RuntimeError while the port is not known (`ready` waits for it), or if there is no socket.
        """
        return str(self._place())

    @property
    def url(self) -> str:
        """`address` as a URL, without a path; a Unix socket as ``"http+unix://%2Frun%2Fapp.sock"``.
        Raises what `address` does."""
        return url_of(self._place(), "http" if self._server.tls is None else "https")

    def _place(self) -> Place:
        requested, address = self._server.requested, self._server.address
        if requested is None:
            raise RuntimeError("this server has no address: it is mounted only (bind=None)")
        known = (
            requested.port if isinstance(requested, Address) else isinstance(requested, UnixPath)
        )
        if address is None and not known:
            raise RuntimeError("this server does not listen yet: await server.ready()")
        return address or requested

    @property
    def app(self) -> App:
        """The listeners as an ASGI application, to be mounted in another, or served by another
        server. Their actors must run on the loop that calls it."""
        return self._app

    def statistics(self) -> HttpStatistics:
        """The counters at this moment."""
        admission = self._server.admission
        return HttpStatistics(
            connections=self._server.connections,
            in_flight=admission.in_flight,
            body_bytes=admission.bytes,
            answers=MappingProxyType(dict(sorted(admission.answers.items()))),
        )

    @overload
    def listen(
        self,
        path: str,
        *,
        type: builtins.type[str] = ...,
        param: str = ...,
        timeout: float = ...,
        max_body: int = ...,
        body: Body = ...,
        authorize: Authorize | None = ...,
        token: str | None = ...,
        id_header: str = ...,
        keep_headers: Iterable[str] = ...,
        answer: Show = ...,
    ) -> ListenHttp[str]: ...

    @overload
    def listen(
        self,
        path: str,
        *,
        type: builtins.type[T],
        param: str = ...,
        timeout: float = ...,
        max_body: int = ...,
        body: Body = ...,
        authorize: Authorize | None = ...,
        token: str | None = ...,
        id_header: str = ...,
        keep_headers: Iterable[str] = ...,
        answer: Show = ...,
    ) -> ListenHttp[T]: ...

    def listen(
        self,
        path: str,
        *,
        type: Any = str,
        param: str = "data",
        timeout: float = 30.0,
        max_body: int = MiB,
        body: Body = "auto",
        authorize: Authorize | None = None,
        token: str | None = None,
        id_header: str = "idempotency-key",
        keep_headers: Iterable[str] = (),
        answer: Show = "data",
    ) -> ListenHttp[Any]:
        """An actor that sends a `Message` for each request for `path`.

        The data is the query's or form's field `param`, or a JSON body, as a `type`: str, a
        number, a dict, a dataclass, a TypedDict, a msgspec.Struct, an attrs class, a pydantic
        model (in a field, structured data is written as JSON). An NDJSON body makes a message a
        line. Bodies may come as gzip.

        - `timeout`: seconds until a request whose message is not settled is answered 504.
        - `max_body`: bytes of a body, also when unpacked; more are answered 413 as soon as they
          come.
        - `body`: ``"json"`` takes a body of any Content-Type for JSON; else ``application/json``
          and types that end in ``+json`` are. NDJSON stays NDJSON. The query is no data then, and
          GET is answered 405.
        - `authorize(request)`: True lets it in, False is answered 403; so does a mapping of str to
          str let it in, which becomes headers of the message. It may be async.
        - `token`: what clients must send as ``Authorization: Bearer …``, else 401.
        - `id_header`: the header that becomes the message's id, so a store keeps a repeat once.
        - `keep_headers`: of ``authorization``, ``proxy-authorization`` and ``cookie``, those that
          the message is to have among its headers; all others it has anyway.
        - `answer`: what is said of a message that is stored or aborted: its ``"data"`` or the
          result of its ack, its ``"id"``, or nothing (``"empty"``).

        ValueError or TypeError, which name the argument, for what cannot work.
        """
        if arguments.path(path) in self._server.routes:
            raise ValueError(f"path {path!r} is listened on already")
        if authorize is not None and not callable(authorize):
            raise TypeError(f"authorize must be a function of a Request, not {authorize!r}")
        memory = self._server.admission.memory
        if check_count("max_body", max_body) > memory:
            raise ValueError(f"max_body {max_body} is more than the server's body_memory, {memory}")
        if body not in get_args(Body):
            raise ValueError(f"body must be one of {get_args(Body)}, not {body!r}")
        if answer not in get_args(Show):
            raise ValueError(f"answer must be one of {get_args(Show)}, not {answer!r}")
        route = Route(
            path=path,
            decoder=Decoder(type, arguments.param(param), max_body, json=body == "json"),
            admission=self._server.admission,
            timeout=check_seconds("timeout", timeout, positive=True),
            max_body=max_body,
            authorize=authorize,
            bearer=arguments.token(token),
            id_header=arguments.header("id_header", id_header),
            hidden=SECRET - arguments.headers("keep_headers", keep_headers),
            show=answer,
        )
        self._server.routes[path] = route
        return ListenHttp(self, self._server, route)

    async def ready(self) -> str:
        """Wait until the first listener is started and the server listens; returns its `url`.

        Of a server that is mounted only (``bind=None``) and so has no URL: wait until the first
        listener lets requests in; returns "". Raises what starting it raised. Cancelled: it
        starts all the same.
        """
        await self._server.ready()
        return "" if self._server.requested is None else self.url


class ListenHttp(Generic[T]):
    """An actor that makes a message of each request for `path`; `HttpServer.listen` makes it.

    Start it with ``go(listener, channel)``, once. It ends when it is drained, or when its channel
    closes. A drained listener lets go of the channel as soon as no request can make a message any
    more; its `finish` waits for the answers.
    """

    name = "listen_http"  # what graphs and test kits call this actor

    def __init__(self, server: HttpServer, shared: Server, route: Route) -> None:
        self.server = server
        self._shared = shared
        self._route = route
        self._sent_all: asyncio.Event | None = None  # None: not running
        self._answering: asyncio.Task[None] | None = (
            None  # once it sends no more; see `_answer_all`
        )

    def __repr__(self) -> str:
        route = self._route
        state = "not running"
        if self._sent_all is not None:
            state = f"{route.unanswered} unanswered{', draining' if route.draining else ''}"
        return f"<listen_http {self._shared.bind} {route.path}: {state}>"

    @property
    def path(self) -> str:
        """The path of its requests."""
        return self._route.path

    async def __call__(self, out: Sender[Message[T]]) -> None:
        """Listen until drained; return when no request can make a message any more.

        `finish` waits for the requests whose messages are unsettled then. Raises OSError, which
        names the address, if the socket cannot be opened; `Closed` if the channel closes, once
        all requests are answered (503 where the message was not sent). Cancelled: a request whose
        message was not sent is answered 503, any other 504.
        """
        if self._sent_all is not None:
            raise RuntimeError(f"{self!r} is running already: start it once, with actors=1")
        self._sent_all = sent_all = asyncio.Event()
        self._answering = None
        try:
            self._route.start()  # before the socket opens, so no early client is answered 503
            await self._shared.listener_started(self._route)
            await self._forward(out)
        except asyncio.CancelledError:
            self._route.refuse_queued("the server is stopping")
            self._route.abandon()
            raise
        else:
            # This is a task, not the body of `finish`, since the socket must close: a group that is
            # cancelled between the end of this actor and `finish` does not call `finish`.
            self._answering = asyncio.create_task(self._answer_all(), name=f"{self.name}.answers")
        finally:
            sent_all.set()
            if self._answering is None:  # it was cancelled, or could not listen or send
                await self._leave()

    async def _forward(self, out: Sender[Message[T]]) -> None:
        try:
            await self._route.forward(out)
        except Exception:
            self._route.refuse_queued("the program takes no more messages")
            await self._route.all_answered()
            raise

    async def _answer_all(self) -> None:
        """Wait until all requests are answered, then leave the server."""
        try:
            await self._route.all_answered()
        except asyncio.CancelledError:
            self._route.abandon()
            raise
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Stop the route; the last listener to leave closes the socket and the connections."""
        self._route.stop()
        await self._shared.listener_ended(self._route)
        self._sent_all = None

    async def drain(self) -> None:
        """Admit no more requests, and wait until no admitted request can make a message any more.

        Later requests are answered 503, or their connections refused. Cancelled: the listener
        drains all the same.
        """
        self._route.drain()
        self._shared.listener_drains()
        if self._sent_all is not None:
            await self._sent_all.wait()

    async def finish(self) -> None:
        """Wait until all requests are answered and their connections have ended.

        The group calls it once the listener has let go of the channel. Cancelled: requests without
        an answer are answered 504.
        """
        if self._answering is not None:
            await self._answering


@overload
def listen_http(
    bind: str,
    path: str,
    *,
    tls: ssl.SSLContext | TlsFiles | None = ...,
    in_flight: int = ...,
    origins: Iterable[str] = ...,
    hosts: Iterable[str] | None = ...,
    type: builtins.type[str] = ...,
    param: str = ...,
    timeout: float = ...,
    max_body: int = ...,
    body: Body = ...,
    authorize: Authorize | None = ...,
    token: str | None = ...,
    id_header: str = ...,
    keep_headers: Iterable[str] = ...,
    answer: Show = ...,
    access_log: bool = ...,
) -> ListenHttp[str]: ...


@overload
def listen_http(
    bind: str,
    path: str,
    *,
    tls: ssl.SSLContext | TlsFiles | None = ...,
    in_flight: int = ...,
    origins: Iterable[str] = ...,
    hosts: Iterable[str] | None = ...,
    type: builtins.type[T],
    param: str = ...,
    timeout: float = ...,
    max_body: int = ...,
    body: Body = ...,
    authorize: Authorize | None = ...,
    token: str | None = ...,
    id_header: str = ...,
    keep_headers: Iterable[str] = ...,
    answer: Show = ...,
    access_log: bool = ...,
) -> ListenHttp[T]: ...


def listen_http(
    bind: str,
    path: str,
    *,
    tls: ssl.SSLContext | TlsFiles | None = None,
    in_flight: int = 1024,
    origins: Iterable[str] = (),
    hosts: Iterable[str] | None = None,
    type: Any = str,
    param: str = "data",
    timeout: float = 30.0,
    max_body: int = MiB,
    body: Body = "auto",
    authorize: Authorize | None = None,
    token: str | None = None,
    id_header: str = "idempotency-key",
    keep_headers: Iterable[str] = (),
    answer: Show = "data",
    access_log: bool = False,
) -> ListenHttp[Any]:
    """An HTTP server for one path, as an actor: ``go(listen_http(":8080", "/incoming"), ch)``.

    `bind`, `tls`, `in_flight`, `access_log`, `origins` and `hosts` are as for `HttpServer`, the
    rest as for `HttpServer.listen`; the server is the actor's `server`. TypeError for
    ``bind=None``: ``HttpServer(None).listen(path)`` is for servers that are mounted only.
    """
    if cast("object", bind) is None:
        raise TypeError(
            f"listen_http needs an address to listen on, like '127.0.0.1:8080': nobody could reach "
            f"{path!r}; a server that is mounted in another is an HttpServer(None)"
        )
    server = HttpServer(
        bind, tls=tls, in_flight=in_flight, access_log=access_log, origins=origins, hosts=hosts
    )
    return server.listen(
        path,
        type=type,
        param=param,
        timeout=timeout,
        max_body=max_body,
        body=body,
        authorize=authorize,
        token=token,
        id_header=id_header,
        keep_headers=keep_headers,
        answer=answer,
    )
