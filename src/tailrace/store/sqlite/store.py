"""`store_sqlite`: the store that needs nothing but Python.

One thread makes all calls of SQLite, and owns the connection (`SqliteTarget`). The database is in
WAL mode, so readers never wait. With ``synchronous=FULL`` every transaction is on the disk before
it is acked.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args, overload

from tailrace.arguments import check_seconds
from tailrace.retry import Retry
from tailrace.store.columns import layout_of
from tailrace.store.sqlite.codes import is_outage
from tailrace.store.sqlite.table import SqliteTable
from tailrace.store.sqlite.target import Durability, SqliteTarget
from tailrace.store.sqlite.values import SQLITE
from tailrace.store.store import Store, check_retry
from tailrace.store.table import Key, id_column_of
from tailrace.store.target import Target, ThreadedTarget

__all__ = ["Durability", "store_sqlite"]

T = TypeVar("T")

BUSY_SECONDS: Final = 1.0
"""How long SQLite waits for another writer before that is an outage."""


@overload
def store_sqlite(
    path: str | os.PathLike[str],
    table: str = "events",
    type: None = None,
    *,
    key: Key[Any] = None,
    id_column: str | None = None,
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
    id_column: str | None = None,
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
    id_column: str | None = None,
    durability: Durability = "full",
    busy_timeout: float = BUSY_SECONDS,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]:
    """An actor that stores messages in a table of the SQLite database at `path`.

    Database and table are made if they do not exist. The columns come from `type`: by default the
    channel's element type, or else the type of the first message. A str, number, bytes, date, … is
    one column `data`. A dataclass, TypedDict, NamedTuple, msgspec Struct, attrs class or pydantic
    model has a column for each field; nested values are JSON text. If a table that exists does not
    fit, `StoreError` names the column; also if it is altered later.

    If the id of a message is in the table already, the message is acked and not stored again if it
    is the same, else rejected. It is the same if the client sent the same under its
    ``Idempotency-Key``; without such a key, if all columns are equal. The id is in the column
    `id_column`, by default `id` (of a `DeadLetter` `letter_id`). With a function as `key`, that
    column holds ``key(data)`` instead; with the name of a field as `key`, that field is the primary
    key.

    A message is rejected if SQLite cannot hold one of its values, or if the table does not take the
    row or keep it as it is. The store notices when the database is moved, replaced or altered.

    With the `durability` "full", acked rows are on the disk. With "normal" the operating system has
    them: several times as fast with few senders, and safe when the program is killed, but a power
    failure may lose the last acked rows. `busy_timeout` is how many seconds SQLite waits for other
    writers before that is an outage. `max_batch` and `retry` are as for `store`; without an ``on``
    of `retry`, outages are a database that is locked, full, read-only, corrupt, or cannot be
    opened, read or written.

    TypeError or ValueError for arguments that make no sense, such as a type that has no columns.
    Nothing is opened before the actor runs.
    """
    path = _checked_path(path)
    _check_name("table", table)
    if id_column is not None:
        _check_name("id_column", id_column)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a field's name or a function of the data, not {key!r}")
    if durability not in get_args(Durability):
        raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
    check_seconds("busy_timeout", busy_timeout)
    policy = check_retry(retry)
    if policy.on is None:
        policy = replace(policy, on=is_outage)

    def make_table(row_type: Any) -> SqliteTable[Any]:
        ids = id_column_of(row_type) if id_column is None else id_column
        return SqliteTable(table, layout_of(row_type, SQLITE), key, ids)

    known = None if type is None else make_table(type)
    absolute = str(Path(path).absolute())

    def make_target() -> Target[Any]:
        target = SqliteTarget[Any](
            absolute, make_table, known, durability=durability, busy_timeout=busy_timeout
        )
        return ThreadedTarget(target, f"store_sqlite {path}")

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
