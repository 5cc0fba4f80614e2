"""A table of any database: its name, its columns and its key; and the rows made of messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeAlias, TypeVar, get_origin

from tailrace.errors import Reject
from tailrace.message import Message
from tailrace.message.internals import PLACE, digest_of
from tailrace.store.columns import Column, Layout
from tailrace.store.fields import bare_type, type_name
from tailrace.store.values import all_texts, text, whole

T = TypeVar("T")

Key: TypeAlias = "str | Callable[[T], str | int | bytes] | None"


@dataclass(frozen=True, slots=True)
class Row:
    """One row to insert: its place in the batch, its values, and the digest of what was sent;
    `known` if its id alone makes a repeat."""

    position: int
    key: Any
    values: tuple[Any, ...]
    digest: bytes | None
    known: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch: their values, one row after another, in `flat`.

    `refused` has the errors of the messages of which no row could be made, by place in the batch.
    """

    flat: list[Any]
    positions: Sequence[int]
    digests: dict[int, bytes]  # by place in the batch
    known: set[int]  # places of rows whose ids alone make repeats
    refused: dict[int, Exception] = field(default_factory=dict[int, Exception])

    def __len__(self) -> int:
        return len(self.positions)


_ID: Final = Column(
    "id",
    "TEXT",
    nullable=False,
    convert=functools.partial(text, "the id"),
    python_type="the key",
    unchanged=all_texts,
)


def id_column_of(row_type: Any) -> str:
    """The name of the column for a message's id, if the caller gives none."""
    bare = bare_type(row_type)[0]
    name: str = getattr(get_origin(bare) or bare, "__id_column__", "id")  # as of `DeadLetter`
    return name


class Table(Generic[T]):
    """A table for rows of one layout.

    Its key is a field of the row, if `key` names one. Otherwise it is a column `id_column` before
    the others, with ``key(data)`` or the message's id. TypeError if key and fields do not go
    together.
    """

    def __init__(self, name: str, layout: Layout, key: Key[T], id_column: str) -> None:
        self.name = name
        self.row_type = layout.row_type
        self._values = layout.values
        self._key = None if isinstance(key, str) else key
        self.key_is_field = isinstance(key, str)
        self.key_column = key if isinstance(key, str) else id_column
        if self.key_is_field:
            self.columns = layout.columns
        else:
            self.columns = (replace(_ID, name=id_column), *layout.columns)
        self.key_is_text = True
        """Whether the key's column turns an int into a text. If so, that is done here already."""
        self._check()
        self.key_index = [column.name for column in self.columns].index(self.key_column)

    def __repr__(self) -> str:
        return f"<Table {self.name!r} for {self.row_type}>"

    def _check(self) -> None:
        names = [column.name.lower() for column in self.columns]
        if self.key_is_field:
            keys = [column for column in self.columns if column.name == self.key_column]
            if not keys:
                raise TypeError(f"key={self.key_column!r}: {self.row_type} has no such field")
            if keys[0].nullable:
                raise TypeError(f"key={self.key_column!r}: a key is never None, this field may be")
        elif self.key_column.lower() in names[1:]:
            field = self.columns[names.index(self.key_column.lower(), 1)].name
            raise TypeError(
                f"{self.row_type} has a field {field!r}, which is also the name of the column for "
                f"the message's id: say key={field!r} if rows of the same {field} are repeats of "
                f"one row, else id_column='message_id' or the like"
            )
        for index, name in enumerate(names):
            if name in names[:index]:
                raise TypeError(f"{self.row_type} has two fields {name!r}: to SQL case is nothing")

    @property
    def key_is_id(self) -> bool:
        """Whether the key is the message's id."""
        return not self.key_is_field and self._key is None

    # Rows.

    def rows(self, messages: Sequence[Message[T]]) -> Rows:
        """The rows of a batch. A message of which no row can be made is refused alone."""
        digests: dict[int, bytes] = {}
        known: set[int] = set()
        for position, message in enumerate(messages):
            digest = digest_of(message)
            if digest == PLACE:
                known.add(position)
            elif digest is not None:
                digests[position] = digest
        try:
            all_of_them = self._flat(messages) if messages else []
            return Rows(all_of_them, range(len(messages)), digests, known)
        except Exception:
            pass  # try the messages one by one, to find those it is about
        flat: list[Any] = []
        positions: list[int] = []
        refused: dict[int, Exception] = {}
        for position, message in enumerate(messages):
            try:
                flat += self._flat([message])
            except Exception as error:
                refused[position] = error
            else:
                positions.append(position)
        return Rows(flat, positions, digests, known, refused)

    def _flat(self, messages: Sequence[Message[T]]) -> list[Any]:
        """The values of all rows.

        An error is about one of them: `Reject` if no table could hold the row, else what user code
        or a check raised.
        """
        key = self._key
        data = [message.data for message in messages]
        keys = [] if key is None else list(map(key, data))
        try:
            columns = self._values(data)
            if key is not None:
                columns.insert(0, [_checked_key(found, self.key_is_text) for found in keys])
            elif not self.key_is_field:
                columns.insert(0, _ID.convert_all([message.id for message in messages]))
        except (ValueError, OverflowError) as error:
            raise Reject(str(error)) from error
        flat: list[Any] = [None] * (len(columns) * len(messages))
        for place, values in enumerate(columns):
            flat[place :: len(columns)] = values
        return flat

    def each(self, rows: Rows) -> list[Row]:
        """The rows one by one."""
        width = len(self.columns)
        cut: list[Row] = []
        for number, position in enumerate(rows.positions):
            values = tuple(rows.flat[number * width : (number + 1) * width])
            digest = rows.digests.get(position)
            known = position in rows.known
            cut.append(Row(position, values[self.key_index], values, digest, known))
        return cut


def _checked_key(key: object, as_text: bool) -> str | int | bytes:
    if isinstance(key, str):
        return text("key(data)", key)
    if isinstance(key, int):
        number = whole("key(data)", key)
        return str(number) if as_text else number
    if isinstance(key, bytes):
        return bytes(memoryview(key))
    raise TypeError(f"key(data) must be a str, int or bytes, not {type_name(type(key))}")


def quoted(name: str) -> str:
    """A name in the quotes of SQL."""
    return '"' + name.replace('"', '""') + '"'
