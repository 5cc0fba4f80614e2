"""The fields of a type of rows: their names and types, and how a row is taken apart into them.

A dataclass, TypedDict, NamedTuple, msgspec Struct, attrs class or pydantic model has fields; any
other type is one value. Classes of third parties are recognised by their attributes: msgspec, attrs
and pydantic are not imported. Nothing here knows a database.
"""

from __future__ import annotations

import collections.abc
import datetime
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Final, TypeAlias, TypeGuard, Union, cast, get_args, get_origin

from tailrace.classes import attribute_names, is_pydantic_model


def type_name(row_type: Any) -> str:
    """The name of a type in texts."""
    if isinstance(row_type, type):
        return row_type.__qualname__.rpartition("<locals>.")[2]
    return str(row_type).replace("typing.", "")


def field_names(base: object) -> tuple[str, ...] | None:
    """The names of the fields of a class; None if it has none: then it is one value."""
    if not is_class(base):
        return None
    if typing.is_typeddict(base):
        return tuple(base.__annotations__)
    if is_pydantic_model(base):
        return tuple(cast("Any", base).model_fields)
    if (names := attribute_names(base)) is not None:
        return names
    is_tuple = issubclass(base, tuple)
    attribute = "_fields" if is_tuple else "__struct_fields__"
    fields: object = getattr(base, attribute, None)  # of a NamedTuple, or a msgspec Struct
    return cast("tuple[str, ...]", fields) if isinstance(fields, tuple) else None


def is_class(value: object) -> TypeGuard[type[Any]]:
    """Whether `value` is a class."""
    return isinstance(value, type)


def hints_of(base: type) -> Mapping[str, Any]:
    """The types of the fields, by name. TypeError if an annotation cannot be evaluated."""
    try:
        if is_pydantic_model(base):
            return _hints_of_model(base)
        return typing.get_type_hints(base, include_extras=True)
    except Exception as error:  # an annotation is user code
        raise TypeError(
            f"cannot read the field types of {type_name(base)}: {error}; they must be names that "
            f"its module has at run time"
        ) from error


def _hints_of_model(model: Any) -> Mapping[str, Any]:
    """The types of a pydantic model's fields, which pydantic has evaluated where it could."""
    if not model.__pydantic_complete__:
        model.model_rebuild()  # names that were not defined when the class was made
    return {name: _hint_of_value(field.annotation) for name, field in model.model_fields.items()}


def _hint_of_value(annotation: Any) -> Any:
    """The type of a field's values, where pydantic has a class of its own for the annotation.

    The values of an `AwareDatetime` are datetimes, those of an `EmailStr` are texts.
    """
    bare, nullable = bare_type(annotation)
    schema_of = getattr(bare, "__get_pydantic_core_schema__", None)
    if not is_class(bare) or schema_of is None or not bare.__module__.startswith("pydantic."):
        return annotation
    schema: Any = import_module("pydantic").TypeAdapter(bare).core_schema
    while schema["type"].startswith("function-") and "schema" in schema:
        schema = schema["schema"]
    found = _TYPES_OF_SCHEMAS.get(schema["type"], bare)
    return found | None if nullable else found


_TYPES_OF_SCHEMAS: Final[Mapping[str, Any]] = {
    "str": str,
    "datetime": datetime.datetime,
    "date": datetime.date,
}


MISSING: Final = object()
"""In place of a value: the row has no such key."""

Fields: TypeAlias = Callable[[list[Any]], list[list[Any]]]
"""Takes rows apart: a list for each field. TypeError for a row that is none of the type."""


def attributes_of(base: type, shown: str, names: Sequence[str]) -> Fields:
    """What takes instances of `base` apart. `shown`: the type's name."""
    getters = list(map(operator.attrgetter, names))

    def fields(rows: list[Any]) -> list[list[Any]]:
        for row in rows:
            if not isinstance(row, base):
                raise TypeError(f"expected {shown}, not {type_name(type(row))}")
        return [list(map(get, rows)) for get in getters]

    def fields_of_models(rows: list[Any]) -> list[list[Any]]:
        found = fields(rows)
        for row in rows:
            if row.model_extra:  # the model allows fields that it does not name
                raise _unknown_fields(shown, row.model_extra)
        return found

    return fields_of_models if is_pydantic_model(base) else fields


def items_of(shown: str, names: Sequence[str], optional: frozenset[str]) -> Fields:
    """As `attributes_of`, for a TypedDict; a row without an `optional` key has `MISSING` there."""
    known = frozenset(names)
    required = known - optional

    def fields(rows: list[Any]) -> list[list[Any]]:
        for row in rows:
            if not isinstance(row, dict):
                raise TypeError(f"expected {shown}, not {type_name(type(row))}")
            keys = cast("dict[str, Any]", row).keys()
            if keys != known:
                _check_keys(shown, keys, known, required)
        return [[row.get(name, MISSING) for row in rows] for name in names]

    return fields


def _check_keys(
    shown: str, keys: collections.abc.Set[str], known: frozenset[str], required: frozenset[str]
) -> None:
    if missing := sorted(required - keys):
        raise TypeError(f"{shown}: {', '.join(missing)} missing")
    if extra := keys - known:
        raise _unknown_fields(shown, extra)


def _unknown_fields(shown: str, names: Iterable[object]) -> TypeError:
    listed = ", ".join(sorted(map(str, names)))
    return TypeError(f"{shown} has no {listed}: it would not be stored")


def optional_keys(base: Any, hints: Mapping[str, Any]) -> frozenset[str]:
    """The keys that rows of a TypedDict may leave out."""
    # __required_keys__ alone does not look into annotations that are strings.
    marks = {name: get_origin(hint) for name, hint in hints.items()}
    return frozenset(
        name
        for name, mark in marks.items()
        if mark is typing.NotRequired
        or (mark is not typing.Required and name not in base.__required_keys__)
    )


_QUALIFIERS: Final = (Annotated, typing.Required, typing.NotRequired, typing.Final)


def bare_type(hint: Any) -> tuple[Any, bool]:
    """A hint without qualifiers, aliases and None; and whether None is allowed."""
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


def is_naive(hint: Any) -> bool:
    """Whether a hint says that its datetimes have no time zone.

    ``Annotated[datetime, msgspec.Meta(tz=False)]`` says so, and pydantic's `NaiveDatetime`.
    """
    if getattr(hint, "__name__", "") == "NaiveDatetime":
        return True
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return is_naive(kind) or any(getattr(note, "tz", None) is False for note in notes)
    return any(is_naive(member) for member in get_args(hint))
