"""Accept connections from listening sockets, within the limit of open files.

The event loop's own server is not used, for three reasons. It shows a TLS connection only after the
handshake, so stalled handshakes would not be counted. It sets the backlog anew. When descriptors
run out, asyncio's server logs a traceback each second.

Invariants:
- `admit` gets each connection as soon as the system has made it.
- When the system gives no connection (no descriptors, no memory), accepting pauses for PAUSE
  seconds, and clients wait in the backlog. The cause is logged, at most once in LOG_SECONDS.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

try:
    import resource
except ImportError:  # Windows, where sockets have no such limit
    resource = None  # type: ignore[assignment]  # the module, or nothing

__all__ = ["Acceptor", "ThrottledLog", "connections_allowed", "descriptor_limit"]

_log = logging.getLogger("tailrace.listen")

BURST: Final = 64  # connections accepted before other callbacks of the loop run
PAUSE: Final = 0.25
LOG_SECONDS: Final = 10.0
DEFAULT_CONNECTIONS: Final = 4096
RESERVED_DESCRIPTORS: Final = 256  # at most; they are left to the rest of the program

# Errors of one client or its network: the next connection may be fine. See accept(2).
_ONE_CONNECTION: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "EINTR", "EPROTO", "EPERM", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN"),
        *("ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH"),
    )
    if hasattr(errno, name)
)


def descriptor_limit() -> int | None:
    """A connection may have a descriptor below this number; None: any.

    The system gives the lowest free number. So the number of a connection's descriptor shows how
    many descriptors the whole program has open.
    """
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft - min(RESERVED_DESCRIPTORS, soft // 4)


def connections_allowed(asked: int | None) -> int:
    """The limit of connections. Logs a warning if it is lower than `asked`."""
    most = descriptor_limit()
    wanted = DEFAULT_CONNECTIONS if asked is None else asked
    if most is None or wanted <= most:
        return wanted
    if asked is not None:
        _log.warning(
            "connections=%d, but the limit of open files allows %d; raise it (ulimit -n)",
            asked,
            most,
        )
    return most


class ThrottledLog:
    """Logs warnings: the first one at once, then at most one in LOG_SECONDS."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._next = float("-inf")

    def warn(self, text: str, *values: object) -> None:
        """Log a warning, unless one was logged in the last LOG_SECONDS."""
        now = self._now()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            _log.warning(text, *values)


class Acceptor:
    """Calls `admit` with each connection that clients make to `sockets`, on the running loop."""

    def __init__(
        self, sockets: Sequence[socket.socket], admit: Callable[[socket.socket], None]
    ) -> None:
        self._sockets = sockets
        self._admit = admit
        self._loop = loop = asyncio.get_running_loop()
        self._throttled = ThrottledLog(loop.time)
        self._resuming: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []  # where the loop has no add_reader
        self._listen()

    def accept_waiting(self) -> None:
        """Accept all connections that the system has made."""
        for listening in self._sockets:
            while self._accept(listening):
                pass

    def close(self) -> None:
        """Stop accepting, and close the sockets."""
        self._pause()
        if self._resuming is not None:
            self._resuming.cancel()
        for listening in self._sockets:
            listening.close()

    def _listen(self) -> None:
        self._resuming = None
        try:
            for listening in self._sockets:
                self._loop.add_reader(listening, self._readable, listening)
        except NotImplementedError:  # the proactor of Windows
            self._tasks = [self._loop.create_task(self._accepting(each)) for each in self._sockets]

    def _pause(self) -> None:
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            for listening in self._sockets:
                self._loop.remove_reader(listening)

    def _readable(self, listening: socket.socket) -> None:
        for _ in range(BURST):
            if not self._accept(listening):
                return

    def _accept(self, listening: socket.socket) -> bool:
        """Accept one connection. True: there may be another."""
        try:
            accepted, _ = listening.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _ONE_CONNECTION:
                return True
            self._pause_accepting(error)
            return False
        accepted.setblocking(False)
        self._admit(accepted)
        return True

    def _pause_accepting(self, error: OSError) -> None:
        """The system gives no connection: try again after PAUSE."""
        self._throttled.warn("no connection can be accepted for now: %s", error)
        if self._resuming is None:
            self._pause()
            self._resuming = self._loop.call_later(PAUSE, self._listen)

    async def _accepting(self, listening: socket.socket) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(listening)
            except OSError as error:
                if error.errno not in _ONE_CONNECTION:
                    self._throttled.warn("no connection can be accepted for now: %s", error)
                    await asyncio.sleep(PAUSE)
            else:
                self._admit(accepted)
