"""Write batches of rows into one table, over one connection.

Invariants
- A statement inserts nothing into a table that `fit_of` has not seen as it is now.
- Of a refused row nothing is stored, and no row that is there is changed.
- What is reported as stored is committed and durable, a repeat too.

The fast way is one statement for the batch: `INSERT … ON CONFLICT DO NOTHING RETURNING`. What it
does not return is looked at in a second statement, which sees what others have committed. A table
with triggers, rules or partitions goes the careful way: a transaction in which rows are read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from tailrace.errors import Reject, StoreError
from tailrace.jsontext import to_json
from tailrace.store.postgres.codes import is_made_by_another
from tailrace.store.postgres.driver import Connection
from tailrace.store.postgres.fit import PostgresFit, fit_of, seen_of
from tailrace.store.postgres.statements import FLUSH, Statements
from tailrace.store.postgres.table import PostgresTable
from tailrace.store.repeats import is_repeat, other_data
from tailrace.store.table import Row, Rows
from tailrace.store.target import Written

T = TypeVar("T")

TRIES: Final = 5  # for rows that others insert and delete at the same time


class Altered(Exception):
    """The table is not the one that was looked at: look again."""


class Standby(OSError):
    """The server is read-only: another one may be the primary, or this one be promoted."""


class _There(NamedTuple):
    """What is there under the key of a row."""

    there: bool
    equal: bool
    sent: bytes | None


@dataclass(slots=True)
class _Judged:
    """Rows that are not there, repeats, and the errors of rows whose keys are taken."""

    absent: list[Row] = field(default_factory=list[Row])
    repeats: list[tuple[Row, _There]] = field(default_factory=list[tuple[Row, _There]])
    refused: dict[int, Exception] = field(default_factory=dict[int, Exception])


class PostgresWriter(Generic[T]):
    """Writes rows into `table`. `prepare` comes before each `store`."""

    def __init__(self, what: str, connection: Connection, table: PostgresTable[T]) -> None:
        self._what = what
        self._connection = connection
        self._table = table
        self._fit = PostgresFit(())
        self._statements: Statements | None = None  # None: look at the table
        self._has_digests = False

    def __repr__(self) -> str:
        return f"<PostgresWriter of {self._table!r}>"

    async def prepare(self) -> None:
        """Make the table if there is none, and check that it fits: once, and after `forget`.

        StoreError if it does not fit. `Standby` if the server is read-only.
        """
        if self._statements is not None:
            return
        connection, table = self._connection, self._table
        fit = await fit_of(connection, table)
        if fit is None:
            await self._create(table.create())
            fit = await fit_of(connection, table)
            if fit is None:
                raise OSError(f"table {table.name!r} was dropped as soon as it was made")
        if fit.mismatches:
            raise StoreError(
                f"table {table.name!r} of {self._what} does not fit {table.row_type}: "
                + "; ".join(fit.mismatches)
            )
        if fit.standby:
            raise Standby(f"{self._what} is a read-only standby")
        key = fit.bounds[table.key_index]
        table.adapt_to([bound.adapt for bound in fit.bounds], key_is_text=key.array == "text")
        statements = Statements(
            fit.schema, table.name, fit.bounds, table.key_index, partitioned=fit.partitioned
        )
        self._fit = fit
        self._has_digests = await self._check_digests(statements)
        # Without rows: to hear now, not at the first row, what the database has against them.
        if not fit.rules:
            empty = [()] * len(table.columns)
            await connection.fetch(statements.insert, *empty, statements.place, fit.seen)
        self._statements = statements

    async def _create(self, statement: str) -> None:
        """Make a table, unless another session makes it at the same time.

        Then ``CREATE TABLE IF NOT EXISTS`` may fail, once the other session has committed.
        """
        try:
            await self._connection.execute(statement)
        except Exception as error:
            if not is_made_by_another(error):
                raise

    async def _check_digests(self, statements: Statements) -> bool:
        """Whether there is a table of digests. StoreError if it is not one that stores make."""
        rows = await self._connection.fetch(
            "SELECT c.relpersistence::text, array_agg(a.attname::text ORDER BY a.attnum) "
            "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
            "WHERE c.oid = to_regclass($1) AND NOT a.attisdropped GROUP BY c.oid",
            statements.digests_place,
        )
        if rows and (rows[0][0] != "p" or list(rows[0][1]) != ["table", "id", "digest"]):
            raise StoreError(
                f"table {statements.digests_place} of {self._what} is not the one that stores make"
            )
        return bool(rows)

    def forget(self) -> None:
        """Look at the table again at the next `prepare`."""
        self._statements = None

    async def has_changed(self) -> bool:
        """Whether the table is not the one that was looked at; then it is looked at again."""
        changed = await seen_of(self._connection, self._table.place) != self._fit.seen
        if changed:
            self.forget()
        return changed

    # --- the fast way

    async def store(self, rows: Rows) -> Written:
        """Store the rows, except those that are refused.

        `Altered` if the table has changed; some rows may be stored then.
        """
        assert self._statements is not None
        if not len(rows):
            return Written(refused=rows.refused)
        if rows.digests and not self._has_digests:
            await self._create(self._statements.create_digests)
            self._has_digests = True
        if not self._fit.faithful:
            return await self._store_with_care(rows)
        width, key = len(self._table.columns), self._table.key_index
        if not rows.digests and len(set(rows.flat[key::width])) == len(rows):
            columns = [rows.flat[n::width] for n in range(width)]
            new = await self._insert(self._statements, columns)
            if len(new) == len(rows):
                return Written(refused=rows.refused)
            left = [row for row in self._table.each(rows) if row.key not in new]
        else:
            left = self._table.each(rows)
            left = await self._insert_first(self._statements, left)
        return await self._settle(self._statements, left, dict(rows.refused))

    async def _settle(
        self, statements: Statements, left: list[Row], refused: dict[int, Exception]
    ) -> Written:
        """Look at rows that were not inserted, and insert those that are not there after all."""
        repeats = 0
        for _ in range(TRIES):
            if not left:
                break
            judged = self._judge(left, await self._look(statements, left))
            repeats += len(judged.repeats)
            refused |= judged.refused
            await self._confirm(statements, judged.repeats)
            left = judged.absent
            if left:
                left = await self._insert_first(statements, left)
        else:
            raise OSError("rows of the same keys are inserted and deleted again and again")
        return Written(repeats=repeats, refused=refused)

    async def _insert(self, statements: Statements, columns: Sequence[Sequence[Any]]) -> set[Any]:
        """Insert rows. Returns the keys of those that were new."""
        found = await self._connection.fetch(
            statements.insert, *columns, statements.place, self._fit.seen
        )
        return {key for (key,) in found}

    async def _insert_first(self, statements: Statements, rows: Sequence[Row]) -> list[Row]:
        """Insert the first row of each key. Returns the rows that were not inserted."""
        first: dict[Any, Row] = {}
        for row in rows:
            first.setdefault(row.key, row)
        chosen = list(first.values())
        columns = list(zip(*(row.values for row in chosen), strict=True))
        if all(row.digest is None for row in chosen):
            new = await self._insert(statements, columns)
        else:
            found = await self._connection.fetch(
                statements.insert_with_digests,
                *columns,
                statements.place,
                self._fit.seen,
                self._table.name,
                [_key_text(row.key) for row in chosen],
                [row.digest for row in chosen],
            )
            new = {key for (key,) in found}
        return [row for row in rows if row.key not in new or row is not first[row.key]]

    async def _look(self, statements: Statements, rows: Sequence[Row]) -> list[_There]:
        """What is there under the keys of `rows`. `Altered` if the table is another by now."""
        columns = zip(*(row.values for row in rows), strict=True)
        if self._has_digests and any(row.digest is not None for row in rows):
            keys = [_key_text(row.key) for row in rows]
            found = await self._connection.fetch(
                statements.look_with_digests, *columns, statements.place, self._table.name, keys
            )
        else:
            found = await self._connection.fetch(statements.look, *columns, statements.place)
        if len(found) != len(rows) or any(seen != self._fit.seen for *_, seen in found):
            self.forget()
            raise Altered
        return [_There(there, there and equal, sent) for there, equal, sent, _ in found]

    def _judge(self, rows: Sequence[Row], found: Sequence[_There]) -> _Judged:
        judged = _Judged()
        key_is_id = self._table.key_is_id
        for row, there in zip(rows, found, strict=True):
            if not there.there:
                judged.absent.append(row)
            elif is_repeat(row, there.equal, there.sent, key_is_id=key_is_id):
                judged.repeats.append((row, there))
            else:
                judged.refused[row.position] = other_data(key_is_id=key_is_id)
        return judged

    async def _confirm(self, statements: Statements, repeats: Sequence[tuple[Row, _There]]) -> None:
        """Keep the digests of repeats of rows that have none, and see to it that all are durable:
        whoever wrote them may not have waited for the disk.
        """
        if not repeats:
            return
        fresh = [row for row, there in repeats if row.digest is not None and there.sent is None]
        await self._keep_digests(statements.keep_digests, fresh)
        await self._connection.fetch(FLUSH)

    async def _keep_digests(self, statement: str, rows: Iterable[Row]) -> None:
        digests = {_key_text(row.key): row.digest for row in rows if row.digest is not None}
        if digests:
            names, values = list(digests), list(digests.values())
            await self._connection.fetch(statement, self._table.name, names, values)

    # --- the careful way

    async def _store_with_care(self, rows: Rows) -> Written:
        """Store rows in a table that may change or drop them."""
        statements = self._statements
        assert statements is not None
        refused = dict(rows.refused)
        left = self._table.each(rows)
        while left:
            try:
                async with self._connection.transaction(isolation="read_committed"):
                    judged, new = await self._insert_and_read_back(statements, left)
            except _Refused as not_kept:
                refused.update(not_kept.refused)
                left = [row for row in left if row.position not in refused]
                continue
            refused |= judged.refused
            await self._confirm(statements, judged.repeats)
            if self._fit.deferred:  # a trigger may have come after the look
                refused |= self._lost(new, await self._look(statements, new))
            return Written(repeats=len(judged.repeats), refused=refused)
        return Written(refused=refused)

    async def _insert_and_read_back(
        self, statements: Statements, rows: Sequence[Row]
    ) -> tuple[_Judged, list[Row]]:
        """Insert the rows that are new, and check that they are there. Returns what became of all,
        and the new ones.

        `_Refused` if the table changed a new row or left it out: roll back, so that nothing of
        that row remains.
        """
        first: dict[Any, Row] = {}
        before = await self._look(statements, rows)
        for row, there in zip(rows, before, strict=True):
            if not there.there:
                first.setdefault(row.key, row)
        new = list(first.values())
        inserted = await self._insert_new(statements, new)
        mine = [row for row in new if inserted is None or row.key in inserted]
        await self._keep_digests(statements.replace_digests, mine)
        await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        after = await self._look(statements, rows)
        places = {row.position for row in mine}
        found = dict(zip((row.position for row in rows), after, strict=True))
        lost = self._lost(mine, [found[row.position] for row in mine])
        judged = self._judge(
            [row for row in rows if row.position not in places],
            [found[row.position] for row in rows if row.position not in places],
        )
        lost |= self._lost(judged.absent, [found[row.position] for row in judged.absent])
        if lost:
            raise _Refused(lost)
        return judged, mine

    async def _insert_new(self, statements: Statements, rows: Sequence[Row]) -> set[Any] | None:
        """Insert rows. Returns the keys that were inserted; None if that is not known."""
        if not rows:
            return set()
        columns = list(zip(*(row.values for row in rows), strict=True))
        if not self._fit.rules:
            return await self._insert(statements, columns)
        await self._connection.fetch(
            statements.insert_under_rules, *columns, statements.place, self._fit.seen
        )
        return None

    def _lost(self, rows: Sequence[Row], found: Sequence[_There]) -> dict[int, Exception]:
        """The errors of rows that are not there as they were sent."""
        reason = (
            f"table {self._table.name!r} does not keep this row as it was sent: a trigger or a "
            f"rule leaves it out or changes it"
        )
        return {
            row.position: Reject(reason)
            for row, there in zip(rows, found, strict=True)
            if not there.equal
        }


class _Refused(Exception):
    """A table did not keep these rows as they were sent."""

    def __init__(self, refused: dict[int, Exception]) -> None:
        super().__init__(len(refused))
        self.refused = refused


def _key_text(key: object) -> str:
    """A key as the table of digests has it."""
    if isinstance(key, str):
        return key
    return key.hex() if isinstance(key, bytes) else to_json(key)
