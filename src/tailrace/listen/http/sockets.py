"""The listening sockets of a server: for a port, a Unix socket, or an inherited descriptor.

Invariants:
- Only two kinds of files are removed: a Unix socket on which no process listens, and, at the end,
  our own socket, if its path still leads to it.
- Without a host the address is the loopback: a server for other machines must say so
  (``0.0.0.0:8080``). Every error names the address.
- An inherited socket belongs to the process that passed it on. It stays open and unchanged for the
  next process; clients that connect meanwhile wait for that process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import stat
import struct
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

try:
    import fcntl
except ImportError:  # Windows, where there are no Unix sockets
    fcntl = None  # type: ignore[assignment]  # the module, or nothing

__all__ = ["Address", "Listening", "Place", "UnixPath", "listen_on", "parse_bind", "url_of"]

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
PORT_ATTEMPTS: Final = 5  # to find a port that is free in both families
LOCK_SECONDS: Final = 1.0  # to lock a directory, which takes other servers microseconds
# The machine does not support the address family, or has no address of that family.
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SO_ATTACH_FILTER = 26  # Linux's; the socket module does not name it

_BIND = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/\s]*)):(?P<port>\d+)")
_DESCRIPTOR: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Address:
    """A host and a port, written as in a URL."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixPath:
    """The file of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True)
class Inherited:
    """The number of a descriptor that this process was started with."""

    number: int

    def __str__(self) -> str:
        return f"fd:{self.number}"


Place = Address | UnixPath | Inherited
"""Where a server listens, or is to listen."""


def parse_bind(bind: object) -> Place:
    """Parse HttpServer's `bind`: ``"host:port"``, ``"unix:path"`` or ``"fd:number"``."""
    if isinstance(bind, str):
        kind, _, rest = bind.partition(":")
        if kind == "unix":
            if not rest or "\0" in rest:
                raise ValueError(f"bind must have a path, like 'unix:/run/app.sock': {bind!r}")
            return UnixPath(rest)
        if kind == "fd":
            if not _DESCRIPTOR.fullmatch(rest):
                raise ValueError(f"bind must have the number of a descriptor, 'fd:3': {bind!r}")
            return Inherited(int(rest))
    return _parse_address(bind)


def _parse_address(bind: object) -> Address:
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


def url_of(address: Place, scheme: str) -> str:
    """The address as a URL without a path; for a Unix socket the form that many clients read."""
    if isinstance(address, UnixPath):
        return f"{scheme}+unix://{quote(address.path, safe='')}"
    return f"{scheme}://{address}"


class Listening:
    """Open sockets, and the `address` at which clients reach them."""

    def __init__(
        self, sockets: Sequence[socket.socket], requested: Place, address: Place, *, shared: bool
    ) -> None:
        self.sockets = sockets
        self.address = address
        self.shared = shared  # other processes may listen on the same port
        self.inherited = isinstance(requested, Inherited)
        self._file: tuple[Path, int, int] | None = None  # with its device and inode
        if isinstance(requested, UnixPath):
            path = Path(requested.path).absolute()  # the program may change its directory
            self._file = path, *_identity(path)

    def __repr__(self) -> str:
        return f"<Listening on {self.address}>"

    def block_new_clients(self) -> None:
        """Block new connections. Clients that have connected can still be accepted; those of an
        inherited socket are left to the next process."""
        if isinstance(self.address, Address) and not self.inherited:
            for each in self.sockets:
                block_new_clients(each)
        self._remove_file()

    def close(self) -> None:
        """Close the sockets, and remove the file of a Unix socket."""
        self._remove_file()  # before closing: after that another file may get the inode
        for each in self.sockets:
            each.close()

    def _remove_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        path, *identity = file
        try:
            if _identity(path) == tuple(identity):
                path.unlink()
        except OSError:
            pass  # the file is gone, or its directory forbids it


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def listen_on(requested: Place, reuse_port: bool = False) -> Listening:
    """Open sockets for an address. Raises OSError, which names the address."""
    if isinstance(requested, Address):
        sockets = open_sockets(requested, reuse_port)
        address = Address(requested.host, sockets[0].getsockname()[1])
        return Listening(sockets, requested, address, shared=reuse_port)
    try:
        if isinstance(requested, UnixPath):
            opened = _open_unix(requested.path)
            return Listening([opened], requested, requested, shared=False)
        opened = _open_inherited(requested.number)
    except OSError as error:
        raise _cannot_listen(requested, error) from error
    return Listening([opened], requested, _address_of(opened, requested), shared=False)


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
        raise _cannot_listen(address, error) from error
    places = list(dict.fromkeys((family, proto, where) for family, _, proto, _, where in found))
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _open_all(places, reuse_port)
        except OSError as error:
            # Port 0: the port that is free in IPv4 may be taken in IPv6. Try another one.
            if address.port or error.errno != errno.EADDRINUSE or attempt == PORT_ATTEMPTS - 1:
                raise _cannot_listen(address, error) from error
    raise AssertionError("unreachable")


