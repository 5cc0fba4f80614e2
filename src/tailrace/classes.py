"""Layer 0: the fields of classes that attrs, pydantic and `dataclasses` make.

A class is recognised by its attributes, so attrs and pydantic are not imported.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast


def attribute_names(kind: Any) -> tuple[str, ...] | None:
    """The names of the fields of a dataclass or an attrs class; None for any other class."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)  # a tuple of attrs.Attribute
    if not isinstance(attributes, tuple):
        return None
    return tuple(attribute.name for attribute in cast("Any", attributes))


def is_pydantic_model(kind: object) -> bool:
    """Whether `kind` is a subclass of pydantic's BaseModel (of pydantic 2 or later)."""
    return (
        isinstance(kind, type)
        and hasattr(kind, "__pydantic_validator__")
        and isinstance(getattr(kind, "model_fields", None), dict)
    )
