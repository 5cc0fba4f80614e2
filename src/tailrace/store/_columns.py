"""The columns of a table, from the type of its rows: which there are, and how values get there.

A str, bytes, number, date, … is one column, `data`. A dataclass, TypedDict, NamedTuple or msgspec
Struct has a column for each field. What SQL has no type for (lists, dicts, nested classes,
unions) is JSON text. Values are checked on their way: SQLite itself would store a text in an
INTEGER column without a word, and NaN as NULL.

Nothing here knows of a database; a Struct is known by its attributes, so msgspec is not imported.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import math
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypeGuard,
    Union,
    cast,
    get_args,
    get_origin,
)

from tailrace.store._json import to_json

Value: TypeAlias = "str | int | float | bytes | None"
"""What SQLite stores."""

SqlType: TypeAlias = Literal["TEXT", "INTEGER", "REAL", "BLOB"]
Convert: TypeAlias = Callable[[Any], Value]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its SQL type, whether it may be NULL, and how a value becomes one."""

    name: str
    sql_type: SqlType
    nullable: bool
    convert: Convert
    python_type: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a type, and `values`, which takes a row apart into theirs.

    `values` raises TypeError or ValueError for a row that does not fit.
    """

    row_type: str
    columns: tuple[Column, ...]
    values: Callable[[Any], Sequence[Value]]


def layout_of(row_type: Any) -> Layout:
    """The layout for rows of `row_type`. TypeError, which says why, if they have none."""
    row_type = _bare(row_type)[0] if get_origin(row_type) is Annotated else row_type
    shown = type_name(row_type)
    base = get_origin(row_type) or row_type
    names = _field_names(base)
    if names is None:
        column = _column("data", row_type, shown)
        if column.nullable and row_type not in (Any, object):
            raise TypeError(f"rows of {shown} cannot be stored: what would a row of None be?")
        return Layout(shown, (column,), lambda data: (column.convert(data),))
    if not names:
        raise TypeError(f"{shown} has no fields, so there is nothing to store")
    hints = _hints(base)
    columns = tuple(_column(name, hints.get(name, Any), f"{shown}.{name}") for name in names)
    if typing.is_typeddict(base):
        optional = _may_be_left_out(base, hints)
        columns = tuple(
            dataclasses.replace(column, nullable=True) if column.name in optional else column
            for column in columns
        )
        return Layout(shown, columns, _items(shown, columns, optional))
    return Layout(shown, columns, _attributes(base, shown, columns))


def type_name(row_type: Any) -> str:
    """What to call a type in messages."""
    if isinstance(row_type, type) and get_origin(row_type) is None:
        return row_type.__qualname__.rpartition("<locals>.")[2]
    return str(row_type).replace("typing.", "")


# Taking rows apart.


def _field_names(base: object) -> tuple[str, ...] | None:
    """The fields of a class that has some; None for what is one value."""
    if not _is_class(base):
        return None
    if typing.is_typeddict(base):
        return tuple(base.__annotations__)
    if dataclasses.is_dataclass(base):
        return tuple(field.name for field in dataclasses.fields(base))
    is_tuple = issubclass(base, tuple)
    attribute = "_fields" if is_tuple else "__struct_fields__"
    fields: object = getattr(base, attribute, None)  # of a NamedTuple, or a msgspec Struct
    return cast("tuple[str, ...]", fields) if isinstance(fields, tuple) else None


def _is_class(value: object) -> TypeGuard[type[Any]]:
    return isinstance(value, type)


def _class_of(value: object) -> type[Any]:
    return type(value)


def _hints(base: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(base, include_extras=True)
    except Exception as error:  # whatever evaluating somebody's annotation may raise
        raise TypeError(
            f"cannot read the field types of {type_name(base)}: {error}; they must be names that "
            f"its module has at run time"
        ) from error


def _attributes(
    base: type, shown: str, columns: tuple[Column, ...]
) -> Callable[[Any], list[Value]]:
    fields = [(column.name, column.convert) for column in columns]

    def values(row: Any) -> list[Value]:
        if not isinstance(row, base):
            raise TypeError(f"expected {shown}, not {type_name(type(row))}")
        return [convert(getattr(row, name)) for name, convert in fields]

    return values


def _items(
    shown: str, columns: tuple[Column, ...], optional: frozenset[str]
) -> Callable[[Any], list[Value]]:
    fields = [(column.name, column.convert) for column in columns]
    known = frozenset(name for name, _ in fields)
    required = known - optional

    def values(row: Any) -> list[Value]:
        if not isinstance(row, dict):
            raise TypeError(f"expected {shown}, not {type_name(type(row))}")
        items = cast("dict[str, Any]", row)
        if items.keys() != known:
            _check_keys(shown, items.keys(), known, required)
        return [convert(items[name]) if name in items else None for name, convert in fields]

    return values


def _check_keys(
    shown: str, keys: collections.abc.Set[str], known: frozenset[str], required: frozenset[str]
) -> None:
    if missing := sorted(required - keys):
        raise TypeError(f"{shown}: {', '.join(missing)} missing")
    if extra := sorted(map(str, keys - known)):
        raise TypeError(f"{shown} has no {', '.join(extra)}: it would not be stored")


def _may_be_left_out(base: Any, hints: Mapping[str, Any]) -> frozenset[str]:
    """The keys that rows of a TypedDict need not have."""
    # Not by __required_keys__ alone: that does not see into annotations that are strings.
    marks = {name: get_origin(hint) for name, hint in hints.items()}
    return frozenset(
        name
        for name, mark in marks.items()
        if mark is typing.NotRequired
        or (mark is not typing.Required and name not in base.__required_keys__)
    )


# Columns.


def _column(name: str, hint: Any, where: str) -> Column:
    bare, nullable = _bare(hint)
    sql_type, convert = _converter(bare, where)
    if bare in (Any, object):
        nullable = True  # None is a value of these
    if nullable:
        convert = _or_null(convert)
    return Column(name, sql_type, nullable, convert, type_name(hint))


def _or_null(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


_QUALIFIERS: Final = (Annotated, typing.Required, typing.NotRequired, typing.Final)


def _bare(hint: Any) -> tuple[Any, bool]:
    """A hint without what does not matter to SQL, and whether None is allowed too."""
    nullable = False
    while True:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            members = [member for member in get_args(hint) if member is not types.NoneType]
            nullable = nullable or len(members) < len(get_args(hint))
            if len(members) != 1:
                return hint, nullable
            hint = members[0]
        elif origin in _QUALIFIERS or "ReadOnly" in str(origin):
            hint = get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):  # a NewType
            hint = hint.__supertype__
        elif hasattr(hint, "__value__"):  # a `type` statement's alias
            hint = hint.__value__
        else:
            return hint, nullable


def _converter(bare: Any, where: str) -> tuple[SqlType, Convert]:
    """The SQL type of a hint, and the function that checks and converts its values."""
    base: object = get_origin(bare) or bare
    if base is Literal:
        kinds = {_class_of(value) for value in get_args(bare)}
        return _converter(kinds.pop(), where) if len(kinds) == 1 else ("TEXT", to_json)
    if not _is_class(base) or base in (Any, object, types.UnionType):
        return "TEXT", to_json  # anything, or one of several
    if typing.is_typeddict(base):
        return "TEXT", _as_json(where, dict)
    if issubclass(base, enum.Enum):
        return _enumerated(base, where)
    for kind, sql_type, make in _SCALARS:
        if issubclass(base, kind):
            return sql_type, make(where, base)
    if _field_names(base) is not None or _is_nested(base):
        return "TEXT", _as_json(where, base)
    raise TypeError(
        f"{where}: no column for {type_name(base)}; there is one for str, int, float, bool, bytes, "
        f"dates and times, Decimal, UUID and Enum, and lists, dicts, dataclasses, TypedDicts, "
        f"NamedTuples and msgspec Structs become JSON"
    )


def _is_nested(base: type[Any]) -> bool:
    abc = collections.abc
    return issubclass(base, (abc.Mapping, abc.Sequence, abc.Set))


def _enumerated(kind: type[enum.Enum], where: str) -> tuple[SqlType, Convert]:
    values = [member.value for member in kind]
    sql_type: SqlType = "TEXT"
    plain = all(isinstance(value, str) for value in values)
    if not plain and all(isinstance(value, int) for value in values):
        sql_type, plain = "INTEGER", True

    def convert(value: Any) -> Value:
        if not isinstance(value, kind):
            raise _wrong(where, kind, value)
        return cast("Value", value.value) if plain else to_json(value.value)

    return sql_type, convert


def _as_json(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return to_json(value)
        raise _wrong(where, kind, value)

    return convert


def _checked(where: str, kind: type) -> Convert:
    """For what SQLite takes as it is."""

    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return cast("Value", value)
        raise _wrong(where, kind, value)

    return convert


def _as_text(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return str(value)
        raise _wrong(where, kind, value)

    return convert


def _as_iso(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, kind):
            return cast("datetime.date | datetime.time", value).isoformat()
        raise _wrong(where, kind, value)

    return convert


def _as_float(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if not isinstance(value, (int, float)):
            raise _wrong(where, kind, value)
        if math.isnan(value):
            raise ValueError(f"{where}: SQL has no NaN")
        return float(value)

    return convert


def _as_seconds(where: str, kind: type) -> Convert:
    def convert(value: Any) -> Value:
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        raise _wrong(where, kind, value)

    return convert


# A type is the first of these that it is a subclass of: a bool is an int, a datetime a date.
_SCALARS: Final[tuple[tuple[type, SqlType, Callable[[str, type], Convert]], ...]] = (
    (str, "TEXT", _checked),
    (int, "INTEGER", _checked),
    (float, "REAL", _as_float),
    (bytes, "BLOB", _checked),
    (datetime.date, "TEXT", _as_iso),
    (datetime.time, "TEXT", _as_iso),
    (datetime.timedelta, "REAL", _as_seconds),
    (decimal.Decimal, "TEXT", _as_text),
    (uuid.UUID, "TEXT", _as_text),
)


def _wrong(where: str, kind: type, value: object) -> TypeError:
    # The value itself is not shown: it may be anybody's secret.
    return TypeError(f"{where}: expected {type_name(kind)}, not {type_name(type(value))}")
