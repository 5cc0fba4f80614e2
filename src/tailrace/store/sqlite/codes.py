"""Which errors of SQLite are outages, by its own result codes.

An error about the database (locked, full, read-only, cannot be read or written, corrupt) is an
outage: the same rows may be stored later. A constraint, or a value that SQLite cannot hold, is
about a row, which is rejected.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from tailrace.usercode import is_a

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_OUTAGES: Final = _LOCKED | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_SCHEMA,
}
PASSING: Final = _LOCKED | {
    sqlite3.SQLITE_IOERR
}  # the last: a file was removed while it was opened
"""Codes at the opening of a database after which another try may succeed."""
BROKEN: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA}
)
"""Codes after which another connection may do better."""
ROW_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)


def is_outage(error: BaseException) -> bool:
    """Whether `error` is about the database, and not about a row."""
    return is_a(error, OSError) or result_code(error) in _OUTAGES


def result_code(error: BaseException) -> int | None:
    """SQLite's primary result code, if `error` has one."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if is_a(error, sqlite3.Error) and isinstance(code, int) else None
