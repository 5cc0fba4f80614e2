"""The files of an open SQLite database, and what to do when one of them is moved.

A database in WAL mode is three files: NAME, NAME-wal with the last commits, and NAME-shm. A
connection goes on with the files that it opened, whatever their names stand for later. Three things
can go wrong:

- NAME is moved or replaced. Then the last acked rows are neither in the moved file (they are still
  in NAME-wal) nor in the new one.
- SQLite opens the new NAME. It takes NAME-wal for the WAL of this database, and destroys it.
- NAME-wal is removed. Then its rows are gone when the connection closes.

`Files.rescue` mends all three: the open connection moves the contents of its WAL into the database
to which they belong; then the files that the next connection would mistake for its own are removed.

There may be several replacements, which processes notice at different times. Then NAME-wal may
belong to another process, and to neither of the databases that this one knows. So each WAL is
marked with its database (an extended attribute, where the system has those). `put_aside_foreign`
renames a WAL of another database before SQLite can mistake it; the owner has it open, and rescues
it. If that database comes back first, `bring_back` moves the contents into it.

Invariants
- Stores open and rescue the databases of one folder one after another (`alone`). So between the
  look at a WAL and its use, no WAL is renamed or made.
- All connections of one process to one database share one -shm, even one that was removed. So
  connections whose files were moved are closed before the process opens the database again.
- No WAL is moved into a database that others use with another WAL, which would overwrite theirs.
  What only this WAL has is kept in a copy of the database.
- No store opens a database of which another process has a removed WAL or -shm open: it would not
  see what is in there, and nobody would save it (`check_none_is_cut_off`).

What cannot be noticed: other content written into the same file (``cp backup.db events.db``).
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
    """The file that has this name now (device and inode); None if there is none."""
    try:
        status = path.stat()
    except OSError:  # a folder may be gone too, or be a file now
        return None
    return status.st_dev, status.st_ino


@contextmanager
def alone(path: Path, seconds: float) -> Generator[None]:
    """In the block, no other store opens or rescues a database in the folder of `path`.

    BlockingIOError if another store has not ended after so many seconds. On systems that cannot
    lock a folder, nothing is guaranteed.
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
            # Closing is not enough: a process that was forked meanwhile has the folder open too.
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
    """Rename a WAL beside `real` that belongs to another database. Returns its new name."""
    wal, shm = _beside(real)
    there = identity(wal)
    if there is None or not wal.stat().st_size:
        return None
    if _marked(wal, there) in (None, identity(real)) and real.stat().st_size:
        return None  # (an empty database has no WAL: SQLite would remove this one)
    shm.unlink(missing_ok=True)  # first, as it is useless without the WAL
    return str(wal.rename(_saved(wal, there)))


def bring_back(real: Path) -> None:
    """Move the contents of a WAL that was put aside into its database `real`, if there is one."""
    wal, shm = _beside(real)
    database = identity(real)
    for saved in real.parent.glob(f"{_escaped(wal.name)}-saved-*"):
        there = identity(saved)
        if there is None or _marked(saved, there) != database:
            continue
        if wal.exists() and wal.stat().st_size:
            continue  # the database was used without this WAL
        shm.unlink(missing_ok=True)
        saved.replace(wal)
        with closing(sqlite3.connect(real, isolation_level=None)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy or identity(real) != database:
            raise BlockingIOError(f"database {str(real)!r} is in use with an old -wal")
        # A connection that still has this WAL open has an -shm for it, and must notice that.
        shm.unlink(missing_ok=True)
        wal.unlink(missing_ok=True)


def check_none_is_cut_off(real: Path) -> None:
    """BlockingIOError if others use the database with a -wal or -shm that was removed.

    What they have committed is only in there. If one of them is a store, its next transaction saves
    it. The caller must be `alone`.
    """
    database = identity(real)
    if all(map(Path.exists, _beside(real))) or database in _brought_home:
        return
    with closing(sqlite3.connect(real, isolation_level=None, timeout=0.1)) as connection:
        # This mode needs no -shm, and is refused while another has the database open.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise BlockingIOError(
                    f"database {str(real)!r} is locked: others use it, and it has no -wal or no "
                    f"-shm; if that was removed, they must store once more, or close it, before"
                ) from error
            # Any other error comes again when the database is opened.


