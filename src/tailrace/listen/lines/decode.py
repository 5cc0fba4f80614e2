"""From a line to data: text, JSON and CSV, of a type.

A decoder raises for a line that has no data of the type: ValueError, which msgspec's errors and
Unicode's are, or whatever the type's own code raises.
"""

from __future__ import annotations

import csv
from typing import Any, Literal, Protocol, TypeAlias, get_args

import msgspec

__all__ = ["Blank", "Format", "LineDecoder", "decoder"]

Format: TypeAlias = Literal["text", "json", "csv"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Blank(Exception):
    """The line is white space, which is no line in this format."""


class LineDecoder(Protocol):
    """Decodes the lines of files."""

    table: bool
    """Whether the first line of a file is a header, which names the fields of the others."""

    def __call__(self, data: bytes, header: bytes) -> Any:
        """The data of a line of a file with this header. Raises `Blank` for what is no line."""
        ...


def decoder(format: Format, kind: Any) -> LineDecoder:
    """The decoder of a format; `kind` None is that format's default. ValueError for no format."""
    match format:
        case "text":
            return Text(str if kind is None else kind)
        case "json":
            return Json(dict[str, Any] if kind is None else kind)
        case "csv":
            return Csv(dict[str, str] if kind is None else kind)
        case _:
            raise ValueError(f"read_lines: format={format!r} is none of {get_args(Format)}")


class Text:
    """A line is a text in UTF-8, or what is written so."""

    table = False

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self, data: bytes, header: bytes) -> Any:
        if self._kind is bytes:
            return data
        text = data.decode()
        return text if self._kind is str else msgspec.convert(text, self._kind, strict=False)


class Json:
    """A line is a JSON value."""

    table = False

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def __call__(self, data: bytes, header: bytes) -> Any:
        try:
            return self._decode(data)
        except msgspec.DecodeError:
            _check_blank(data)
            raise


class Csv:
    """A line is a record of CSV (RFC 4180), whose fields the first one names."""

    table = True

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._header = b""  # the last one, and its names
        self._names: list[str] = []

    def __call__(self, data: bytes, header: bytes) -> Any:
        _check_blank(data)
        if header != self._header:
            self._header, self._names = header, _names(header)
        fields = _fields(data)
        if len(fields) != len(self._names):
            raise ValueError(f"it has {len(fields)} fields, the header {len(self._names)}")
        record = dict(zip(self._names, fields, strict=True))
        return msgspec.convert(record, self._kind, strict=False)


def _check_blank(data: bytes) -> None:
    if not data or data.isspace():
        raise Blank


def _names(header: bytes) -> list[str]:
    names = _fields(header)
    if len(set(names)) < len(names):
        raise ValueError(f"the header names a field twice: {', '.join(names)}")
    return names


def _fields(data: bytes) -> list[str]:
    try:
        [fields] = csv.reader([data.decode()], strict=True)
    except csv.Error as error:
        raise ValueError(f"it is no record of CSV: {error}") from None
    return fields
