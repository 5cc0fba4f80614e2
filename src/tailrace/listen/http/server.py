"""Engine: the listening socket and all of its connections, from start to an orderly stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from email.utils import formatdate
from typing import Final

from tailrace.listen.http import answers
from tailrace.listen.http.accept import Acceptor, Seldom, connections_allowed, descriptor_limit
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.answers import Answer, phrase
from tailrace.listen.http.connection import Connection, render
from tailrace.listen.http.request import Refusal
from tailrace.listen.http.route import RECEIVE_IN_DRAIN, Route
from tailrace.listen.http.sockets import Listening, Place, listen_on

__all__ = ["Server"]

IDLE: Final = 0.5  # seconds: who was answered that recently may be about to ask again
FLUSH: Final = 2.0  # seconds for the last answers to be written, before we look who stalls
HANDSHAKE: Final = 10.0
TURNED_AWAY: Final = 16  # connections beyond the limit that are kept until 503 has been read,
TURNED_AWAY_SECONDS: Final = 1.0  # for as long as that


class Connections:
    """Serves `routes` on one socket, on the running loop."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        admission: Admission,
        limits: Limits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.routes = routes
        self.admission = admission
        self.max_connections = connections_allowed(limits.connections)
        self._descriptors = descriptor_limit()
        self.max_head = limits.max_head
        self.receive_timeout = limits.receive_timeout
        self.keep_alive = limits.keep_alive
        self.tls = tls
        self._reuse_port = limits.reuse_port
        self.sites = limits.sites
        self.scheme = b"http" if tls is None else b"https"
        self.connections: set[Connection] = set()
        self.draining = False
        self.stopped = False
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self.call_soon = loop.call_soon
        self._loop = loop
        self._seldom = Seldom(loop.time)
        self._acceptor: Acceptor | None = None
        self._listening: Listening | None = None
        self._write_paused: dict[Connection, None] = {}  # whose answers wait, the longest first
        self._hurry: asyncio.TimerHandle | None = None
        self._joining: dict[Connection, asyncio.Task[None]] = {}  # TLS shakes hands
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self.starts: dict[tuple[int, bytes], bytes] = {}  # heads of answers, for a second
        self._date = ""

    def __repr__(self) -> str:
        return f"<Connections {len(self.connections)} connections>"

    async def start(self, asked: Place) -> Place:
        """Listen; the address with its port. OSError, which names the address, if it cannot."""
        self._listening = listening = listen_on(asked, self._reuse_port)
        try:
            self._acceptor = Acceptor(listening.sockets, self._admit)
        except BaseException:
            listening.close()
            raise
        self._sweep()
        return listening.address

    def drain(self) -> None:
        """From now on each answer is the last of its connection."""
        self.draining = True

    def hurry(self) -> None:
        """A listener drains: what is incomplete for it must come soon."""
        for connection in self.connections:
            connection.hurry()
        if self._hurry is None:
            self._hurry = self._loop.call_later(RECEIVE_IN_DRAIN, self._expire)

    async def stop(self) -> None:
        """Listen no more, and let connections end.

        Who was answered just now may have sent the next request already: it is answered (503)
        rather than cut off. A client that takes in an answer is waited for, for `receive_timeout`.
        Cancelled: connections are cut off at once.
        """
        self.draining = True
        try:
            self._let_nobody_in()
            for _ in range(3):  # until those are connections
                await asyncio.sleep(0)
            for connection in list(self.connections):
                connection.retire(before=self.time() - IDLE)
            if not await self._ended(IDLE):
                for joining in list(self._joining.values()):
                    joining.cancel()
                for connection in list(self.connections):
                    connection.conclude()
                while not await self._ended(FLUSH):
                    for connection in list(self.connections):
                        if connection.stalled():
                            connection.abort()
        finally:
            self.stopped = True
            self._stop_listening()
            for timer in (self._sweeper, self._hurry):
                if timer is not None:
                    timer.cancel()
            self._forget_turned_away(0)
            for joining in list(self._joining.values()):
                joining.cancel()
            for connection in list(self.connections):
                connection.abort()

    def _let_nobody_in(self) -> None:
        listening, acceptor = self._listening, self._acceptor
        if listening is None or acceptor is None:
            return
        listening.let_nobody_in()
        if not listening.inherited:  # else the next process answers them
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

    async def _ended(self, seconds: float) -> bool:
        """Whether all connections have ended within `seconds`."""
        if not self.connections:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    # --- connections ------------------------------------------------------------------------

    def _admit(self, accepted: socket.socket) -> None:
        """A client has connected. From here on its connection counts."""
        full = len(self.connections) >= self.max_connections
        if self._descriptors is not None and accepted.fileno() >= self._descriptors:
            self._seldom.warn(
                "%d connections are all that the limit of open files allows; raise it (ulimit -n)",
                len(self.connections),
            )
            full = True
        if full:
            self._turn_away(accepted)
            return
        connection = Connection(self)
        self.connections.add(connection)
        self._joining[connection] = self._loop.create_task(self._join(connection, accepted))

    async def _join(self, connection: Connection, accepted: socket.socket) -> None:
        """Give a connection its transport."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else HANDSHAKE,
            )
        except OSError:  # the handshake failed or took too long, or the client is gone
            pass
        finally:
            del self._joining[connection]
            if not connection.made:
                accepted.close()
                connection.connection_lost(None)

    def _turn_away(self, accepted: socket.socket) -> None:
        """Say 503, without a transport or a task. To a client of TLS nothing can be said before
        its handshake."""
        if self.tls is not None:
            accepted.close()
            return
        refusal = Refusal(503, "too many connections")
        answer = answers.of_refusal(refusal, json=False)
        self.admission.count_refusal(None, answer)
        try:
            accepted.send(render(self.start_of_answer(answer), answer, None, last=True))
            accepted.shutdown(socket.SHUT_WR)
        except OSError:
            accepted.close()
            return
        self._forget_turned_away(TURNED_AWAY - 1)
        self._turned_away.append((self.time() + TURNED_AWAY_SECONDS, accepted))

    def _forget_turned_away(self, most: int) -> None:
        """Close the oldest of the connections that were turned away, until so many are left."""
        while len(self._turned_away) > most:
            _, oldest = self._turned_away.popleft()
            try:
                oldest.recv(65536)  # closed with bytes unread, it would be reset
            except OSError:
                pass
            oldest.close()

    def choked(self, connection: Connection) -> None:
        """A client does not take in its answer. While what is unsent exceeds `body_memory`, the
        client that has not for the longest is cut off."""
        admission, choked = self.admission, self._write_paused
        choked[connection] = None
        while admission.bytes > admission.memory and len(choked) > 1:
            oldest = next(iter(choked))
            if oldest is connection:
                return
            oldest.abort()

    def unchoked(self, connection: Connection) -> None:
        """It does again, or is gone."""
        self._write_paused.pop(connection, None)

    def lost(self, connection: Connection) -> bool:
        """A connection has ended. False if that was known."""
        if connection not in self.connections:
            return False
        self.connections.remove(connection)
        if not self.connections:
            self._empty.set()
        return True

    def _sweep(self) -> None:
        """Every now and then: end what takes too long, and let the clock of answers move on."""
        shortest = min(self.receive_timeout, self.keep_alive)
        self._sweeper = self._loop.call_later(min(1.0, shortest / 4), self._sweep)
        self._date = formatdate(usegmt=True)
        self.starts.clear()
        now = self.time()
        self._forget_turned_away(sum(until > now for until, _ in self._turned_away))
        for connection in self._write_paused:
            connection.count_unsent()
        self._expire()

    def _expire(self) -> None:
        """End what has taken too long."""
        now = self.time()
        for connection in [each for each in self.connections if each.deadline <= now]:
            connection.expire()

    def start_of_answer(self, answer: Answer) -> bytes:
        """The head of an answer, up to the value of Content-Length."""
        try:
            return self.starts[answer.status, answer.kind]
        except KeyError:
            # Answers are made for one client at one moment, and may quote what it sent: nobody
            # may keep them, and no browser may take them for anything else.
            start = (
                f"HTTP/1.1 {answer.status} {phrase(answer.status)}\r\n"
                f"date: {self._date}\r\n"
                f"content-type: {answer.kind.decode()}\r\n"
                f"cache-control: no-store\r\n"
                f"x-content-type-options: nosniff\r\n"
                f"content-length: "
            ).encode()
            self.starts[answer.status, answer.kind] = start
            return start


class Server:
    """What the listeners of one server have in common."""

    def __init__(
        self, asked: Place | None, tls: ssl.SSLContext | None, limits: Limits, admission: Admission
    ) -> None:
        self.asked = asked
        self.address: Place | None = None  # with its port, while it listens
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
        """What it listens on, or will."""
        return "(mounted)" if self.asked is None else str(self.address or self.asked)

    @property
    def connections(self) -> int:
        """How many there are."""
        return 0 if self._connections is None else len(self._connections.connections)

    async def ready(self) -> None:
        """Wait until a listener runs, and until it listens, unless it is mounted only. Raises what
        starting it raised."""
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
        """A listener has started: the first one opens the socket. Raises OSError."""
        self._running.add(route)
        for begun in self._waiting:
            if not begun.done():
                begun.set_result(None)
        if self.asked is None:
            return
        if self._started is None:
            self._connections = Connections(self.routes, self.admission, self._limits, self.tls)
            start = self._start(self._connections, self.asked)
            self._started = asyncio.get_running_loop().create_task(start)
        await asyncio.shield(self._started)

    async def _start(self, engine: Connections, asked: Place) -> None:
        self.address = await engine.start(asked)

    def drained(self) -> None:
        """A listener drains: when all do, connections end with the answers they wait for."""
        if self._connections is not None:
            if all(route.draining for route in self._running):
                self._connections.drain()
            self._connections.hurry()

    async def left(self, route: Route) -> None:
        """A listener has ended: the last one closes the socket and all connections.

        Cancelled: connections are cut off at once.
        """
        self._running.discard(route)
        if self._running or self._connections is None or self._started is None:
            return
        engine, started = self._connections, self._started
        self._connections = self._started = None
        started.cancel()
        await asyncio.wait([started])
        if not started.cancelled():
            started.exception()  # every listener has raised it
        await engine.stop()
        self.address = None
