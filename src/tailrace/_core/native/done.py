"""A future, task or Event as a case of select, in the native core."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from tailrace._core.common import HAPPENED
from tailrace._core.done import DoneBase, Watch
from tailrace._core.native._engine import Operation

T = TypeVar("T")


class Done(DoneBase[T], Operation[T], Generic[T]):
    """See `tailrace.done`."""

    __slots__ = ("_source", "_watched")

    def __init__(self, source: asyncio.Future[T] | asyncio.Event) -> None:
        self._source = source
        self._watched: Watch | None = None

    def _channel(self) -> Any:
        """What it watches, in the channel's place: what messages name."""
        return self._source

    channel: Any = property(_channel)

    def _happened(self) -> bool:
        return self._wake(HAPPENED)


def done(source: asyncio.Future[T] | asyncio.Event) -> Operation[T]:
    """See `tailrace.done`."""
    return Done(source)
