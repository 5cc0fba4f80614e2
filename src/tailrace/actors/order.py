"""`in_order`: as `each`, several messages at once, which go on in the order of arrival."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

from tailrace.actors.handler import Handler, OnError
from tailrace.actors.letters import DeadLetter
from tailrace.actors.several import handle_several
from tailrace.actors.stock import name_of
from tailrace.arguments import check_count
from tailrace.channel import Receiver, Sender
from tailrace.message import Message
from tailrace.retry import Retry

__all__ = ["InOrder", "in_order"]

A = TypeVar("A")
B = TypeVar("B")


@overload
def in_order(
    fn: Callable[[A], Awaitable[B]],
    concurrency: int,
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
) -> InOrder[A, B]: ...
@overload
def in_order(
    fn: Callable[[A], B],
    concurrency: int,
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
    processes: int = 0,
) -> InOrder[A, B]: ...
def in_order(
    fn: Callable[[A], Any],
    concurrency: int,
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
    processes: int = 0,
) -> InOrder[A, Any]:
    """Make an actor that handles up to `concurrency` messages at once, and sends them on in the
    order in which they came.

    It is wired as `each`, ``go(in_order(fn, 16), inbox, out)``, with dead letters if there is a
    third channel, and its options are those of `each`; ``threads=True`` gives each of the
    `concurrency` calls a thread of its own, and with ``processes=n`` n of them run at once.

    A message that is slow, or is tried again, delays those behind it; at most `concurrency` are in
    hand. One that is aborted, rejected, failed or dead, or whose dead letter has been sent, delays
    none. While any message is in hand, the actor is not idle to `Group.idle`.

    One actor keeps the order: `go` raises ValueError for more. TypeError or ValueError for
    arguments that make no sense. The actor raises TypeError for a value that is no `Message`.
    Cancelled: all messages in hand fail.
    """
    return InOrder(
        fn,
        concurrency,
        timeout=timeout,
        retry=retry,
        on_error=on_error,
        threads=threads,
        processes=processes,
    )


class InOrder(Handler[A, B]):
    """The actor that `in_order` makes."""

    maker = "in_order"

    one_actor: Final = "one actor keeps the order; `concurrency` says how many messages it handles"
    """Why `go` refuses more than one actor."""

    def __init__(self, fn: Callable[[A], Any], concurrency: int, **options: Any) -> None:
        self._concurrency = check_count(f"in_order({name_of(fn)}): concurrency", concurrency)
        super().__init__(fn, **options)

    async def __call__(
        self,
        inbox: Receiver[Message[A]],
        out: Sender[Message[B]],
        dead: Sender[Message[DeadLetter[A]]] | None = None,
    ) -> None:
        """Handle the messages of `inbox` until it closes. See `in_order`."""
        await handle_several(self, inbox, out, dead, self._concurrency, ordered=True)

    def _options(self) -> list[str]:
        return [str(self._concurrency), *super()._options()]
