"""store_sqlite: the store that needs nothing but Python.

All of SQLite happens in one thread, which owns the connection. The database is in WAL mode, so
readers never wait; ``synchronous=FULL`` makes every transaction reach the disk before it is acked.

Which errors are an *outage* and which are *poison* is decided by SQLite's own result codes. What
says something about the database (locked, full, read-only, cannot be read or written, corrupt) is
an outage: the same rows may well be stored in a while. Whatever else goes wrong (a constraint, a
value of the wrong type, a number of more than 64 bits, a text that is no Unicode) is about a row,
and so poison.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, cast, get_args, overload

from tailrace.retry import Retry
from tailrace.store._columns import Value, layout_of
from tailrace.store._errors import StoreError
from tailrace.store._store import Store, check_retry
from tailrace.store._table import Key, Table
from tailrace.store._target import InThread, Messages, Target

__all__ = ["Durability", "store_sqlite"]

T = TypeVar("T")

Durability = Literal["full", "normal"]

_log = logging.getLogger("tailrace")

BUSY_SECONDS: Final = 1.0
"""How long SQLite itself waits for another writer before that counts as an outage."""

ROWS_PER_STATEMENT: Final = 1024

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
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


def is_outage(error: BaseException) -> bool:
    """Whether `error` is about the database, and not about a row."""
    return isinstance(error, OSError) or _code(error) in _OUTAGES


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code, where `error` has one."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(error, sqlite3.Error) and isinstance(code, int) else None


class SqliteTarget(Generic[T]):
    """One table of one database, as the writer's thread sees it. No other thread may call it."""

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
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # which file the connection is to
        self._rows_per_statement = ROWS_PER_STATEMENT
        self._fits = False

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<SqliteTarget {self._path!r}, {state}>"

    # What InThread calls.

    def open(self, element: Any) -> None:
        """Connect, and if the type is known make the table, or see that it fits.

        StoreError if that is impossible; sqlite3.OperationalError if it is locked just now.
        """
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
            if _code(error) in _LOCKED:
                raise
            raise StoreError(self._cannot_open(error)) from error

    def write(self, messages: Messages[T], /) -> int:
        """Store all rows in one transaction; returns how many there were already."""
        table = self._table
        if table is None:  # nobody said what the rows are: the first one shows it
            table = self._table = self._make_table(type(messages[0].data))
            self._fits = False
        flat = table.parameters(messages)
        return len(messages) - self._insert(self._connected(), table, flat)

    def close(self) -> None:
        """Close the connection; SQLite moves what is in the WAL into the database, if alone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Connecting.

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout, isolation_level=None, cached_statements=32
        )
        try:
            self._configure(connection)
            if self._table is not None:
                self._prepare_table(connection, self._table)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._file = _identity(self._path)
        return connection

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

    def _prepare_table(self, connection: sqlite3.Connection, table: Table[T]) -> None:
        with _transaction(connection):
            connection.execute(table.create())
            misfits = list(table.misfits(connection))
        if misfits:
            raise StoreError(
                f"table {table.name!r} of database {self._path!r} does not fit {table.row_type}: "
                + "; ".join(misfits)
            )
        variables = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        most = max(1, variables // len(table.columns))
        self._rows_per_statement = min(ROWS_PER_STATEMENT, 1 << most.bit_length() - 1)
        self._fits = True

    def _cannot_open(self, error: sqlite3.Error) -> str:
        path = Path(self._path)
        why = str(error)
        if path.is_dir():
            why = "it is a folder"
        elif not path.parent.is_dir():
            why = f"there is no folder {str(path.parent)!r}"
        return f"cannot use database {self._path!r}: {why}"

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew if the file is not the one that it was made to."""
        connection = self._connection
        if connection is not None and _identity(self._path) != self._file:
            # SQLite would go on writing to a file without a name, and every ack would be a lie.
            _log.warning("database %r was removed or replaced; opening it anew", self._path)
            self.close()
            connection = None
        if connection is None:
            connection = self._connect()
        elif not self._fits and self._table is not None:
            self._prepare_table(connection, self._table)
        return connection

    # Inserting.

    def _insert(self, connection: sqlite3.Connection, table: Table[T], flat: list[Value]) -> int:
        """Returns how many rows were new."""
        most = self._rows_per_statement * len(table.columns)
        if len(flat) <= most:
            return _insert_one(connection, table, flat)
        with _transaction(connection):
            return sum(
                _insert_one(connection, table, flat[start : start + most])
                for start in range(0, len(flat), most)
            )


