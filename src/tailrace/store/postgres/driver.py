"""What is used of asyncpg, with its types: asyncpg has none. It is imported when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias

from tailrace.errors import StoreError
from tailrace.store.postgres.codes import is_outage, sqlstate
from tailrace.store.postgres.dsn import Dsn

CONNECT_SECONDS: Final = 5.0
"""How long connecting may take, unless the DSN has a `connect_timeout`."""

Record: TypeAlias = Sequence[Any]


class Connection(Protocol):
    """A connection of asyncpg."""

    async def fetch(self, query: str, /, *args: Any) -> list[Record]:
        """Run one statement, prepared, in a transaction of its own unless one is open."""
        ...

    async def execute(self, query: str, /) -> str:
        """Run several statements without arguments."""
        ...

    def transaction(self, *, isolation: str) -> AbstractAsyncContextManager[Any]:
        """A transaction, which is rolled back if the block raises."""
        ...

    def add_log_listener(self, callback: Callable[[Any, Any], None]) -> None:
        """Call it with the connection and each notice of the server, before the statement ends."""

    def is_closed(self) -> bool:
        """Whether it was closed, by either side."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Close it in order."""

    def terminate(self) -> None:
        """Close it at once."""


def check_installed() -> None:
    """ImportError, with what to install, if asyncpg is missing."""
    try:
        import_module("asyncpg")
    except ImportError as error:
        raise ImportError(
            "store_postgres needs asyncpg: pip install 'tailrace[postgres]'"
        ) from error


async def connect(dsn: Dsn, statement_cache_size: int) -> Connection:
    """A new connection. Errors of the server and `OSError` are raised as they are."""
    seconds = dsn.connect_timeout or CONNECT_SECONDS
    try:
        async with asyncio.timeout(seconds):
            connection: Connection = await import_module("asyncpg").connect(
                **dsn.options, statement_cache_size=statement_cache_size
            )
            return connection
    except TimeoutError as error:
        raise TimeoutError(f"no connection to {dsn} within {seconds:g} s") from error
    except Exception as error:
        text = str(error)
        if (sqlstate(error) or is_outage(error)) and not dsn.is_in(text):
            raise
        # What is left are mistakes in the DSN, or in a file that it names, with who knows what.
        shown = "" if _may_show_a_file(error) or dsn.is_in(text) else f": {text}"
        reason = f"cannot connect to {dsn}: {type(error).__name__}{shown}"
    raise StoreError(reason)


def _may_show_a_file(error: Exception) -> bool:
    return type(error).__module__ == "configparser"
