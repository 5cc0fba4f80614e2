"""HTTP as a source: each request is a message, and its answer is how the message ended.

Built of parts with one job each: `_request` (what was asked), `_decode`, `_multipart`,
`_parameters` and `_gzip` (to data), `_exchange` and `_lines` (one request, to its answer),
`_answers` and `_shown` (what is said), `_access` (what is logged of it), `_intake` (who is let in,
and waits), `_sites` (for whom, and from where), `_listener` (the actor), `_host` (what listeners
share), `_bind` and `_sockets` (addresses and TLS), `_engine`, `_accept`, `_http1` and `_parser`
(connections of our own), `_asgi` (the same behind another server). Only the parts from `_bind` on
know the transport.
"""

from __future__ import annotations

import builtins
import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast, get_args, overload

from tailrace.listen._bind import Address, TlsFiles, tls_context
from tailrace.listen._sockets import Place, UnixPath, parse_bind, url_of


def _needs(package: str | None) -> ModuleNotFoundError:
    text = f"listening for HTTP needs {package}: pip install 'tailrace[http]'"
    return ModuleNotFoundError(text, name=package)


try:
    from tailrace.listen._answers import Show
    from tailrace.listen._asgi import App
    from tailrace.listen._decode import Decoder
    from tailrace.listen._exchange import Gate, Limits
    from tailrace.listen._host import Host
    from tailrace.listen._intake import Intake
    from tailrace.listen._listener import ListenHttp
    from tailrace.listen._request import Request
    from tailrace.listen._sites import Sites
except ModuleNotFoundError as missing:
    if missing.name and missing.name.partition(".")[0] == "tailrace":
        raise
    raise _needs(missing.name) from missing

__all__ = ["HttpServer", "HttpStatistics", "ListenHttp", "Request", "listen_http"]

T = TypeVar("T")

