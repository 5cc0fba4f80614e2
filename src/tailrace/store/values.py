"""Single values on their way into a column: checked, and in one form.

A `Dialect` names the column type of each Python type and the function that converts its values.
A converter returns an exact type that the driver knows, never an instance of a subclass, which the
driver might ask how to store it: that is user code.

A value of the wrong Python type is a TypeError (a mistake of the program). A value of the right
type that no table could hold is a ValueError (a mistake in the data): NaN, an int of more than 64
bits, NUL or a lone surrogate in a text. Drivers do not check: SQLite stores a text in an INTEGER
column without a word, asyncpg turns 1.5 into 1 for a BIGINT.
"""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from tailrace.jsontext import to_json
from tailrace.store.fields import type_name

Convert: TypeAlias = Callable[[Any], Any]
"""Checks a value and makes of it what the driver takes."""

Unchanged: TypeAlias = Callable[[list[Any]], bool]
"""Whether each value of a column is what the driver takes, so that none needs its converter.

It looks at all values by functions in C, in a fifth of the time that the converters take. False:
some may need them.
"""

LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Scalar:
    """The column type of a Python type. ``convert(where, value)`` converts a value of that type.

    `never_number`: its texts never look like numbers. `unchanged` is of values of exactly that
    type.
    """

    sql_type: str
    convert: Callable[[str, Any], Any]
    never_number: bool = False
    unchanged: Unchanged | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one field are stored; as `Scalar`, with the type check in `convert`."""

    sql_type: str
    convert: Convert
    never_number: bool = False
    unchanged: Unchanged | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """The column types of a database.

    A class is stored as the first of the types in `scalars` that it is a subclass of. `json` is for
    values that SQL has no type for. `naive` is for datetimes that are annotated to have no zone;
    None: as all datetimes.
    """

    scalars: Mapping[type, Scalar]
    json: Scalar
    naive: Scalar | None = None

    def scalar(self, base: type, where: str, *, naive: bool = False) -> Form | None:
        """The form of a class that is one value. None: the class is not one value."""
        for kind, scalar in self.scalars.items():
            if issubclass(base, kind):
                if naive and kind is datetime.datetime and self.naive is not None:
                    scalar = self.naive
                accepted = (int, float) if kind is float else base
                form = _form(scalar, where, base, accepted)
                return replace(form, unchanged=scalar.unchanged) if base is kind else form
        return None

    def enumerated(self, kind: type[enum.Enum], where: str) -> Form:
        """The form of an Enum, which is stored as its values."""
        values: list[Any] = [member.value for member in kind]
        scalar, convert = self.json, self.json.convert
        if values and all(isinstance(value, str) for value in values):
            scalar, convert = self.scalars[str], text
        elif values and all(isinstance(value, int) for value in values):
            scalar, convert = self.scalars[int], whole
        by_value = Scalar(scalar.sql_type, lambda where, value: convert(where, value.value))
        return _form(by_value, where, kind, kind)

    def nested(self, where: str, kind: type = object, *, never_number: bool = False) -> Form:
        """The form of instances of `kind` that become JSON text."""
        form = _form(self.json, where, kind, kind)
        return Form(form.sql_type, form.convert, never_number)


def _form(scalar: Scalar, where: str, kind: type, accepted: type | tuple[type, ...]) -> Form:
    """``scalar.convert(where, value)`` for values of the type `accepted`; TypeError for others."""
    convert = scalar.convert

    def checked(value: Any) -> Any:
        if isinstance(value, accepted):
            return convert(where, value)
        raise wrong(where, kind, value)

    return Form(scalar.sql_type, checked, scalar.never_number)


def wrong(where: str, kind: type, value: object) -> TypeError:
    """The error for a value that is no `kind`."""
    # The text does not show the value, which may be a secret.
    return TypeError(f"{where}: expected {type_name(kind)}, not {type_name(type(value))}")


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


def all_texts(values: list[Any]) -> bool:
    """As `Unchanged`, for `text`."""
    if set(map(type, values)) != {str}:
        return False
    joined = "".join(values)
    return joined.isascii() and "\0" not in joined


def whole(where: str, value: int) -> int:
    """`value` as an exact int. ValueError if it has more than 64 bits."""
    if not -LARGEST - 1 <= value <= LARGEST:
        raise ValueError(f"{where}: an int of more than 64 bits cannot be stored")
    return value if type(value) is int else int.__int__(value)


def all_whole(values: list[Any]) -> bool:
    """As `Unchanged`, for `whole`."""
    return (
        set(map(type, values)) == {int} and min(values) >= -LARGEST - 1 and max(values) <= LARGEST
    )


def real(where: str, value: float) -> float:
    """`value` as an exact float. ValueError for NaN, and for an int that no float is equal to."""
    number = value if type(value) is float else _exact_float(where, value)
    if math.isnan(number):
        raise ValueError(f"{where}: SQL has no NaN")
    return number


def all_real(values: list[Any]) -> bool:
    """As `Unchanged`, for `real`."""
    return set(map(type, values)) == {float} and not any(map(math.isnan, values))


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


def blob(where: str, value: bytes) -> bytes:
    """`value` as exact bytes."""
    return value if type(value) is bytes else bytes(memoryview(value))


def check_date(where: str, value: datetime.date) -> None:
    """TypeError for a datetime, which is a date to Python."""
    if isinstance(value, datetime.datetime):
        raise wrong(where, datetime.date, value)


def json_text(where: str, value: object) -> str:
    """`value` as JSON. TypeError or ValueError if it has no JSON form or no table could hold it."""
    return text(where, to_json(value))
