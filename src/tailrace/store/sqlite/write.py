"""Write batches of rows into one table, over one connection.

Invariants
- A transaction inserts nothing under a schema that `fit_of` has not seen.
- Of a refused row nothing is stored, and no row that is there is changed.

The fast way is one statement: all rows are new, and the table is faithful. All else goes the
careful way: look which rows are there, insert the new ones, and read them back if the table is not
faithful.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Generic, Literal, TypeVar

from tailrace.errors import Reject, StoreError
from tailrace.store.repeats import Judged, judge
from tailrace.store.sqlite.codes import result_code
from tailrace.store.sqlite.fit import Fit, fit_of
from tailrace.store.sqlite.table import SqliteTable
from tailrace.store.sqlite.values import Value
from tailrace.store.table import Row, Rows
from tailrace.store.target import Written

T = TypeVar("T")

ROWS_PER_STATEMENT: Final = 1024

DIGESTS: Final = "tailrace_ids"
"""The table of the digests of what clients sent, by the ids that they chose."""

_CREATE_DIGESTS: Final = (
    f"CREATE TABLE IF NOT EXISTS main.{DIGESTS} "
    f'("table" TEXT NOT NULL, id NOT NULL, digest BLOB NOT NULL, PRIMARY KEY ("table", id)) '
    f"WITHOUT ROWID"
)


class Writer(Generic[T]):
    """Writes rows into `table`. `prepare` comes before each `store`."""

    def __init__(self, path: str, connection: sqlite3.Connection, table: SqliteTable[T]) -> None:
        self._path = path
        self._connection = connection
        self._table = table
        self._version: int | None = None  # of the schema that `_fit` describes; None: look again
        self._fit = Fit(())
        self._has_digests = False
        self._rows_per_statement = ROWS_PER_STATEMENT

    def __repr__(self) -> str:
        return f"<Writer of {self._table!r} in {self._path!r}>"

    def prepare(self) -> None:
        """Make the table if there is none, and check that it fits: once, and after an error.

        StoreError if it does not fit.
        """
        if self._version is None:
            with self._changing():
                self._look_at_schema()

    def _look_at_schema(self) -> None:
        connection, table = self._connection, self._table
        connection.execute(table.create())
        fit = fit_of(connection, table)
        if fit.mismatches:
            raise StoreError(
                f"table {table.name!r} of database {self._path!r} does not fit {table.row_type}: "
                + "; ".join(fit.mismatches)
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
        self._version = self._schema_version()

    # --- the fast way

    def store(self, rows: Rows) -> Written:
        """Store the rows in one transaction, except those that are refused."""
        stored = 0
        if self._fit.faithful and len(rows):
            try:
                if len(rows) > self._rows_per_statement or rows.digests:
                    all_new = self._store_all_new(rows)
                else:
                    stored = self._insert(rows.flat)
                    all_new = stored == len(rows)
            except sqlite3.OperationalError as error:
                if result_code(error) != sqlite3.SQLITE_ERROR:
                    raise
                all_new = False  # the table, or a column, is no longer there
            if all_new:
                return Written(refused=rows.refused)
        return self._store_with_care(rows, stored)

    def _store_all_new(self, rows: Rows) -> bool:
        """Store rows that have digests, or that need several statements.

        False if some of them are not new; then none is stored.
        """
        try:
            with self._changing():
                if self._insert_all(rows.flat) < len(rows):
                    raise _NotAllNew
                self._keep_digests(self._table.each(rows), "REPLACE")
        except _NotAllNew:
            return False
        return True

    @contextmanager
    def _changing(self) -> Generator[None]:
        """A transaction. If it is rolled back, the schema that was seen in it may be wrong."""
        try:
            with transaction(self._connection):
                yield
        except _NotAllNew:
            raise
        except BaseException:
            self._version = None
            raise

    def _insert_all(self, flat: list[Value]) -> int:
        """Insert the values of rows. Returns how many rows were new."""
        most = self._rows_per_statement * len(self._table.columns)
        return sum(self._insert(flat[start : start + most]) for start in range(0, len(flat), most))

    def _insert(self, flat: list[Value]) -> int:
        table = self._table
        width = len(table.columns)
        rows = len(flat) // width
        room = 1 << (rows - 1).bit_length()  # the next power of two
        flat = [*flat, *[None] * ((room - rows) * width), self._version]
        statement = table.insert(room, overrule=self._fit.overrule)
        return self._connection.execute(statement, flat).rowcount

    # --- the careful way

    def _store_with_care(self, rows: Rows, stored: int) -> Written:
        """Store rows of which the fast way has stored `stored` already."""
        refused = dict(rows.refused)
        left = self._table.each(rows)
        while left:
            try:
                with self._changing():
                    if self._schema_version() != self._version:
                        self._look_at_schema()
                    judged = self._insert_new(left)
            except _NotKept as not_kept:
                refused.update(not_kept.refused)
                left = [row for row in left if row.position not in refused]
            else:
                refused.update(judged.refused)
                return Written(repeats=len(judged.repeats) - stored, refused=refused)
        return Written(refused=refused)

    def _insert_new(self, rows: list[Row]) -> Judged:
        """Insert the rows that are new, and check that they are there.

        `_NotKept` if the table changed a new row or left it out: roll back, so that nothing of
        that row remains.
        """
        there = self._rows_there(rows)
        digests = self._digests_there(rows)
        judged = judge(rows, there, digests, key_is_id=self._table.key_is_id)
        if judged.new:
            flat = [value for row in judged.new for value in row.values]
            inserted = self._insert_all(flat)
            if not self._fit.faithful or inserted < len(judged.new):
                found = self._rows_there(judged.new)
                lost = [row for row in judged.new if found.get(row.key) != row.values]
                if lost:
                    raise _NotKept(self._table.name, lost)
        self._keep_digests(judged.new, "REPLACE")
        self._keep_digests(judged.repeats, "IGNORE")
        return judged

    def _rows_there(self, rows: Sequence[Row]) -> dict[Value, tuple[Value, ...]]:
        """The values of the rows in the table that have the keys of `rows`, by key."""
        table = self._table
        found: dict[Value, tuple[Value, ...]] = {}
        for keys in _portions(rows):
            for values in self._connection.execute(table.select(len(keys)), keys):
                found[values[table.key_index]] = values
        return found

    def _digests_there(self, rows: Sequence[Row]) -> dict[Value, bytes]:
        """The digests that are known for the keys of `rows`, by key."""
        if not self._has_digests:
            return {}
        found: dict[Value, bytes] = {}
        for keys in _portions([row for row in rows if row.digest is not None]):
            marks = ", ".join("?" * len(keys))
            statement = (
                f'SELECT id, digest FROM main.{DIGESTS} WHERE "table" = ? AND id IN ({marks})'
            )
            found.update(self._connection.execute(statement, (self._table.name, *keys)))
        return found

    def _keep_digests(self, rows: Sequence[Row], conflict: Literal["REPLACE", "IGNORE"]) -> None:
        """Store the digests of rows that have one; `conflict`: if there is one for the key."""
        sent = [row for row in rows if row.digest is not None]
        if sent and not self._has_digests:
            self._connection.execute(_CREATE_DIGESTS)
            self._has_digests = True
            self._version = self._schema_version()
        for start in range(0, len(sent), 256):
            portion = sent[start : start + 256]
            flat = [value for row in portion for value in (self._table.name, row.key, row.digest)]
            marks = ", ".join(["(?, ?, ?)"] * len(portion))
            self._connection.execute(
                f"INSERT OR {conflict} INTO main.{DIGESTS} VALUES {marks}", flat
            )

    def _schema_version(self) -> int:
        (version,) = self._connection.execute("PRAGMA main.schema_version").fetchone()
        return int(version)


class _NotAllNew(Exception):
    """Some of the rows have keys that are there already."""


class _NotKept(Exception):
    """A table did not keep these rows as they were sent."""

    def __init__(self, table: str, rows: Sequence[Row]) -> None:
        super().__init__(table)
        reason = (
            f"table {table!r} does not keep this row as it was sent: a trigger, a constraint or a "
            f"column's type or collation leaves it out or changes it"
        )
        self.refused = {row.position: Reject(reason) for row in rows}


def _portions(rows: Sequence[Row]) -> Generator[list[Value]]:
    """The keys of `rows`, 512 at a time, padded to a power of two: few statements are needed."""
    for start in range(0, len(rows), 512):
        keys = [row.key for row in rows[start : start + 512]]
        yield keys + [None] * ((1 << (len(keys) - 1).bit_length()) - len(keys))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Write in one transaction, which is rolled back if the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
