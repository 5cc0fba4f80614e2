"""The native core: the engine, in C, and around it in Python what no value waits for.

It is the twin of `tailrace._core.python`, name by name. Importing it fails with
ModuleNotFoundError where the engine was not built.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

from tailrace._core import common, tasks
from tailrace._core.base import ChannelBase, closed_error, tell_dropped
from tailrace._core.cancellation import hear_put_off, put_off, put_off_cancellation
from tailrace._core.native import actor, bases
from tailrace._core.native._engine import (
    BUDGET,
    TURN_STEPS,
    YIELD_STEPS,
    Actor,
    Channel,
    RecvMany,
    Select,
    SendMany,
    bind,
    seed,
    select,
    select_nowait,
    spawn,
)
from tailrace._core.native.actor import awaited_by, parked_on, when_quiet, when_resumed, when_sent
from tailrace._core.native.done import done
from tailrace.errors import WouldBlock

__all__ = [
    "BUDGET",
    "Channel",
    "RecvMany",
    "Select",
    "SendMany",
    "awaited_by",
    "done",
    "parked_on",
    "seed",
    "select",
    "select_nowait",
    "spawn",
    "task_factory",
    "when_quiet",
    "when_resumed",
    "when_sent",
]

_limits = BUDGET, TURN_STEPS, YIELD_STEPS
assert _limits == (common.BUDGET, common.TURN_STEPS, common.YIELD_STEPS)

Channel.__doc__ = ChannelBase.__doc__
SendMany.__doc__ = bases.SendManyBase.__doc__
RecvMany.__doc__ = "`Channel.recv_many`: a receive that takes what else is there when it resumes."
bind(
    {
        "closed_error": closed_error,
        "WouldBlock": WouldBlock,
        "CancelledError": asyncio.CancelledError,
        "put_off": put_off,
        "put_off_cancellation": put_off_cancellation,
        "hear_put_off": hear_put_off,
        "warn_unused": bases.warn_unused,
        "warn_lost": actor.warn_lost,
        "raise_not_driven": bases.raise_not_driven,
        "raise_no_callback": bases.raise_no_callback,
        "raise_no_case": bases.raise_no_case,
        "raise_would_block": bases.raise_would_block,
        "wait_for": actor.wait_for,
        "select_options": bases.select_options,
        "select_nowait_options": bases.select_nowait_options,
        "wake_after": actor.wake_after,
        "tell_dropped": tell_dropped,
        "schedulers": actor.schedulers,
        "loop_parts": actor.loop_parts,
        "monotonic": time.monotonic,
        "is_main_thread": actor.is_main_thread,
        "register_tasks": actor.register_tasks,
        "current_tasks": actor.current_tasks,
        "swap_current_task": bases.swap_current_task,
        "discard_awaited_by": actor.discard_awaited_by,
        "no_result": [].clear,  # the cheapest call that returns None
        "get_running_loop": asyncio._get_running_loop,
        "future_cancel": bases.Future.cancel,
        "future_set_result": bases.Future.set_result,
        "future_set_exception": bases.Future.set_exception,
    }
)
seed(random.SystemRandom().getrandbits(64))


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> Any:
    """See `tailrace.task_factory`."""
    task: Any = Actor(coro, loop=loop, **options)
    source = task._source_traceback
    while source and source[-1].name in ("task_factory", "create_task"):
        del source[-1]  # up to the line that asked for the task
    return task


if tasks.wanted():
    spawn, task_factory = tasks.spawn, tasks.task_factory
