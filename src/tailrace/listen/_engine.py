"""Engine: the listening socket and all of its connections, from start to an orderly stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from email.utils import formatdate
from typing import Final

from tailrace.listen._answers import Answer, phrase
from tailrace.listen._bind import Address, let_nobody_in, open_socket
from tailrace.listen._exchange import Gate, Limits
from tailrace.listen._http1 import Connection
from tailrace.listen._intake import Intake

__all__ = ["Engine"]

IDLE: Final = 0.5  # seconds: who was answered that recently may be about to ask again
FLUSH: Final = 2.0  # seconds for the last answers to be written
HANDSHAKE: Final = 10.0


class Engine:
    """Serves `routes` on one socket, on the running loop."""

    def __init__(
        self,
        routes: Mapping[str, Intake],
        gate: Gate,
        limits: Limits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.routes = routes
        self.gate = gate
        self.max_connections = limits.connections
        self.max_head = limits.max_head
        self.receive_timeout = limits.receive_timeout
        self.keep_alive = limits.keep_alive
        self.tls = tls
        self.connections: set[Connection] = set()
        self.draining = False
        self.stopped = False
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self._loop = loop
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._starts: dict[tuple[int, bytes], bytes] = {}
        self._date = ""

    def __repr__(self) -> str:
        return f"<Engine {len(self.connections)} connections>"

    async def start(self, asked: Address) -> Address:
        """Listen; the address with its port. OSError, which names the address, if it cannot."""
        self._socket = opened = open_socket(asked)
        try:
            self._server = await self._loop.create_server(
                lambda: Connection(self),
                sock=opened,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else HANDSHAKE,
            )
        except BaseException:
            opened.close()
            raise
        self._sweep()
        return Address(asked.host, opened.getsockname()[1])

    def drain(self) -> None:
        """From now on each answer is the last of its connection."""
        self.draining = True

    async def stop(self) -> None:
        """Listen no more, and let connections end.

        Who was answered just now may have sent the next request already: it is answered (503)
        rather than cut off. Cancelled: connections are cut off at once.
        """
        self.draining = True
        try:
            if self._socket is not None:
                let_nobody_in(self._socket)
            for _ in range(3):  # who has been let in by the system, but is not here yet
                await asyncio.sleep(0)
            for connection in list(self.connections):
                connection.retire(before=self.time() - IDLE)
            if not await self._ended(IDLE):
                for connection in list(self.connections):
                    connection.close()
                await self._ended(FLUSH)
        finally:
            self.stopped = True
            if self._server is not None:
                self._server.close()
            if self._sweeper is not None:
                self._sweeper.cancel()
            for connection in list(self.connections):
                connection.abort()

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

    def lost(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        """Every now and then: end what takes too long, and let the clock of answers move on."""
        shortest = min(self.receive_timeout, self.keep_alive)
        self._sweeper = self._loop.call_later(min(1.0, shortest / 4), self._sweep)
        self._date = formatdate(usegmt=True)
        self._starts.clear()
        now = self.time()
        for connection in [each for each in self.connections if each.deadline <= now]:
            connection.expire()

    def start_of_answer(self, answer: Answer) -> bytes:
        """The head of an answer, up to the value of Content-Length."""
        try:
            return self._starts[answer.status, answer.kind]
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
            self._starts[answer.status, answer.kind] = start
            return start
