"""The task that has entered a group's block, and the cancellations that reach it there.

A cancellation of this task comes from the group (an actor has failed), from a drain (the code of
the block is a source), or from outside. Only one from outside goes on after the block. As in
`asyncio.TaskGroup`, the counts of `Task.cancelling` tell them apart.
"""

from __future__ import annotations

import asyncio
import contextlib

from tailrace.usercode import is_a


class Parent:
    """The current task, as the parent of a group."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.cancellations = self.task.cancelling() if self.task is not None else 0
        """How often the task had been cancelled before it entered the block."""
        self.interrupted = False  # by the group
        self.stopped = False  # by a drain, whose cancellation has not arrived yet

    def __repr__(self) -> str:
        state = "interrupted" if self.interrupted else "stopped" if self.stopped else "running"
        return f"<Parent {self.task!r}, {state}>"

    def interrupt(self) -> None:
        """Cancel the code of the block, once."""
        if not self.interrupted and self.task is not None:
            self.interrupted = True
            self.task.cancel()

    async def absorb_interruption(
        self, error: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Take back the cancellation of `interrupt`. Returns a cancellation from outside, if any.

        `error` is what the block has raised.
        """
        assert self.task is not None
        if not is_a(error, asyncio.CancelledError):
            # The block ended before it arrived: it arrives here, and not in what follows.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self.task.uncancel() <= self.cancellations:
            return None
        return error if is_a(error, asyncio.CancelledError) else asyncio.CancelledError()

    def take_stop(self) -> bool:
        """Whether the cancellation that has arrived is that of a drain. It arrives once."""
        if not self.stopped or self.task is None:
            return False
        if self.task.cancelling() > self.cancellations + 1:
            return False
        self.stopped = False
        return True

    def cancel_anew(self) -> None:
        """Cancel the task again in the loop's next turn, unless the canceller has taken it back,
        as a timeout does.

        Not at once: on 3.11 and 3.12 a timeout that ends in this step would leave a stray
        cancellation behind.
        """
        task, before = self.task, self.cancellations
        if task is None:
            return

        def cancel() -> None:
            if not task.done() and task.cancelling() > before:
                task.cancel()
                task.uncancel()

        task.get_loop().call_soon(cancel)
