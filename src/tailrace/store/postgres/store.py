"""`store_postgres`: messages into a table of PostgreSQL."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final, TypeVar, overload

from tailrace.retry import Retry
from tailrace.store.columns import layout_of
from tailrace.store.postgres.codes import is_outage
from tailrace.store.postgres.driver import check_installed
from tailrace.store.postgres.dsn import parsed
from tailrace.store.postgres.table import LONGEST_NAME, PostgresTable
from tailrace.store.postgres.target import PostgresTarget
from tailrace.store.postgres.values import POSTGRES
from tailrace.store.store import Store, check_retry
from tailrace.store.table import Key, id_column_of
from tailrace.store.target import Target

__all__ = ["store_postgres"]

T = TypeVar("T")

PATIENCE: Final = Retry(attempts=30, cap=1.0)
"""About a quarter of a minute: a restart of the server takes less. The short `cap` brings the store
back soon after the database."""

TIMEOUT: Final = 60.0


@overload
def store_postgres(
    dsn: str,
    table: str = "events",
    type: None = None,
    *,
    schema: str | None = None,
    key: Key[Any] = None,
    id_column: str | None = None,
    timeout: float = TIMEOUT,
    statement_cache_size: int = 100,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]: ...
@overload
def store_postgres(
    dsn: str,
    table: str = "events",
    type: type[T] = ...,
    *,
    schema: str | None = None,
    key: Key[T] = None,
    id_column: str | None = None,
    timeout: float = TIMEOUT,
    statement_cache_size: int = 100,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[T]: ...
def store_postgres(
    dsn: str,
    table: str = "events",
    type: type[Any] | None = None,
    *,
    schema: str | None = None,
    key: Key[Any] = None,
    id_column: str | None = None,
    timeout: float = TIMEOUT,
    statement_cache_size: int = 100,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]:
    """An actor that stores messages in a table of a PostgreSQL database.

    `dsn` is a URI (``postgresql://user:password@host:port/database``) or libpq's keywords
    (``host=… dbname=…``). What it leaves out comes from the environment (``PGPASSWORD``, …) or from
    a password or service file. Several hosts are tried in turn. No text shows the password.

    The table is made if it does not exist, in `schema` or else in the first schema of the
    search path. The columns come from `type`, as for `store_sqlite`: a column for each field, and
    nested values as JSONB. A `datetime` is a TIMESTAMPTZ and needs a time zone; in a table that
    exists with a TIMESTAMP column it must have none. If a table that exists does not fit,
    `StoreError` names the column.

    `key` and `id_column` say what a repeat is, as for `store_sqlite`. The digests of what clients
    sent under their ``Idempotency-Key`` are in a table `tailrace_ids` of the same schema.

    A message is rejected if PostgreSQL cannot hold one of its values, or if the table does not take
    the row or keep it as it is. An ack means that the row is committed with `synchronous_commit`
    "on" at least.

    Outages are `OSError`, a connection that was closed, a standby, and what the server reports as
    such (it shuts down, is full, finds a deadlock, …). They are tried 30 times over about 15
    seconds, unless `retry` says otherwise. An error about names or rights is tried again as often,
    and then ends the store with `StoreError`. `timeout` is how many seconds a transaction may take
    before that is an outage too. `max_batch` is as for `store`. With PgBouncer in transaction mode
    say ``statement_cache_size=0``.

    ImportError without asyncpg: install ``tailrace[postgres]``. TypeError or ValueError for
    arguments that make no sense. Nothing is opened before the actor runs.
    """
    where = parsed(dsn)
    _check_name("table", table)
    if schema is not None:
        _check_name("schema", schema)
    elif "." in table:
        first, _, last = table.partition(".")
        raise ValueError(f"table {table!r} has a dot in it: say {last!r}, schema={first!r}")
    if id_column is not None:
        _check_name("id_column", id_column)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a field's name or a function of the data, not {key!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be seconds above 0, not {timeout!r}")
    if not isinstance(statement_cache_size, int) or statement_cache_size < 0:
        raise ValueError(
            f"statement_cache_size must be a number of statements, not {statement_cache_size!r}"
        )
    policy = PATIENCE if retry is None else check_retry(retry)
    if policy.on is None:
        policy = replace(policy, on=is_outage)
    check_installed()

    def make_table(row_type: Any) -> PostgresTable[Any]:
        ids = id_column_of(row_type) if id_column is None else id_column
        return PostgresTable(table, schema, layout_of(row_type, POSTGRES), key, ids)

    if type is not None:
        make_table(type)  # to hear now of a type that has no columns

    def make_target() -> Target[Any]:
        return PostgresTarget[Any](
            where,
            make_table,
            None if type is None else make_table(type),
            timeout=timeout,
            statement_cache_size=statement_cache_size,
        )

    return Store(
        make_target,
        name="store_postgres",
        what=f"{where} table {table!r}",
        max_batch=max_batch,
        retry=policy,
        per_loop=True,
    )


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a name, not {name!r}")
    if not name or "\0" in name or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ValueError(f"{what} cannot be called {name!r} in PostgreSQL")
