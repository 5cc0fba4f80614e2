"""The native core: the engine, in C, and around it in Python what no value waits for.

It is the twin of `tailrace._core.python`, name by name. Importing it fails with
ModuleNotFoundError where the engine was not built.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from tailrace._core import common, stock
from tailrace._core.cancellation import rearmed
from tailrace._core.common import ChannelStatistics, End, Sending
from tailrace._core.faces import (
    ChannelFace,
    EndFace,
    OperationFace,
    ReceivingThreadFace,
    SelectFace,
    SendManyFace,
    adopt,
)
from tailrace._core.native import tasks, threads
from tailrace._core.native._engine import (
    BUDGET,
    Actor,
    Blocking,
    BlockingReceiver,
    BlockingSender,
    Channel,
    Operation,
    ReceivingEnd,
    RecvMany,
    Select,
    SendingEnd,
    SendMany,
    _End,
    bind,
    know_future,
    parked_on,
    seed,
    select,
    select_nowait,
    spawn,
    when_sent,
)
from tailrace._core.native.done import Done
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
    "when_sent",
]

assert BUDGET == common.BUDGET
adopt(Channel, ChannelFace)
adopt(_End, EndFace)
adopt(BlockingReceiver, ReceivingThreadFace)
adopt(Operation, OperationFace)
adopt(SendMany, SendManyFace)
adopt(Select, SelectFace)
adopt(Actor, tasks.ActorFace)
bind(
    {
        "Closed": Closed,
        "WouldBlock": WouldBlock,
        "CancelledError": asyncio.CancelledError,
        "check_capacity": common.check_capacity,
        "check_overflow": common.check_overflow,
        "check_timeout": common.check_timeout,
        "label": common.label,
        "rearmed": rearmed,
        "block": threads.block,
        "warn_unused": tasks.warn_unused,
        "warn_lost": tasks.warn_lost,
        "resume_then": tasks.resume_then,
        "random_bits": lambda: random.SystemRandom().getrandbits(64),
        "monotonic": time.monotonic,
        "scheduled_tasks": tasks.scheduled_tasks,
        "current_tasks": tasks.current_tasks,
        "swap_current_task": tasks.swap_current_task,
        "add_awaited_by": tasks.add_awaited_by,
        "discard_awaited_by": tasks.discard_awaited_by,
        "get_running_loop": asyncio._get_running_loop,
        "get_event_loop": asyncio.get_event_loop,
        "iscoroutine": asyncio.iscoroutine,
        "loop_time": asyncio.BaseEventLoop.time,
    }
)


class _NoLoop:
    """For the future below, which is looked into and never waited for."""

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: object) -> None: ...


def _show_future() -> None:
    """Let the engine see how a future of asyncio's begins."""
    loop: Any = _NoLoop()
    context, future = Context(), asyncio.Future[None](loop=loop)
    future.add_done_callback(print, context=context)
    know_future(future, loop, print, context)


_show_future()


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> Any:
    """See `tailrace.task_factory`."""
    return Actor(coro, loop=loop, **options)


if stock.wanted():
    spawn, task_factory = stock.spawn, stock.task_factory


def done(source: Any) -> Operation:
    """See `tailrace.done`."""
    return Done(source)


def resolve(value: object) -> tuple[Channel[Any], End | None] | None:
    """The channel behind `value` and which end of it that is (None: both); None if neither."""
    if isinstance(value, Channel):
        return value, None  # pyright: ignore[reportUnknownVariableType]  # of any element
    if isinstance(value, _End):
        channel: Channel[Any] = value._channel  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        both = isinstance(value, Blocking)
        sends = isinstance(value, (SendingEnd, BlockingSender))
        return channel, None if both else "send" if sends else "receive"
    return None
