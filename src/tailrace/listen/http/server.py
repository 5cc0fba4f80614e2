"""The socket that the listeners of a server share, and its connections.

- `Server` lives as long as the HttpServer. Its first listener opens the socket, its last listener
  closes it.
- `Connections` lives while the socket is open. It admits connections, enforces their deadlines, and
  ends all of them when the server stops.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from tailrace.listen.http import answers
from tailrace.listen.http.accept import (
    Acceptor,
    ThrottledLog,
    connections_allowed,
    descriptor_limit,
)
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.connection import Connection
from tailrace.listen.http.protocol import HttpProtocol, Supervisor
from tailrace.listen.http.request import Refusal
from tailrace.listen.http.route import RECEIVE_IN_DRAIN, Route
from tailrace.listen.http.service import Service, render
from tailrace.listen.http.sockets import Listening, Place, listen_on

__all__ = ["Connections", "Server"]

IDLE: Final = 0.5  # seconds after an answer in which the client may already have sent a request
FLUSH: Final = 2.0  # seconds between two looks for clients that do not read, when the server stops
HANDSHAKE: Final = 10.0  # seconds for a TLS handshake
TURNED_AWAY: Final = 16  # connections above the limit that stay open, so that the client reads 503
TURNED_AWAY_SECONDS: Final = 1.0  # how long each of these stays open


class Connections(Supervisor):
    """The open socket of a server and its connections, on the running loop."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        admission: Admission,
        limits: Limits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        secure = tls is not None
        super().__init__(
            Service(routes, admission, limits, tls=secure, time=loop.time, call_soon=loop.call_soon)
        )
        self._tls = tls
        self._reuse_port = limits.reuse_port
        self._max_connections = connections_allowed(limits.connections)
        self._descriptors = descriptor_limit()
        self._throttled = ThrottledLog(loop.time)
        self._acceptor: Acceptor | None = None
        self._listening: Listening | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._joining: dict[HttpProtocol, asyncio.Task[None]] = {}  # these get their transports
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Connections: {len(self)}>"

    def __len__(self) -> int:
        return len(self._protocols)

    async def start(self, requested: Place) -> Place:
        """Listen, and return the address with its port. Raises OSError, which names the address."""
        self._listening = listening = listen_on(requested, self._reuse_port)
        try:
            self._acceptor = Acceptor(listening.sockets, self._admit)
        except BaseException:
            listening.close()
            raise
        self._sweep()
        return listening.address

    def shorten_deadlines(self) -> None:
        """A listener drains: its incomplete requests get RECEIVE_IN_DRAIN seconds at most."""
        for connection in self._connected():
            connection.shorten_deadline()
        if self._drain_timer is None:
            self._drain_timer = self._loop.call_later(RECEIVE_IN_DRAIN, self._check_deadlines)

    async def stop(self) -> None:
        """Stop listening, and wait for the connections to end. All requests are answered.

        1. Close the connections that have been idle for IDLE seconds. A client that was answered
           more recently may have sent its next request: that is answered 503.
        2. After IDLE seconds close the others, except those whose clients read an answer.
        3. Cut off each client that has read nothing for STALLED seconds, or whose
           `receive_timeout` passes.

        Cancelled: all connections are cut off at once.
        """
        self.service.draining = True
        try:
            self._block_new_clients()
            for _ in range(3):  # until accepted sockets have transports
                await asyncio.sleep(0)
            for connection in self._connected():
                connection.close_if_idle(since=self._loop.time() - IDLE)
            if not await self._ended(IDLE):
                self._cancel_joining()
                for connection in self._connected():
                    connection.close_unless_reading()
                while not await self._ended(FLUSH):
                    for protocol in list(self._protocols):
                        if protocol.connected and protocol.stalled():
                            protocol.connection.abort()
        finally:
            self.stopped = True
            self._stop_listening()
            for timer in (self._sweeper, self._drain_timer):
                if timer is not None:
                    timer.cancel()
            self._close_turned_away(0)
            self._cancel_joining()
            for connection in self._connected():
                connection.abort()

    def _block_new_clients(self) -> None:
        listening, acceptor = self._listening, self._acceptor
        if listening is None or acceptor is None:
            return
        listening.block_new_clients()
        if not listening.inherited:  # of an inherited socket, the next process accepts them
            acceptor.accept_waiting()
        if listening.inherited or listening.shared:  # other processes take the new clients
            self._stop_listening()

    def _stop_listening(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        listening, self._listening = self._listening, None
        if acceptor is not None:
            acceptor.close()
        if listening is not None:
            listening.close()

    def _cancel_joining(self) -> None:
        for joining in list(self._joining.values()):
            joining.cancel()

    def _connected(self) -> Iterable[Connection]:
        """The connections whose protocols have a transport."""
        return [protocol.connection for protocol in self._protocols if protocol.connected]

    async def _ended(self, seconds: float) -> bool:
        """Whether all connections end within `seconds`."""
        if not self._protocols:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    # --- accepting --------------------------------------------------------------------------

    def _admit(self, accepted: socket.socket) -> None:
        """A client has connected: from now on, its connection counts against the limit."""
        full = len(self) >= self._max_connections
        if self._descriptors is not None and accepted.fileno() >= self._descriptors:
            self._throttled.warn(
                "%d connections are all that the limit of open files allows; raise it (ulimit -n)",
                len(self),
            )
            full = True
        if full:
            self._turn_away(accepted)
            return
        protocol = HttpProtocol(self.service, self)
        self._protocols.add(protocol)
        self._joining[protocol] = self._loop.create_task(self._join(protocol, accepted))

    async def _join(self, protocol: HttpProtocol, accepted: socket.socket) -> None:
        """Give a protocol its transport."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else HANDSHAKE,
            )
        except OSError:  # the handshake failed or took too long, or the client left
            pass
        finally:
            del self._joining[protocol]
            if not protocol.connected:
                accepted.close()
                protocol.connection_lost(None)

    def _turn_away(self, accepted: socket.socket) -> None:
        """Answer 503, without a transport or a task. With TLS only close: an answer would take a
        handshake."""
        if self._tls is not None:
            accepted.close()
            return
        service = self.service
        answer = answers.of_refusal(Refusal(503, "too many connections"), json=False)
        service.admission.count_refusal(None, answer)
        try:
            accepted.send(render(service.answer_head(answer), answer, None, last=True))
            accepted.shutdown(socket.SHUT_WR)
        except OSError:
            accepted.close()
            return
        self._close_turned_away(TURNED_AWAY - 1)
        self._turned_away.append((self._loop.time() + TURNED_AWAY_SECONDS, accepted))

    def _close_turned_away(self, most: int) -> None:
        """Close the oldest connections that were turned away, until `most` are left."""
        while len(self._turned_away) > most:
            _, oldest = self._turned_away.popleft()
            try:
                oldest.recv(65536)  # a socket that is closed with unread bytes is reset
            except OSError:
                pass
            oldest.close()

    # --- time -------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """About once a second: renew the date of answers, and look for deadlines that passed."""
        shortest = min(self.service.receive_timeout, self.service.keep_alive)
        self._sweeper = self._loop.call_later(min(1.0, shortest / 4), self._sweep)
        self.service.renew_date()
        now = self._loop.time()
        self._close_turned_away(sum(until > now for until, _ in self._turned_away))
        for protocol in self._write_paused:
            protocol.count_unsent()
        self._check_deadlines()

    def _check_deadlines(self) -> None:
        now = self._loop.time()
        for connection in self._connected():
            if connection.deadline <= now:
                connection.deadline_passed()


class Server:
    """What the listeners of an HttpServer share: routes, limits, and the socket while one runs."""

    def __init__(
        self,
        requested: Place | None,
        tls: ssl.SSLContext | None,
        limits: Limits,
        admission: Admission,
    ) -> None:
        self.requested = requested
        self.address: Place | None = None  # with its port; None while the socket is not open
        self.admission = admission
        self.routes: dict[str, Route] = {}
        self.tls = tls
        self._limits = limits
        self._running: set[Route] = set()
        self._connections: Connections | None = None
        self._started: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Server {self.bind}: {len(self._running)} listeners running>"

    @property
    def bind(self) -> str:
        """The address as text; until the port is known, as it was requested."""
        return "(mounted)" if self.requested is None else str(self.address or self.requested)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return 0 if self._connections is None else len(self._connections)

    async def ready(self) -> None:
        """Wait until a listener runs and the socket listens (if there is one).

        Raises what opening the socket raised. Cancelled: nothing changes.
        """
        while not self._running:
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(begun)
            try:
                await begun
            finally:
                self._waiting.remove(begun)
        if self._started is not None:
            await asyncio.shield(self._started)

    async def listener_started(self, route: Route) -> None:
        """A listener has started. The first one opens the socket; raises OSError if it cannot."""
        self._running.add(route)
        for begun in self._waiting:
            if not begun.done():
                begun.set_result(None)
        if self.requested is None:
            return
        if self._started is None:
            self._connections = Connections(self.routes, self.admission, self._limits, self.tls)
            self._started = asyncio.create_task(self._start(self._connections, self.requested))
        await asyncio.shield(self._started)

    async def _start(self, connections: Connections, requested: Place) -> None:
        self.address = await connections.start(requested)

    def listener_drains(self) -> None:
        """A listener drains. When all of them do, each connection ends with its next answer."""
        if self._connections is not None:
            if all(route.draining for route in self._running):
                self._connections.service.draining = True
            self._connections.shorten_deadlines()

    async def listener_ended(self, route: Route) -> None:
        """A listener has ended. The last one stops the server: see `Connections.stop`.

        Cancelled: connections are cut off at once.
        """
        self._running.discard(route)
        if self._running or self._connections is None or self._started is None:
            return
        connections, started = self._connections, self._started
        self._connections = self._started = None
        started.cancel()
        await asyncio.wait([started])
        if not started.cancelled():
            started.exception()  # retrieved here; every listener has raised it
        await connections.stop()
        self.address = None
