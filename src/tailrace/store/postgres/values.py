"""The column types of PostgreSQL, and values as asyncpg takes them."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from typing import Any, Final

from tailrace.jsontext import decimal_text
from tailrace.store.values import (
    Dialect,
    Scalar,
    all_real,
    all_texts,
    all_whole,
    blob,
    check_date,
    json_text,
    real,
    text,
    whole,
)

_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_MOST_DIGITS: Final = 131072  # of a NUMERIC, before the point
_MOST_DECIMALS: Final = 16383


def _bool(where: str, value: bool) -> bool:
    return value


def _moment(where: str, value: datetime.datetime) -> datetime.datetime:
    """In UTC, if it has a time zone. OverflowError if UTC has no such year."""
    if value.utcoffset() is not None:
        value = value.astimezone(datetime.UTC)
        if type(value) is datetime.datetime:
            return value
    zone = None if value.utcoffset() is None else datetime.UTC
    day = (value.year, value.month, value.day)
    return datetime.datetime(
        *day, value.hour, value.minute, value.second, value.microsecond, tzinfo=zone
    )


def _date(where: str, value: datetime.date) -> datetime.date:
    check_date(where, value)
    return datetime.date(value.year, value.month, value.day)


def _time(where: str, value: datetime.time) -> datetime.time:
    if value.tzinfo is not None:
        raise ValueError(f"{where}: a time with a time zone cannot be stored in a TIME column")
    return datetime.time(value.hour, value.minute, value.second, value.microsecond)


def _duration(where: str, value: datetime.timedelta) -> datetime.timedelta:
    return datetime.timedelta(value.days, value.seconds, value.microseconds)


def _numeric(where: str, value: decimal.Decimal) -> decimal.Decimal:
    number = decimal.Decimal(decimal_text(value))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if number.adjusted() >= _MOST_DIGITS or exponent < -_MOST_DECIMALS:
        raise ValueError(f"{where}: a Decimal of so many digits cannot be stored")
    return number


def _uuid(where: str, value: uuid.UUID) -> str:
    return text(where, str(value))


def _json(where: str, value: Any) -> str:
    found = json_text(where, value)
    if "\\u0000" in found and _NUL.search(found):
        raise ValueError(f"{where}: JSON with NUL in a text cannot be stored")
    return found


POSTGRES: Final = Dialect(
    # A class is the first of these that it is a subclass of: a bool is an int, a datetime a date.
    {
        str: Scalar("TEXT", text, unchanged=all_texts),
        bool: Scalar("BOOLEAN", _bool),
        int: Scalar("BIGINT", whole, unchanged=all_whole),
        float: Scalar("DOUBLE PRECISION", real, unchanged=all_real),
        bytes: Scalar("BYTEA", blob),
        datetime.datetime: Scalar("TIMESTAMPTZ", _moment),
        datetime.date: Scalar("DATE", _date),
        datetime.time: Scalar("TIME", _time),
        datetime.timedelta: Scalar("INTERVAL", _duration),
        decimal.Decimal: Scalar("NUMERIC", _numeric),
        uuid.UUID: Scalar("UUID", _uuid),
    },
    json=Scalar("JSONB", _json),
    naive=Scalar("TIMESTAMP", _moment),
)
