"""The files of an open SQLite database, and what to do when one of them is no longer in its place.

A database in WAL mode is three files: NAME, NAME-wal with what was committed last, and NAME-shm.
A connection goes on with the files that it opened, whatever their names have come to mean. So
when NAME is moved or replaced, rows that were acked are neither in the file that was moved (they
are still in NAME-wal), nor in the new one; and SQLite, when it opens the new one, takes what it
finds in NAME-wal for its own and destroys it. When only NAME-wal is removed, the rows of it are
gone with the connection.

`Files.rescue` mends all of these: it has the open connection move the contents of its WAL to
where they belong, and then removes the files which the next connection would mistake for its own.

Another process may have noticed an earlier replacement, and not the last one yet: then NAME-wal is
its, and belongs to neither of our files. So each WAL is marked with the database that it is of
(an extended attribute, where the system has those), and `put_aside_foreign` renames one that is
of another, before SQLite takes it for the new database's own. Its owner has it open, and rescues
it by itself.

What cannot be seen: another content written into the same file (``cp backup.db events.db``).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

Identity: TypeAlias = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Which file has this name now (device and inode); None if there is none."""
    try:
        status = path.stat()
    except OSError:  # a folder may be gone too, or be a file now
        return None
    return status.st_dev, status.st_ino


def put_aside_foreign(path: Path) -> str | None:
    """Rename a WAL that was left beside `path` by another database; returns its new name."""
    wal, shm = _beside(path)
    there = identity(wal)
    if there is None or _marked(wal, there) in (None, identity(path)):
        return None
    shm.unlink(missing_ok=True)  # first: it is nothing without the other
    return str(wal.rename(_saved(wal, there)))


def _beside(path: Path) -> tuple[Path, Path]:
    real = path.resolve()  # beside that, SQLite has the other two
    return Path(f"{real}-wal"), Path(f"{real}-shm")


def _saved(wal: Path, which: Identity) -> Path:
    return Path(f"{wal}-saved-{which[1]}")


_MARK: Final = "user.tailrace.database"


def _mark(wal: Path, which: Identity, database: Identity) -> None:
    # With the WAL's own identity: a copy may have taken over the mark.
    text = " ".join(map(str, (*which, *database)))
    with suppress(AttributeError, OSError):  # no such thing on this system, or this disk
        os.setxattr(wal, _MARK, text.encode())


def _marked(wal: Path, which: Identity) -> Identity | None:
    """The database that the WAL is of; None if nobody said so."""
    try:
        marked = tuple(map(int, os.getxattr(wal, _MARK).split()))
    except (AttributeError, OSError, ValueError):
        return None
    return (marked[2], marked[3]) if len(marked) == 4 and marked[:2] == which else None


class Files:
    """The three files of one connection, as they were once it was open."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._names = (self._path, *_beside(self._path))
        self._opened = self._now()
        database, wal, _ = self._opened
        if database is not None and wal is not None and _marked(self._names[1], wal) is None:
            _mark(self._names[1], wal, database)

    def __repr__(self) -> str:
        return f"<Files of {str(self._path)!r}: {'moved' if self.moved() else 'in place'}>"

    @property
    def database(self) -> Identity | None:
        """Which file the database is."""
        return self._opened[0]

    def moved(self) -> bool:
        """Whether one of the files has been moved, removed or replaced."""
        return self._now() != self._opened

    def database_moved(self) -> bool:
        """As `moved`, of the database alone."""
        return identity(self._path) != self._opened[0]

    def rescue(self, connection: sqlite3.Connection) -> None:
        """Bring what is in the WAL into the database that it belongs to, wherever that is now;
        close the connection, and remove what is left of the WAL.

        sqlite3.Error or OSError if that cannot be done now: the connection is still open then.
        """
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise BlockingIOError(
                f"database {str(self._path)!r} was moved or replaced while others read it: waiting "
                f"for them, as its last rows cannot be saved before"
            )
        connection.close()
        for name, opened in zip(self._names[1:], self._opened[1:], strict=True):
            for place in (name, _saved(name, opened) if opened else name):
                if opened is not None and identity(place) == opened:
                    place.unlink()

    def set_aside(self, connection: sqlite3.Connection) -> str:
        """Where `rescue` is impossible and nobody can wait: close the connection and rename the
        WAL, so that no other database takes it for its own. Returns its new name.
        """
        connection.close()
        name, opened = self._names[1], self._opened[1]
        if opened is None or identity(name) != opened:
            return str(name)
        return str(name.rename(_saved(name, opened)))

    def _now(self) -> tuple[Identity | None, ...]:
        return tuple(map(identity, self._names))
