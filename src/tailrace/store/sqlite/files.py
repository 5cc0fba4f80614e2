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
it by itself. If the database comes back first, `bring_back` moves the contents into it.

Invariants
- Stores open databases of one folder, and rescue them, one after another (`alone`): no WAL changes
  its name, and none is made, between the look at a WAL and the use of it.
- All connections of one process to one database have one -shm, even one that was removed: so those
  that have other files than are in place are closed before the process opens the database again.
- No WAL is moved into a database that others use with another WAL: that would overwrite theirs.
  What was only in ours is kept in a copy of the database as this connection sees it.
- No store opens a database of which another process has a WAL or -shm open that was removed: it
  would not see what is in there, and have nobody save it (`check_none_is_cut_off`).

What cannot be seen: another content written into the same file (``cp backup.db events.db``).
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

_log = logging.getLogger("tailrace")

Identity: TypeAlias = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Which file has this name now (device and inode); None if there is none."""
    try:
        status = path.stat()
    except OSError:  # a folder may be gone too, or be a file now
        return None
    return status.st_dev, status.st_ino


@contextmanager
def alone(path: Path, seconds: float) -> Generator[None]:
    """Have no other store open or rescue a database in the folder of `path` meanwhile.

    BlockingIOError if another one has not ended after so many seconds. No guarantee on systems
    that cannot lock a folder.
    """
    try:
        import fcntl

        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        yield
        return
    try:
        _lock(fcntl, folder, path, time.monotonic() + seconds)
        try:
            yield
        finally:
            # Not only by closing: a process that was forked meanwhile has the folder open too.
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_UN)
    finally:
        os.close(folder)


def _lock(fcntl: Any, folder: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise BlockingIOError(
                    f"another store has been opening a database in {str(path.parent)!r} for long"
                ) from error
            time.sleep(0.002)
        except OSError:  # not on this file system
            return
        else:
            return


def put_aside_foreign(real: Path) -> str | None:
    """Rename a WAL that was left beside `real` by another database; returns its new name."""
    wal, shm = _beside(real)
    there = identity(wal)
    if there is None or not wal.stat().st_size:
        return None
    if _marked(wal, there) in (None, identity(real)) and real.stat().st_size:
        return None  # an empty database has no WAL of its own: SQLite would remove this one
    shm.unlink(missing_ok=True)  # first: it is nothing without the other
    return str(wal.rename(_saved(wal, there)))


def bring_back(real: Path) -> None:
    """Move into the database `real` what is in a WAL of it that was put aside, if any."""
    wal, shm = _beside(real)
    database = identity(real)
    for saved in real.parent.glob(f"{_escaped(wal.name)}-saved-*"):
        there = identity(saved)
        if there is None or _marked(saved, there) != database:
            continue
        if wal.exists() and wal.stat().st_size:
            continue  # the database has been used without it
        shm.unlink(missing_ok=True)
        saved.replace(wal)
        with closing(sqlite3.connect(real, isolation_level=None)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy or identity(real) != database:
            raise BlockingIOError(f"database {str(real)!r} is in use with an old -wal")
        # Whoever still has this WAL open has an -shm of its own for it, and must see that.
        shm.unlink(missing_ok=True)
        wal.unlink(missing_ok=True)


def check_none_is_cut_off(real: Path) -> None:
    """BlockingIOError if others use the database with a -wal or -shm that was removed.

    What they have committed is in there alone. A store among them saves it with its next
    transaction. For callers that are `alone`.
    """
    database = identity(real)
    if all(map(Path.exists, _beside(real))) or database in _brought_home:
        return
    with closing(sqlite3.connect(real, isolation_level=None, timeout=0.1)) as connection:
        # So it needs no -shm, which is refused as long as anybody has the database open.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise BlockingIOError(
                    f"database {str(real)!r} is locked: others use it, and it has no -wal or no "
                    f"-shm; if that was removed, they must store once more, or close it, before"
                ) from error
            # Else whoever opens it hears the same.


# Databases into which this process has moved what was in a WAL that was removed. Others may have
# that one open yet, but it is empty.
_brought_home: Final[set[Identity]] = set()


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _beside(real: Path) -> tuple[Path, Path]:
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
    """The three files of one connection, as they were once it was open.

    `path` may be a link; `database` was opened as `real`, beside which SQLite has the others.
    """

    def __init__(self, path: Path, real: Path, database: Identity) -> None:
        self._path = path
        self._real = real
        self._names = (path, *_beside(real))
        _, wal, shm = self._now()
        self._database = database
        self._opened = database, wal, shm
        if wal is not None and _marked(self._names[1], wal) is None:
            _mark(self._names[1], wal, database)
        if self.complete:
            _brought_home.discard(database)

    def __repr__(self) -> str:
        return f"<Files of {str(self._path)!r}: {'moved' if self.moved() else 'in place'}>"

    @property
    def database(self) -> Identity:
        """Which file the database is."""
        return self._database

    @property
    def complete(self) -> bool:
        """Whether all three were there."""
        return None not in self._opened

    def moved(self) -> bool:
        """Whether one of the files has been moved, removed or replaced."""
        return self._now() != self._opened

    def rescue(self, connection: sqlite3.Connection, seconds: float) -> None:
        """Bring what is in the WAL into the database that it belongs to, wherever that is now;
        close the connection, and remove what is left of the WAL.

        sqlite3.Error or OSError if that cannot be done now: the connection is still open then.
        """
        with alone(self._real, seconds):
            self.rescue_alone(connection)

    def rescue_alone(self, connection: sqlite3.Connection) -> None:
        """As `rescue`, where the caller is `alone`."""
        if self._taken_over():
            self._save_what_others_lack(connection)
            self._abandon(connection)
            return
        try:
            self._checkpoint(connection)
        except sqlite3.Error as error:
            # Nothing will be different the next time: its WAL was emptied by another store.
            if getattr(error, "sqlite_errorcode", None) not in _HOPELESS:
                raise
            _log.error(
                "database %r was moved or replaced, and the -wal that this store had open "
                "cannot be read any longer (%s)",
                str(self._path),
                error,
            )
            self._abandon(connection)
        else:
            self._remove(connection)
            if identity(self._real) == self._database:
                _brought_home.add(self._database)

    def set_aside(self, connection: sqlite3.Connection) -> str:
        """Where `rescue` is impossible and nobody can wait: close the connection and rename the
        WAL, so that no other database takes it for its own. Returns its new name.
        """
        connection.close()
        name, opened = self._names[1], self._opened[1]
        if opened is None or identity(name) != opened:
            return str(name)
        return str(name.rename(_saved(name, opened)))

    def _taken_over(self) -> bool:
        """Whether the database is in its place, and others use it with another WAL or -shm."""
        database, wal, shm = self._opened
        if identity(self._real) != database:
            return False
        _, wal_now, shm_now = self._now()
        if wal_now == wal:
            return shm_now not in (None, shm)
        if wal_now is None or _marked(self._names[1], wal_now) not in (None, database):
            return False  # it is that of another database, which was here meanwhile
        with suppress(OSError):
            return self._names[1].stat().st_size > 0
        return False

    def _save_what_others_lack(self, connection: sqlite3.Connection) -> None:
        """Where others use the database with another WAL, what is in ours is seen by nobody: keep
        a copy of the database as `connection` sees it, and say so.
        """
        wal = self._opened[1]
        if wal is None or identity(self._names[1]) == wal or _is_empty(wal):
            return  # they have it all: it is in the WAL that they use, or in the database
        kept = next(
            path
            for number in itertools.count()
            if not (path := Path(f"{self._real}-saved-{wal[1]}-{number}")).exists()
        )
        try:
            with closing(sqlite3.connect(kept)) as copy:
                connection.backup(copy)
        except sqlite3.Error as error:
            kept.unlink(missing_ok=True)
            _log.error(
                "the -wal of database %r was removed, and others have made a new one: the last "
                "rows that this store had acked are lost (they could not be saved: %s)",
                str(self._path),
                error,
            )
        else:
            _log.error(
                "the -wal of database %r was removed, and others have made a new one: the last "
                "rows that this store had acked are only in the copy %s; take them from there",
                str(self._path),
                kept,
            )

    def _abandon(self, connection: sqlite3.Connection) -> None:
        """Close the connection, and have SQLite not move its WAL into the database."""
        # Which it does not while another connection is open.
        with closing(sqlite3.connect(self._real, isolation_level=None)) as other:
            with suppress(sqlite3.Error):
                other.execute("PRAGMA schema_version").fetchone()
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise BlockingIOError(
                f"database {str(self._path)!r} was moved or replaced while others read it: waiting "
                f"for them, as its last rows cannot be saved before"
            )

    def _remove(self, connection: sqlite3.Connection) -> None:
        _, wal, shm = self._opened
        in_place = (identity(self._real), *map(identity, self._names[1:])) == self._opened
        connection.close()
        if in_place:  # only a link was changed: others may be using the database
            return
        # The -shm first: a database that is opened between the two must not find it.
        for name, opened in ((self._names[2], shm), (self._names[1], wal)):
            for place in (name, _saved(name, opened) if opened else name):
                if opened is not None and identity(place) == opened:
                    place.unlink()

    def _now(self) -> tuple[Identity | None, ...]:
        return tuple(map(identity, self._names))


def _is_empty(which: Identity) -> bool:
    """Whether a file that this process has open, perhaps without a name, is known to be empty."""
    with suppress(OSError):
        for descriptor in Path("/dev/fd").iterdir():
            with suppress(OSError):
                status = os.fstat(int(descriptor.name))
                if (status.st_dev, status.st_ino) == which:
                    return not status.st_size
    return False


_HOPELESS: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR_SHORT_READ,
    }
)
