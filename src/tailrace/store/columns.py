"""The columns of a table, from the type of its rows, for any database (`values.Dialect`).

A str, bytes, number, date, … is one column, `data`. A type with fields has a column for each. A
field whose type SQL does not have (a list, dict, nested class, union) is JSON text. A type none of
whose values could be stored is refused here; `values` checks single values.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tailrace.jsontext import KEPT
from tailrace.store.fields import (
    MISSING,
    attributes_of,
    bare_type,
    field_names,
    hints_of,
    is_class,
    is_naive,
    items_of,
    optional_keys,
    type_name,
)
from tailrace.store.values import Convert, Dialect, Form, Unchanged


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `convert` checks a value and makes of it what the driver takes.

    `never_number`: the texts of this column never look like numbers.
    """

    name: str
    sql_type: str
    nullable: bool
    convert: Convert
    python_type: str
    never_number: bool = False
    unchanged: Unchanged | None = None

    def convert_all(self, values: list[Any]) -> list[Any]:
        """Convert the values of many rows, of which there is at least one."""
        if self.unchanged is not None and self.unchanged(values):
            return values
        return list(map(self.convert, values))


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a type. ``fields(rows)`` takes rows apart: a list for each column."""

    row_type: str
    columns: tuple[Column, ...]
    fields: Callable[[list[Any]], list[list[Any]]]

    def values(self, rows: list[Any]) -> list[list[Any]]:
        """The values of rows, of which there is at least one: a list for each column.

        Raises TypeError, ValueError, or what the row's own code raises, for rows that do not fit.
        """
        return [
            column.convert_all(field)
            for column, field in zip(self.columns, self.fields(rows), strict=True)
        ]


def layout_of(row_type: Any, dialect: Dialect) -> Layout:
    """The layout for rows of `row_type`. TypeError, with the reason, if there is none."""
    hint = row_type
    row_type = bare_type(row_type)[0] if get_origin(row_type) is Annotated else row_type
    shown = type_name(row_type)
    base = get_origin(row_type) or row_type
    names = field_names(base)
    if names is None:
        column = _column("data", hint, shown, dialect)
        if column.nullable and row_type not in (Any, object):
            raise TypeError(f"rows of {shown} cannot be stored: what would a row of None be?")
        return Layout(shown, (column,), lambda rows: [rows])
    if not names:
        raise TypeError(f"{shown} has no fields, so there is nothing to store")
    hints = hints_of(base)
    _check_arguments(row_type, base, shown)
    columns = tuple(
        _column(name, hints.get(name, Any), f"{shown}.{name}", dialect) for name in names
    )
    if typing.is_typeddict(base):
        optional = optional_keys(base, hints)
        columns = tuple(
            _may_be_missing(column) if column.name in optional else column for column in columns
        )
        return Layout(shown, columns, items_of(shown, names, optional))
    return Layout(shown, columns, attributes_of(base, shown, names))


def _may_be_missing(column: Column) -> Column:
    convert = column.convert

    def or_null(value: Any) -> Any:
        return None if value is MISSING else convert(value)

    return dataclasses.replace(column, nullable=True, convert=or_null)


def _check_arguments(row_type: Any, base: Any, shown: str) -> None:
    """TypeError if a type variable of a generic class stands for what could never be stored.

    A field of that type is JSON, whatever its value is.
    """
    for argument in get_args(row_type) if getattr(base, "__parameters__", ()) else ():
        if not storable(argument):
            raise _nothing_for(argument, shown)


def _column(name: str, hint: Any, where: str, dialect: Dialect) -> Column:
    bare, nullable = bare_type(hint)
    form = _form_of(bare, where, dialect, naive=is_naive(hint))
    convert = form.convert
    if bare in (Any, object):
        nullable = True  # None is a value too
    if nullable:
        convert = _or_null(convert)
    return Column(
        name,
        form.sql_type,
        nullable,
        convert,
        type_name(hint),
        form.never_number,
        form.unchanged,
    )


def _or_null(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _class_of(value: object) -> type[Any]:
    return type(value)


def _form_of(bare: Any, where: str, dialect: Dialect, *, naive: bool = False) -> Form:
    """How values of a type are stored. TypeError if no value of that type could be stored."""
    base: object = get_origin(bare) or bare
    if base is Literal:
        kinds = {_class_of(value) for value in get_args(bare)}
        if len(kinds) == 1:
            return _form_of(kinds.pop(), where, dialect)
        return dialect.nested(where)
    if not is_class(base) or base in (Any, object, types.UnionType):
        if not storable(bare):  # a union of types that could not
            raise _nothing_for(bare, where)
        return dialect.nested(where)
    if issubclass(base, enum.Enum):
        return dialect.enumerated(base, where)
    if (found := dialect.scalar(base, where, naive=naive)) is not None:
        return found
    if not storable(bare):
        raise _nothing_for(bare, where)
    kind = dict if typing.is_typeddict(base) else base
    return dialect.nested(where, kind, never_number=_is_object_or_array(base))


def _nothing_for(bare: Any, where: str) -> TypeError:
    return TypeError(
        f"{where}: no column for {type_name(bare)}; there is one for str, int, float, bool, bytes, "
        f"dates and times, Decimal, UUID and Enum; lists, dicts, dataclasses, TypedDicts, "
        f"NamedTuples, msgspec Structs, attrs classes and pydantic models of these become JSON"
    )


def storable(hint: Any, seen: frozenset[str] = frozenset()) -> bool:
    """Whether some value of this type may have a JSON form, as far as the type shows."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(storable(member, seen) for member in get_args(hint))
    bare, _ = bare_type(hint)
    base: object = get_origin(bare) or bare
    if not is_class(base) or base in (Any, object, types.NoneType) or repr(bare) in seen:
        return True
    if issubclass(base, (str, int, float, enum.Enum, *KEPT)):
        return True
    inside = seen | {repr(bare)}
    names = field_names(base)
    if names is not None:
        return all(storable(field, inside) for field in _fields_that_are_read(base, names))
    if _is_nested(base):
        return all(storable(each, inside) for each in get_args(bare) if each is not ...)
    if inspect.isabstract(base) or getattr(base, "_is_protocol", False):
        return any(issubclass(kind, base) for kind in (list, dict, set, str)) or not _is_standard(
            base
        )
    # A plain class has no JSON form, but a list of it may hold instances of subclasses that have.
    return bool(seen) and any(field_names(each) is not None for each in base.__subclasses__())


def _is_standard(base: type[Any]) -> bool:
    return base.__module__.partition(".")[0] in ("collections", "typing", "contextlib")


def _fields_that_are_read(base: type[Any], names: tuple[str, ...]) -> list[Any]:
    try:
        hints = hints_of(base)
    except TypeError:  # the types of a nested class need not be known
        return []
    optional = optional_keys(base, hints) if typing.is_typeddict(base) else frozenset[str]()
    return [hints.get(name, Any) for name in names if name not in optional]


def _is_nested(base: type[Any]) -> bool:
    abc = collections.abc
    return issubclass(base, (abc.Mapping, abc.Sequence, abc.Set))


def _is_object_or_array(base: type[Any]) -> bool:
    """Whether its JSON begins with a brace or a bracket."""
    return field_names(base) is not None or (
        _is_nested(base) and not issubclass(str, base) and not issubclass(base, bytearray)
    )
