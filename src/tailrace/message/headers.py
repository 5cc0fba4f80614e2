"""What the source of a message says about it besides the data: its headers, its digest."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["NO_HEADERS", "PLACE", "headers_of"]

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

PLACE: Final = b""
"""The digest of a message whose id says where its data are, as the lines of a file have it."""


def headers_of(given: Mapping[str, str]) -> Mapping[str, str]:
    """A read-only copy with names in lower case, as listeners make them."""
    if not isinstance(given, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, not {given!r}")
    headers = dict[str, str]()
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a header must be a str, not {name!r}")
        if not isinstance(value, str):
            raise TypeError(f"header {name!r} must be a str, not {value!r}")
        if (lower := name.lower()) in headers:
            raise ValueError(f"header {lower!r} is given twice, in upper and lower case")
        headers[lower] = value
    return MappingProxyType(headers)
