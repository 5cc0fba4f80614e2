# The engine as type checkers see it: its twin, and what only the Python around it calls.
from typing import Any

from tailrace._core.common import TURN_STEPS as TURN_STEPS
from tailrace._core.common import YIELD_STEPS as YIELD_STEPS
from tailrace._core.python import BUDGET as BUDGET
from tailrace._core.python import Channel as Channel
from tailrace._core.python import RecvMany as RecvMany
from tailrace._core.python import Select as Select
from tailrace._core.python import SendMany as SendMany
from tailrace._core.python import seed as seed
from tailrace._core.python import select as select
from tailrace._core.python import select_nowait as select_nowait
from tailrace._core.python import spawn as spawn

class Operation:
    def _wake_done(self) -> None: ...

class Sleeper:
    parked: bool

class Actor:
    _after: Any
    def __init__(self, coro: Any, **options: Any) -> None: ...

def bind(parts: dict[str, Any], /) -> None: ...
