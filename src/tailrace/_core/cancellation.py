"""A cancellation that came too late to undo a send: put off to the task's next await.

For both cores, and for every kind of task. The recipe is the same in all of them, as what makes
it hard is asyncio's: `asyncio.timeout`, anyio's scopes, and cancellations that are taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from weakref import ref


class PutOff(NamedTuple):
    """A cancellation that was put off."""

    handle: asyncio.Handle  # of the loop's next turn, which makes it anew
    heard: int  # how many cancellations before it the task has heard
    reissue: Callable[[], None]


put_off: Final[dict[ref[asyncio.Task[Any]], PutOff]] = {}
"""By task: what was put off. The drivers look here each time that a task parks."""


def put_off_cancellation(interrupt: BaseException, cancellations: int) -> bool:
    """Whether `interrupt` was a cancellation, now put off until the task's next await.

    For an operation that had happened when its task was cancelled, `cancellations` times while it
    slept there. The cancellation is made anew in the loop's next turn, or before that when the task
    parks (`hear_put_off`), not here: on 3.11 and 3.12 that would leave a stray one behind when an
    `asyncio.timeout` ends in this very step. It is not made anew when whoever asked for it while
    the task slept here has taken that back, as such a timeout does.
    """
    running = asyncio._get_running_loop() is not None
    task = asyncio.current_task() if running else None
    if task is None or not isinstance(interrupt, asyncio.CancelledError):
        return False

    # Those that had been asked for, and heard, before it slept here.
    settled = max(0, task.cancelling() - cancellations)
    weak = ref(task, _forget)  # `put_off` must not keep the task of a closed loop
    earlier = put_off.pop(weak, None)
    if earlier is not None:  # one voice for all that were put off: the latest one's
        earlier.handle.cancel()
        settled = min(settled, earlier.heard)

    def reissue() -> None:
        task = weak()
        if task is None:
            return
        put_off.pop(weak, None)
        if not task.done() and task.cancelling() > settled:
            # One that was asked for since then is to arrive as what it is: anyio knows its own by
            # their message. (`_must_cancel` and this are what every kind of task has for it.)
            newer = getattr(task, "_must_cancel", False)
            task.cancel(*((getattr(task, "_cancel_message", None),) if newer else interrupt.args))
            task.uncancel()

    put_off[weak] = PutOff(task.get_loop().call_soon(reissue), settled, reissue)
    return True


def hear_put_off() -> None:
    """The running task has parked: what was put off for it arrives at this await.

    Were it left to the loop, a task that only sends might never hear it: at each turn of the loop,
    the send that it is parked in has happened.
    """
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    found = None if task is None else put_off.get(ref(task))
    if found is not None:
        found.handle.cancel()
        found.reissue()


def _forget(task: ref[asyncio.Task[Any]]) -> None:
    put_off.pop(task, None)
