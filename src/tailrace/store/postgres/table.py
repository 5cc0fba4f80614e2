"""A table of PostgreSQL: the statement that makes it, and rows that fit the columns it has."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from tailrace.errors import Reject
from tailrace.message import Message
from tailrace.store.columns import Layout
from tailrace.store.postgres.bind import Adapt
from tailrace.store.table import Key, Rows, Table, quoted

T = TypeVar("T")

LONGEST_NAME: Final = 63
"""Bytes of a name; PostgreSQL cuts a longer one."""


class PostgresTable(Table[T]):
    """A table; after `adapt_to`, its rows are as its columns hold them. TypeError as `Table`."""

    def __init__(
        self, name: str, schema: str | None, layout: Layout, key: Key[T], id_column: str
    ) -> None:
        super().__init__(name, layout, key, id_column)
        self.schema = schema
        self._adapts: list[tuple[int, typing.Callable[[Any], Any]]] = []
        for column in self.columns:
            if len(column.name.encode()) > LONGEST_NAME:
                raise TypeError(f"{self.row_type}.{column.name}: PostgreSQL has no name so long")
        if not self.key_is_field and not self.key_is_id:
            sql_type = _key_type(key)
            self.columns = (replace(self.columns[0], sql_type=sql_type), *self.columns[1:])
            self.key_is_text = sql_type == "TEXT"

    def adapt_to(self, adapts: Sequence[Adapt], *, key_is_text: bool) -> None:
        """From now on make rows for columns with these adapters."""
        self._adapts = [(n, adapt) for n, adapt in enumerate(adapts) if adapt is not None]
        self.key_is_text = key_is_text

    def rows(self, messages: Sequence[Message[T]]) -> Rows:
        """As `Table.rows`. A row that a column cannot hold is refused too."""
        rows = super().rows(messages)
        width, flat = len(self.columns), rows.flat
        refused: dict[int, Exception] = {}
        for column, adapt in self._adapts:
            for place in range(column, len(flat), width):
                value = flat[place]
                if value is None:
                    continue
                try:
                    flat[place] = adapt(value)
                except ValueError as error:
                    refused.setdefault(place // width, Reject(str(error)))
                except TypeError as error:
                    refused.setdefault(place // width, error)
        if not refused:
            return rows
        kept = [number for number in range(len(rows)) if number not in refused]
        return Rows(
            [value for n in kept for value in flat[n * width : (n + 1) * width]],
            [rows.positions[n] for n in kept],
            rows.digests,
            rows.known,
            rows.refused | {rows.positions[n]: error for n, error in refused.items()},
        )

    @property
    def place(self) -> str:
        """The name in SQL, with the schema if there is one."""
        prefix = "" if self.schema is None else f"{quoted(self.schema)}."
        return f"{prefix}{quoted(self.name)}"

    def create(self) -> str:
        """The statement that makes the table."""
        columns = ", ".join(
            f"{quoted(column.name)} {column.sql_type}"
            + (" PRIMARY KEY" if column.name == self.key_column else "")
            + ("" if column.nullable or column.name == self.key_column else " NOT NULL")
            for column in self.columns
        )
        return f"CREATE TABLE IF NOT EXISTS {self.place} ({columns})"


def _key_type(key: object) -> str:
    """The column type for what a function returns, as far as its annotation says."""
    try:
        returned: object = typing.get_type_hints(key).get("return")
    except Exception:  # a lambda, a partial, or names that cannot be evaluated
        return "TEXT"
    return "BIGINT" if returned is int else "BYTEA" if returned is bytes else "TEXT"
