"""Text and JSON of values whose own code may raise anything.

A value of the user's is shown by its own `__str__`, `__repr__`, properties and iterators. None of
them may end an actor or leave a client without an answer, so nothing here raises, except
KeyboardInterrupt, which is the user's own.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from tailrace.listen.http.whole import whole
from tailrace.usercode import shown

__all__ = ["as_json", "as_text", "encoded", "said", "shown"]

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def said(value: object) -> str:
    """`str(value)` as text that UTF-8 can carry; the name of its type where `str` raises."""
    try:
        return encoded(cast(str, value) if issubclass(type(value), str) else str(value)).decode()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<{_name(value)}>"


def _name(value: object) -> str:
    name = type.__dict__["__name__"].__get__(type(value))  # a metaclass may have another
    return str(name)


def encoded(text: str) -> bytes:
    """Text as UTF-8; lone surrogates are escaped."""
    return str.encode(text, "utf-8", "backslashreplace")


def as_text(value: object) -> bytes:
    """A text as it is, all else as JSON."""
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace")
    # Not isinstance, which asks the value for its `__class__`.
    return encoded(cast(str, value)) if issubclass(type(value), str) else as_json(value)


def as_json(value: object) -> bytes:
    """JSON; what cannot be written as such is written as its `str`, in a dictionary one by one."""
    try:
        return _encode(whole(value))
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass
    try:
        return _encode(_items(value))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return _encode(said(value))


def _items(value: object) -> Any:
    """`value` with what cannot be written replaced one by one, if it is a dictionary."""
    if not isinstance(value, dict):
        return said(value)
    items = cast("dict[object, object]", value).items()
    return {said(key): _plain(item) for key, item in items}


def _plain(value: object) -> Any:
    """`value` as it was if it can be written as JSON, else its `str`."""
    try:
        return msgspec.Raw(_encode(whole(value)))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return said(value)
