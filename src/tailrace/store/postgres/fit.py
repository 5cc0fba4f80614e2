"""Whether an existing table fits the rows, and whether it is sure to keep them as they are.

A table *fits* if it has all columns, of types that keep the values; if its key is unique; if its
other columns can be left out; and if it is durable. It is *faithful* if nothing in the database
could change or drop a row: it has no triggers, rules or partitions.

`SEEN` is a fingerprint of all that was looked at. Statements compare it, so that no row gets into a
table that somebody has altered since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tailrace.store.columns import Column
from tailrace.store.postgres.bind import Bound, Found, bound
from tailrace.store.postgres.driver import Connection
from tailrace.store.postgres.table import PostgresTable

DURABLE: Final = ("on", "remote_apply")
"""The values of `synchronous_commit` with which an answer means that the row is on the disk."""

# xmin is the transaction that wrote a row of the catalog last. These subqueries are evaluated once
# for a statement, when it holds its locks: what alters the table waits, or has been seen.
SEEN: Final = """(SELECT concat_ws(' ', c.oid, c.xmin,
 (SELECT string_agg(a.xmin::text, ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = c.oid AND a.attnum > 0),
 (SELECT string_agg(concat(g.oid, '-', g.xmin), ',' ORDER BY g.oid) FROM pg_catalog.pg_trigger g
  WHERE g.tgrelid = c.oid),
 (SELECT string_agg(concat(r.oid, '-', r.xmin), ',' ORDER BY r.oid) FROM pg_catalog.pg_rewrite r
  WHERE r.ev_class = c.oid),
 current_setting('synchronous_commit'), current_setting('transaction_isolation'))
 FROM pg_catalog.pg_class c WHERE c.oid = to_regclass({name}))"""

_TABLE: Final = """SELECT c.oid, n.nspname::text, c.relkind::text, c.relpersistence::text,
 current_setting('synchronous_commit'), pg_is_in_recovery(),
 EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
  WHERE i.inhparent = c.oid AND p.relpersistence <> 'p'),
 EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D'),
 EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgdeferrable),
 EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type IN ('2', '3'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)"""

_COLUMNS: Final = """WITH RECURSIVE type (attnum, id, modifier, not_null, has_default) AS (
 SELECT attnum, atttypid, atttypmod, false, false FROM pg_attribute
 WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
 UNION ALL
 SELECT d.attnum, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault IS NOT NULL
 FROM type d JOIN pg_type t ON t.oid = d.id WHERE t.typtype = 'd')
SELECT a.attnum::int8, a.attname::text,
 a.attnotnull OR EXISTS (SELECT FROM type d WHERE d.attnum = a.attnum AND d.not_null),
 a.atthasdef OR EXISTS (SELECT FROM type d WHERE d.attnum = a.attnum AND d.has_default),
 a.attidentity::text, a.attgenerated::text, t.typname::text, t.typtype::text, d.modifier::int8,
 format_type(a.atttypid, a.atttypmod), format_type(t.oid, NULL)
