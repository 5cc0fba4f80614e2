"""Host: the socket that several listeners share, from the first that starts to the last that ends.

HttpServer shows it to users; listeners tell it that they come and go.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from tailrace.listen._exchange import Gate, Limits
from tailrace.listen._intake import Intake
from tailrace.listen._sockets import Place

if TYPE_CHECKING:
    from tailrace.listen._engine import Engine

__all__ = ["Host"]


class Host:
    """What the listeners of one server have in common."""

    def __init__(
        self, asked: Place | None, tls: ssl.SSLContext | None, limits: Limits, gate: Gate
    ) -> None:
        self.asked = asked
        self.address: Place | None = None  # with its port, while it listens
        self.gate = gate
        self.routes: dict[str, Intake] = {}
        self.tls = tls
        self._limits = limits
        self._running: set[Intake] = set()
        self._engine: Engine | None = None
        self._started: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Host {self.bind}: {len(self._running)} listeners running>"

    @property
    def bind(self) -> str:
        """What it listens on, or will."""
        return "(mounted)" if self.asked is None else str(self.address or self.asked)

    @property
    def connections(self) -> int:
        """How many there are."""
        return 0 if self._engine is None else len(self._engine.connections)

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

    async def entered(self, intake: Intake) -> None:
        """A listener has started: the first one opens the socket. Raises OSError."""
        self._running.add(intake)
        for begun in self._waiting:
            if not begun.done():
                begun.set_result(None)
        if self.asked is None:
            return
        if self._started is None:
            from tailrace.listen._engine import Engine

            self._engine = Engine(self.routes, self.gate, self._limits, self.tls)
            start = self._start(self._engine, self.asked)
            self._started = asyncio.get_running_loop().create_task(start)
        await asyncio.shield(self._started)

    async def _start(self, engine: Engine, asked: Place) -> None:
        self.address = await engine.start(asked)

    def drained(self) -> None:
        """A listener drains: when all do, connections end with the answers they wait for."""
        if self._engine is not None:
            if all(intake.draining for intake in self._running):
                self._engine.drain()
            self._engine.hurry()

    async def left(self, intake: Intake) -> None:
        """A listener has ended: the last one closes the socket and all connections.

        Cancelled: connections are cut off at once.
        """
        self._running.discard(intake)
        if self._running or self._engine is None or self._started is None:
            return
        engine, started = self._engine, self._started
        self._engine = self._started = None
        started.cancel()
        await asyncio.wait([started])
        if not started.cancelled():
            started.exception()  # every listener has raised it
        await engine.stop()
        self.address = None
