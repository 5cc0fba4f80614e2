"""Stand-ins for the stages of a program that touch the world outside: `source` and `sink`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_args

from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Closed, WouldBlock
from tailrace.ledger import counting
from tailrace.message import Message, Outcome
from tailrace.message.internals import Status, let_in

Verdict: TypeAlias = Outcome | Status | Callable[[Any], Outcome | Status]
"""How a `Sink` settles messages: all in one way, or by a function of the data."""


class Source:
    """A stand-in for a stage that only sends, such as a listener. A test calls `send`.

    Messages wait in the source until the program takes them, in the order of the `send` calls. A
    drained source passes on the waiting messages, then ends.
    """

    def __init__(self) -> None:
        self._waiting = Channel[Message[Any]](math.inf, name="the test")

    def __repr__(self) -> str:
        return f"<Source: {len(self._waiting)} messages waiting{', ended' * self._waiting.closed}>"

    async def send(
        self,
        data: Any,
        *,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Send a `Message` with `data` through the program and return its outcome.

        TimeoutError after `timeout` seconds. RuntimeError once the source has ended. After a
        timeout, or if this call is cancelled, the message goes on through the program.
        """
        message = Message(data, id=id, headers={} if headers is None else headers)
        settlement = message.settled(timeout)
        try:
            self._waiting.send_nowait(message)
        except Closed:
            raise RuntimeError("the pipeline's source has ended; send inside its block") from None
        del message  # a reference would keep a dropped message from being lost
        return await settlement

    async def __call__(self, out: Sender[Message[Any]]) -> None:
        """Run as the stage: pass the messages of `send` on to `out`."""
        try:
            async for message in self._waiting:
                ledger = counting.get()
                if ledger is not None and message._ledger is None:  # sent by a task of no group
                    let_in(message, ledger)
                try:
                    await out.send(message)
                except Closed as closed:
                    message.fail(closed)
                    raise
                del message
        finally:
            self._drop()

    async def drain(self) -> None:
        """End once all messages have been passed on."""
        self._waiting.close()

    def _drop(self) -> None:
        """Lose the waiting messages, so that their senders do not wait for ever."""
        self._waiting.close()
        try:
            while True:
                self._waiting.recv_nowait()
        except (Closed, WouldBlock):
            pass


class Sink:
    """A stand-in for a stage that only receives, such as a store. It settles messages.

    `stored` has the data of each message that it settled as stored, in order, and each value
    that is no message. It ignores messages that are settled already.
    """

    def __init__(self, outcome: Verdict) -> None:
        # An unknown status is refused here; one that a function returns, when it does.
        self._outcome = outcome if callable(outcome) else _as_outcome(outcome)
        self.stored: list[Any] = []

    def __repr__(self) -> str:
        return f"<Sink: {len(self.stored)} stored>"

    async def __call__(self, inbox: Receiver[Any]) -> None:
        """Run as the stage: settle all messages of `inbox`."""
        async for value in inbox:
            if not isinstance(value, Message):
                self.stored.append(value)
            elif value.outcome is None:
                self._settle(value)  # pyright: ignore[reportUnknownArgumentType]  # of Any

    def _settle(self, message: Message[Any]) -> None:
        verdict = self._outcome
        outcome = _as_outcome(verdict(message.data)) if callable(verdict) else verdict
        status, reason, error, result = outcome
        if status == "stored":
            self.stored.append(message.data)
            message.ack(result)
        elif status == "aborted":
            message.abort(reason)
        elif status == "rejected":
            message.reject(reason)
        elif status == "failed":
            message.fail(reason if error is None else error)
        else:
            # "lost": to drop the message is not enough, as its sender may still refer to it.
            message._settle(outcome)


def source() -> Source:
    """A stand-in that sends the messages of `Pipeline.send`."""
    return Source()


def sink(outcome: Verdict = "stored") -> Sink:
    """A stand-in that settles every message with `outcome` and keeps the stored data.

    `outcome` is a status, an `Outcome`, or a function that takes a message's data and returns one
    of the two. ValueError for an unknown status. For a stand-in that takes time, or fails in
    another way, give `replace` an async function.
    """
    return Sink(outcome)


def _as_outcome(verdict: Outcome | Status) -> Outcome:
    if isinstance(verdict, Outcome):
        return verdict
    if verdict not in get_args(Status):
        raise ValueError(f"an outcome is one of {', '.join(get_args(Status))}, not {verdict!r}")
    return Outcome(verdict, "" if verdict == "stored" else "by the test's sink")
