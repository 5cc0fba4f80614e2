"""The Python core: normative and readable. The native core is its twin, name by name."""

from tailrace._core.common import BUDGET, ChannelStatistics, Sending
from tailrace._core.ends import (
    Blocking,
    BlockingReceiver,
    BlockingSender,
    ReceivingEnd,
    SendingEnd,
)
from tailrace._core.python.channel import Channel, resolve
from tailrace._core.python.operation import Operation, RecvMany, SendMany
from tailrace._core.python.select import Select, done, select, select_nowait
from tailrace._core.python.task import awaited_by, parked_on, when_quiet, when_resumed, when_sent
from tailrace._core.python.waiter import ThreadActor, parked_threads, seed, thread_actors
from tailrace._core.stock import spawn, task_factory

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