# Databases into which this process has moved the contents of a removed WAL. Others may still have
# that WAL open, but it is empty.
_brought_home: Final[set[Identity]] = set()


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _beside(real: Path) -> tuple[Path, Path]:
    return Path(f"{real}-wal"), Path(f"{real}-shm")


def _saved(wal: Path, which: Identity) -> Path:
    return Path(f"{wal}-saved-{which[1]}")


_MARK: Final = "user.tailrace.database"


def _mark(wal: Path, which: Identity, database: Identity) -> None:
    # With the identity of the WAL itself, since a copy of a file has its attributes too.
    text = " ".join(map(str, (*which, *database)))
    with suppress(AttributeError, OSError):  # this system, or this disk, has none
        os.setxattr(wal, _MARK, text.encode())


def _marked(wal: Path, which: Identity) -> Identity | None:
    """The database that a WAL belongs to; None if it is not marked."""
    try:
        marked = tuple(map(int, os.getxattr(wal, _MARK).split()))
    except (AttributeError, OSError, ValueError):
        return None
    return (marked[2], marked[3]) if len(marked) == 4 and marked[:2] == which else None


class Files:
    """The three files of one connection, as they were when it was opened.

    `path` may be a link to `real`, beside which SQLite keeps the other two.
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
        """The file that the database is."""
        return self._database

    @property
    def complete(self) -> bool:
        """Whether all three files were there."""
        return None not in self._opened

    def moved(self) -> bool:
        """Whether one of the files has been moved, removed or replaced."""
        return self._now() != self._opened

    def rescue(self, connection: sqlite3.Connection, seconds: float) -> None:
        """Move the WAL into its database, wherever that is now; close the connection and clean up.

        sqlite3.Error or OSError if that is impossible now. Then the connection is still open.
        """
        with alone(self._real, seconds):
            self.rescue_alone(connection)

    def rescue_alone(self, connection: sqlite3.Connection) -> None:
        """As `rescue`, for a caller that is `alone`."""
        if self._taken_over():
            self._save_what_others_lack(connection)
            self._abandon(connection)
            return
        try:
            self._checkpoint(connection)
        except sqlite3.Error as error:
            # Another try would fail too: another store has emptied the WAL.
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
        """Instead of `rescue`, when there is no time to try again: close the connection and rename
        the WAL, so that no other database takes it for its own. Returns its new name.
        """
        connection.close()
        name, opened = self._names[1], self._opened[1]
        if opened is None or identity(name) != opened:
            return str(name)
        return str(name.rename(_saved(name, opened)))

    def _taken_over(self) -> bool:
        """Whether the database is in its place and others use it with another WAL or -shm."""
        database, wal, shm = self._opened
        if identity(self._real) != database:
            return False
        _, wal_now, shm_now = self._now()
        if wal_now == wal:
            return shm_now not in (None, shm)
        if wal_now is None or _marked(self._names[1], wal_now) not in (None, database):
            return False  # it belongs to another database, which was here meanwhile
        with suppress(OSError):
            return self._names[1].stat().st_size > 0
        return False

    def _save_what_others_lack(self, connection: sqlite3.Connection) -> None:
        """Others use the database with another WAL, so they do not see this one: keep a copy of the
        database as `connection` sees it, and log where.
        """
        wal = self._opened[1]
        if wal is None or identity(self._names[1]) == wal or _is_empty(wal):
            return  # they lack nothing: it is all in their WAL, or in the database
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
        """Close the connection, without moving its WAL into the database."""
        # SQLite moves it only when the last connection closes.
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
        if in_place:  # only a link has changed: others may be using the database
            return
        # The -shm first: a database that is opened in between must not find it.
        for name, opened in ((self._names[2], shm), (self._names[1], wal)):
            for place in (name, _saved(name, opened) if opened else name):
                if opened is not None and identity(place) == opened:
                    place.unlink()

    def _now(self) -> tuple[Identity | None, ...]:
        return tuple(map(identity, self._names))


def _is_empty(which: Identity) -> bool:
    """Whether a file that this process has open, under a name or not, is known to be empty."""
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
