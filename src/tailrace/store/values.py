"""What one value becomes on its way into a column: checked, and in one form.

A converter gives exactly a str, int, float, bytes or None, never an instance of a subclass: a
driver asks those how they want to be stored, which is user code. A value of the wrong Python type
is a TypeError (a mistake of the program); a value of the right type that no table could hold is a
ValueError (a mistake in the data): NaN, an int of more than 64 bits, NUL or a lone surrogate in a
text.

SQLite itself would store a text in an INTEGER column without a word, and NaN as NULL.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, cast

from tailrace.jsontext import decimal_text, microseconds, moment_text, to_json

Value: TypeAlias = "str | int | float | bytes | None"
"""What SQLite stores."""

SqlType: TypeAlias = Literal["TEXT", "INTEGER", "REAL", "BLOB"]
Convert: TypeAlias = Callable[[Any], Value]

_LARGEST: Final = 2**63 - 1


def type_name(row_type: Any) -> str:
    """What to call a type in messages."""
    if isinstance(row_type, type):
        return row_type.__qualname__.rpartition("<locals>.")[2]
    return str(row_type).replace("typing.", "")


def text(where: str, value: str) -> str:
    """`value` as an exact str; ValueError if no table could hold it."""
    if "\0" in value:
        raise ValueError(f"{where}: a text with NUL in it cannot be stored")
    if not value.isascii():
        try:
            str.encode(value)
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: a text with a lone surrogate cannot be stored") from error
    return value if type(value) is str else str.__str__(value)


def whole(where: str, value: int) -> int:
    """`value` as an exact int; ValueError if it has more than 64 bits."""
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise ValueError(f"{where}: an int of more than 64 bits cannot be stored")
    return value if type(value) is int else int.__int__(value)


def _wrong(where: str, kind: type, value: object) -> TypeError:
    # The value itself is not shown: it may be anybody's secret.
    return TypeError(f"{where}: expected {type_name(kind)}, not {type_name(type(value))}")


def _as_text(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return text(where, cast("str", value))
        raise _wrong(where, kind, value)

    return convert


def _as_int(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return whole(where, cast("int", value))
        raise _wrong(where, kind, value)

    return convert


def _as_float(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if type(value) is not float:
            if not isinstance(value, (int, float)):
                raise _wrong(where, kind, value)
            value = _exact_float(where, value)
        number: float = value
        if math.isnan(number):
            raise ValueError(f"{where}: SQL has no NaN")
        return number

    return convert


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


def _as_bytes(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return value if type(value) is bytes else bytes(memoryview(cast("bytes", value)))
        raise _wrong(where, kind, value)

    return convert


def _as_moment(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return text(where, moment_text(cast("datetime.datetime", value)))
        raise _wrong(where, kind, value)

    return convert


def _as_date(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind) and not isinstance(value, datetime.datetime):
            return text(where, cast("datetime.date", value).isoformat())
        raise _wrong(where, kind, value)

    return convert


def _as_time(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return text(where, cast("datetime.time", value).isoformat())
        raise _wrong(where, kind, value)

    return convert


def _as_microseconds(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return whole(where, microseconds(cast("datetime.timedelta", value)))
        raise _wrong(where, kind, value)

    return convert


def _as_decimal(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return decimal_text(cast("decimal.Decimal", value))
        raise _wrong(where, kind, value)

    return convert


def _as_uuid(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return text(where, str(value))
        raise _wrong(where, kind, value)

    return convert


# A type is the first of these that it is a subclass of: a bool is an int, a datetime a date.
_SCALARS: Final[tuple[tuple[type, SqlType, Callable[[str, type], Convert], bool], ...]] = (
    (str, "TEXT", _as_text, False),
    (int, "INTEGER", _as_int, False),
    (float, "REAL", _as_float, False),
    (bytes, "BLOB", _as_bytes, False),
    (datetime.datetime, "TEXT", _as_moment, True),
    (datetime.date, "TEXT", _as_date, True),
    (datetime.time, "TEXT", _as_time, True),
    (datetime.timedelta, "INTEGER", _as_microseconds, False),
    (decimal.Decimal, "TEXT", _as_decimal, False),
    (uuid.UUID, "TEXT", _as_uuid, True),
)


def scalar(base: type, where: str) -> tuple[SqlType, Convert, bool] | None:
    """The SQL type and converter of a class that is one value to SQL, and whether its text never
    looks like a number (so that a column that turns numbers into numbers keeps it). None: no.
    """
    for kind, sql_type, make, never_number in _SCALARS:
        if issubclass(base, kind):
            return sql_type, make(where, base), never_number
    return None


def enumerated(kind: type[enum.Enum], where: str) -> tuple[SqlType, Convert]:
    """The SQL type and converter of an Enum: as its values."""
    values: list[Any] = [member.value for member in kind]
    sql_type: SqlType = "TEXT"
    plain: Callable[[str, Any], Value] = as_json
    if values and all(isinstance(value, str) for value in values):
        plain = text
    elif values and all(isinstance(value, int) for value in values):
        sql_type, plain = "INTEGER", whole

    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return plain(where, value.value)
        raise _wrong(where, kind, value)

    return sql_type, convert


def json_of(where: str, kind: type | None = None) -> Convert:
    """A converter to JSON text, of instances of `kind` if given."""

    def convert(value: Any) -> Value:
        if kind is None or isinstance(value, kind):
            return as_json(where, value)
        raise _wrong(where, kind, value)

    return convert


def as_json(where: str, value: object) -> str:
    """JSON text that a table can hold."""
    return text(where, to_json(value))
