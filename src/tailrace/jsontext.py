"""Layer 0: values as JSON text in one form, so that equal values have equal texts.

Keys and sets are sorted, times that have a zone are in UTC, a Decimal has no trailing zeros, a
timedelta is whole microseconds. The same whether or not msgspec is installed. A msgspec Struct is
turned into plain values by msgspec, which knows of its tags and renamed fields, and a pydantic
model by pydantic, which knows of its aliases.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, TypeGuard, cast

from tailrace.classes import attribute_names, is_pydantic_model

_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_EXACT: Final = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_LONGEST: Final = 60  # digits of a Decimal that is written without an exponent


def moment_text(moment: datetime.datetime) -> str:
    """ISO 8601, in UTC if it has a time zone. OverflowError if UTC has no such year."""
    if moment.utcoffset() is not None:
        moment = moment.astimezone(datetime.UTC)
    return moment.isoformat()


def microseconds(duration: datetime.timedelta) -> int:
    """Whole microseconds, exactly."""
    return duration // _MICROSECOND


def decimal_text(number: decimal.Decimal) -> str:
    """Without trailing zeros after the point: 1.10 as 1.1, 1E+2 as 100, -0 as 0.

    ValueError for NaN and infinity, which are not numbers.
    """
    if not number.is_finite():
        raise ValueError(f"{number} is not a number that a table could hold")
    if not number:
        return "0"
    exact = number.normalize(_EXACT)
    long = max(exact.adjusted(), -int(exact.as_tuple().exponent)) > _LONGEST
    return str(exact) if long else format(exact, "f")


KEPT: Final = (
    bytes,
    bytearray,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
"""The types that msgspec leaves to `_plain`, which has its own form for each."""


def to_json(value: object) -> str:
    """`value` as compact JSON. TypeError or ValueError if it has no JSON form, as NaN has none."""
    try:
        return _encode(value)
    except TypeError:
        # Keys of several types cannot be sorted, and json takes only some types as keys.
        return _encode(_with_text_keys(value))


def _plain(value: object) -> object:
    """What the JSON encoder writes for a value of a type that it does not know."""
    if hasattr(value, "__struct_fields__"):
        to_builtins: Callable[..., object] = import_module("msgspec").to_builtins
        return to_builtins(value, builtin_types=KEPT, order="deterministic")
    if is_pydantic_model(type(value)):
        return cast("Any", value).model_dump(by_alias=True, warnings=False)
    if (names := attribute_names(type(value))) is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, datetime.datetime):
        return moment_text(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return decimal_text(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return microseconds(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return sorted(cast("set[Any]", value), key=to_json)
    if _is_mapping(value):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _with_text_keys(value: object) -> object:
    """A copy of `value` in which every key of a dict is a text."""
    if _is_mapping(value):
        copy = {_key_text(key): _with_text_keys(item) for key, item in value.items()}
        if len(copy) < len(value):
            raise ValueError("two keys of a mapping are the same text in JSON")
        return copy
    if isinstance(value, (list, tuple)):
        return [_with_text_keys(item) for item in cast("list[Any]", value)]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _with_text_keys(_plain(value))


def _key_text(key: object) -> str:
    if isinstance(key, str):
        return key
    text = key if key is None or isinstance(key, (int, float)) else _plain(key)
    if isinstance(text, str):
        return text
    if text is None or isinstance(text, (int, float)):
        return _encode(text)
    raise TypeError(f"{type(key).__name__} cannot be a key in JSON")


_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True, default=_plain
).encode
