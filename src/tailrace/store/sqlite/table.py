"""The SQL of one table of SQLite.

One INSERT takes a whole batch: one call of SQLite releases the GIL once, where `executemany` does
so for each row and waits for a busy event loop each time. There are statements for 1, 2, 4, 8, …
rows, so that few are prepared; a batch is padded with rows without a key, which are skipped.

The statement inserts nothing if the schema is not the one that was looked at. So no row gets into a
table that somebody has altered, and no second statement is needed to check.
"""

from __future__ import annotations

from typing import TypeVar

from tailrace.store.columns import Layout
from tailrace.store.table import Key, Table, quoted

T = TypeVar("T")


class SqliteTable(Table[T]):
    """A table, and the statements that write and read it."""

    def __init__(self, name: str, layout: Layout, key: Key[T], id_column: str) -> None:
        super().__init__(name, layout, key, id_column)
        self._inserts: dict[int, str] = {}
        self._selects: dict[int, str] = {}

    def create(self) -> str:
        """The statement that makes the table if there is none."""
        columns = ", ".join(
            f"{quoted(column.name)} {column.sql_type}"
            + (" PRIMARY KEY" if column.name == self.key_column else "")
            + ("" if column.nullable else " NOT NULL")
            for column in self.columns
        )
        return f"CREATE TABLE IF NOT EXISTS main.{quoted(self.name)} ({columns})"

    def insert(self, rows: int, *, overrule: bool = False) -> str:
        """The statement that inserts up to `rows` rows, except those whose keys are there.

        Its last parameter is the schema version: if the database has another one, nothing is
        inserted. `overrule`: a row that breaks a constraint is an error, whatever that constraint
        says after ON CONFLICT. (Only where it is needed, as it overrules triggers too.)
        """
        number = -rows if overrule else rows
        statement = self._inserts.get(number)
        if statement is None:
            statement = self._inserts[number] = self._insert(rows, "OR ABORT " if overrule else "")
        return statement

    def _insert(self, rows: int, conflicts: str) -> str:
        names = ", ".join(quoted(column.name) for column in self.columns)
        row = f"({', '.join('?' * len(self.columns))})"
        return (
            f"INSERT {conflicts}INTO main.{quoted(self.name)} ({names}) "
            f"SELECT * FROM (VALUES {', '.join([row] * rows)}) "
            f"WHERE column{self.key_index + 1} IS NOT NULL "
            f"AND (SELECT schema_version FROM pragma_schema_version) = ? "
            f"ON CONFLICT ({quoted(self.key_column)}) DO NOTHING"
        )

    def select(self, rows: int) -> str:
        """The statement that selects the rows of up to `rows` keys."""
        statement = self._selects.get(rows)
        if statement is None:
            names = ", ".join(quoted(column.name) for column in self.columns)
            statement = self._selects[rows] = (
                f"SELECT {names} FROM main.{quoted(self.name)} "
                f"WHERE {quoted(self.key_column)} IN ({', '.join('?' * rows)})"
            )
        return statement
