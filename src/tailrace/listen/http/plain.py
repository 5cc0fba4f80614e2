"""Write out dataclasses, wherever they are in a value, so that JSON has all of their fields.

msgspec's encoder writes a dataclass instance's ``__dict__``, but its decoder leaves a plain default
(``amount: int = 1``) on the class. If dataclasses were not written out, a client that sends an
order without `amount` would be answered without `amount`, though 1 was stored.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
from typing import Any, Final, cast

import msgspec
from msgspec.structs import astuple, force_setattr

from tailrace.classes import is_pydantic_model

__all__ = ["to_plain"]

_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes})
_PLAIN_OR_MANY: Final = _PLAIN | {dict, list, tuple}
_DEEPEST: Final = 1000
_MOST: Final = 1_000_000


def to_plain(value: Any) -> Any:
    """`value` with a dictionary in place of each dataclass. RecursionError if it holds itself."""
    if type(value) in _PLAIN:
        return value
    if type(value) in _PLAIN_OR_MANY and _is_plain(value):
        return value
    return _written_out(value)


def _is_plain(value: Any) -> bool:
    """Whether a value, however nested, has only plain types, so that nothing is to write out.

    This takes a few calls for each level of nesting. A call for each list would block the event
    loop: a client may send a hundred thousand lists.
    """
    level = [value]
    for _ in range(_DEEPEST):
        kinds = set(map(type, level))
        if not kinds <= _PLAIN_OR_MANY:
            return False
        if kinds <= _PLAIN:
            return True
        level = gc.get_referents(*level)
        if len(level) > _MOST:
            return False
    return False


def _written_out(value: Any) -> Any:
    kind = cast(type[object], type(value))
    if kind in _PLAIN:
        return value
    if isinstance(value, dict):
        items = cast(dict[object, object], value).items()
        return {key: item if type(item) in _PLAIN else _written_out(item) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        many = cast(list[object], value)
        return [item if type(item) in _PLAIN else _written_out(item) for item in many]
    if isinstance(value, msgspec.Struct):  # its class defines how it is written
        return _struct(value)
    if hasattr(kind, "__dataclass_fields__"):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return {name: _written_out(getattr(value, name)) for name in names}
    if is_pydantic_model(kind):
        model: Any = value
        return model.model_dump(mode="json", by_alias=True, warnings=False)
    return value


def _struct(value: msgspec.Struct) -> msgspec.Struct:
    # Most Structs have plain fields only, and a copy takes 5 µs.
    if _PLAIN.issuperset(map(type, astuple(value))):
        return value
    twin = copy.copy(value)
    for name in value.__struct_fields__:
        force_setattr(twin, name, _written_out(getattr(value, name)))
    return twin
