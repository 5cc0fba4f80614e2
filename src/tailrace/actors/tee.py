"""`tee`: an actor that sends each message to several channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from tailrace.actors.fanout import send_to_all
from tailrace.actors.stock import RAISED, Stock, check_sync
from tailrace.channel import Receiver, Sender
from tailrace.errors import Closed
from tailrace.message import Message
from tailrace.message.internals import Parts

__all__ = ["Tee", "tee"]

T = TypeVar("T")


class Tee(Stock):
    """An actor that sends each message to every one of its channels: ``go(tee, a, b, c)``.

    Each branch gets a message of its own, with the message's id and headers; the message is settled
    when all branches have settled theirs, and the worst outcome wins. The next message is received
    once every branch has taken this one.

    The branches share the data: replace it (``message.data = new``), or give each but the first a
    copy by ``Tee(copy=copy.deepcopy)``. If `copy` raises, `Abort` and `Reject` settle the message,
    any other exception fails it and is logged; the actor goes on.

    A branch that is closed ends the actor by that `Closed`: the message in hand fails, once the
    branches that have it have settled it. ValueError for no branches; TypeError for a value that
    is no `Message`, and for a `copy` that is no plain function. Cancelled: as for a closed branch.
    """

    def __init__(self, *, copy: Callable[[Any], Any] | None = None) -> None:
        super().__init__("tee")
        if copy is not None:
            check_sync("tee", "copy", copy)
        self._copy = copy

    async def __call__(self, inbox: Receiver[Message[T]], *outs: Sender[Message[T]]) -> None:
        """The actor: until `inbox` ends."""
        if not outs:
            raise ValueError("tee needs at least one channel to send to: go(tee, inbox, a, b)")
        try:
            async for message in inbox:
                if self._is_open(message):
                    await self._send_branches(message, outs)
                del message
        finally:
            self._failures.rest()

    async def _send_branches(
        self, message: Message[T], outs: tuple[Sender[Message[T]], ...]
    ) -> None:
        copies = self._apply(message, self._copies, len(outs))
        if copies is RAISED:
            return
        parts = Parts(message)
        branches = {
            index: (out, parts.part(copies[index], message.id)) for index, out in enumerate(outs)
        }
        parts.end()
        del message, copies
        try:
            await send_to_all(branches, _raise)
        except BaseException as error:
            for _, branch in branches.values():  # not sent
                self._not_passed(branch, error)
            raise
        finally:
            branches.clear()  # a traceback refers to this frame
            del parts

    def _copies(self, data: T, n: int) -> list[T]:
        """The data of `n` branches; the first has the original."""
        copy = self._copy
        return [data] * n if copy is None else [data, *(copy(data) for _ in range(n - 1))]


def _raise(index: int, closed: Closed) -> NoReturn:
    raise closed


async def tee(inbox: Receiver[Message[T]], *outs: Sender[Message[T]]) -> None:
    """An actor that sends each message to every one of its channels; see `Tee`."""
    await Tee()(inbox, *outs)
