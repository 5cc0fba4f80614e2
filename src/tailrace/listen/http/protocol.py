"""HttpProtocol: the asyncio side of a connection. It moves bytes, and counts the unsent ones.

Measured with the same pipeline behind them, uvicorn and Granian take twice the time for a request:
they need a task, a scope or a trip between threads for each. They also leave to their application
what is done here and in `connection`: limits for heads and slow clients, admission before the body
comes, an orderly drain.

Invariants:
- `_unwritten` is empty unless the transport's buffer is full. It is used with TLS only.
- The connection hears `resume_writing` once the transport has the whole answer, not for each piece.
- What the transport could not send, and `_unwritten`, count against `body_memory`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]  # modules, or nothing

from tailrace.listen.http.connection import Connection, Wire
from tailrace.listen.http.service import MOST_UNSENT, Service

__all__ = ["HttpProtocol", "Supervisor"]

STALLED: Final = 5.0  # when the server stops, a client that reads nothing this long is cut off


class Supervisor:
    """The protocols of a server's open connections, and which of their clients do not read."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stopped = False  # no connection may begin any more
        self._protocols: set[HttpProtocol] = set()
        self._write_paused: dict[HttpProtocol, None] = {}  # the client that first stopped reading
        # comes first
        self._empty = asyncio.Event()

    def lost(self, protocol: HttpProtocol) -> bool:
        """A connection has ended. False: that was reported before."""
        if protocol not in self._protocols:
            return False
        self._protocols.remove(protocol)
        if not self._protocols:
            self._empty.set()
        return True

    def write_paused(self, protocol: HttpProtocol) -> None:
        """A client does not read its answers. While `body_memory` is exceeded, cut off the client
        that has not read for the longest time."""
        admission, paused = self.service.admission, self._write_paused
        paused[protocol] = None
        while admission.bytes > admission.memory and len(paused) > 1:
            oldest = next(iter(paused))
            if oldest is protocol:
                return
            oldest.connection.abort()

    def write_resumed(self, protocol: HttpProtocol) -> None:
        """The client reads again, or its connection has ended."""
        self._write_paused.pop(protocol, None)


