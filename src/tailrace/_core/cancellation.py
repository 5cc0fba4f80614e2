"""A cancellation that came too late to undo a send: put off to the task's next await.

For both cores, and for every kind of task. The recipe is the same in all of them, as what makes
it hard is asyncio's: `asyncio.timeout`, anyio's scopes, and cancellations that are taken back.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary, ref

# By task: the cancellation that was put off to the next turn, and how many before it were heard.
_put_off: WeakKeyDictionary[asyncio.Task[Any], tuple[asyncio.Handle, int]] = WeakKeyDictionary()


def put_off_cancellation(interrupt: BaseException, cancellations: int) -> bool:
    """Whether `interrupt` was a cancellation, now put off until the task's next await.

    For an operation that had happened when its task was cancelled, `cancellations` times while it
    slept there. The cancellation is made anew by the loop, not here: on 3.11 and 3.12 that would
    leave a stray one behind when an `asyncio.timeout` ends in this very step. It is not made anew
    when whoever asked for it while the task slept here has taken that back, as such a timeout does.
    """
    running = asyncio._get_running_loop() is not None
    task = asyncio.current_task() if running else None
    if task is None or not isinstance(interrupt, asyncio.CancelledError):
        return False

    # Those that had been asked for, and heard, before it slept here.
    settled = max(0, task.cancelling() - cancellations)
    earlier = _put_off.pop(task, None)
    if earlier is not None:  # one voice for all that were put off: the latest one's
        handle, heard = earlier
        handle.cancel()
        settled = min(settled, heard)

    weak = ref(task)  # `_put_off` has this function, and must not keep the task of a closed loop

    def reissue() -> None:
        task = weak()
        if task is None:
            return
        _put_off.pop(task, None)
        if not task.done() and task.cancelling() > settled:
            # One that was asked for since then is to arrive as what it is: anyio knows its own by
            # their message. (`_must_cancel` and this are what every kind of task has for it.)
            newer = getattr(task, "_must_cancel", False)
            task.cancel(*((getattr(task, "_cancel_message", None),) if newer else interrupt.args))
            task.uncancel()

    _put_off[task] = task.get_loop().call_soon(reissue), settled
    return True
