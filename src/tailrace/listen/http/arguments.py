"""Checks of the arguments of `HttpServer` and its `listen`. Each error names the argument."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import cast

__all__ = [
    "check_count",
    "check_header",
    "check_headers",
    "check_param",
    "check_path",
    "check_seconds",
    "check_token",
]

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[^?#%\s\x00-\x1f]*")


def check_count(name: str, value: object) -> int:
    """A whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def check_seconds(name: str, value: object) -> float:
    """A number of seconds above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must end: {value!r} does not")
    return float(value)


def check_path(path: object) -> str:
    """The path of a URL."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"path must begin with '/' and have no query, not {path!r}")
    return path


def check_param(param: object) -> str:
    """The name of a field."""
    if not isinstance(param, str) or not param:
        raise ValueError(f"param must be the name of a field, not {param!r}")
    return param


def check_token(token: object) -> str | None:
    """A bearer token, or None."""
    if token is None or (isinstance(token, str) and token.isascii() and token.isprintable()):
        if token == "" or (token is not None and " " in token):
            raise ValueError("token must not be empty, nor have spaces")
        return token
    raise ValueError("token must be printable ASCII text")


def check_header(argument: str, name: object) -> str:
    """The name of a header, in lower case."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must name a header, not {name!r}")
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{argument} must be the name of a header, not {name!r}")
    return name.lower()


def check_headers(argument: str, names: object) -> frozenset[str]:
    """The names of several headers, in lower case."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be several names of headers, not {names!r}")
    return frozenset(check_header(argument, name) for name in cast("Iterable[object]", names))
