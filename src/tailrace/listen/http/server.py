"""The socket that the listeners of a server share, and its connections.

- `Server` lives as long as the HttpServer. Its first listener opens the socket, its last listener
  closes it.
- `Connections` lives while the socket is open: it admits connections, ends those that take too
  long, and brings all of them to an orderly end.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from tailrace.listen.http import answers
from tailrace.listen.http.accept import Acceptor, Seldom, connections_allowed, descriptor_limit
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.connection import Connection
from tailrace.listen.http.protocol import HttpProtocol, Supervisor
from tailrace.listen.http.request import Refusal
from tailrace.listen.http.route import RECEIVE_IN_DRAIN, Route
from tailrace.listen.http.service import Service, render
from tailrace.listen.http.sockets import Listening, Place, listen_on

__all__ = ["Connections", "Server"]

IDLE: Final = 0.5  # seconds: a client that was answered so recently may have sent a request
FLUSH: Final = 2.0  # seconds between looks at which clients still read their answers
HANDSHAKE: Final = 10.0
TURNED_AWAY: Final = 16  # connections above the limit that are kept while the client reads 503,
TURNED_AWAY_SECONDS: Final = 1.0  # for as long as this


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
        self._seldom = Seldom(loop.time)
        self._acceptor: Acceptor | None = None
        self._listening: Listening | None = None
        self._hurry: asyncio.TimerHandle | None = None
        self._joining: dict[HttpProtocol, asyncio.Task[None]] = {}  # to their transports
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Connections: {len(self)}>"

    def __len__(self) -> int:
        return len(self._protocols)

    async def start(self, asked: Place) -> Place:
        """Listen; return the address with its port. Raises OSError, which names the address."""
        self._listening = listening = listen_on(asked, self._reuse_port)
        try:
            self._acceptor = Acceptor(listening.sockets, self._admit)
        except BaseException:
            listening.close()
            raise
        self._sweep()
        return listening.address

    def hurry(self) -> None:
        """A listener drains: incomplete requests for it must be complete soon."""
        for connection in self._made():
            connection.hurry()
        if self._hurry is None:
            self._hurry = self._loop.call_later(RECEIVE_IN_DRAIN, self._expire)

    async def stop(self) -> None:
        """Stop listening, and wait for the connections to end.

        A client that was answered just now may have sent its next request: it is answered 503, not
        cut off. A client that reads an answer has `receive_timeout` for it. Cancelled: connections
        are cut off at once.
        """
        self.service.draining = True
        try:
            self._block_new_clients()
            for _ in range(3):  # until accepted sockets have transports
                await asyncio.sleep(0)
            for connection in self._made():
                connection.retire(before=self._loop.time() - IDLE)
            if not await self._ended(IDLE):
                self._cancel_joining()
                for connection in self._made():
                    connection.conclude()
                while not await self._ended(FLUSH):
                    for protocol in list(self._protocols):
                        if protocol.made and protocol.stalled():
                            protocol.connection.abort()
        finally:
            self.stopped = True
            self._stop_listening()
            for timer in (self._sweeper, self._hurry):
                if timer is not None:
                    timer.cancel()
            self._close_turned_away(0)
            self._cancel_joining()
            for connection in self._made():
                connection.abort()

    def _block_new_clients(self) -> None:
        listening, acceptor = self._listening, self._acceptor
        if listening is None or acceptor is None:
            return
        listening.block_new_clients()
        if not listening.inherited:  # else the next process accepts those who have connected
            acceptor.accept_waiting()
        if listening.inherited or listening.shared:  # new clients go to the others at once
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

    def _made(self) -> Iterable[Connection]:
        """The connections that have a transport."""
        return [protocol.connection for protocol in self._protocols if protocol.made]

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
        """A client has connected. Its connection counts from here on."""
        full = len(self) >= self._max_connections
        if self._descriptors is not None and accepted.fileno() >= self._descriptors:
            self._seldom.warn(
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
            if not protocol.made:
                accepted.close()
                protocol.connection_lost(None)

    def _turn_away(self, accepted: socket.socket) -> None:
        """Answer 503 without a transport or a task. With TLS only close: an answer would need a
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
                oldest.recv(65536)  # closed with bytes unread, it would be reset
            except OSError:
                pass
            oldest.close()

    # --- time -------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Now and then: end what takes too long, and renew the date of answers."""
        shortest = min(self.service.receive_timeout, self.service.keep_alive)
        self._sweeper = self._loop.call_later(min(1.0, shortest / 4), self._sweep)
        self.service.renew_date()
        now = self._loop.time()
        self._close_turned_away(sum(until > now for until, _ in self._turned_away))
        for protocol in self._write_paused:
            protocol.count_unsent()
        self._expire()

    def _expire(self) -> None:
        now = self._loop.time()
        for connection in self._made():
            if connection.deadline <= now:
                connection.expire()


class Server:
    """What the listeners of one HttpServer share: its routes, its limits and its socket."""

    def __init__(
        self, asked: Place | None, tls: ssl.SSLContext | None, limits: Limits, admission: Admission
    ) -> None:
        self.asked = asked
        self.address: Place | None = None  # with its port; None unless it listens
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
        """The address as text; as it was asked for until the port is known."""
        return "(mounted)" if self.asked is None else str(self.address or self.asked)

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

    async def entered(self, route: Route) -> None:
        """A listener has started. The first one opens the socket; raises OSError if it cannot."""
        self._running.add(route)
        for begun in self._waiting:
            if not begun.done():
                begun.set_result(None)
        if self.asked is None:
            return
        if self._started is None:
            self._connections = Connections(self.routes, self.admission, self._limits, self.tls)
            self._started = asyncio.create_task(self._start(self._connections, self.asked))
        await asyncio.shield(self._started)

    async def _start(self, connections: Connections, asked: Place) -> None:
        self.address = await connections.start(asked)

    def drained(self) -> None:
        """A listener drains. When all listeners drain, each answer is its connection's last."""
        if self._connections is not None:
            if all(route.draining for route in self._running):
                self._connections.service.draining = True
            self._connections.hurry()

    async def left(self, route: Route) -> None:
        """A listener has ended. The last one closes the socket and all connections.

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
            started.exception()  # every listener has raised it
        await connections.stop()
        self.address = None
