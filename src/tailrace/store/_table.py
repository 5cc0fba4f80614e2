"""The SQL of one table: what creates it, what fills it, and whether one that exists will do.

One INSERT takes a whole batch: a single call of SQLite is a single hand-over of the GIL, where
`executemany` takes two for each row and waits behind a busy event loop for each. So that few
statements need be prepared, they exist for 1, 2, 4, 8, … rows; the rest is filled up with rows
without a key, which the statement leaves out.

A table that exists fits when every row could be stored in it unchanged: it has all the columns,
of types that keep their values as they are; its key is unique; and the rest can be left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from tailrace.message import Message
from tailrace.store._columns import Column, Layout, SqlType, Value

T = TypeVar("T")

Key: TypeAlias = "str | Callable[[T], str | int | bytes] | None"


class Table(Generic[T]):
    """A table for rows of one layout.

    Its key is a field of the row, where `key` names one; else a column `id_column` of its own,
    before the others, for ``key(data)`` or the message's id. TypeError if that does not go
    together.
    """

    def __init__(self, name: str, layout: Layout, key: Key[T], id_column: str) -> None:
        self.name = name
        self.row_type = layout.row_type
        self._values = layout.values
        self._key = None if isinstance(key, str) else key
        self.key_is_field = isinstance(key, str)
        self.key_column = key if isinstance(key, str) else id_column
        if self.key_is_field:
            self.columns = layout.columns
        else:
            id_ = Column(id_column, "TEXT", nullable=False, convert=str, python_type="the key")
            self.columns = (id_, *layout.columns)
        self._inserts: dict[int, str] = {}
        self._check()

    def __repr__(self) -> str:
        return f"<Table {self.name!r} for {self.row_type}>"

    def _check(self) -> None:
        names = [column.name.lower() for column in self.columns]
        if self.key_is_field:
            if self.key_column not in [column.name for column in self.columns]:
                raise TypeError(f"key={self.key_column!r}: {self.row_type} has no such field")
            if self.columns[self._key_index].nullable:
                raise TypeError(f"key={self.key_column!r}: a key is never None, this field may be")
        elif self.key_column.lower() in names[1:]:
            field = self.columns[names.index(self.key_column.lower(), 1)].name
            raise TypeError(
                f"{self.row_type} has a field {field!r}, which is also the name of the column for "
                f"the message's id: say key={field!r} if rows of the same {field} are repeats of "
                f"one row, else id_column='message_id' or the like"
            )
        for index, name in enumerate(names):
            if name in names[:index]:
                raise TypeError(f"{self.row_type} has two fields {name!r}: to SQL case is nothing")

    @property
    def _key_index(self) -> int:
        return [column.name for column in self.columns].index(self.key_column)

    # Rows.

    def parameters(self, messages: Sequence[Message[T]]) -> list[Value]:
        """The values of all rows, one after another. TypeError or ValueError for a bad one."""
        flat: list[Value] = []
        values, key = self._values, self._key
        for message in messages:
            data = message.data
            if key is not None:
                flat.append(_checked_key(key(data)))
            elif not self.key_is_field:
                flat.append(message.id)
            flat += values(data)
        return flat

    # SQL.

    def create(self) -> str:
        """The statement that makes the table where there is none."""
        columns = ", ".join(
            f"{quoted(column.name)} {column.sql_type}"
            + (" PRIMARY KEY" if column.name == self.key_column else "")
            + ("" if column.nullable else " NOT NULL")
            for column in self.columns
        )
        return f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} ({columns})"

    def insert(self, rows: int) -> str:
        """The statement that inserts up to `rows` rows, but for those that are there already."""
        statement = self._inserts.get(rows)
        if statement is None:
            statement = self._inserts[rows] = self._insert(rows)
        return statement

    def _insert(self, rows: int) -> str:
        names = ", ".join(quoted(column.name) for column in self.columns)
        row = f"({', '.join('?' * len(self.columns))})"
        return (
            f"INSERT INTO {quoted(self.name)} ({names}) "
            f"SELECT * FROM (VALUES {', '.join([row] * rows)}) "
            f"WHERE column{self._key_index + 1} IS NOT NULL "
            f"ON CONFLICT ({quoted(self.key_column)}) DO NOTHING"
        )

    def misfits(self, connection: sqlite3.Connection) -> Iterator[str]:
        """Why the table that exists will not do, a phrase for each reason."""
        kind = connection.execute(
            "SELECT type FROM sqlite_master WHERE name = ? COLLATE NOCASE AND type != 'index'",
            (self.name,),
        ).fetchone()
        if kind is not None and kind[0] != "table":
            yield f"it is a {kind[0]}"
            return
        described = self._described(connection)
        found = {column.name.lower(): column for column in described}
        for column in self.columns:
            there = found.pop(column.name.lower(), None)
            checked = column.name != self.key_column or self.key_is_field or self._key is None
            yield from _misfit(column, there, checked)
        for there in found.values():
            if there.notnull and there.default is None and not there.hidden and not there.pk:
                yield (
                    f"column {there.name!r} is NOT NULL without a default, "
                    f"and {self.row_type} has no such field"
                )
        if not self._key_is_unique(connection, described):
            yield f"column {self.key_column!r} is the key, but has no UNIQUE or PRIMARY KEY"

    def _described(self, connection: sqlite3.Connection) -> list[_Found]:
        rows = connection.execute(f"PRAGMA table_xinfo({quoted(self.name)})")
        return [_Found(*row) for row in rows]

    def _key_is_unique(self, connection: sqlite3.Connection, described: list[_Found]) -> bool:
        key = self.key_column.lower()
        if [column.name.lower() for column in described if column.pk] == [key]:
            return True
        indexes = connection.execute(f"PRAGMA index_list({quoted(self.name)})").fetchall()
        for _, index, unique, _, partial in indexes:
            members = connection.execute(f"PRAGMA index_info({quoted(index)})").fetchall()
            if unique and not partial and [str(name).lower() for _, _, name in members] == [key]:
                return True
        return False


class _Found(NamedTuple):
    """A column of an existing table, as SQLite describes it."""

    cid: int
    name: str
    declared: str
    notnull: int
    default: Any
    pk: int
    hidden: int


def _misfit(column: Column, there: _Found | None, check_type: bool) -> Iterator[str]:
    if there is None:
        null = "" if column.nullable else " NOT NULL"
        yield f"it has no column {column.name!r} ({column.sql_type}{null})"
        return
    if there.hidden:
        yield f"column {there.name!r} is generated or hidden"
    if check_type and not _keeps(_affinity(there.declared), column.sql_type):
        yield (
            f"column {there.name!r} is {there.declared}, but {column.python_type} needs "
            f"{column.sql_type}"
        )
    if there.notnull and column.nullable:
        yield f"column {there.name!r} is NOT NULL, but the field may be None"


def _affinity(declared: str) -> str:
    """What SQLite makes of a declared type (its documentation, "Datatypes", 3.1)."""
    declared = declared.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not declared or "BLOB" in declared or declared == "ANY":
        return "BLOB"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _keeps(affinity: str, sql_type: SqlType) -> bool:
    """Whether a column of this affinity gives a value back as it was stored."""
    numeric = sql_type in ("INTEGER", "REAL")
    return affinity in (sql_type, "BLOB") or (numeric and affinity == "NUMERIC")


def _checked_key(key: object) -> str | int | bytes:
    if isinstance(key, (str, int, bytes)):
        return key
    raise TypeError(f"key(data) must be a str, int or bytes, not {type(key).__name__}")


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
