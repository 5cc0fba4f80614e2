"""Single values on their way into a column: checked, and in one form.

A converter returns exactly a str, int, float, bytes or None, and never an instance of a subclass:
SQLite would ask that how to store it, which is user code. A value of the wrong Python type is a
TypeError (a mistake of the program). A value of the right type that no table could hold is a
ValueError (a mistake in the data): NaN, an int of more than 64 bits, NUL or a lone surrogate in a
text. SQLite itself would store a text in an INTEGER column without a word, and NaN as NULL.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from tailrace.jsontext import decimal_text, microseconds, moment_text, to_json
from tailrace.store.fields import type_name

Value: TypeAlias = "str | int | float | bytes | None"
"""What SQLite stores."""

SqlType: TypeAlias = Literal["TEXT", "INTEGER", "REAL", "BLOB"]
Convert: TypeAlias = Callable[[Any], Value]

_LARGEST: Final = 2**63 - 1


def text(where: str, value: str) -> str:
    """`value` as an exact str. ValueError if no table could hold it."""
    if "\0" in value:
        raise ValueError(f"{where}: a text with NUL in it cannot be stored")
    if not value.isascii():
        try:
            str.encode(value)
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: a text with a lone surrogate cannot be stored") from error
    return value if type(value) is str else str.__str__(value)


def whole(where: str, value: int) -> int:
    """`value` as an exact int. ValueError if it has more than 64 bits."""
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise ValueError(f"{where}: an int of more than 64 bits cannot be stored")
    return value if type(value) is int else int.__int__(value)


def scalar(base: type, where: str) -> tuple[SqlType, Convert, bool] | None:
    """The SQL type of a class that is one value, its converter, and whether its texts never look
    like numbers (so that a NUMERIC column keeps them). None: the class is not one value.
    """
    for kind, sql_type, convert, never_number in _SCALARS:
        if issubclass(base, kind):
            accepted = (int, float) if kind is float else base
            return sql_type, _checked(where, base, accepted, convert), never_number
    return None


def enumerated(kind: type[enum.Enum], where: str) -> tuple[SqlType, Convert]:
    """The SQL type and converter of an Enum, which is stored as its values."""
    values: list[Any] = [member.value for member in kind]
    sql_type: SqlType = "TEXT"
    convert: Callable[[str, Any], Value] = _as_json
    if values and all(isinstance(value, str) for value in values):
        convert = text
    elif values and all(isinstance(value, int) for value in values):
        sql_type, convert = "INTEGER", whole
    return sql_type, _checked(where, kind, kind, lambda where, value: convert(where, value.value))


def json_of(where: str, kind: type = object) -> Convert:
    """A converter of instances of `kind` to JSON text."""
    return _checked(where, kind, kind, _as_json)


def _checked(
    where: str,
    kind: type,
    accepted: type | tuple[type, ...],
    convert: Callable[[str, Any], Value],
) -> Convert:
    """``convert(where, value)`` for values of the type `accepted`; TypeError for others."""

    def checked(value: Any) -> Value:
        if isinstance(value, accepted):
            return convert(where, value)
        raise _wrong(where, kind, value)

    return checked


def _wrong(where: str, kind: type, value: object) -> TypeError:
    # The text does not show the value, which may be a secret.
    return TypeError(f"{where}: expected {type_name(kind)}, not {type_name(type(value))}")


def _real(where: str, value: float) -> float:
    number = value if type(value) is float else _exact_float(where, value)
    if math.isnan(number):
        raise ValueError(f"{where}: SQL has no NaN")
    return number


def _exact_float(where: str, number: float) -> float:
    if isinstance(number, float):
        return float.__float__(number)
    try:
        found = float(int.__int__(number))
    except OverflowError:
        found = math.inf
    if found != number:
        raise ValueError(f"{where}: an int that no float is equal to cannot be stored as one")
    return found


def _blob(where: str, value: bytes) -> bytes:
    return value if type(value) is bytes else bytes(memoryview(value))


def _moment(where: str, value: datetime.datetime) -> str:
    return text(where, moment_text(value))


def _date(where: str, value: datetime.date) -> str:
    if isinstance(value, datetime.datetime):
        raise _wrong(where, datetime.date, value)
    return text(where, value.isoformat())


def _time(where: str, value: datetime.time) -> str:
    return text(where, value.isoformat())


def _microseconds(where: str, value: datetime.timedelta) -> int:
    return whole(where, microseconds(value))


def _decimal(where: str, value: decimal.Decimal) -> str:
    return decimal_text(value)


def _uuid(where: str, value: uuid.UUID) -> str:
    return text(where, str(value))


def _as_json(where: str, value: object) -> str:
    return text(where, to_json(value))


# A class is the first of these that it is a subclass of: a bool is an int, a datetime a date.
_SCALARS: Final[tuple[tuple[type, SqlType, Callable[[str, Any], Value], bool], ...]] = (
    (str, "TEXT", text, False),
    (int, "INTEGER", whole, False),
    (float, "REAL", _real, False),
    (bytes, "BLOB", _blob, False),
    (datetime.datetime, "TEXT", _moment, True),
    (datetime.date, "TEXT", _date, True),
    (datetime.time, "TEXT", _time, True),
    (datetime.timedelta, "INTEGER", _microseconds, False),
    (decimal.Decimal, "TEXT", _decimal, False),
    (uuid.UUID, "TEXT", _uuid, True),
)
