"""Watch a future, task or Event, as a case of select."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

T = TypeVar("T")


class Watch:
    """From here on `fired` is called once `source` is done, in whatever thread that is.

    Made in the step in which the select parks: an Event that is set and cleared before the loop
    turns is not missed. Making one may run user code. RuntimeError for an Event of another loop,
    and for a future whose loop was closed.
    """

    __slots__ = ("_fired", "_future", "_loop", "_waiting")

    def __init__(
        self, source: asyncio.Future[Any] | asyncio.Event, fired: Callable[[], object]
    ) -> None:
        self._fired: Callable[[], object] | None = fired
        self._waiting: Coroutine[Any, Any, Any] | None = None
        self._future = self._wait(source) if isinstance(source, asyncio.Event) else source
        self._loop = self._future.get_loop()
        if self._loop is asyncio.get_running_loop():
            self._future.add_done_callback(self._done)
        else:
            self._loop.call_soon_threadsafe(self._future.add_done_callback, self._done)

    def _wait(self, event: asyncio.Event) -> asyncio.Future[Any]:
        if type(event).wait is not asyncio.Event.wait:
            return asyncio.ensure_future(event.wait())  # user code may await anything there
        # A task would begin to wait only in the loop's next turn.
        self._waiting = event.wait()
        try:
            future: asyncio.Future[Any] = self._waiting.send(None)
        except StopIteration:  # it was set meanwhile
            self._waiting = None
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
        return future

    def _done(self, _: asyncio.Future[Any]) -> None:
        fired = self._fired
        if fired is not None:
            self.stop()
            fired()

    def stop(self) -> None:
        """Watch no longer. From any thread, and more than once."""
        if self._fired is None:
            return
        self._fired = None
        if self._loop is asyncio._get_running_loop():
            self._leave()
        else:
            with contextlib.suppress(RuntimeError):  # closed: nothing will be called there
                self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._future.remove_done_callback(self._done)
        if self._waiting is not None:
            self._waiting.close()


class DoneBase(Generic[T]):
    """The part of a `done` operation that both cores have in common.

    The core calls `_ready`, `_watch`, `_unwatch` and `take_value`; it gives `_happened`, which is
    called once the source is done. All four may run user code.
    """

    if TYPE_CHECKING:
        _source: asyncio.Future[T] | asyncio.Event
        _watched: Watch | None

        def _happened(self) -> bool: ...
    else:
        __slots__ = ()  # the subclass has them, as only one base of a class may have slots

    def _ready(self) -> bool:
        source = self._source
        return source.is_set() if isinstance(source, asyncio.Event) else source.done()

    def _watch(self) -> None:
        self._watched = Watch(self._source, self._happened)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._watched.stop()
            self._watched = None

    def take_value(self) -> Any:
        """The result of the future, or True for an Event. Raises what the future raises."""
        if isinstance(self._source, asyncio.Event):
            return True
        return self._source.result()
