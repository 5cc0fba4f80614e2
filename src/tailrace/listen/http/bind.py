"""Listen on a port: read the address, open the sockets, make the TLS context.

Without a host the address is the loopback; a server for other machines must say so
(``0.0.0.0:8080``). Every error names the address or the file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import ssl
import struct
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]  # modules, or nothing

__all__ = [
    "Address",
    "TlsFiles",
    "block_new_clients",
    "cannot_listen",
    "closed_on_error",
    "listen_at",
    "open_sockets",
    "parse_address",
    "tls_context",
    "unacknowledged",
]

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
PORT_ATTEMPTS: Final = 5  # to find a port that is free in both families
# This machine lacks the address family, or has no address of it.
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SO_ATTACH_FILTER = 26  # Linux's; the socket module does not name it

TlsFiles = tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""The paths of a certificate chain and of its key, in PEM."""

_BIND = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/\s]*)):(?P<port>\d+)")


@dataclass(frozen=True)
class Address:
    """A host and a port, written as in a URL."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(bind: object) -> Address:
    """``"host:port"``, ``"[::1]:port"``, or ``":port"`` for the loopback."""
    if not isinstance(bind, str):
        raise TypeError(f"bind must be a text like '127.0.0.1:8080', not {bind!r}")
    match = _BIND.fullmatch(bind)
    if match is None:
        raise ValueError(f"bind must be like '127.0.0.1:8080', ':8080' or '[::1]:8080': {bind!r}")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"bind {bind!r}: there is no port {port}")
    return Address(match["six"] or match["host"] or LOOPBACK, port)


def open_sockets(address: Address, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets on one port, one for each address of the host's name.

    ``localhost`` mostly has an address of IPv4 and one of IPv6. Raises OSError, which names the
    address, if the port is taken on any address that this machine has.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise cannot_listen(address, error) from error
    places = list(dict.fromkeys((family, proto, where) for family, _, proto, _, where in found))
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _open_all(places, reuse_port)
        except OSError as error:
            # Port 0: the port that is free in IPv4 may be taken in IPv6. Try another one.
            if address.port or error.errno != errno.EADDRINUSE or attempt == PORT_ATTEMPTS - 1:
                raise cannot_listen(address, error) from error
    raise AssertionError("unreachable")


def _open_all(
    places: Sequence[tuple[int, int, tuple[Any, ...]]], reuse_port: bool
) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, proto, where in places:
            if opened and not where[1]:  # the port of the first socket
                where = (where[0], opened[0].getsockname()[1], *where[2:])
            try:
                alone = len(places) == 1
                opened.append(_open_one(family, proto, where, alone, reuse_port))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error
        if not opened:
            assert missing is not None
            raise missing
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _open_one(
    family: int, proto: int, where: tuple[Any, ...], alone: bool, reuse_port: bool
) -> socket.socket:
    with closed_on_error(socket.socket(family, socket.SOCK_STREAM, proto)) as opened:
        if os.name == "posix":  # on Windows it would share the port with another server
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and not alone:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listen_at(opened, where)
    return opened


@contextmanager
def closed_on_error(opened: socket.socket) -> Generator[socket.socket]:
    """Close the socket if the block raises."""
    with ExitStack() as stack:
        stack.callback(opened.close)
        yield opened
        stack.pop_all()


def listen_at(opened: socket.socket, where: tuple[Any, ...] | str) -> None:
    """Make the socket listen at an address of its family."""
    opened.setblocking(False)
    opened.bind(where)
    opened.listen(BACKLOG)


def cannot_listen(address: object, error: OSError) -> OSError:
    """An error of the same kind that names the address."""
    why = error.strerror or str(error)
    return OSError(error.errno, f"cannot listen on {address}: {why}")


def block_new_clients(listening: socket.socket) -> None:
    """Block new connections, while clients that have begun to connect can still be accepted.

    Linux only. Elsewhere it does nothing, and the clients below are reset.
    """
    # To close a listening socket resets every connection whose handshake is under way or which is
    # not yet accepted: with a round trip of 100 ms and 1000 connections a second, 100 clients at
    # each restart. So a filter drops the packets that begin a connection (SYN is set). A client
    # that is dropped sends SYN again, and reaches the next process or is refused. The socket module
    # has no call for this; the filter is four instructions of classic BPF.
    if sys.platform != "linux":
        return
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
            (0x45, 0, 1, 0x02),  # if SYN is set go on, else skip one
            (0x06, 0, 0, 0),  # drop
            (0x06, 0, 0, 0xFFFF),  # accept
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    filtering = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filtering)
    except OSError:
        pass  # this system forbids filters


def unacknowledged(endpoint: Any) -> int:
    """The bytes that the system has sent or buffered and the peer has not acknowledged.

    0 where the system does not tell.
    """
    if fcntl is None or termios is None:
        return 0
    try:
        raw = fcntl.ioctl(endpoint.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (OSError, ValueError, AttributeError):
        return 0
    return int.from_bytes(raw, sys.byteorder)


def tls_context(tls: object) -> ssl.SSLContext | None:
    """`tls` itself if it is a context, else one made of the certificate file and the key file."""
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    if not isinstance(tls, tuple) or len(cast(tuple[object, ...], tls)) != 2:
        raise TypeError(f"tls must be an SSLContext or (certificate file, key file), not {tls!r}")
    certificate, key = (os.fspath(path) for path in cast(TlsFiles, tls))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or str(error)
        raise OSError(error.errno, f"tls: cannot load {certificate!r}, {key!r}: {why}") from error
    return context
