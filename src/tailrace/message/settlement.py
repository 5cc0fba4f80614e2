"""Waiting for the end of a message, without keeping the message.

Who waits holds a `Fate`, which refers to waiters and outcome only. So a message that is dropped is
collected although its sender waits for it, and the sender hears "lost".

No lock is held anywhere, since a finaliser may come in at any point. A waiter first registers, then
looks whether there is an outcome; a settler first puts the outcome down, then looks for waiters.
Both may see each other, which is harmless; they cannot miss each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from tailrace.message.outcome import Outcome

__all__ = ["Fate", "Settlement"]


class Settlement:
    """The end of a message, as who waits for it sees it: ``outcome = await settlement``.

    It may be awaited several times, from several tasks, loops and threads. The await returns at
    once if the message is settled; else it raises TimeoutError when `timeout` seconds have
    passed since the await began: the message goes on, and may still be stored.
    Cancelled: nothing happens to the message.
    """

    __slots__ = ("_fate", "timeout")

    def __init__(self, fate: Fate, timeout: float | None) -> None:
        self._fate = fate
        self.timeout = timeout

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None until there is one."""
        return self._fate.outcome

    @property
    def data(self) -> Any:
        """The data it was settled with, if that came after `Message.settled`; None until then."""
        return self._fate.data

    def __await__(self) -> Generator[Any, None, Outcome]:
        fate = self._fate
        if fate.outcome is None:
            yield from fate.wait(self.timeout)
            if fate.outcome is None:
                raise TimeoutError(
                    f"the message was not settled within {self.timeout:g} s; it may still be"
                )
        return fate.outcome

    def __repr__(self) -> str:
        outcome = self._fate.outcome
        return "<Settlement open>" if outcome is None else f"<Settlement {outcome!r}>"


class Fate:
    """What a message shares with those who wait for it: the outcome, and who to wake for it."""

    __slots__ = ("_parked", "data", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.data: Any = None
        self._parked: list[asyncio.Future[None]] = []

    def settle(self, outcome: Outcome, data: object) -> None:
        """Put the outcome down and wake everybody. Doing so twice is harmless."""
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
                    pass  # that loop is closed, and its waiter gone

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
