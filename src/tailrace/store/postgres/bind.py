"""How the values of a field travel into a column that exists, if the column keeps them.

Each column of a batch is one array. `Bound.adapt` checks what the type of the column cannot hold,
in Python: PostgreSQL cuts trailing spaces for a VARCHAR(n), and rounds for a NUMERIC(p, s) or a
TIMESTAMP(p), without a word.
"""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from tailrace.jsontext import microseconds
from tailrace.store.columns import Column
from tailrace.store.fields import type_name
from tailrace.store.table import quoted
from tailrace.store.values import whole

Adapt: TypeAlias = "Callable[[Any], Any] | None"
"""Checks a value for a column, and may change its form. ValueError if the column cannot hold it."""


class Found(NamedTuple):
    """A column of an existing table. Of a domain, type and modifier are those below it."""

    number: int
    name: str
    not_null: bool
    has_default: bool
    identity: str
    generated: str
    type: str
    kind: str
    modifier: int
    declared: str
    cast: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A column of the statements: `array` is the element type of the array that is sent.

    `sent` makes of an element `{u}` what is inserted, in the column's type `{type}`. `same`
    compares the column `{t}` with the element; it may not be fooled by equality without regard to
    case, days or scale.
    """

    column: str
    cast: str
    array: str
    sent: str
    same: str
    adapt: Adapt

    @property
    def name(self) -> str:
        """The name of the column, quoted."""
        return quoted(self.column)

    def inserted(self, element: str) -> str:
        """What is inserted of an element, in SQL."""
        return self.sent.replace("{u}", element).replace("{type}", self.cast)

    def compared(self, element: str) -> str:
        """Whether the column is the same as an element, in SQL."""
        return self.same.replace("{u}", element).replace("{t}", f"t.{self.name}")  # names last


class _Way(NamedTuple):
    array: str
    sent: str
    same: str
    adapt: Callable[[Found], Adapt]


def bound(column: Column, found: Found, kind: str = "") -> Bound | None:
    """How values of `column` travel into `found`; None if it does not keep them.

    `kind`: instead of the SQL type of the column.
    """
    there = "enum" if found.kind == "e" else found.type
    way = _WAYS.get(kind or column.sql_type, {}).get(there)
    if way is None or _is_cut(found):
        return None
    return Bound(found.name, found.cast, way.array, way.sent, way.same, way.adapt(found))


def _is_cut(found: Found) -> bool:
    """Whether it is an INTERVAL of some fields only, such as INTERVAL DAY TO HOUR."""
    return (
        found.type == "interval"
        and found.modifier >= 0
        and (found.modifier >> 16) & 0x7FFF != 0x7FFF
    )


# --- what a column cannot hold


def _any(found: Found) -> Adapt:
    return None


def _length(found: Found) -> Adapt:
    if found.modifier < 0:
        return None
    most = found.modifier - 4

    def check(value: str) -> str:
        if len(value) > most:
            raise ValueError(f"{found.name}: {len(value)} characters, the column has {most}")
        return value

    return check


def _exact_length(found: Found) -> Adapt:
    size = found.modifier - 4

    def check(value: str) -> str:
        if len(value) != size or value.endswith(" "):
            raise ValueError(f"{found.name}: the column keeps texts of exactly {size} characters")
        return value

    return check


_BITS: Final = {"int2": 15, "int4": 31}


def _range(found: Found) -> Adapt:
    most = 1 << _BITS[found.type]

    def check(value: int) -> int:
        if not -most <= value < most:
            raise ValueError(f"{found.name}: the column is {found.declared}, so {value} is too big")
        return value

    return check


def _digits(found: Found) -> Adapt:
    if found.modifier < 0:
        return None
    precision = (found.modifier - 4) >> 16 & 0xFFFF
    scale = ((found.modifier - 4 & 0x7FF) ^ 1024) - 1024

    def check(value: decimal.Decimal | int) -> decimal.Decimal | int:
        number = decimal.Decimal(value)
        exponent = number.normalize(_EXACT).as_tuple().exponent if number else 0
        assert isinstance(exponent, int)
        if number and (number.adjusted() >= precision - scale or exponent < -scale):
            raise ValueError(f"{found.name}: the column is {found.declared}: too many digits")
        return value

    return check


_EXACT: Final = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def _fraction(found: Found) -> int:
    """The microseconds that values in this column are a multiple of."""
    places = found.modifier & 0xFFFF if found.modifier >= 0 else 6
    return int(10 ** (6 - min(places, 6)))


def _check_fraction(found: Found, step: int, value: int) -> None:
    if value % step:
        raise ValueError(f"{found.name}: the column is {found.declared}: fraction too fine")


def _moment(*, aware: bool) -> Callable[[Found], Adapt]:
    def make(found: Found) -> Adapt:
        step = _fraction(found)

        def check(value: datetime.datetime) -> datetime.datetime:
            if (value.tzinfo is not None) is not aware:
                has, wants = ("no", "TIMESTAMPTZ") if aware else ("a", "TIMESTAMP")
                raise ValueError(
                    f"{found.name}: the column is {wants}, and this datetime has {has} time zone"
                )
            _check_fraction(found, step, value.microsecond)
            return value

        return check

    return make


def _time(found: Found) -> Adapt:
    step = _fraction(found)

    def check(value: datetime.time) -> datetime.time:
        _check_fraction(found, step, value.microsecond)
        return value

    return None if step == 1 else check


def _duration(found: Found) -> Adapt:
    step = _fraction(found)

    def check(value: datetime.timedelta) -> datetime.timedelta:
        _check_fraction(found, step, value.microseconds)
        return value

    return None if step == 1 else check


def _as_microseconds(found: Found) -> Adapt:
    return lambda value: whole(found.name, microseconds(value))


def _of_type(kind: type) -> Callable[[Found], Adapt]:
    """For keys, which functions return."""

    def make(found: Found) -> Adapt:
        def check(value: Any) -> Any:
            if not isinstance(value, kind):
                raise TypeError(
                    f"key(data) is {type_name(type(value))}, column {found.name!r} is "
                    f"{found.declared}"
                )
            return value

        return check

    return make


def _key_in_range(found: Found) -> Adapt:
    of_type, in_range = _of_type(int)(found), _range(found)
    assert of_type is not None
    assert in_range is not None
    return lambda value: in_range(of_type(value))


def _text_key(found: Found) -> Adapt:
    of_type = _of_type(str)(found)
    length = _exact_length(found) if found.type == "bpchar" else _length(found)
    assert of_type is not None
    return of_type if length is None else lambda value: length(of_type(value))


_UUID: Final = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}")


def _uuid_key(found: Found) -> Adapt:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise ValueError(f"column {found.name!r} is a uuid, and this key is none")
        bare = value.replace("-", "")
        return "-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:]))

    return check


# --- which column keeps what

_SAME_TEXT: Final = '{t}::text COLLATE "C" IS NOT DISTINCT FROM {u}'
_SAME: Final = "{t} IS NOT DISTINCT FROM {u}"
_SAME_JSON: Final = "{t}::jsonb::text IS NOT DISTINCT FROM {u}::jsonb::text"
# An INTERVAL of a month is equal to one of 30 days.
_SAME_INTERVAL: Final = (
    "({t} IS NOT DISTINCT FROM {u} AND coalesce(extract(year FROM {t}), 0) = 0 "
    "AND coalesce(extract(month FROM {t}), 0) = 0)"
)


def _plain(array: str, adapt: Callable[[Found], Adapt] = _any, same: str = _SAME) -> _Way:
    return _Way(array, "{u}", same, adapt)


_TEXTS: Final = {
    "text": _plain("text", same=_SAME_TEXT),
    "citext": _plain("text", same=_SAME_TEXT),
    "varchar": _plain("text", _length, _SAME_TEXT),
    "bpchar": _plain("text", _exact_length, _SAME_TEXT),
}
_AS_UUID: Final = "{u}::uuid"
_WAYS: Final[Mapping[str, Mapping[str, _Way]]] = {
    "TEXT": _TEXTS | {"enum": _Way("text", "{u}::{type}", _SAME_TEXT, _any)},
    "BIGINT": {
        "int8": _plain("int8"),
        "int4": _plain("int8", _range),
        "int2": _plain("int8", _range),
        "numeric": _plain("int8", _digits),
    },
    "DOUBLE PRECISION": {"float8": _plain("float8")},
    "BOOLEAN": {"bool": _plain("bool")},
    "BYTEA": {"bytea": _plain("bytea")},
    "TIMESTAMPTZ": {
        "timestamptz": _plain("timestamptz", _moment(aware=True)),
        "timestamp": _plain("timestamp", _moment(aware=False)),
    },
    "TIMESTAMP": {"timestamp": _plain("timestamp", _moment(aware=False))},
    "DATE": {"date": _plain("date")},
    "TIME": {"time": _plain("time", _time)},
    "INTERVAL": {
        "interval": _plain("interval", _duration, _SAME_INTERVAL),
        "int8": _plain("int8", _as_microseconds),
    },
    "NUMERIC": {"numeric": _plain("numeric", _digits)},
    "UUID": _TEXTS | {"uuid": _Way("text", _AS_UUID, "{t}::text IS NOT DISTINCT FROM {u}", _any)},
    "JSONB": _TEXTS
    | {
        "jsonb": _Way("text", "{u}::jsonb", _SAME_JSON, _any),
        "json": _Way("text", "{u}::json", _SAME_JSON, _any),
    },
    # Keys that are no fields: the message's id, or what a function returns.
    "KEY": {
        "text": _plain("text", _text_key, _SAME_TEXT),
        "citext": _plain("text", _text_key, _SAME_TEXT),
        "varchar": _plain("text", _text_key, _SAME_TEXT),
        "bpchar": _plain("text", _text_key, _SAME_TEXT),
        "uuid": _Way("text", _AS_UUID, "{t}::text IS NOT DISTINCT FROM {u}", _uuid_key),
    },
    "FUNCTION": {
        "int8": _plain("int8", _of_type(int)),
        "int4": _plain("int8", _key_in_range),
        "int2": _plain("int8", _key_in_range),
        "bytea": _plain("bytea", _of_type(bytes)),
    },
}
