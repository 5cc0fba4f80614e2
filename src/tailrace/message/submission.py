"""Send a message and wait for its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from tailrace.arguments import check_timeout
from tailrace.channel import Sender
from tailrace.message.failures import log_loss
from tailrace.message.message import Message
from tailrace.message.outcome import Outcome
from tailrace.message.settlement import Settlement

__all__ = ["submit"]

T = TypeVar("T")


async def submit(
    ch: Sender[Message[T]],
    data: T,
    *,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Send a message with `data` on `ch` and wait until it is settled.

    `id` and `headers` are as for `Message`; a store recognises a repeat by its id.
    `timeout` is for sending and waiting together. TimeoutError says whether the message was sent:
    if so, it may still be stored; else it never will be. What the send raises (`Closed`) passes
    through. TypeError or ValueError for a `timeout` that is no number. Cancelled: as after a
    timeout.
    """
    timeout = check_timeout(timeout)
    # Neither the message nor the operation that carries it may stay in a variable: see `settled`.
    message = Message(data, id=id) if headers is None else Message(data, id=id, headers=headers)
    settlement = message.settled()
    settlement._waiters.sending = True
    sending = ch.send(message)
    del message
    if timeout is None:
        await sending
        del sending
        _sent(settlement)
        return await settlement
    sent = False
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await sending
            sent = True
            del sending
            _sent(settlement)
            return await settlement
    except TimeoutError as error:
        if not limit.expired():
            raise
        if sent and settlement.outcome is not None:
            return settlement.outcome  # settled in the instant that time ran out
        raise TimeoutError(
            f"{ch!r} took the message, but it was not settled within {timeout:g} s; "
            f"it may still be stored"
            if sent
            else f"{ch!r} did not take the message within {timeout:g} s; it was not sent"
        ) from error


def _sent(settlement: Settlement) -> None:
    """From now on a loss is logged; so is one since the message was taken."""
    waiters = settlement._waiters
    waiters.sending = False
    if waiters.loss is not None:
        log_loss(*waiters.loss)