FROM pg_attribute a JOIN type d ON d.attnum = a.attnum JOIN pg_type t ON t.oid = d.id
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype <> 'd'
ORDER BY a.attnum"""

_KEY: Final = """SELECT 1 FROM pg_index WHERE indrelid = $1::oid AND indisunique AND indimmediate
 AND indisvalid AND indpred IS NULL AND indexprs IS NULL AND indnkeyatts = 1 AND indkey[0] = $2"""


@dataclass(frozen=True, slots=True)
class PostgresFit:
    """How a table fits. `mismatches` has a phrase for each reason why it does not.

    `deferred`: a trigger may run as late as at the commit. `standby`: the server is read-only.
    """

    mismatches: tuple[str, ...]
    schema: str = ""
    bounds: tuple[Bound, ...] = ()
    seen: str = ""
    faithful: bool = False
    deferred: bool = False
    rules: bool = False
    partitioned: bool = False
    standby: bool = False


async def seen_of(connection: Connection, place: str) -> str | None:
    """The fingerprint of a table; None if there is none."""
    ((seen,),) = await connection.fetch(f"SELECT {SEEN.format(name='$1')}", place)
    return None if seen is None else str(seen)


async def fit_of(connection: Connection, table: PostgresTable[Any]) -> PostgresFit | None:
    """How the table in the database fits; None if there is none. Changes nothing."""
    seen = await seen_of(connection, table.place)
    rows = await connection.fetch(_TABLE, table.place)
    if not rows or seen is None:
        return None
    oid, schema, kind, persistence, commit, standby, *rest = rows[0]
    fleeting_part, triggers, deferred, rules = rest
    if kind not in ("r", "p"):
        return PostgresFit((f"it is a {_KINDS.get(kind, 'relation that takes no rows')}",))
    columns = [Found(*row) for row in await connection.fetch(_COLUMNS, oid)]
    pairs, missing = _pairs(table, columns)
    bounds = [_bound(table, column, found) for column, found in pairs]
    mismatches = [
        *missing,
        *_not_durable(persistence, fleeting_part, commit),
        *_mismatches(table, pairs, bounds),
        *_left_out(table, [found for _, found in pairs], columns),
    ]
    key = [found for column, found in pairs if column.name == table.key_column]
    if key and not await connection.fetch(_KEY, oid, key[0].number):
        mismatches.append(
            f"column {table.key_column!r} is the key, but has no UNIQUE or PRIMARY KEY of its own "
            f"that is checked at once"
        )
    if mismatches:
        return PostgresFit(tuple(mismatches), standby=standby)
    return PostgresFit(
        (),
        schema,
        tuple(each for each in bounds if each is not None),
        seen,
        faithful=kind == "r" and not triggers and not rules,
        deferred=deferred or kind == "p",
        rules=rules,
        partitioned=kind == "p",
        standby=standby,
    )


_KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence"}


def _pairs(
    table: PostgresTable[Any], columns: Sequence[Found]
) -> tuple[list[tuple[Column, Found]], list[str]]:
    """Each column of the rows with that of the table, and what is wrong with the others."""
    exact = {found.name: found for found in columns}
    pairs: list[tuple[Column, Found]] = []
    missing: list[str] = []
    for column in table.columns:
        # A name that is written without quotes in SQL is in lower case.
        found = exact.get(column.name) or exact.get(column.name.lower())
        if found is None:
            null = "" if column.nullable else " NOT NULL"
            missing.append(f"it has no column {column.name!r} ({column.sql_type}{null})")
        else:
            pairs.append((column, found))
    return pairs, missing


def _bound(table: PostgresTable[Any], column: Column, found: Found) -> Bound | None:
    if column.name != table.key_column or table.key_is_field:
        return bound(column, found)
    kinds = ("KEY",) if table.key_is_id else ("KEY", "FUNCTION")
    ways = (bound(column, found, kind) for kind in kinds)
    return next((way for way in ways if way is not None), None)


def _not_durable(persistence: str, fleeting_part: bool, commit: str) -> Iterator[str]:
    if persistence == "u":
        yield "it is UNLOGGED, so a crash of the server would empty it"
    elif persistence == "t":
        yield "it is temporary, so its rows would be gone with the connection"
    if fleeting_part:
        yield "a partition or child of it is unlogged or temporary"
    if commit not in DURABLE:
        yield f"synchronous_commit is {commit!r} and cannot be set to 'on'"


def _mismatches(
    table: PostgresTable[Any],
    pairs: Sequence[tuple[Column, Found]],
    bounds: Sequence[Bound | None],
) -> Iterator[str]:
    for (column, found), way in zip(pairs, bounds, strict=True):
        if found.generated:
            yield f"column {found.name!r} is generated"
        if found.identity == "a":
            yield f"column {found.name!r} is GENERATED ALWAYS, so the database chooses its values"
        if way is None:
            needs = "TEXT" if table.key_is_id and column.name == table.key_column else ""
            yield (
                f"column {found.name!r} is {found.declared}, but {column.python_type} needs "
                f"{needs or column.sql_type}"
            )
        if found.not_null and column.nullable:
            yield f"column {found.name!r} is NOT NULL, but the field may be None"


def _left_out(
    table: PostgresTable[Any], used: Sequence[Found], columns: Sequence[Found]
) -> Iterator[str]:
    numbers = {found.number for found in used}
    for found in columns:
        free = found.has_default or found.identity or found.generated or not found.not_null
        if found.number not in numbers and not free:
            yield (
                f"column {found.name!r} is NOT NULL without a default, "
                f"and {table.row_type} has no such field"
            )
