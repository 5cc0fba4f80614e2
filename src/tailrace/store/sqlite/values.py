"""The column types of SQLite. A converter returns exactly a str, int, float, bytes or None."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Final, Literal, TypeAlias

from tailrace.jsontext import decimal_text, microseconds, moment_text
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

Value: TypeAlias = "str | int | float | bytes | None"
"""What SQLite stores."""

SqlType: TypeAlias = Literal["TEXT", "INTEGER", "REAL", "BLOB"]


def _moment(where: str, value: datetime.datetime) -> str:
    return text(where, moment_text(value))


def _date(where: str, value: datetime.date) -> str:
    check_date(where, value)
    return text(where, value.isoformat())


def _time(where: str, value: datetime.time) -> str:
    return text(where, value.isoformat())


def _microseconds(where: str, value: datetime.timedelta) -> int:
    return whole(where, microseconds(value))


def _decimal(where: str, value: decimal.Decimal) -> str:
    return decimal_text(value)


def _uuid(where: str, value: uuid.UUID) -> str:
    return text(where, str(value))


SQLITE: Final = Dialect(
    # A class is the first of these that it is a subclass of: a bool is an int, a datetime a date.
    {
        str: Scalar("TEXT", text, unchanged=all_texts),
        int: Scalar("INTEGER", whole, unchanged=all_whole),
        float: Scalar("REAL", real, unchanged=all_real),
        bytes: Scalar("BLOB", blob),
        datetime.datetime: Scalar("TEXT", _moment, never_number=True),
        datetime.date: Scalar("TEXT", _date, never_number=True),
        datetime.time: Scalar("TEXT", _time, never_number=True),
        datetime.timedelta: Scalar("INTEGER", _microseconds),
        decimal.Decimal: Scalar("TEXT", _decimal),
        uuid.UUID: Scalar("TEXT", _uuid, never_number=True),
    },
    json=Scalar("TEXT", json_text),
)
