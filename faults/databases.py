"""The databases of the scenarios, and what is in them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from faults.clients import Ledger
from faults.report import Row
from tests.postgresql import Place, Server, cluster

__all__ = ["Database", "PostgresDatabase", "SqliteDatabase", "compare", "postgres"]

QUERY = "SELECT id, name, amount, total, stamp FROM events"


class Database(Protocol):
    """Where rows are stored. `target` is what the program is told."""

    target: str

    def rows(self) -> list[tuple[Any, ...]]:
        """All rows: id, and the columns of `Priced`. Not to be called on a loop."""
        ...


class SqliteDatabase:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.target = str(path)

    def rows(self) -> list[tuple[Any, ...]]:
        """See `Database`. RuntimeError if SQLite finds the file corrupt."""
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()
            if found != ("ok",):
                raise RuntimeError(f"corrupt: {found}")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='events'").fetchall():
                return []
            return connection.execute(QUERY).fetchall()


class PostgresDatabase:
    """A schema on a server."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.server: Server = place.server
        self.target = place.dsn(application_name=place.schema)

    def rows(self) -> list[tuple[Any, ...]]:
        """See `Database`."""
        return asyncio.run(self._rows())

    async def _rows(self) -> list[tuple[Any, ...]]:
        if await self.place.query("SELECT to_regclass('events')::text") == [None]:
            return []
        return await self.place.query(QUERY)


@contextmanager
def postgres(**settings: str) -> Iterator[PostgresDatabase]:
    """A schema on a server of its own, which ends with the block."""
    with cluster(None, **settings) as server:
        yield PostgresDatabase(Place(server))


def compare(row: Row, ledger: Ledger, database: Database) -> None:
    """Put into `row` whether the table has what the clients were told, and nothing else.

    The stamp that a repeated request was told is that of its own attempt, as the store acks a
    repeat without the row that is there. So it is compared only for requests that were sent once.
    """
    found = database.rows()
    there = {key: tuple(values) for key, *values in found}
    expected = {f"key-{number}": values for number, values in ledger.stored.items()}
    other = {key for key, values in expected.items() if there.get(key) != values}
    repeats = {key for key in map("key-{}".format, ledger.repeated) if key in there}
    missing = [key for key in other if key not in repeats or there[key][:-1] != expected[key][:-1]]
    names = Counter(name for _, name, *_ in found)
    doubled = [name for name, times in names.items() if times > 1]
    asked = expected.keys() | {f"key-{number}" for number in ledger.pending}
    row.acknowledged = len(expected)
    row.missing = len(missing)
    row.doubled = len(doubled)
    row.stamps = len(other) - len(missing)
    if missing:
        examples = [(key, expected[key], there.get(key)) for key in missing[:3]]
        row.check(False, f"not as answered: {examples}")
    unasked = sorted(there.keys() - asked)
    row.check(not unasked, f"in the table, but not acknowledged and not pending: {unasked[:5]}")
    row.check(not ledger.wrong, f"wrong answers: {ledger.wrong[:3]}")
