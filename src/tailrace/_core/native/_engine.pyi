# The engine as type checkers see it: its twin, and what only the Python around it calls.
from typing import Any, TypeVar

from tailrace._core.common import BUDGET as BUDGET
from tailrace._core.common import TURN_STEPS as TURN_STEPS
from tailrace._core.common import YIELD_STEPS as YIELD_STEPS
from tailrace._core.native.bases import OperationBase
from tailrace._core.python.channel import Channel as Channel
from tailrace._core.python.channel import RecvMany as RecvMany
from tailrace._core.python.channel import SendMany as SendMany
from tailrace._core.python.scheduler import seed as seed
from tailrace._core.python.select import Select as Select
from tailrace._core.python.select import select as select
from tailrace._core.python.select import select_nowait as select_nowait
from tailrace._core.tasks import spawn as spawn

T_co = TypeVar("T_co", covariant=True)

class Operation(OperationBase[T_co]): ...

class Waiter:
    parked: bool

class Actor:
    _after: Any
    def __init__(self, coro: Any, **options: Any) -> None: ...

def bind(parts: dict[str, Any], /) -> None: ...
