"""One table of one SQLite database, as the writer's thread sees it.

Invariants
- What `write` says is stored is in the table at the path, with the values that were sent, when the
  transaction has ended; the files were in their places before it and after it.
- A transaction inserts nothing under a schema that `fit_of` has not seen.
- Nothing is stored of a row that is refused, and nothing that is there is changed.

The fast way is one statement: all rows are new, and the table is faithful. Everything else goes
the careful way: look at what is there, insert what is new, read it back if need be.

Which errors are an *outage* is decided by SQLite's own result codes. What says something about the
database (locked, full, read-only, cannot be read or written, corrupt) is an outage: the same rows
may well be stored in a while. A constraint, or a value that SQLite cannot hold, is about a row,
which is rejected.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from tailrace.errors import Reject, StoreError
from tailrace.store.sqlite.files import (
    Files,
    Identity,
    alone,
    bring_back,
    check_none_is_cut_off,
    identity,
    put_aside_foreign,
)
from tailrace.store.sqlite.fit import Fit, fit_of
from tailrace.store.sqlite.repeats import Judged, judge
from tailrace.store.sqlite.table import Row, Rows, Table
from tailrace.store.target import Messages, Written
from tailrace.store.values import Value
from tailrace.usercode import is_a

T = TypeVar("T")

Durability: TypeAlias = Literal["full", "normal"]

_log = logging.getLogger("tailrace")

ROWS_PER_STATEMENT: Final = 1024
TRIES: Final = 5  # in one write, while the file is replaced again and again

DIGESTS: Final = "tailrace_ids"
"""The table of what clients sent under the ids that they chose."""

_CREATE_DIGESTS: Final = (
    f"CREATE TABLE IF NOT EXISTS main.{DIGESTS} "
    f'("table" TEXT NOT NULL, id NOT NULL, digest BLOB NOT NULL, PRIMARY KEY ("table", id)) '
    f"WITHOUT ROWID"
)

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_PASSING: Final = _LOCKED | {sqlite3.SQLITE_IOERR}  # a file that was removed while it was opened
_OUTAGES: Final = _LOCKED | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_SCHEMA,
}
_BROKEN: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA}
)
_UNHELD: Final = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)


def is_outage(error: BaseException) -> bool:
    """Whether `error` is about the database, and not about a row."""
    return is_a(error, OSError) or _code(error) in _OUTAGES


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code, where `error` has one."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if is_a(error, sqlite3.Error) and isinstance(code, int) else None


class SqliteTarget(Generic[T]):
    """A `BlockingTarget`."""

    def __init__(
        self,
        path: str,
        make_table: Callable[[Any], Table[T]],
        table: Table[T] | None,
        *,
        durability: Durability,
        busy_timeout: float,
    ) -> None:
        self._path = path
        self._make_table = make_table
        self._table = table
        self._durability = durability
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()  # held in each call, and by another target that closes ours
        self._connection: sqlite3.Connection | None = None
        self._files: Files | None = None
        self._version: int | None = None  # the schema that `_fit` is about; None: look again
        self._fit = Fit(())
        self._has_digests = False
        self._rows_per_statement = ROWS_PER_STATEMENT
        with _targets_lock:
            _targets.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<SqliteTarget {self._path!r}, {state}>"

    # What InThread calls.

    def open(self, element: Any) -> None:
        """Connect, and if the type is known make the table, or see that it fits.

        StoreError if that is impossible; OSError or sqlite3.OperationalError if it may be possible
        in a while: it is locked, or its files are being moved.
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
            if _code(error) in _PASSING:
                raise
            raise StoreError(self._cannot_open(error)) from error

    def write(self, messages: Messages[T], /) -> Written:
        """Store all rows in one transaction, but for those that are refused."""
        with self._lock:
            return self._write(messages)

    def _write(self, messages: Messages[T]) -> Written:
        table = self._table
        if table is None:  # nobody said what the rows are: the first one shows it
            table = self._table = self._make_table(type(messages[0].data))
            self._version = None
        for _ in range(TRIES):
            connection, files = self._connected()
            try:
                written = self._store(connection, table, table.rows(messages))
            except _UNHELD as error:
                raise Reject(str(error)) from error
            except sqlite3.Error as error:
                if _code(error) in _BROKEN and self._connection is not None:
                    self._let_go(connection, files)  # another connection may do better
                raise
            if not files.moved():
                return written
            self._let_go(connection, files)
        raise OSError(f"database {self._path!r} is replaced again and again")

    def close(self) -> None:
        """Close the connection; SQLite moves what is in the WAL into the database, if alone."""
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
        """Call `rescue`, which nobody will try again."""
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

    # Connecting.

    def _connect(self) -> tuple[sqlite3.Connection, Files]:
        path = Path(self._path)
        real = path.resolve()  # a link may be changed at any moment: use one and the same file
        with alone(real, self._busy_timeout):
            self._connection, self._files = connection, files = self._connect_to(path, real)
        return connection, files

    def _connect_to(self, path: Path, real: Path) -> tuple[sqlite3.Connection, Files]:
        # Made here if there is none, so as to know which file it is: a connection does not say.
        with suppress(OSError):
            real.touch(mode=0o644, exist_ok=False)
        before = _look(real)
        if before is not None:
            self._close_others(before[0])
            self._clear_up(real)
            check_none_is_cut_off(real)
        before = _look(real)  # again: bringing back has written into it
        connection = sqlite3.connect(
            real,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,  # see _close_others
            cached_statements=32,
        )
        if before is None or _look(real) != before or identity(path) != before[0]:
            # Nothing but the database is open yet, and it may be another one than was looked at.
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
            self._version = None
            if self._table is not None:
                self._prepare(connection, self._table)
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
        """Close what other stores of this process have open of the database, if its files were
        moved since: SQLite would have the new connection share their -shm.
        """
        with _targets_lock:
            others = [target for target in _targets if target is not self]
        for other in others:
            files = other._files
            if files is None or files.database != database or not files.moved():
                continue
            if not other._lock.acquire(blocking=False):  # it may be waiting for this one
                raise self._replaced()
            try:
                if other._files is files and other._connection is not None:
                    files.rescue_alone(other._connection)
                    other._connection = other._files = None
            finally:
                other._lock.release()

    def _clear_up(self, real: Path) -> None:
        """Have no WAL beside the database but its own."""
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
        # A write that changes nothing: to hear now, and not with the first row, if it is read-only.
        with _transaction(connection):
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

    def _connected(self) -> tuple[sqlite3.Connection, Files]:
        """The connection, made anew if the database is not the file that it was made to."""
        connection, files = self._connection, self._files
        if connection is None or files is None:
            return self._connect()
        if files.moved():
            self._let_go(connection, files)
            return self._connect()
        if self._version is None and self._table is not None:
            self._prepare(connection, self._table)
        return connection, files

    def _let_go(self, connection: sqlite3.Connection, files: Files) -> None:
        """Close a connection that is not to be used again."""
        if files.moved():
            _log.warning("database %r was removed or replaced; opening it anew", self._path)
            files.rescue(connection, self._busy_timeout)
        else:
            connection.close()
        self._connection = self._files = None

    def _prepare(self, connection: sqlite3.Connection, table: Table[T]) -> None:
        with self._changing(connection):
            self._look_at_schema(connection, table)

    def _look_at_schema(self, connection: sqlite3.Connection, table: Table[T]) -> None:
        """Make the table if there is none, and see that it fits, in the transaction that runs.

        StoreError if it does not fit.
        """
        connection.execute(table.create())
        fit = fit_of(connection, table)
        if fit.misfits:
            raise StoreError(
                f"table {table.name!r} of database {self._path!r} does not fit {table.row_type}: "
                + "; ".join(fit.misfits)
            )
        self._fit = fit
        table.key_is_text = fit.key_is_text
        found = connection.execute(f"PRAGMA main.table_info({DIGESTS})").fetchall()
        self._has_digests = bool(found)
        if found and [column[1] for column in found] != ["table", "id", "digest"]:
            raise StoreError(
                f"table {DIGESTS!r} of database {self._path!r} is not the one that stores make"
            )
        variables = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        most = max(1, (variables - 1) // len(table.columns))
        self._rows_per_statement = min(ROWS_PER_STATEMENT, 1 << most.bit_length() - 1)
        self._version = _schema_version(connection)

    # The fast way.

    def _store(self, connection: sqlite3.Connection, table: Table[T], rows: Rows) -> Written:
        stored = 0
        if self._fit.faithful and len(rows):
            try:
                if len(rows) > self._rows_per_statement or rows.digests:
                    all_new = self._store_all_new(connection, table, rows)
                else:
                    stored = self._insert(connection, table, rows.flat)
                    all_new = stored == len(rows)
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_ERROR:
                    raise
                all_new = False  # table or column are no longer there
            if all_new:
                return Written(refused=rows.refused)
        return self._store_with_care(connection, table, rows, stored)

    def _store_all_new(self, connection: sqlite3.Connection, table: Table[T], rows: Rows) -> bool:
        """Store the rows of several statements, or those with digests; False if some of them are
        not new, and then none is stored.
        """
        try:
            with self._changing(connection):
                if self._insert_all(connection, table, rows.flat) < len(rows):
                    raise _NotAllNew
                self._keep_digests(connection, table, table.each(rows), "REPLACE")
        except _NotAllNew:
            return False
        return True

    @contextmanager
    def _changing(self, connection: sqlite3.Connection) -> Generator[None]:
        """A transaction. If it is rolled back, what was seen of the schema in it may be wrong."""
        try:
            with _transaction(connection):
                yield
        except _NotAllNew:
            raise
        except BaseException:
            self._version = None
            raise

    def _insert_all(
        self, connection: sqlite3.Connection, table: Table[T], flat: list[Value]
    ) -> int:
        """Returns how many rows were new."""
        most = self._rows_per_statement * len(table.columns)
        return sum(
            self._insert(connection, table, flat[start : start + most])
            for start in range(0, len(flat), most)
        )

    def _insert(self, connection: sqlite3.Connection, table: Table[T], flat: list[Value]) -> int:
        width = len(table.columns)
        rows = len(flat) // width
        room = 1 << (rows - 1).bit_length()  # the next power of two
        flat = [*flat, *[None] * ((room - rows) * width), self._version]
        return connection.execute(table.insert(room, overrule=self._fit.overrule), flat).rowcount

    # The careful way.

    def _store_with_care(
        self, connection: sqlite3.Connection, table: Table[T], rows: Rows, stored: int
    ) -> Written:
        """`stored` of the rows are there by the fast way."""
        refused = dict(rows.refused)
        left = table.each(rows)
        while left:
            try:
                with self._changing(connection):
                    if _schema_version(connection) != self._version:
                        self._look_at_schema(connection, table)
                    judged = self._insert_new(connection, table, left)
            except _Unkept as unkept:
                refused.update(unkept.refused)
                left = [row for row in left if row.position not in refused]
            else:
                refused.update(judged.refused)
                return Written(repeats=len(judged.repeats) - stored, refused=refused)
        return Written(refused=refused)

    def _insert_new(
        self, connection: sqlite3.Connection, table: Table[T], rows: list[Row]
    ) -> Judged:
        """Insert the rows that are new, and see that they are there.

        `_Unkept` if the table did not keep a new row as it was sent: roll back, so that nothing
        of that row remains.
        """
        there = self._there(connection, table, rows)
        digests = self._digests(connection, table, rows)
        judged = judge(rows, there, digests, key_is_id=table.key_is_id)
        if judged.new:
            flat = [value for row in judged.new for value in row.values]
            inserted = self._insert_all(connection, table, flat)
            if not self._fit.faithful or inserted < len(judged.new):
                found = self._there(connection, table, judged.new)
                lost = [row for row in judged.new if found.get(row.key) != row.values]
                if lost:
                    raise _Unkept(table.name, lost)
        self._keep_digests(connection, table, judged.new, "REPLACE")
        self._keep_digests(connection, table, judged.repeats, "IGNORE")
        return judged

    def _there(
        self, connection: sqlite3.Connection, table: Table[T], rows: Sequence[Row]
    ) -> dict[Value, tuple[Value, ...]]:
        """The rows in the table that have the keys of these."""
        found: dict[Value, tuple[Value, ...]] = {}
        for keys in _portions(rows):
            for values in connection.execute(table.select(len(keys)), keys):
                found[values[table.key_index]] = values
        return found

    def _digests(
        self, connection: sqlite3.Connection, table: Table[T], rows: Sequence[Row]
    ) -> dict[Value, bytes]:
        if not self._has_digests:
            return {}
        found: dict[Value, bytes] = {}
        for keys in _portions([row for row in rows if row.digest is not None]):
            marks = ", ".join("?" * len(keys))
            found.update(
                connection.execute(
                    f'SELECT id, digest FROM main.{DIGESTS} WHERE "table" = ? AND id IN ({marks})',
                    (table.name, *keys),
                )
            )
        return found

    def _keep_digests(
        self,
        connection: sqlite3.Connection,
        table: Table[T],
        rows: Sequence[Row],
        conflict: Literal["REPLACE", "IGNORE"],
    ) -> None:
        """Remember what clients sent; `conflict`: what to do where that is known already."""
        sent = [row for row in rows if row.digest is not None]
        if sent and not self._has_digests:
            connection.execute(_CREATE_DIGESTS)
            self._has_digests = True
            self._version = _schema_version(connection)
        for start in range(0, len(sent), 256):
            portion = sent[start : start + 256]
            flat = [value for row in portion for value in (table.name, row.key, row.digest)]
            marks = ", ".join(["(?, ?, ?)"] * len(portion))
            connection.execute(f"INSERT OR {conflict} INTO main.{DIGESTS} VALUES {marks}", flat)


_targets: weakref.WeakSet[SqliteTarget[Any]] = weakref.WeakSet()
_targets_lock: Final = threading.Lock()


def _look(path: Path) -> tuple[Identity, int] | None:
    """Which file this is, and when it was last written, moved or linked; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino), status.st_ctime_ns


class _NotAllNew(Exception):
    """Some of the rows have keys that are there already."""


class _Unkept(Exception):
    """A table did not keep these rows as they were sent."""

    def __init__(self, table: str, rows: Sequence[Row]) -> None:
        super().__init__(table)
        reason = (
            f"table {table!r} does not keep this row as it was sent: a trigger, a constraint or a "
            f"column's type or collation leaves it out or changes it"
        )
        self.refused = {row.position: Reject(reason) for row in rows}


def _portions(rows: Sequence[Row]) -> Generator[list[Value]]:
    """The keys of rows, so many at a time, filled up so that few statements need be prepared."""
    for start in range(0, len(rows), 512):
        keys = [row.key for row in rows[start : start + 512]]
        yield keys + [None] * ((1 << (len(keys) - 1).bit_length()) - len(keys))


def _schema_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA main.schema_version").fetchone()
    return int(version)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
