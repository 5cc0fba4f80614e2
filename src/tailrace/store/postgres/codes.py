"""What an error of PostgreSQL or asyncpg is about: the database, the set-up, or a row.

By SQLSTATE (PostgreSQL's documentation, appendix A).
"""

from __future__ import annotations

from typing import Final

from tailrace.errors import Reject
from tailrace.store.target import Unusable
from tailrace.usercode import is_a

_OUTAGE_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_OUTAGES: Final = frozenset(
    {
        "25006",  # read only: a standby, or a server that has become one
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # lock not available
    }
)
_SETUP_CLASSES: Final = frozenset({"28", "3D", "42"})  # authorization, database, names and rights
_ROW_CLASSES: Final = frozenset({"0A", "21", "22", "23", "44", "54", "P0"})
"""What is rejected: values, constraints, limits, and what a trigger raises."""

_DUPLICATES: Final = frozenset({"42P07", "42710"})  # a table, another object
_UNIQUE: Final = "23505"

STATEMENT_TIMEOUT: Final = "57014"


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error of the server; "" for another error."""
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else ""


def is_outage(error: BaseException) -> bool:
    """Whether `error` is about the database, and not about a row."""
    if is_a(error, OSError):
        return True
    code = sqlstate(error)
    if code:
        return code[:2] in _OUTAGE_CLASSES or code in _OUTAGES
    return _is_of_asyncpg(error, "TargetServerAttributeNotMatched") or (
        _is_of_asyncpg(error, "InterfaceError") and "closed" in str(error)
    )


def is_setup(error: BaseException) -> bool:
    """Whether `error` is about names and rights: no row is the cause."""
    return sqlstate(error)[:2] in _SETUP_CLASSES


def is_made_by_another(error: BaseException) -> bool:
    """Whether a table could not be made because another session has just made it."""
    code = sqlstate(error)
    in_catalogue = getattr(error, "schema_name", None) == "pg_catalog"
    return code in _DUPLICATES or (code == _UNIQUE and in_catalogue)


def keeps_connection(error: BaseException) -> bool:
    """Whether the connection can be used again after `error`."""
    code = sqlstate(error)
    return bool(code) and (code[:2] not in _OUTAGE_CLASSES | {"25", "XX"} or code[:2] == "53")


def about_row(error: Exception) -> Exception:
    """The error for the sender of the row that caused `error`."""
    if sqlstate(error)[:2] in _ROW_CLASSES:
        return Reject(message_of_server(error))  # without the detail, which shows whole rows
    if _is_of_asyncpg(error, "InterfaceError") and is_a(error, ValueError):
        return Reject("the driver cannot encode a value of this row")
    return error


def message_of_server(error: BaseException) -> str:
    """The primary message of an error."""
    message = getattr(error, "message", None)
    return message if isinstance(message, str) and message else str(error)


def unusable(error: BaseException, what: str) -> Unusable:
    """`error`, which is about the set-up, as the store's."""
    return Unusable(f"{what}: {message_of_server(error)}")


def _is_of_asyncpg(error: BaseException, name: str) -> bool:
    # By name: this module can be imported without asyncpg.
    return any(
        kind.__name__ == name and kind.__module__.startswith("asyncpg")
        for kind in type(error).__mro__
    )