def _open_all(
    places: Sequence[tuple[int, int, tuple[Any, ...]]], reuse_port: bool
) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as on_error:
        for family, proto, where in places:
            if opened and not where[1]:  # the port of the first socket
                where = (where[0], opened[0].getsockname()[1], *where[2:])
            try:
                opened.append(_open_one(family, proto, where, len(places) == 1, reuse_port))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error
            else:
                on_error.callback(opened[-1].close)
        if missing is not None and not opened:
            raise missing
        on_error.pop_all()
    return opened


def _open_one(
    family: int, proto: int, where: tuple[Any, ...], alone: bool, reuse_port: bool
) -> socket.socket:
    with _closed_on_error(socket.socket(family, socket.SOCK_STREAM, proto)) as opened:
        if os.name == "posix":  # on Windows it would share the port with another server
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and not alone:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _listen_at(opened, where)
    return opened


@contextmanager
def _closed_on_error(opened: socket.socket) -> Generator[socket.socket]:
    """Close the socket if the block raises."""
    with ExitStack() as stack:
        stack.callback(opened.close)
        yield opened
        stack.pop_all()


def _listen_at(opened: socket.socket, where: tuple[Any, ...] | str) -> None:
    """Make the socket listen at an address of its family."""
    opened.setblocking(False)
    opened.bind(where)
    opened.listen(BACKLOG)


def _cannot_listen(address: object, error: OSError) -> OSError:
    """An error of the same kind that names the address."""
    why = error.strerror or str(error)
    return OSError(error.errno, f"cannot listen on {address}: {why}")


def _open_unix(path: str) -> socket.socket:
    """Listen on a Unix socket; the umask decides who may connect."""
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    # A socket that is bound and does not listen yet looks like one whose process is dead: without
    # the lock, a server that starts at the same time would remove it.
    with _directory_locked(path) as locked:
        _remove_dead(path, locked)
        with _closed_on_error(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as opened:
            _listen_at(opened, path)
    return opened


@contextmanager
def _directory_locked(path: str) -> Generator[bool]:
    """Lock the directory of `path` against other servers that start there; it needs no lock file.

    False: it cannot be locked, or another program has locked it for LOCK_SECONDS.
    """
    try:
        directory = os.open(Path(path).parent, os.O_RDONLY)
    except OSError:  # it may be read by nobody; or there is none, as `bind` will say
        yield False
        return
    try:
        yield _lock(directory)
    finally:
        os.close(directory)  # this unlocks it


def _lock(directory: int) -> bool:
    until = time.monotonic() + LOCK_SECONDS
    while fcntl is not None:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        except OSError:
            return False
        else:
            return True
    return False


def _remove_dead(path: str, locked: bool) -> None:
    """Remove the socket file that a killed process left behind.

    Raises OSError if a process listens on it, if it is another kind of file, or if the directory is
    not `locked`: then the file may belong to a process that is starting.
    """
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):  # a symbolic link is refused too
        raise OSError(errno.EEXIST, "there is a file, which is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # a full backlog would block; its owner is alive
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            if not locked:
                why = "its socket file looks dead, but its directory cannot be locked to remove it"
                raise OSError(errno.EADDRINUSE, why) from None
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _open_inherited(number: int) -> socket.socket:
    """A duplicate of the listening socket with that descriptor."""
    duplicate = os.dup(number)
    try:
        opened = socket.socket(fileno=duplicate)
    except BaseException:  # it is no socket
        os.close(duplicate)
        raise
    with _closed_on_error(opened):
        listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if opened.type != socket.SOCK_STREAM or not listens:
            raise OSError(errno.EINVAL, "it is no listening stream socket")
        opened.setblocking(False)
    return opened


def _address_of(opened: socket.socket, requested: Inherited) -> Place:
    name = opened.getsockname()
    if isinstance(name, tuple):
        host, port, *_ = cast("tuple[str, int]", name)
        return Address(host, port)
    return UnixPath(os.fsdecode(name)) if name else requested


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
