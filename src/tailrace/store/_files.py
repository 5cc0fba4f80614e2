"""The files of an open SQLite database, and what to do when one of them is no longer in its place.

A database in WAL mode is three files: NAME, NAME-wal with what was committed last, and NAME-shm.
A connection goes on with the files that it opened, whatever their names have come to mean. So
when NAME is moved or replaced, rows that were acked are neither in the file that was moved (they
are still in NAME-wal), nor in the new one; and SQLite, when it opens the new one, takes what it
finds in NAME-wal for its own and destroys it. When only NAME-wal is removed, the rows of it are
gone with the connection.

`Files.rescue` mends all of these: it has the open connection move the contents of its WAL to
where they belong, and then removes the files which the next connection would mistake for its own.

What cannot be seen: another content written into the same file (``cp backup.db events.db``).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Which file has this name now (device and inode); None if there is none."""
    try:
        status = path.stat()
    except OSError:  # a folder may be gone too, or be a file now
        return None
    return status.st_dev, status.st_ino


class Files:
    """The three files of one connection, as they were once it was open."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        real = self._path.resolve()  # beside that, SQLite has the other two
        self._names = (self._path, Path(f"{real}-wal"), Path(f"{real}-shm"))
        self._opened = self._now()

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
            if opened is not None and identity(name) == opened:
                name.unlink()

    def set_aside(self, connection: sqlite3.Connection) -> str:
        """Where `rescue` is impossible and nobody can wait: close the connection and rename the
        WAL, so that no other database takes it for its own. Returns its new name.
        """
        connection.close()
        name, opened = self._names[1], self._opened[1]
        if opened is None or identity(name) != opened:
            return str(name)
        return str(name.rename(f"{name}-saved-{opened[1]}"))

    def _now(self) -> tuple[Identity | None, ...]:
        return tuple(map(identity, self._names))
