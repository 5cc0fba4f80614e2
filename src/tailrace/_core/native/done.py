"""A future, task or Event as a case of select, in the native core."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from tailrace._core.native._engine import Operation
from tailrace._core.watch import Watch

T = TypeVar("T")


class Done(Operation, Generic[T]):
    """See `tailrace.done`. The engine calls its four methods below; they are code of others."""

    __slots__ = ("_source", "_watched")

    def __init__(self, source: asyncio.Future[T] | asyncio.Event) -> None:
        self._source = source
        self._watched: Watch | None = None

    @property
    def channel(self) -> Any:
        """What it watches, in the channel's place: what messages name."""
        return self._source

    def _ready(self) -> bool:
        source = self._source
        return source.is_set() if isinstance(source, asyncio.Event) else source.done()

    def _watch(self) -> None:
        self._watched = Watch(self._source, self._wake_done)

    def _withdraw(self) -> None:
        if self._watched is not None:
            self._watched.stop()
            self._watched = None

    def _finish(self) -> Any:
        if isinstance(self._source, asyncio.Event):
            return True
        return self._source.result()
