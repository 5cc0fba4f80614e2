"""Nested values as JSON text, the same whether or not msgspec is installed.

A msgspec Struct is turned into plain values by msgspec, which knows of its tags and renamed
fields; for anything else the standard library does.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast


def to_json(value: object) -> str:
    """`value` as compact JSON. TypeError or ValueError for what has no JSON, NaN included."""
    return _encode(value)


def _plain(value: object) -> object:
    """The JSON encoder's question: what to write for a value that it does not know."""
    if hasattr(value, "__struct_fields__"):
        to_builtins: Callable[[object], object] = import_module("msgspec").to_builtins
        return to_builtins(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return list(cast("set[Any]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode
