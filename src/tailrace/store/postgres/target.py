"""The connection to one PostgreSQL database.

Invariant: what `write` reports as stored is committed in the table, with the values that were sent.

A target belongs to one event loop, and its actors share one connection: group commit needs no more.
After an error that leaves the state of the connection in doubt it is closed, and the next write
makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from tailrace.errors import StoreError
from tailrace.store.postgres.codes import (
    STATEMENT_TIMEOUT,
    about_row,
    is_outage,
    is_setup,
    keeps_connection,
    sqlstate,
    unusable,
)
from tailrace.store.postgres.driver import Connection, connect
from tailrace.store.postgres.dsn import Dsn
from tailrace.store.postgres.fit import DURABLE
from tailrace.store.postgres.statements import FLUSH
from tailrace.store.postgres.table import PostgresTable
from tailrace.store.postgres.write import Altered, PostgresWriter, Standby
from tailrace.store.target import CLOSING_SECONDS, Messages, Unusable, Written
from tailrace.usercode import is_a

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("tailrace")

TRIES: Final = 5  # in one write, while the table is altered again and again

_SESSION: Final = "SET default_transaction_isolation TO 'read committed'"


class TooMany(Exception):
    """The batch takes longer than the server allows a statement: divide it."""


class PostgresTarget(Generic[T]):
    """A `Target`: one connection, and one table."""

    def __init__(
        self,
        dsn: Dsn,
        make_table: Callable[[Any], PostgresTable[T]],
        table: PostgresTable[T] | None,
        *,
        timeout: float,
        statement_cache_size: int,
    ) -> None:
        self._dsn = dsn
        self._make_table = make_table
        self._table = table
        self._timeout = timeout
        self._statement_cache_size = statement_cache_size
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._writer: PostgresWriter[T] | None = None  # of this connection
        self._most: int | None = None  # rows that the server takes within its statement_timeout
        self._warned = False
        self._in_doubt = False  # the server has warned: perhaps that a standby lacks the commit

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<PostgresTarget {self._dsn}, {state}>"

    # --- what the store calls

    async def open(self, element: Any) -> None:
        """Connect. If the type is known, make the table or check that it fits.

        StoreError if that is impossible; other errors if another try may succeed.
        """
        async with self._lock:
            if self._table is None and element is not None:
                try:
                    self._table = self._make_table(element)
                except TypeError as error:
                    raise StoreError(str(error)) from error
            await self._guarded(self._prepare())

    async def _prepare(self) -> None:
        connection = await self._connected()
        if self._table is not None:
            await self._writer_of(connection, self._table).prepare()

    def write(self, messages: Messages[T], /) -> Awaitable[Written]:
        """As `Target.write`."""
        return self._write(messages)

    async def _write(self, messages: Messages[T]) -> Written:
        async with self._lock:
            rows = len(messages)
            if self._most is not None and rows > self._most:
                raise TooMany(f"more than {self._most} rows take too long")
            try:
                written = await self._guarded(self._store(messages))
            except StoreError as error:
                # While it runs, the table may be about to fit again: that of a migration.
                raise Unusable(str(error)) from error
            except Exception as error:
                # A deadline that is too short for all the rows may do for half of them.
                if is_a(error, TimeoutError) or sqlstate(error) == STATEMENT_TIMEOUT:
                    self._most = max(1, rows // 2)
                    if rows > 1 and not is_a(error, TimeoutError):
                        raise TooMany(str(error)) from error
                raise
            if self._most is not None and 2 * rows > self._most:
                self._most += self._most // 8 + 1
            return written

    async def _store(self, messages: Messages[T]) -> Written:
        table = self._table
        if table is None:  # the type of the rows is not known: take that of the first one
            table = self._table = self._make_table(type(messages[0].data))
        for _ in range(TRIES):
            connection = await self._connected()
            writer = self._writer_of(connection, table)
            try:
                await writer.prepare()
                written = await writer.store(table.rows(messages))
                await self._flush(connection)
                return written
            except Altered:
                continue
            except Exception as error:
                if is_setup(error):
                    writer.forget()
                    if not await self._may_be_altered(writer, error):
                        raise
                elif not sqlstate(error) or not await self._may_be_altered(writer, error):
                    raise
        raise OSError(f"the table is altered again and again in {self._dsn}")

    async def _flush(self, connection: Connection) -> None:
        """If the server has warned, wait once more for the disk and the standbys.

        A commit that waits for a standby ends with success, and a warning, if it is cancelled.
        OSError if this is cancelled too.
        """
        if self._in_doubt:
            self._in_doubt = False
            await connection.fetch(FLUSH)
            if self._in_doubt:
                raise OSError("it was cancelled to wait for a standby: it may lack the rows")

    async def _may_be_altered(self, writer: PostgresWriter[T], error: BaseException) -> bool:
        """Whether the table was altered since it was looked at, so that `error` says nothing."""
        if is_outage(error) or not keeps_connection(error):
            return False
        try:
            return await writer.has_changed()
        except Exception:
            return False  # it is the first error that counts

    async def close(self) -> None:
        """Close the connection in order, if the server answers soon."""
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.close(timeout=CLOSING_SECONDS)
        except Exception:
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise

    # --- the connection

    async def _guarded(self, work: Awaitable[R]) -> R:
        """Do it within the timeout. After an error that leaves the connection in doubt, close it.

        Errors come out as the store is to treat them.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except BaseException as error:
            if not self._can_go_on(error):
                self._let_go()
            if not is_a(error, Exception) or is_a(error, (StoreError, Unusable)):
                raise
            if is_setup(error):
                raise unusable(error, f"cannot use {self._dsn}") from error
            if is_outage(error):
                raise
            raise about_row(error) from error

    def _can_go_on(self, error: BaseException) -> bool:
        if is_a(error, Standby):
            return False  # another host of the DSN may be the primary
        return is_a(error, StoreError) or keeps_connection(error)

    def _let_go(self) -> None:
        connection, self._connection, self._writer = self._connection, None, None
        if connection is not None:
            connection.terminate()

    async def _connected(self) -> Connection:
        """The connection, made anew if the last one is closed."""
        connection = self._connection
        if connection is not None and not connection.is_closed():
            return connection
        self._let_go()
        self._connection = connection = await connect(self._dsn, self._statement_cache_size)
        await self._configure(connection)
        return connection

    def _writer_of(self, connection: Connection, table: PostgresTable[T]) -> PostgresWriter[T]:
        if self._writer is None:
            self._writer = PostgresWriter(str(self._dsn), connection, table)
        return self._writer

    async def _configure(self, connection: Connection) -> None:
        ((commit, fsync),) = await connection.fetch(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync')"
        )
        durable = "" if commit in DURABLE else "; SET synchronous_commit TO 'on'"
        await connection.execute(f"{_SESSION}{durable}")
        self._in_doubt = False
        connection.add_log_listener(self._hear)
        if fsync != "on" and not self._warned:
            self._warned = True
            _log.warning(
                "%s runs with fsync = off: a power failure may lose rows that were acked", self._dsn
            )

    def _hear(self, connection: object, notice: Any) -> None:
        """Called with what the server says besides its answers. Its severities are translated, its
        SQLSTATEs are not."""
        if str(getattr(notice, "sqlstate", ""))[:2] == "01":
            self._in_doubt = True
