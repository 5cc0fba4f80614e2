"""The columns of a table, from the type of its rows: which there are, and how values get there.

A str, bytes, number, date, … is one column, `data`. A dataclass, TypedDict, NamedTuple or msgspec
Struct has a column for each field. What SQL has no type for (lists, dicts, nested classes,
unions) is JSON text. A type none of whose values could be stored is refused here; `_values` says
what becomes of a value.

Nothing here knows of a database; a Struct is known by its attributes, so msgspec is not imported.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeGuard,
    Union,
    cast,
    get_args,
    get_origin,
)

from tailrace.store.values import (
    Convert,
    SqlType,
    Value,
    enumerated,
    json_of,
    scalar,
    type_name,
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its SQL type, whether it may be NULL, and how a value becomes one.

    `never_number`: its texts never look like numbers.
    """

    name: str
    sql_type: SqlType
    nullable: bool
    convert: Convert
    python_type: str
    never_number: bool = False


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
    sql_type, convert, never_number = _converter(bare, where)
    if bare in (Any, object):
        nullable = True  # None is a value of these
    if nullable:
        convert = _or_null(convert)
    return Column(name, sql_type, nullable, convert, type_name(hint), never_number)


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


def _converter(bare: Any, where: str) -> tuple[SqlType, Convert, bool]:
    """The SQL type of a hint, the function that checks and converts its values, and whether
    these are texts that never look like numbers. TypeError if there are no such values.
    """
    base: object = get_origin(bare) or bare
    if base is Literal:
        kinds = {_class_of(value) for value in get_args(bare)}
        if len(kinds) == 1:
            return _converter(kinds.pop(), where)
        return "TEXT", json_of(where), False
    if not _is_class(base) or base in (Any, object, types.UnionType):
        if not storable(bare):  # one of several, none of which could be
            raise _nothing_for(bare, where)
        return "TEXT", json_of(where), False
    if issubclass(base, enum.Enum):
        return *enumerated(base, where), False
    if (found := scalar(base, where)) is not None:
        return found
    if not storable(bare):
        raise _nothing_for(bare, where)
    kind = dict if typing.is_typeddict(base) else base
    return "TEXT", json_of(where, kind), _is_object_or_array(base)


def _nothing_for(bare: Any, where: str) -> TypeError:
    return TypeError(
        f"{where}: no column for {type_name(bare)}; there is one for str, int, float, bool, bytes, "
        f"dates and times, Decimal, UUID and Enum, and lists, dicts, dataclasses, TypedDicts, "
        f"NamedTuples and msgspec Structs of these become JSON"
    )


def storable(hint: Any, seen: frozenset[str] = frozenset()) -> bool:
    """Whether any value of this type has a JSON form, as far as the type says."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(storable(member, seen) for member in get_args(hint))
    bare, _ = _bare(hint)
    base: object = get_origin(bare) or bare
    if not _is_class(base) or base in (Any, object, types.NoneType) or repr(bare) in seen:
        return True
    if scalar(base, "") is not None or issubclass(base, (bytearray, enum.Enum)):
        return True
    inside = seen | {repr(bare)}
    names = _field_names(base)
    if names is not None:
        return all(storable(field, inside) for field in _fields_that_are_read(base, names))
    if _is_nested(base):
        return all(storable(each, inside) for each in get_args(bare) if each is not ...)
    if inspect.isabstract(base) or getattr(base, "_is_protocol", False):
        return any(issubclass(kind, base) for kind in (list, dict, set, str)) or not _is_standard(
            base
        )
    # A plain class has no JSON, but a list of it may hold instances of classes that have.
    return bool(seen) and any(_field_names(each) is not None for each in base.__subclasses__())


def _is_standard(base: type[Any]) -> bool:
    return base.__module__.partition(".")[0] in ("collections", "typing", "contextlib")


def _fields_that_are_read(base: type[Any], names: tuple[str, ...]) -> list[Any]:
    try:
        hints = _hints(base)
    except TypeError:  # of a nested class nobody needs to know them
        return []
    optional = _may_be_left_out(base, hints) if typing.is_typeddict(base) else frozenset[str]()
    return [hints.get(name, Any) for name in names if name not in optional]


def _is_nested(base: type[Any]) -> bool:
    abc = collections.abc
    return issubclass(base, (abc.Mapping, abc.Sequence, abc.Set))


def _is_object_or_array(base: type[Any]) -> bool:
    """Whether its JSON begins with a brace or a bracket."""
    return _field_names(base) is not None or (
        _is_nested(base) and not issubclass(str, base) and not issubclass(base, bytearray)
    )
