"""The connection to one SQLite database, in the thread of its store.

Invariant: what `write` reports as stored is in the table at the path, with the values that were
sent, once the transaction has ended. The files were in their places before it and after it.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from tailrace.errors import Reject, StoreError
from tailrace.store.sqlite.codes import BROKEN, PASSING, ROW_ERRORS, result_code
from tailrace.store.sqlite.files import (
    Files,
    Identity,
    alone,
    bring_back,
    check_none_is_cut_off,
    identity,
    put_aside_foreign,
)
from tailrace.store.sqlite.table import SqliteTable
from tailrace.store.sqlite.write import Writer, transaction
from tailrace.store.target import Messages, Written
from tailrace.usercode import is_a

T = TypeVar("T")

Durability: TypeAlias = Literal["full", "normal"]

_log = logging.getLogger("tailrace")

TRIES: Final = 5  # in one write, while the file is replaced again and again


class SqliteTarget(Generic[T]):
    """A `BlockingTarget`: one connection, and one table."""

    def __init__(
        self,
        path: str,
        make_table: Callable[[Any], SqliteTable[T]],
        table: SqliteTable[T] | None,
        *,
        durability: Durability,
        busy_timeout: float,
    ) -> None:
        self._path = path
        self._make_table = make_table
        self._table = table
        self._durability = durability
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()  # held in each call, and by a target that closes this one
        self._connection: sqlite3.Connection | None = None
        self._files: Files | None = None
        self._writer: Writer[T] | None = None  # of this connection, once the table is known
        with _targets_lock:
            _targets.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<SqliteTarget {self._path!r}, {state}>"

    # --- what the store calls

    def open(self, element: Any) -> None:
        """Connect. If the type is known, make the table or check that it fits.

        StoreError if that is impossible. OSError or sqlite3.OperationalError if another try may
        succeed: the database is locked, or its files are being moved.
        """
        with self._lock:
            self._open(element)

    def _open(self, element: Any) -> None:
        if self._table is None and element is not None:
            try:
                self._table = self._make_table(element)
            except TypeError as error:
                raise StoreError(str(error)) from error
        if self._connection is not None:
            return
        try:
            self._connect()
        except sqlite3.Error as error:
            if result_code(error) in PASSING:
                raise
            raise StoreError(self._cannot_open(error)) from error

    def write(self, messages: Messages[T], /) -> Written:
        """Store the rows in one transaction, except those that are refused."""
        with self._lock:
            return self._write(messages)

    def _write(self, messages: Messages[T]) -> Written:
        table = self._table
        if table is None:  # the type of the rows is not known: take that of the first one
            table = self._table = self._make_table(type(messages[0].data))
        for _ in range(TRIES):
            connection, files, writer = self._connected(table)
            try:
                written = writer.store(table.rows(messages))
            except ROW_ERRORS as error:
                raise Reject(str(error)) from error
            except sqlite3.Error as error:
                if result_code(error) in BROKEN and self._connection is not None:
                    self._let_go(connection, files)  # another connection may do better
                raise
            if not files.moved():
                return written
            self._let_go(connection, files)
        raise OSError(f"database {self._path!r} is replaced again and again")

    def close(self) -> None:
        """Close the connection. SQLite moves the WAL into the database if no other is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, files = self._connection, self._files
        self._connection = self._files = None
        if connection is None or files is None:
            return
        if files.moved():
            rescue = functools.partial(files.rescue, connection, self._busy_timeout)
            self._rescue_now(connection, files, rescue)
        else:
            connection.close()

    def _rescue_now(
        self, connection: sqlite3.Connection, files: Files, rescue: Callable[[], None]
    ) -> None:
        """Call `rescue`, for the last time: if it fails, keep the WAL."""
        try:
            rescue()
        except (sqlite3.Error, OSError) as error:
            kept = files.set_aside(connection)
            _log.error(
                "database %r was moved or replaced, and its last rows could not be moved into it "
                "(%s); they are in %s, which belongs beside it as its -wal",
                self._path,
                error,
                kept,
            )

    # --- connecting

    def _connect(self) -> tuple[sqlite3.Connection, Files]:
        path = Path(self._path)
        real = path.resolve()  # resolved once, as a link may change at any moment
        with alone(real, self._busy_timeout):
            self._connection, self._files = connection, files = self._connect_to(path, real)
        return connection, files

    def _connect_to(self, path: Path, real: Path) -> tuple[sqlite3.Connection, Files]:
        # Made here if there is none, to know which file it is: a connection does not tell.
        with suppress(OSError):
            real.touch(mode=0o644, exist_ok=False)
        before = _look(real)
        if before is not None:
            self._close_others(before[0])
            self._clear_up(real)
            check_none_is_cut_off(real)
        before = _look(real)  # again, as `bring_back` may have written into it
        connection = sqlite3.connect(
            real,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,  # see _close_others
            cached_statements=32,
        )
        if before is None or _look(real) != before or identity(path) != before[0]:
            # It may be another database than was looked at. Its WAL is not open yet.
            connection.close()
            raise self._replaced()
        files = None
        try:
            self._configure(connection)
            files = Files(path, real, before[0])
            if files.moved():
                raise self._replaced()
            if not files.complete:
                raise OSError(
                    f"database {self._path!r} has lost its -wal or -shm, and another connection of "
                    f"this process has it open with the old ones: it must be closed first"
                )
            self._writer = None
            if self._table is not None:
                self._writer = Writer(self._path, connection, self._table)
                self._writer.prepare()
        except BaseException as error:
            files = files or Files(path, real, before[0])
            if not files.moved():
                connection.close()
                raise
            rescue = functools.partial(files.rescue_alone, connection)
            self._rescue_now(connection, files, rescue)
            if is_a(error, (sqlite3.Error, StoreError)):
                raise self._replaced() from error
            raise
        return connection, files

    def _replaced(self) -> OSError:
        return OSError(f"database {self._path!r} was replaced while it was being opened")

    def _close_others(self, database: Identity) -> None:
        """Close connections of this process to the database whose files were moved since.

        SQLite would have the new connection share their -shm.
        """
        with _targets_lock:
            others = [target for target in _targets if target is not self]
        for other in others:
            files = other._files
            if files is None or files.database != database or not files.moved():
                continue
            if not other._lock.acquire(blocking=False):  # it may be waiting for this target
                raise self._replaced()
            try:
                if other._files is files and other._connection is not None:
                    files.rescue_alone(other._connection)
                    other._connection = other._files = None
            finally:
                other._lock.release()

    def _clear_up(self, real: Path) -> None:
        """Leave no WAL beside the database but its own."""
        if (kept := put_aside_foreign(real)) is not None:
            _log.warning(
                "beside database %r was the -wal of another one, which was moved or replaced; it "
                "is now %s until its owner has saved it",
                self._path,
                kept,
            )
        bring_back(real)

    def _configure(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(
                f"database {self._path!r} cannot be in WAL mode, it stays in {mode!r}; "
                f"is it on a network file system?"
            )
        connection.execute(f"PRAGMA synchronous = {self._durability.upper()}")
        if self._durability == "full":  # macOS: past the cache of the drive
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        # A write that changes nothing: if the database is read-only, fail now and not at a row.
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {version}")

    def _cannot_open(self, error: sqlite3.Error) -> str:
        path = Path(self._path)
        why = str(error)
        with suppress(OSError):  # a path that is too long, for which `is_dir` raises
            if path.is_dir():
                why = "it is a folder"
            elif not path.parent.is_dir():
                why = f"there is no folder {str(path.parent)!r}"
        return f"cannot use database {self._path!r}: {why}"

    def _connected(self, table: SqliteTable[T]) -> tuple[sqlite3.Connection, Files, Writer[T]]:
        """The connection, made anew if the database is no longer the file that it was made to."""
        connection, files = self._connection, self._files
        if connection is not None and files is not None and files.moved():
            self._let_go(connection, files)
            connection = None
        if connection is None or files is None:
            connection, files = self._connect()
        if self._writer is None:
            self._writer = Writer(self._path, connection, table)
        self._writer.prepare()
        return connection, files, self._writer

    def _let_go(self, connection: sqlite3.Connection, files: Files) -> None:
        """Close the connection, so that the next write makes a new one."""
        if files.moved():
            _log.warning("database %r was removed or replaced; opening it anew", self._path)
            files.rescue(connection, self._busy_timeout)
        else:
            connection.close()
        self._connection = self._files = None


_targets: weakref.WeakSet[SqliteTarget[Any]] = weakref.WeakSet()
_targets_lock: Final = threading.Lock()


def _look(path: Path) -> tuple[Identity, int] | None:
    """Which file this is, and when it last changed in any way; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino), status.st_ctime_ns
