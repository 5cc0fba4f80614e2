"""Send a message and wait for its outcome."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

from tailrace._core import ledger_of, resolve_end
from tailrace.arguments import check_timeout
from tailrace.channel import Sender
from tailrace.ledger import Ledger, counting, guarded, surrounding
from tailrace.message.failures import log_loss
from tailrace.message.message import Message
from tailrace.message.outcome import Outcome
from tailrace.message.settlement import Settlement

__all__ = ["let_in", "submit"]

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

    Once it is sent, the message is in the account of the group that receives from `ch`; if no
    stage holds that end, in that of the group whose code this is.
    """
    timeout = check_timeout(timeout)
    # Neither the message nor the operation that carries it may stay in a variable: see `settled`.
    message = _uncounted(data, id, headers)
    reference = weakref.ref(message)
    settlement = message.settled()
    settlement._waiters.sending = True
    sending = ch.send(message)
    del message
    if timeout is None:
        await sending
        del sending
        _sent(ch, reference, settlement)
        return await settlement
    sent = False
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await sending
            sent = True
            del sending
            _sent(ch, reference, settlement)
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


def _uncounted(data: T, id: str | None, headers: Mapping[str, str] | None) -> Message[T]:
    outside = counting.set(None)
    try:
        return Message(data, id=id, headers={} if headers is None else headers)
    finally:
        counting.reset(outside)


def _sent(ch: object, message: weakref.ref[Message[Any]], settlement: Settlement) -> None:
    """Count the message. From now on a loss is logged; so is one since the message was taken."""
    waiters = settlement._waiters
    waiters.sending = False
    if waiters.loss is not None:
        log_loss(*waiters.loss)
    if (ledger := _ledger_for(ch)) is not None:
        if (still := message()) is not None:
            let_in(still, ledger)
        elif settlement.outcome is not None:  # it is collected, so it has one
            ledger.settled(settlement.outcome.status, 0)


@guarded
def let_in(message: Message[Any], ledger: Ledger) -> None:
    """Count a root message that is not counted yet."""
    if message._outcome is None:
        message._ledger = ledger
        ledger.open += 1
    else:
        ledger.settled(message._outcome.status, 0)


def _ledger_for(ch: object) -> Ledger | None:
    """Of the group whose stage receives from `ch`; else of the group whose code runs."""
    resolved = resolve_end(ch)
    ledger = None if resolved is None else ledger_of(resolved[0])
    return ledger if isinstance(ledger, Ledger) else surrounding.get()
