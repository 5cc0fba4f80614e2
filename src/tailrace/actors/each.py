"""`each`: an actor made of a function ``data -> data``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from tailrace.actors.handler import Handler, OnError
from tailrace.actors.letters import DeadLetter
from tailrace.actors.several import handle_several
from tailrace.channel import Receiver, Sender
from tailrace.message import Message
from tailrace.message.internals import current
from tailrace.retry import Retry

__all__ = ["Each", "each"]

A = TypeVar("A")
B = TypeVar("B")


@overload
def each(
    fn: Callable[[A], Awaitable[B]],
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
) -> Each[A, B]: ...
@overload
def each(
    fn: Callable[[A], B],
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
    processes: int = 0,
) -> Each[A, B]: ...
def each(
    fn: Callable[[A], Any],
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_error: OnError = "fail",
    threads: bool = False,
    processes: int = 0,
) -> Each[A, Any]:
    """Make an actor that sends each message on with ``fn(data)`` as its data.

    `fn` is async, or plain and quick, or plain and blocking with ``threads=True``: then each actor
    calls it in a thread of its own. What it returns is the new data; None is a value too. To end a
    message instead, `fn` raises `Abort` or `Reject` with a reason.

    An attempt is one call of `fn`; one that takes longer than `timeout` seconds raises
    TimeoutError. With `retry`, errors to which that applies (by default `OSError`, and so
    TimeoutError) are tried again, with the same data. The actor keeps the message meanwhile; other
    actors go on.

    After any other error, or when the attempts are used up:

    - If there is a third channel, ``go(each(fn), inbox, out, dead)``, a `DeadLetter` goes there.
      The message is dead once that is stored, and fails if it is not. While that channel is full,
      the actor waits.
    - Otherwise the message fails. With ``on_error="abort"`` it is aborted; with ``"raise"`` it
      fails, and the exception ends the actor.

    The error is logged (at once, then at most every 10 s with a count), and the actor goes on. If a
    blocking function takes too long, its actor takes no other message, and makes no other attempt,
    before the function has returned.

    With ``processes=n`` a plain `fn` that computes runs in `n` processes, so on `n` cores. One
    actor keeps all of them busy, so `go` refuses more. `fn` must be at the top level of a module,
    and data and results are pickled. The processes start with the actor; a program that is run as a
    file needs ``if __name__ == "__main__":`` around its `run`. If a process dies, its message fails
    with `ProcessDied`, and another takes its place. After `timeout` the process is killed. In `fn`
    there is no `current_message`, and what it changes stays in its process. Ctrl-C does not reach
    the processes, which end with the program, however that ends.

    The group decides how many run at once: ``go(each(fetch), urls, pages, actors=8)``. Messages
    then go on in the order of completion. A message that is settled already is skipped and counted.

    TypeError if `fn` is no function, or a generator function; TypeError or ValueError for options
    that make no sense, or exclude each other. If `fn` returns a generator or a coroutine, that is
    an error of its message. The actor raises TypeError for a value that is no `Message`. Cancelled:
    the message in hand fails, also between two attempts.
    """
    return Each(
        fn,
        timeout=timeout,
        retry=retry,
        on_error=on_error,
        threads=threads,
        processes=processes,
    )


class Each(Handler[A, B]):
    """The actor that `each` makes."""

    @property
    def one_actor(self) -> str | None:
        """Why `go` refuses more than one actor; None if it does not."""
        return "its one actor keeps all of its processes busy" if self._processes else None

    async def __call__(
        self,
        inbox: Receiver[Message[A]],
        out: Sender[Message[B]],
        dead: Sender[Message[DeadLetter[A]]] | None = None,
    ) -> None:
        """Handle the messages of `inbox` until it closes. See `each`."""
        if self._processes:
            await handle_several(self, inbox, out, dead, self._processes, ordered=False)
            return
        at_once = None if self._asynchronous or self._threads else self._at_once
        caller = self._caller()
        outer_message = current.get()
        try:
            async for message in inbox:
                if at_once is None:
                    passed = await self._handle(message, caller.call, dead)
                else:
                    made = at_once(message, dead)
                    passed = made if made is None or isinstance(made, Message) else await made
                    del made
                if passed is not None:
                    try:
                        await out.send(passed)
                    except BaseException as error:
                        self._not_passed(passed, error)
                        raise
                    self._passed += 1
                del message, passed
                if (job := caller.busy) is not None:
                    await asyncio.wait([job])
        finally:
            caller.close()
            current.set(outer_message)
            self._failures.rest()
