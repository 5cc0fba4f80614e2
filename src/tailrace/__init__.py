"""Go's concurrency for Python: channels, actors, select, pipelines that answer for each message.

The layers. Each imports only from itself and from those below:

6. `cli`, `demo`: run a program, show one.
5. `asgi`, `listen`, `store`: the world outside. From here up, modules may use third-party packages.
4. `actors`, `gather`, `message`: built from the layers below. `testing`: a virtual clock, and
   stand-ins for stages.
3. `group`: the owner of actors.
2. `select`, `timers`: choose among channel operations. `clockwork`: the timers behind `timers`.
1. `channel`: the one primitive. `retry`: when to try again.
0. `errors`. `_core`: the engine, of which there are two twins. `account`, `arguments`, `deadline`,
   `jsontext`, `ledger`, `usercode`, `worker`: what several packages use.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tailrace.account import Account
from tailrace.actors import (
    DeadLetter,
    Hub,
    Tee,
    batch,
    each,
    expand,
    in_order,
    partition,
    tee,
    throttle,
)
from tailrace.channel import (
    Channel,
    ChannelStatistics,
    Operation,
    Receiver,
    Sender,
    Sending,
    SyncReceiver,
    SyncSender,
)
from tailrace.errors import (
    Abort,
    Closed,
    Deadlock,
    Outage,
    ProcessDied,
    Reject,
    TailraceError,
    WouldBlock,
)
from tailrace.gather import (
    Answer,
    Backend,
    BackendStatistics,
    Eject,
    Hedged,
    HedgedStatistics,
    Replicas,
    backend,
    hedged,
    query_all,
    query_each,
    query_some,
    remaining,
    together,
)
from tailrace.group import (
    ActorState,
    ChannelNode,
    Edge,
    Graph,
    Group,
    Restart,
    StageNode,
    amap,
    collect,
    emit,
    run,
    task_factory,
)
from tailrace.message import Message, Outcome, Settlement, current_message, submit
from tailrace.retry import Retry
from tailrace.select import done, select, select_nowait
from tailrace.timers import after, ticker

try:
    __version__ = version("tailrace")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Abort",
    "Account",
    "ActorState",
    "Answer",
    "Backend",
    "BackendStatistics",
    "Channel",
    "ChannelNode",
    "ChannelStatistics",
    "Closed",
    "DeadLetter",
    "Deadlock",
    "Edge",
    "Eject",
    "Graph",
    "Group",
    "Hedged",
    "HedgedStatistics",
    "Hub",
    "Message",
    "Operation",
    "Outage",
    "Outcome",
    "ProcessDied",
    "Receiver",
    "Reject",
    "Replicas",
    "Restart",
    "Retry",
    "Sender",
    "Sending",
    "Settlement",
    "StageNode",
    "SyncReceiver",
    "SyncSender",
    "TailraceError",
    "Tee",
    "WouldBlock",
    "__version__",
    "after",
    "amap",
    "backend",
    "batch",
    "collect",
    "current_message",
    "done",
    "each",
    "emit",
    "expand",
    "hedged",
    "in_order",
    "partition",
    "query_all",
    "query_each",
    "query_some",
    "remaining",
    "run",
    "select",
    "select_nowait",
    "submit",
    "task_factory",
    "tee",
    "throttle",
    "ticker",
    "together",
]