def _insert_one(connection: sqlite3.Connection, table: Table[Any], flat: list[Value]) -> int:
    width = len(table.columns)
    rows = len(flat) // width
    room = 1 << (rows - 1).bit_length()  # the next power of two
    flat += [None] * ((room - rows) * width)
    return connection.execute(table.insert(room), flat).rowcount


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


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@overload
def store_sqlite(
    path: str | os.PathLike[str],
    table: str = "events",
    type: None = None,
    *,
    key: Key[Any] = None,
    id_column: str = "id",
    durability: Durability = "full",
    busy_timeout: float = BUSY_SECONDS,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]: ...
@overload
def store_sqlite(
    path: str | os.PathLike[str],
    table: str = "events",
    type: type[T] = ...,
    *,
    key: Key[T] = None,
    id_column: str = "id",
    durability: Durability = "full",
    busy_timeout: float = BUSY_SECONDS,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[T]: ...
def store_sqlite(
    path: str | os.PathLike[str],
    table: str = "events",
    type: type[Any] | None = None,
    *,
    key: Key[Any] = None,
    id_column: str = "id",
    durability: Durability = "full",
    busy_timeout: float = BUSY_SECONDS,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]:
    """An actor that stores messages in a table of the SQLite database at `path`.

    Database and table are made if they do not exist. The columns come from `type`, by default
    the channel's element type, or else that of the first message: one column `data` for a str,
    number, bytes, date, …; one for each field of a dataclass, TypedDict, NamedTuple or msgspec
    Struct; JSON text for what is nested. A table that exists must fit, or `StoreError` says which
    column does not.

    A message whose id is in the table already is acked and not stored again. The column
    `id_column` is for that; with a function as `key` it holds ``key(data)`` instead of the
    message's id, and with the name of a field as `key` that field is the primary key.

    `durability` "full" acks what is on the disk. "normal" acks what the operating system has:
    several times as fast with few senders, and safe when the program is killed, but a power
    failure may lose the last acked rows. `busy_timeout` is how many seconds SQLite waits for
    other writers before it is an outage. `max_batch` and `retry` are as for `store`; unless
    `retry` says ``on``, outages are a database that is locked, full, read-only, corrupt, or
    cannot be opened, read or written.

    TypeError or ValueError for arguments that make no sense, among them a type that has no
    columns. Nothing is opened before the actor runs.
    """
    path = _checked_path(path)
    _check_name("table", table)
    _check_name("id_column", id_column)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a field's name or a function of the data, not {key!r}")
    if durability not in get_args(Durability):
        raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
    if not 0 <= busy_timeout < math.inf:
        raise ValueError(f"busy_timeout must be seconds of 0 or more, not {busy_timeout!r}")
    policy = check_retry(retry)
    if policy.on is None:
        policy = replace(policy, on=is_outage)

    def make_table(row_type: Any) -> Table[Any]:
        return Table(table, layout_of(row_type), key, id_column)

    known = None if type is None else make_table(type)
    absolute = str(Path(path).absolute())

    def make_target() -> Target[Any]:
        target = SqliteTarget[Any](
            absolute, make_table, known, durability=durability, busy_timeout=busy_timeout
        )
        return InThread(target, f"store_sqlite {path}")

    return Store(
        make_target,
        name="store_sqlite",
        what=f"{path!r} table {table!r}",
        max_batch=max_batch,
        retry=policy,
    )


def _checked_path(path: object) -> str:
    text: object = os.fspath(cast("os.PathLike[Any]", path))
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"path must be that of a file, as text, not {path!r}")
    if text == ":memory:":
        raise ValueError("a database in memory would be gone with the store; give it a file")
    return text


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a name, not {name!r}")
    if not name or "\0" in name or name.lower().startswith("sqlite_"):
        raise ValueError(f"{what} cannot be called {name!r} in SQLite")
