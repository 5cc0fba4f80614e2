"""From data to a line: text, JSON and CSV. `tailrace.listen.read_lines` reads what this writes.

An encoder raises TypeError for data of the wrong type, and ValueError for data that the format
cannot hold.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeGuard, cast, get_origin

from tailrace.jsontext import decimal_text, microseconds, moment_text, to_json
from tailrace.store.columns import Layout, layout_of
from tailrace.store.fields import bare_type, field_names, is_class, type_name
from tailrace.store.values import Dialect, Scalar, check_date, json_text, real, wrong

Format: TypeAlias = Literal["text", "json", "csv"]


class Encoder(Protocol):
    """Encodes data as a line, without its end."""

    def __call__(self, data: Any) -> str:
        """The line of `data`."""
        ...

    def header(self) -> str | None:
        """The first line of each file; None if files have none. Known after the first line."""
        ...


def encoder(format: Format, kind: Any, known: str | None) -> Encoder:
    """The encoder of a format for data of type `kind`. `known`: the header of the file that exists.

    TypeError for a type that the format has no lines for.
    """
    if format == "json":
        return Json()
    bare, nullable = bare_type(kind)
    base: object = get_origin(bare) or bare
    if format == "text":
        if not is_class(base) or not issubclass(base, str) or nullable:
            raise TypeError(
                f"lines of text are of str, not {type_name(kind)}: make texts of it before, or say "
                f"format='json'"
            )
        return Text()
    names = field_names(base)
    if names is None and is_class(base) and issubclass(base, Mapping):
        return Records(None if known is None else split(known))
    return Csv(layout_of(kind, _TEXTS), names)


class Text:
    """A line is the text. A text with a line break in it is none: it would be read as two."""

    def __call__(self, data: Any) -> str:
        """The line of `data`."""
        if not isinstance(data, str):
            raise wrong("data", str, data)
        if "\n" in data or "\r" in data:
            raise ValueError("a text with a line break in it is no line")
        return data

    def header(self) -> None:
        """There is none."""


class Json:
    """A line is JSON with sorted keys. Line breaks in texts are escaped."""

    def __call__(self, data: Any) -> str:
        """The line of `data`."""
        return to_json(data)

    def header(self) -> None:
        """There is none."""


class Csv:
    """A line is a record of CSV (RFC 4180) with a field for each of the type's."""

    def __init__(self, layout: Layout, names: Sequence[str] | None) -> None:
        self._layout = layout
        self._header = joined(["data"] if names is None else names)

    def __call__(self, data: Any) -> str:
        """The line of `data`."""
        return joined([field[0] for field in self._layout.values([data])])

    def header(self) -> str:
        """The names of the fields."""
        return self._header


class Records:
    """A line is a record of CSV with a field for each key of a dict. All have the keys of the
    first, or of the header that is in the file."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names

    def __call__(self, data: Any) -> str:
        """The line of `data`."""
        record = _record(data)
        fields = [_cell(value) for value in record.values()]
        names = list(map(str, record)) if self._names is None else self._names
        if len(names) != len(record) or any(name not in record for name in names):
            raise ValueError(f"the keys must be those of the header: {', '.join(names)}")
        if not names:
            raise ValueError("a record must have a field")
        line = joined(dict(zip(map(str, record), fields, strict=True))[name] for name in names)
        self._names = names
        return line

    def header(self) -> str | None:
        """The names of the fields; None before the first line."""
        return None if self._names is None else joined(self._names)


def _record(data: object) -> dict[Any, Any]:
    if not _is_mapping(data):
        raise wrong("data", dict, data)
    return dict(data)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


# --- cells

_IN_QUOTES: Final = re.compile(r'[",\r\n]|^\s|\s$|^$')


def joined(cells: Iterable[object]) -> str:
    """A record. None is an empty cell; an empty text is in quotes, and so is all of an empty line,
    which readers would skip.
    """
    line = ",".join("" if cell is None else _quoted(str(cell)) for cell in cells)
    return line or '""'


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _IN_QUOTES.search(cell) else cell


def split(header: str) -> list[str]:
    """The cells of a header that `joined` made."""
    return [
        cell[1:-1].replace('""', '"') if cell.startswith('"') else cell
        for cell in re.findall(r'(?:^|,)("(?:[^"]|"")*"|[^,]*)', header)
    ]


def _moment(where: str, value: datetime.datetime) -> str:
    return moment_text(value)


def _date(where: str, value: datetime.date) -> str:
    check_date(where, value)
    return value.isoformat()


_TEXTS: Final = Dialect(
    {
        str: Scalar("", lambda where, value: str.__str__(value)),
        bool: Scalar("", lambda where, value: "true" if value else "false"),
        int: Scalar("", lambda where, value: int.__repr__(value)),
        float: Scalar("", lambda where, value: float.__repr__(real(where, value))),
        bytes: Scalar("", lambda where, value: to_json(bytes(value))[1:-1]),
        datetime.datetime: Scalar("", _moment),
        datetime.date: Scalar("", _date),
        datetime.time: Scalar("", lambda where, value: value.isoformat()),
        datetime.timedelta: Scalar("", lambda where, value: str(microseconds(value))),
        decimal.Decimal: Scalar("", lambda where, value: decimal_text(value)),
        uuid.UUID: Scalar("", lambda where, value: str(value)),
    },
    json=Scalar("", json_text),
)


def _cell(value: object) -> str | None:
    """The cell of a value of a dict, whose type nobody has declared."""
    if value is None:
        return None
    form = _TEXTS.scalar(type(value), "value")
    return to_json(value) if form is None else cast("str", form.convert(value))
