# The engine as type checkers see it: its twin, and what only the Python around it calls.
from typing import Any

from tailrace._core.python import BUDGET as BUDGET
from tailrace._core.python import Blocking as Blocking
from tailrace._core.python import BlockingReceiver as BlockingReceiver
from tailrace._core.python import BlockingSender as BlockingSender
from tailrace._core.python import Channel as Channel
from tailrace._core.python import ReceivingEnd as ReceivingEnd
from tailrace._core.python import RecvMany as RecvMany
from tailrace._core.python import Select as Select
from tailrace._core.python import SendingEnd as SendingEnd
from tailrace._core.python import SendMany as SendMany
from tailrace._core.python import parked_on as parked_on
from tailrace._core.python import seed as seed
from tailrace._core.python import select as select
from tailrace._core.python import select_nowait as select_nowait
from tailrace._core.python import spawn as spawn
from tailrace._core.python import when_sent as when_sent
from tailrace._core.python.channel import _End as _End

class Operation:
    def _wake_done(self) -> None: ...

class Actor:
    def __init__(self, coro: Any, **options: Any) -> None: ...

def bind(parts: dict[str, Any], /) -> None: ...
def know_future(future: Any, loop: Any, callback: Any, context: Any, /) -> bool: ...
def count_cancelled(change: int, /) -> None: ...
