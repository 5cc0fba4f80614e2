"""`send_to_all`: a value to each of several channels, in whatever order they take them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from tailrace.channel import Sender
from tailrace.errors import Closed, WouldBlock
from tailrace.select import select

__all__ = ["send_to_all"]

K = TypeVar("K")


async def send_to_all(
    sends: dict[K, tuple[Sender[Any], Any]], on_closed: Callable[[K, Closed], None]
) -> None:
    """Send each of `sends` its value, and remove it. A channel that is slow delays no other.

    `on_closed` is called with the key of a channel that is closed, which is removed then; what it
    raises is raised here. Cancelled, or after any other exception: what is left was not sent.
    """
    while sends:
        for key, (out, value) in list(sends.items()):
            try:
                out.send_nowait(value)
            except WouldBlock:
                continue
            except Closed as closed:
                on_closed(key, closed)
            del sends[key]
        if sends:
            keys = list(sends)
            with suppress(Closed):  # of which channel, the calls above find out
                sent, _ = await select(*(out.send(value) for out, value in sends.values()))
                if sent is not None:
                    del sends[keys[sent]]
