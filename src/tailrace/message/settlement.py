"""Waiting for the end of a message, without keeping the message.

A task that waits holds the `Waiters` of the message, which do not refer to the message. So a
message that is dropped is collected although its sender waits, and the sender is told "lost".

No lock is held anywhere, since a finaliser may settle at any point. A waiter registers first, then
looks for an outcome; a settler stores the outcome first, then looks for waiters. Each may see the
other, which is harmless; they cannot miss each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from tailrace.message.outcome import Outcome

__all__ = ["Settlement", "Waiters"]


class Settlement:
    """The end of a message, to wait for: ``outcome = await settlement``.

    It may be awaited several times, from several tasks, loops and threads. The await returns at
    once if the message is settled; else it raises TimeoutError when `timeout` seconds have
    passed since the await began: the message goes on, and may still be stored.
    Cancelled: nothing happens to the message.
    """

    __slots__ = ("_waiters", "timeout")

    def __init__(self, waiters: Waiters, timeout: float | None) -> None:
        self._waiters = waiters
        self.timeout = timeout

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None until there is one."""
        return self._waiters.outcome

    @property
    def data(self) -> Any:
        """The data it was settled with, if that was after `Message.settled`; else None."""
        return self._waiters.data

    def __await__(self) -> Generator[Any, None, Outcome]:
        waiters = self._waiters
        if waiters.outcome is None:
            yield from waiters.wait(self.timeout)
            if waiters.outcome is None:
                raise TimeoutError(
                    f"the message was not settled within {self.timeout:g} s; it may still be"
                )
        return waiters.outcome

    def __repr__(self) -> str:
        outcome = self._waiters.outcome
        return "<Settlement open>" if outcome is None else f"<Settlement {outcome!r}>"


class Waiters:
    """The outcome of a message, and the tasks that wait for it."""

    __slots__ = ("_parked", "data", "loss", "outcome", "sending")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.data: Any = None
        self.sending = False  # by `submit`: a message that was not sent is not logged as lost
        self.loss: tuple[str, str, str] | None = None  # meanwhile: what `log_loss` takes
        self._parked: list[asyncio.Future[None]] = []

    def settle(self, outcome: Outcome, data: object) -> None:
        """Store the outcome and wake all waiters. Twice is harmless."""
        self.data = data
        self.outcome = outcome
        for future in self._parked.copy():
            loop = future.get_loop()
            if loop is _running_loop():
                _wake(future)
            else:
                try:
                    loop.call_soon_threadsafe(_wake, future)
                except RuntimeError:
                    pass  # that loop is closed, and its tasks are gone

    def wait(self, timeout: float | None) -> Generator[Any, None, None]:
        """Return when there is an outcome, or `timeout` seconds have passed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._parked.append(future)
        timer = None if timeout is None else loop.call_later(max(timeout, 0.0), _wake, future)
        try:
            if self.outcome is None:
                yield from future
        finally:
            if timer is not None:
                timer.cancel()
            self._parked.remove(future)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
