"""The native core: the engine, in C, and around it in Python what no value waits for.

It is the twin of `tailrace._core.python`, name by name. Importing it fails with
ModuleNotFoundError where the engine was not built.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Coroutine
from typing import Any

from tailrace._core import common, stock
from tailrace._core.cancellation import rearmed
from tailrace._core.common import ChannelStatistics, Overflow, Sending
from tailrace._core.ends import (
    Blocking,
    BlockingReceiver,
    BlockingSender,
    ReceivingEnd,
    SendingEnd,
    resolver,
)
from tailrace._core.faces import ChannelFace, OperationFace, SelectFace, SendManyFace, adopt
from tailrace._core.native import sleeping, tasks, threads
from tailrace._core.native._engine import (
    BUDGET,
    TURN_STEPS,
    YIELD_STEPS,
    Actor,
    Channel,
    Operation,
    RecvMany,
    Select,
    SendMany,
    Sleeper,
    bind,
    seed,
    select,
    select_nowait,
    spawn,
)
from tailrace._core.native.done import Done
from tailrace._core.native.tasks import awaited_by, parked_on, when_quiet, when_resumed, when_sent
from tailrace._core.native.threads import ThreadActor, parked_threads, thread_actors
from tailrace.errors import Closed, WouldBlock

__all__ = [
    "BUDGET",
    "Blocking",
    "BlockingReceiver",
    "BlockingSender",
    "Channel",
    "ChannelStatistics",
    "Operation",
    "ReceivingEnd",
    "RecvMany",
    "Select",
    "SendMany",
    "Sending",
    "SendingEnd",
    "ThreadActor",
    "awaited_by",
    "done",
    "parked_on",
    "parked_threads",
    "resolve",
    "seed",
    "select",
    "select_nowait",
    "spawn",
    "task_factory",
    "thread_actors",
    "when_quiet",
    "when_resumed",
    "when_sent",
]

_limits = BUDGET, TURN_STEPS, YIELD_STEPS
assert _limits == (common.BUDGET, common.TURN_STEPS, common.YIELD_STEPS)


class _Making:
    """How a channel is made."""

    def __init__(
        self: Any, capacity: float = 0, *, name: str = "", overflow: Overflow = "block"
    ) -> None:
        common.check_capacity(capacity)
        common.check_overflow(overflow, capacity)
        self._begin(min(capacity, sys.maxsize), common.OVERFLOWS.index(overflow), capacity, name)


adopt(Channel, ChannelFace)
adopt(Channel, _Making)
Channel._block = staticmethod(threads.block)
adopt(Sleeper, sleeping.SleeperFace)
adopt(Operation, sleeping.KindFace)
adopt(Operation, OperationFace)
adopt(SendMany, SendManyFace)
adopt(SendMany, sleeping.SendingManyFace)
SendMany.__doc__ = sleeping.SendingManyFace.__doc__
RecvMany.__doc__ = sleeping.ReceivingManyFace.__doc__
adopt(Select, SelectFace)
adopt(Actor, tasks.ActorFace)
bind(
    {
        "Closed": Closed,
        "WouldBlock": WouldBlock,
        "CancelledError": asyncio.CancelledError,
        "rearmed": rearmed,
        "warn_unused": tasks.warn_unused,
        "warn_lost": tasks.warn_lost,
        "refuse_again": sleeping.refuse_again,
        "refuse_case": sleeping.refuse_case,
        "refuse_waiting": sleeping.refuse_waiting,
        "wait_for": tasks.wait_for,
        "select_options": sleeping.select,
        "select_nowait_options": sleeping.select_nowait,
        "wake_after": sleeping.wake_after,
        "schedulers": tasks.schedulers,
        "parts_of": tasks.parts_of,
        "Task": asyncio.Task,
        "random_bits": lambda: random.SystemRandom().getrandbits(64),
        "monotonic": time.monotonic,
        "is_main_thread": threads.is_main,
        "note_tasks": tasks.note_tasks,
        "current_tasks": tasks.current_tasks,
        "swap_current_task": tasks.swap_current_task,
        "discard_awaited_by": tasks.discard_awaited_by,
        "get_running_loop": asyncio._get_running_loop,
        "future_cancel": tasks.Future.cancel,
        "future_set_result": tasks.Future.set_result,
        "future_set_exception": tasks.Future.set_exception,
    }
)


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> Any:
    """See `tailrace.task_factory`."""
    actor: Any = Actor(coro, loop=loop, **options)
    source = actor._source_traceback
    while source and source[-1].name in ("task_factory", "create_task"):
        del source[-1]  # up to the line that asked for the task
    return actor


if stock.wanted():
    spawn, task_factory = stock.spawn, stock.task_factory


def done(source: Any) -> Operation:
    """See `tailrace.done`."""
    return Done(source)


resolve = resolver(Channel)
