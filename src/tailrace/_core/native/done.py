"""A future, task or Event as a case of select, in the native core."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from tailrace._core.native._engine import Operation

T = TypeVar("T")


class Done(Operation, Generic[T]):
    """See `tailrace.done`. The engine calls its four methods below; they are code of others."""

    __slots__ = ("_future", "_source", "_starting", "_watching")

    def __init__(self, source: asyncio.Future[T] | asyncio.Event) -> None:
        self._source = source
        self._future: asyncio.Future[Any] | None = None
        self._starting: asyncio.Handle | None = None
        self._watching = False

    @property
    def channel(self) -> Any:
        """What it watches, in the channel's place: what messages name."""
        return self._source

    def _ready(self) -> bool:
        source = self._source
        return source.is_set() if isinstance(source, asyncio.Event) else source.done()

    def _watch(self) -> None:
        # At the loop's next turn, so that whoever completes it does not find us half parked.
        self._watching = True
        self._starting = asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        if not self._watching:
            return
        if isinstance(self._source, asyncio.Event):
            self._future = asyncio.ensure_future(self._source.wait())
        else:
            self._future = self._source
        self._future.add_done_callback(self._fired)

    def _fired(self, _: asyncio.Future[Any]) -> None:
        if self._watching:
            self._watching = False
            self._wake_done()

    def _withdraw(self) -> None:
        self._watching = False
        if self._starting is not None:
            self._starting.cancel()
        if self._future is not None:
            self._future.remove_done_callback(self._fired)
            if self._future is not self._source:
                self._future.cancel()

    def _finish(self) -> Any:
        if isinstance(self._source, asyncio.Event):
            return True
        return self._source.result()