Verdict = bool | Mapping[str, str]
Authorize = Callable[[Request], Verdict | Awaitable[Verdict]]
Body = Literal["auto", "json"]
MiB = 1024 * 1024

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[^?#%\s\x00-\x1f]*")


@dataclass(frozen=True)
class HttpStatistics:
    """What a server has to do, and has done. `in_flight` counts requests whose messages are not
    settled, `body_bytes` what their bodies took; `answers` counts by status."""

    connections: int
    in_flight: int
    body_bytes: int
    answers: Mapping[int, int]


class HttpServer:
    """An HTTP/1.1 server for one or more listeners, which `listen` makes.

    It begins to listen when the first of them is started and stops when the last has ended.

    - `bind`: ``"127.0.0.1:8080"``, ``":8080"`` (the loopback), ``"0.0.0.0:80"`` (everybody),
      port 0 for a free one; ``"unix:/run/app.sock"``, where the umask says who may connect;
      ``"fd:3"``, a listening socket that this process was started with; None to open no socket and
      be mounted (`app`) only.
    - `reuse_port`: whether other processes may listen on the same port, if they ask for it too: the
      system spreads clients over them.
    - `tls`: an SSLContext, or the files of certificate and key.
    - `in_flight`: how many requests may be at work at once; more hear 503.
    - `body_memory`: how many bytes the bodies of those may take together; more hear 503.
    - `connections`: how many there may be, TLS handshakes included; more hear 503, over TLS they
      are closed. None: 4096, or fewer where the limit of open files is lower. A quarter of that
      limit, at most 256, is left to the rest of the program in any case.
    - `max_head`: bytes of request line and headers; more hear 431.
    - `receive_timeout`: seconds that a client may take to send one request, or to take in an
      answer; `keep_alive`: seconds that a connection may be idle.
    - `access_log`: whether each answer is logged, at INFO to the logger ``tailrace.access``. The
      query is left out, as it may be the data.
    - `origins`: the sites whose pages may send here, besides the server's own:
      ``["https://app.example.com"]``, or ``"*"``. A browser that sends for another page
      (a foreign `Origin`, or `Sec-Fetch-Site: cross-site`) hears 403.
    - `hosts`: the names that the server answers for, ``["localhost", "127.0.0.1"]``; with a port
      if it must be that one. Requests with another `Host` hear 403. None: any.

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
            connections=None if connections is None else _count("connections", connections),
            max_head=_count("max_head", max_head),
            receive_timeout=_seconds("receive_timeout", receive_timeout),
            keep_alive=_seconds("keep_alive", keep_alive),
            sites=Sites(hosts, origins),
            reuse_port=reuse_port,
        )
        gate = Gate(_count("in_flight", in_flight), _count("body_memory", body_memory), access_log)
        asked = None if bind is None else parse_bind(bind)
        if reuse_port and not isinstance(asked, Address):
            raise ValueError(f"reuse_port is for a host and a port, not for bind={bind!r}")
        if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("reuse_port: this system cannot share a port")
        self._host = Host(asked, tls_context(tls), limits, gate)
        self._app = App(self._host.routes, gate, limits)

    def __repr__(self) -> str:
        host = self._host
        paths = ", ".join(host.routes) or "no paths"
        return f"<HttpServer {host.bind}: {paths}, {host.gate.in_flight} in flight>"

    @property
    def address(self) -> str:
        """``"127.0.0.1:8080"``: where it listens, with the port it got where 0 was asked for; a
        Unix socket as ``"unix:/run/app.sock"``.

        RuntimeError while that is not known (`ready` waits for it), or if there is no socket.
        """
        return str(self._place())

    @property
    def url(self) -> str:
        """`address` as a URL, without a path; a Unix socket as ``"http+unix://%2Frun%2Fapp.sock"``.
        Raises what `address` does."""
        return url_of(self._place(), "http" if self._host.tls is None else "https")

    def _place(self) -> Place:
        asked, address = self._host.asked, self._host.address
        if asked is None:
            raise RuntimeError("this server has no address: it is mounted only (bind=None)")
        known = asked.port if isinstance(asked, Address) else isinstance(asked, UnixPath)
        if address is None and not known:
            raise RuntimeError("this server does not listen yet: await server.ready()")
        return address or asked

    @property
    def app(self) -> App:
        """The listeners as an ASGI application, to be mounted in another, or served by another
        server. Their actors must run on the loop that calls it."""
        return self._app

    def statistics(self) -> HttpStatistics:
        """A frozen snapshot of the counters."""
        gate = self._host.gate
        return HttpStatistics(
            connections=self._host.connections,
            in_flight=gate.in_flight,
            body_bytes=gate.bytes,
            answers=MappingProxyType(dict(sorted(gate.answers.items()))),
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
        number, a dict, a dataclass, a TypedDict, a msgspec.Struct, an attrs class (in a field,
        structured data is written as JSON). An NDJSON body makes a message a line. Bodies may
        come as gzip.

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
        if _path(path) in self._host.routes:
            raise ValueError(f"path {path!r} is listened on already")
        if authorize is not None and not callable(authorize):
            raise TypeError(f"authorize must be a function of a Request, not {authorize!r}")
        memory = self._host.gate.memory
        if _count("max_body", max_body) > memory:
            raise ValueError(f"max_body {max_body} is more than the server's body_memory, {memory}")
        if body not in get_args(Body):
            raise ValueError(f"body must be one of {get_args(Body)}, not {body!r}")
        if answer not in get_args(Show):
            raise ValueError(f"answer must be one of {get_args(Show)}, not {answer!r}")
        intake = Intake(
            path,
            Decoder(type, _param(param), max_body, json=body == "json"),
            self._host.gate,
            timeout=_seconds("timeout", timeout),
            max_body=max_body,
            authorize=authorize,
            token=_token(token),
            id_header=_header("id_header", id_header),
            keep_headers=_headers("keep_headers", keep_headers),
            show=answer,
        )
        self._host.routes[path] = intake
        return ListenHttp(self, self._host, intake)

    async def ready(self) -> str:
        """Wait until the first listener is started and the server listens; returns its `url`.

        Of a server that is mounted only (``bind=None``) and so has no URL: wait until the first
        listener lets requests in; returns "". Raises what starting it raised. Cancelled: it
        starts all the same.
        """
        await self._host.ready()
        return "" if self._host.asked is None else self.url


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
        bind,
        tls=tls,
        in_flight=in_flight,
        access_log=access_log,
        origins=origins,
        hosts=hosts,
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


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must end: {value!r} does not")
    return float(value)


def _path(path: object) -> str:
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"path must begin with '/' and have no query, not {path!r}")
    return path


def _param(param: object) -> str:
    if not isinstance(param, str) or not param:
        raise ValueError(f"param must be the name of a field, not {param!r}")
    return param


def _token(token: object) -> str | None:
    if token is None or (isinstance(token, str) and token.isascii() and token.isprintable()):
        if token == "" or (token is not None and " " in token):
            raise ValueError("token must not be empty, nor have spaces")
        return token
    raise ValueError("token must be printable ASCII text")


def _header(argument: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{argument} must name a header, not {name!r}")
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{argument} must be the name of a header, not {name!r}")
    return name.lower()


def _headers(argument: str, names: object) -> frozenset[str]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be several names of headers, not {names!r}")
    return frozenset(_header(argument, name) for name in cast("Iterable[object]", names))
