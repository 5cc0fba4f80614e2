"""Layer 0: the one place that chooses a core, and all that upper layers use of it.

``TAILRACE_CORE=auto|native|python`` decides: ``auto`` (the default) takes the native core where
it is built, ``native`` raises its ImportError where it is not, ``python`` never looks for it.
Type checkers see the Python core, whose twin the native one is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tailrace._core.base import (
    Operation,
    ReceivingEnd,
    SendingEnd,
    SyncChannel,
    SyncReceivingEnd,
    SyncSendingEnd,
    resolve_end,
)
from tailrace._core.common import (
    WORDS,
    ChannelStatistics,
    End,
    Overflow,
    ParkedThread,
    Sending,
    Verb,
    Wait,
    kind_of,
    label,
)
from tailrace._core.holds import (
    Hold,
    enclosing,
    holders_of,
    ledger_of,
    let_go,
    take_hold,
    was_let_go,
)
from tailrace._core.threads import ThreadHandle, parked_threads, thread_handles

__all__ = [  # noqa: F405 (of the twin)
    "BUDGET",
    "WORDS",
    "Channel",
    "ChannelStatistics",
    "End",
    "Hold",
    "Operation",
    "Overflow",
    "ParkedThread",
    "ReceivingEnd",
    "RecvMany",
    "Select",
    "SendMany",
    "Sending",
    "SendingEnd",
    "SyncChannel",
    "SyncReceivingEnd",
    "SyncSendingEnd",
    "ThreadHandle",
    "Verb",
    "Wait",
    "active",
    "awaited_by",
    "done",
    "enclosing",
    "holders_of",
    "kind_of",
    "label",
    "ledger_of",
    "let_go",
    "parked_on",
    "parked_threads",
    "resolve_end",
    "seed",
    "select",
    "select_nowait",
    "spawn",
    "take_hold",
    "task_factory",
    "thread_handles",
    "was_let_go",
    "when_quiet",
    "when_resumed",
    "when_sent",
    "why",
]

active: str
"""The core in use: ``"native"`` or ``"python"``."""

why: str
"""Why it is not the native one, in words for people; empty if it is."""

_wanted = os.environ.get("TAILRACE_CORE", "auto")
if _wanted not in ("auto", "native", "python"):
    raise ImportError(f"TAILRACE_CORE must be auto, native or python, not {_wanted!r}")

if TYPE_CHECKING or _wanted == "python":
    from tailrace._core.python import *

    active = "python"
    why = "asked for by TAILRACE_CORE"
else:
    try:
        from tailrace._core.native import *

        active = "native"
        why = ""
    except ModuleNotFoundError as error:
        if _wanted == "native" or error.name != "tailrace._core.native._engine":
            raise  # asked for by name, or there but broken
        from tailrace._core.python import *

        active = "python"
        why = "the native one was not built"