@dataclass(slots=True, eq=False, repr=False)
class HttpProtocol(asyncio.BaseProtocol):
    """What the event loop calls for one client; it is the `Wire` of the connection."""

    _service: Service
    _supervisor: Supervisor
    connection: Connection = field(init=False)
    write: Callable[[bytes], None] = field(init=False)
    data_received: Callable[[bytes], None] = field(init=False)
    """The connection's, so the base is not `asyncio.Protocol`, where this is a method."""
    connected: bool = field(init=False, default=False)  # there is a transport
    _transport: asyncio.Transport = field(init=False)
    _buffer_full: bool = field(init=False, default=False)  # of the transport
    _paused: bool = field(init=False, default=False)  # the connection was told not to write
    _unwritten: memoryview = field(init=False, default=memoryview(b""))
    """The part of an answer that the transport was not given yet."""
    _counted: int = field(init=False, default=0)  # unsent bytes, counted against `body_memory`
    _least_left: float = field(init=False, default=math.inf)
    """The fewest bytes that were left for the client to read; see `stalled`."""
    _last_read: float = field(init=False, default=0.0)  # when `_least_left` last fell

    def __post_init__(self) -> None:
        self.write = self._write_pieces  # or the transport's
        wire = cast(Wire, self)  # pyright takes the slot `write` for a method
        self.connection = Connection(self._service, wire)
        self.data_received = self.connection.receive

    def __repr__(self) -> str:
        return f"<HttpProtocol of {self.connection!r}>"

    # --- what the event loop calls ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open; with TLS, after its handshake."""
        self._transport = plain = cast(asyncio.Transport, transport)  # uvloop's has the methods
        if not self._service.tls:
            self.write = plain.write
        self.connected = True
        if self.connection.closed or self._supervisor.stopped:
            self.connection.abort()
            return
        peer = cast("tuple[object, ...] | str | None", transport.get_extra_info("peername"))
        self.connection.begin(str(peer[0]) if isinstance(peer, tuple) and peer else "")
        if self._service.tls:  # asyncio's own limit is eight times as high
            plain.set_write_buffer_limits(MOST_UNSENT)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._supervisor.lost(self):
            self.connection.lost()
            self._discard()
            del self.write  # it may refer to this protocol

    def eof_received(self) -> bool:
        """The client sends no more. True: keep the transport open."""
        return self.connection.end_input()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._buffer_full = True
        if not self._paused:
            self._paused = True
            self.connection.pause_writing()
        self.count_unsent()
        self._supervisor.write_paused(self)

    def resume_writing(self) -> None:
        """The transport's buffer is nearly empty."""
        if self._unwritten:
            self._service.call_soon(self._write_on)
            return
        self._buffer_full = self._paused = False
        self.count_unsent()
        self._supervisor.write_resumed(self)
        self.connection.resume_writing()

    # --- what the connection calls: the `Wire` ----------------------------------------------

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._transport.resume_reading()

    def end_output(self) -> bool:
        """Tell the client that no more answers come. False: the client has reset the connection."""
        if not self._service.tls and self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:
                return False
        return True

    def close(self) -> bool:
        """Send what is unsent, then close. True: there are unsent bytes."""
        unsent = self._transport.get_write_buffer_size() > 0
        self._transport.close()
        return unsent

    def abort(self) -> None:
        """Close now. Unsent bytes are lost."""
        self._discard()
        self._transport.abort()

    # --- unsent bytes -----------------------------------------------------------------------

    def count_unsent(self) -> None:
        """Count the unsent bytes of answers against `body_memory`."""
        unsent = self._buffered() if self._paused else 0
        self._service.admission.bytes += unsent - self._counted
        self._counted = unsent

    def stalled(self) -> bool:
        """Whether the client has read nothing for STALLED seconds, or nothing is left to read."""
        left = self._buffered()
        if left or self._service.tls:  # a TLS transport buffers more than it counts
            left += _unacknowledged(self._transport.get_extra_info("socket"))
        if not left:
            return True
        now = self._service.time()
        if left < self._least_left:
            self._least_left = left
            self._last_read = now
        return now - self._last_read > STALLED

    def _buffered(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._unwritten)

    def _write_pieces(self, data: bytes) -> None:
        """Write to a TLS transport in pieces.

        Both loops encrypt at once whatever they get, pass it on, and then report nothing unsent.
        """
        if len(data) <= MOST_UNSENT:
            self._transport.write(data)
            return
        self._unwritten = memoryview(data)
        if not self._buffer_full:  # else `resume_writing` comes
            self._write_until_full()

    def _write_until_full(self) -> None:
        while self._unwritten and not self._buffer_full:
            piece, self._unwritten = self._unwritten[:MOST_UNSENT], self._unwritten[MOST_UNSENT:]
            self._transport.write(piece)  # this may call `pause_writing`
        if self._buffer_full:
            self.count_unsent()

    def _write_on(self) -> None:
        """The client has read the pieces that were written: write further pieces."""
        if self.connection.closed:
            return
        self._buffer_full = False
        self._write_until_full()
        if not self._buffer_full:
            self.resume_writing()

    def _discard(self) -> None:
        """Drop what is unsent."""
        self._unwritten = memoryview(b"")
        self._buffer_full = self._paused = False
        self.count_unsent()
        self._supervisor.write_resumed(self)


def _unacknowledged(endpoint: Any) -> int:
    """How many bytes the system holds that the peer has not acknowledged; 0 if it does not say."""
    if fcntl is None or termios is None:
        return 0
    try:
        raw = fcntl.ioctl(endpoint.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (OSError, ValueError, AttributeError):
        return 0
    return int.from_bytes(raw, sys.byteorder)
