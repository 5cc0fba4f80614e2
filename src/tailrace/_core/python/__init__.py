"""The Python core: normative and readable. The native core is its twin, name by name."""

from tailrace._core.common import BUDGET
from tailrace._core.python.actor import awaited_by, parked_on, when_quiet, when_resumed, when_sent
from tailrace._core.python.channel import Channel, RecvMany, SendMany
from tailrace._core.python.scheduler import seed
from tailrace._core.python.select import Select, done, select, select_nowait
from tailrace._core.tasks import spawn, task_factory

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
