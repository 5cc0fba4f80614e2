"""The listening sockets of a server: for a port, a Unix socket, or an inherited descriptor.

Invariants:
- A file is removed only if it is a Unix socket on which no process listens, or, at the end, our own
  socket, if the path still leads to it.
- An inherited socket belongs to the process that passed it on. It stays open and unchanged for the
  next process; clients that connect meanwhile wait for that process.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

from tailrace.listen.http.bind import (
    Address,
    block_new_clients,
    cannot_listen,
    closed_on_error,
    listen_at,
    open_sockets,
    parse_address,
)

__all__ = ["Inherited", "Listening", "Place", "UnixPath", "listen_on", "parse_bind", "url_of"]

_DESCRIPTOR: Final = re.compile(r"[0-9]{1,9}")


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
"""An address to listen on."""


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
    return parse_address(bind)


def url_of(address: Place, scheme: str) -> str:
    """The address as a URL without a path; for a Unix socket the form that many clients read."""
    if isinstance(address, UnixPath):
        return f"{scheme}+unix://{quote(address.path, safe='')}"
    return f"{scheme}://{address}"


class Listening:
    """Open sockets, and the `address` at which clients reach them."""

    def __init__(
        self, sockets: Sequence[socket.socket], asked: Place, address: Place, *, shared: bool
    ) -> None:
        self.sockets = sockets
        self.address = address
        self.shared = shared  # other processes may listen on the same port
        self.inherited = isinstance(asked, Inherited)
        self._file: tuple[Path, int, int] | None = None  # with its device and inode
        if isinstance(asked, UnixPath):
            path = Path(asked.path).absolute()  # the program may change its directory
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


def listen_on(asked: Place, reuse_port: bool = False) -> Listening:
    """Open sockets for an address. Raises OSError, which names the address."""
    if isinstance(asked, Address):
        sockets = open_sockets(asked, reuse_port)
        address = Address(asked.host, sockets[0].getsockname()[1])
        return Listening(sockets, asked, address, shared=reuse_port)
    try:
        if isinstance(asked, UnixPath):
            opened = _open_unix(asked.path)
            return Listening([opened], asked, asked, shared=False)
        opened = _open_inherited(asked.number)
    except OSError as error:
        raise cannot_listen(asked, error) from error
    return Listening([opened], asked, _address_of(opened, asked), shared=False)


def _open_unix(path: str) -> socket.socket:
    """Listen on a Unix socket; the umask decides who may connect."""
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    _remove_dead(path)
    with closed_on_error(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as opened:
        listen_at(opened, path)
    return opened


def _remove_dead(path: str) -> None:
    """Remove the socket file that a killed process left behind.

    Raises OSError if a process listens on it, or if it is another kind of file.
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
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _open_inherited(number: int) -> socket.socket:
    """A duplicate of the listening socket with that descriptor."""
    with closed_on_error(socket.socket(fileno=os.dup(number))) as opened:
        listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if opened.type != socket.SOCK_STREAM or not listens:
            raise OSError(errno.EINVAL, "it is no listening stream socket")
        opened.setblocking(False)
    return opened


def _address_of(opened: socket.socket, asked: Inherited) -> Place:
    name = opened.getsockname()
    if isinstance(name, tuple):
        host, port, *_ = cast("tuple[str, int]", name)
        return Address(host, port)
    return UnixPath(os.fsdecode(name)) if name else asked
