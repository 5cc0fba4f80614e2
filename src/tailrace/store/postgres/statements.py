"""The SQL of one table that fits. Each column of a batch is one array; `u` are its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailrace.store.postgres.bind import Bound
from tailrace.store.postgres.fit import SEEN
from tailrace.store.table import quoted

DIGESTS: Final = "tailrace_ids"
"""The table of the digests of what clients sent, by the ids that they chose."""

FLUSH: Final = "SELECT pg_catalog.pg_logical_emit_message(true, 'tailrace', ''::text)"
"""Makes all durable that this statement could see: a commit with something in the WAL waits for
the disk, and for standbys as configured."""


class Statements:
    """The statements of a table.

    The first parameters are the arrays of the columns and the name of the table in SQL. An insert
    goes on with the fingerprint. With digests there follow the name of the table as `tailrace_ids`
    has it, the texts of the keys, and for an insert the digests.
    """

    def __init__(
        self, schema: str, table: str, bounds: Sequence[Bound], key: int, *, partitioned: bool
    ) -> None:
        self.place = f"{quoted(schema)}.{quoted(table)}"
        # Not the rows of tables that inherit from it: the key is not unique among them.
        self._rows = self.place if partitioned else f"ONLY {self.place}"
        self._digests = f"{quoted(schema)}.{quoted(DIGESTS)}"
        self._bounds = bounds
        self._key = bounds[key]
        self._key_of_u = f"u.c{key + 1}"
        self._width = len(bounds)
        conflict = f"ON CONFLICT ({self._key.name}) DO NOTHING"
        returning = f"RETURNING t.{self._key.name}::{self._key.array}"
        rows = self._unnest()
        self.insert = f"{self._insert(rows)} {conflict} {returning}"
        # A table with rules takes no ON CONFLICT, and perhaps no RETURNING.
        self.insert_under_rules = (
            f"{self._insert(rows)} AND NOT EXISTS (SELECT FROM {self._rows} t WHERE {self._joined})"
        )
        self.insert_with_digests = self._with_digests(f"{conflict} {returning}")
        self.look = self._look()
        self.look_with_digests = self._look(digests=True)
        self.replace_digests = self._keep("UPDATE SET digest = excluded.digest")
        self.keep_digests = self._keep("NOTHING")
        self.create_digests = (
            f'CREATE TABLE IF NOT EXISTS {self._digests} ("table" text NOT NULL, id text NOT NULL, '
            f'digest bytea NOT NULL, PRIMARY KEY ("table", id))'
        )
        self.digests_place = self._digests

    def __repr__(self) -> str:
        return f"<Statements of {self.place}>"

    @property
    def _joined(self) -> str:
        # The cast makes it the comparison of the unique index, as of CITEXT.
        return f"t.{self._key.name} = {self._key_of_u}::{self._key.cast}"

    def _unnest(self, extra: str = "", names: str = "") -> str:
        arrays = ", ".join(f"${n}::{bound.array}[]" for n, bound in enumerate(self._bounds, 1))
        columns = ", ".join(f"c{n}" for n in range(1, self._width + 1))
        return f"unnest({arrays}{extra}) AS u ({columns}{names})"

    def _insert(self, rows: str) -> str:
        names = ", ".join(bound.name for bound in self._bounds)
        values = ", ".join(bound.inserted(f"u.c{n}") for n, bound in enumerate(self._bounds, 1))
        seen = SEEN.format(name=f"${self._width + 1}")
        return (
            f"INSERT INTO {self.place} AS t ({names}) SELECT {values} FROM {rows} "
            f"WHERE {seen} = ${self._width + 2}"
        )

    def _with_digests(self, ending: str) -> str:
        n = self._width + 3
        sent = self._unnest(f", ${n + 1}::text[], ${n + 2}::bytea[]", ", id, digest")
        return (
            f"WITH sent AS MATERIALIZED (SELECT * FROM {sent}), "
            f"new (key) AS ({self._insert('sent u')} {ending}), "
            f"kept AS (INSERT INTO {self._digests} SELECT ${n}::text, u.id, u.digest FROM sent u "
            f"JOIN new ON new.key = {self._key_of_u} WHERE u.digest IS NOT NULL "
            f'ON CONFLICT ("table", id) DO UPDATE SET digest = excluded.digest) '
            f"SELECT key FROM new"
        )

    def _look(self, *, digests: bool = False) -> str:
        """Selects of each row: whether its key is there, whether all columns are equal, the digest
        that is known, and the fingerprint."""
        n = self._width + 1
        same = " AND ".join(bound.compared(f"u.c{n}") for n, bound in enumerate(self._bounds, 1))
        if digests:
            rows = self._unnest(f", ${n + 2}::text[]", ", id, n")
            digest = f'(SELECT digest FROM {self._digests} WHERE "table" = ${n + 1} AND id = u.id)'
        else:
            rows, digest = self._unnest(names=", n"), "NULL"
        rows = rows.replace(" AS u ", " WITH ORDINALITY AS u ")
        return (
            f"SELECT t.tableoid IS NOT NULL, {same}, {digest}, {SEEN.format(name=f'${n}')} "
            f"FROM {rows} LEFT JOIN {self._rows} t ON {self._joined} ORDER BY u.n"
        )

    def _keep(self, conflict: str) -> str:
        return (
            f"INSERT INTO {self._digests} SELECT $1::text, * FROM unnest($2::text[], $3::bytea[]) "
            f'ON CONFLICT ("table", id) DO {conflict}'
        )
