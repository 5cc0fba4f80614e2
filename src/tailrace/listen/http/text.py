"""Text and JSON of values whose own code may raise anything.

To write a value runs user code: its `__str__`, `__repr__`, properties and iterators. An error in
user code must not end an actor, nor leave a client without an answer. So nothing here raises,
except KeyboardInterrupt.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from tailrace.listen.http.plain import to_plain

__all__ = ["as_json", "as_text", "safe_str", "to_utf8"]

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def safe_str(value: object) -> str:
    """`str(value)` as text that UTF-8 can encode; the name of the type if `str` raises."""
    try:
        return to_utf8(cast(str, value) if issubclass(type(value), str) else str(value)).decode()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<{_name(value)}>"


def _name(value: object) -> str:
    return str(type.__dict__["__name__"].__get__(type(value)))  # a metaclass may have another


def to_utf8(text: str) -> bytes:
    """Text as UTF-8; lone surrogates are escaped."""
    return str.encode(text, "utf-8", "backslashreplace")


def as_text(value: object) -> bytes:
    """A str as it is, any other value as JSON."""
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace")
    # Not isinstance: that reads the value's `__class__`, which may be user code.
    return to_utf8(cast(str, value)) if issubclass(type(value), str) else as_json(value)


def as_json(value: object) -> bytes:
    """JSON. A value that has no JSON is written as its `str`; in a dictionary, only that value."""
    try:
        return _encode(to_plain(value))
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass
    try:
        return _encode(_items(value))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return _encode(safe_str(value))


def _items(value: object) -> Any:
    """A dictionary with the values that have no JSON replaced; of another value its `str`."""
    if not isinstance(value, dict):
        return safe_str(value)
    items = cast("dict[object, object]", value).items()
    return {safe_str(key): _plain(item) for key, item in items}


def _plain(value: object) -> Any:
    """The JSON of `value`, or its `str` if it has none."""
    try:
        return msgspec.Raw(_encode(to_plain(value)))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return safe_str(value)
