"""Whether an existing table fits the rows, and whether it is sure to keep them as they are.

A table *fits* if it has all columns, of types that keep the values as they are; if its key is
unique; and if its other columns can be left out.

It is *faithful* if its description proves that each row is kept unchanged: it has no trigger and no
conflict clause, which could change or drop a row; no column that could turn a text into a number;
no collation that makes different keys equal. From any other table, new rows are read back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tailrace.store.columns import Column
from tailrace.store.sqlite.table import SqliteTable
from tailrace.store.table import quoted


@dataclass(frozen=True, slots=True)
class Fit:
    """How a table fits. `mismatches` has a phrase for each reason why it does not.

    `overrule`: its constraints have conflict clauses, which an INSERT must overrule.
    """

    mismatches: tuple[str, ...]
    faithful: bool = False
    overrule: bool = False
    key_is_text: bool = True


class _Found(NamedTuple):
    """A column of an existing table, as SQLite describes it."""

    cid: int
    name: str
    declared: str
    notnull: int
    default: Any
    pk: int
    hidden: int


def fit_of(connection: sqlite3.Connection, table: SqliteTable[Any]) -> Fit:
    """How the table in the database fits `table`. Changes nothing."""
    described = connection.execute(
        "SELECT type, sql FROM main.sqlite_master "
        "WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
        (table.name,),
    ).fetchone()
    if described is None:
        return Fit(("it does not exist",))
    kind, sql = described
    if kind != "table":
        return Fit((f"it is a {kind}",))
    rows = connection.execute(f"PRAGMA main.table_xinfo({quoted(table.name)})")
    columns = [_Found(*row) for row in rows]
    strict = _is_strict(connection, table.name)
    mismatches = tuple(_mismatches(connection, table, columns, strict))
    if mismatches:
        return Fit(mismatches)
    overrule = "CONFLICT" in sql.upper()
    try:
        # The comment makes it a new statement, so that SQLite compiles it for this schema.
        (version,) = connection.execute("PRAGMA main.schema_version").fetchone()
        statement = f"EXPLAIN {table.insert(1, overrule=overrule)} -- in schema {version}"
        connection.execute(statement, [None] * (len(table.columns) + 1))
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise
        return Fit((f"nothing can be inserted into it: {error}",))
    by_name = {column.name.lower(): column for column in columns}
    affinities = [_affinity(by_name[c.name.lower()].declared, strict) for c in table.columns]
    return Fit(
        (),
        faithful=(
            all(
                affinity in (column.sql_type, "BLOB")
                for column, affinity in zip(table.columns, affinities, strict=True)
            )
            and not overrule
            and not _has_triggers(connection, table.name)
            and "COLLATE" not in sql.upper()
        ),
        overrule=overrule,
        key_is_text=affinities[table.key_index] == "TEXT",
    )


def _has_triggers(connection: sqlite3.Connection, name: str) -> bool:
    (count,) = connection.execute(
        "SELECT count(*) FROM main.sqlite_master "
        "WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE",
        (name,),
    ).fetchone()
    return bool(count)


def _is_strict(connection: sqlite3.Connection, name: str) -> bool:
    try:
        tables = connection.execute(f"PRAGMA main.table_list({quoted(name)})").fetchall()
    except sqlite3.OperationalError:
        return False
    return any(len(found) > 5 and bool(found[5]) for found in tables)  # none before SQLite 3.37


def _mismatches(
    connection: sqlite3.Connection, table: SqliteTable[Any], columns: list[_Found], strict: bool
) -> Iterator[str]:
    found = {column.name.lower(): column for column in columns}
    for column in table.columns:
        there = found.pop(column.name.lower(), None)
        check_type = column.name != table.key_column or table.key_is_field or table.key_is_id
        yield from _mismatches_of_column(column, there, check_type, strict)
    for there in found.values():
        if there.notnull and there.default is None and not there.hidden and not there.pk:
            yield (
                f"column {there.name!r} is NOT NULL without a default, "
                f"and {table.row_type} has no such field"
            )
    if not _key_is_unique(connection, table, columns):
        yield f"column {table.key_column!r} is the key, but has no UNIQUE or PRIMARY KEY"


def _key_is_unique(
    connection: sqlite3.Connection, table: SqliteTable[Any], columns: list[_Found]
) -> bool:
    key = table.key_column.lower()
    if [column.name.lower() for column in columns if column.pk] == [key]:
        return True
    indexes = connection.execute(f"PRAGMA main.index_list({quoted(table.name)})").fetchall()
    for _, index, unique, _, partial in indexes:
        members = connection.execute(f"PRAGMA main.index_info({quoted(index)})").fetchall()
        if unique and not partial and [str(name).lower() for _, _, name in members] == [key]:
            return True
    return False


def _mismatches_of_column(
    column: Column, there: _Found | None, check_type: bool, strict: bool
) -> Iterator[str]:
    if there is None:
        null = "" if column.nullable else " NOT NULL"
        yield f"it has no column {column.name!r} ({column.sql_type}{null})"
        return
    if there.hidden:
        yield f"column {there.name!r} is generated or hidden"
    affinity = _affinity(there.declared, strict)
    if check_type and not _keeps(affinity, column.sql_type, column.never_number):
        yield (
            f"column {there.name!r} is {there.declared}, but {column.python_type} needs "
            f"{column.sql_type}"
        )
    if there.notnull and column.nullable:
        yield f"column {there.name!r} is NOT NULL, but the field may be None"


def _affinity(declared: str, strict: bool) -> str:
    """The affinity of a declared type (SQLite's documentation, "Datatypes", 3.1)."""
    declared = declared.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not declared or "BLOB" in declared or (strict and declared == "ANY"):
        return "BLOB"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _keeps(affinity: str, sql_type: str, never_number: bool) -> bool:
    """Whether a column of this affinity returns a value as it was stored.

    A NUMERIC column (DATETIME, BOOLEAN, JSON, …) keeps texts that do not look like numbers.
    """
    numeric = sql_type in ("INTEGER", "REAL", "BLOB") or never_number
    return affinity in (sql_type, "BLOB") or (numeric and affinity == "NUMERIC")
