"""Functions that the tests call in other processes: those must be able to import them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from tailrace.errors import Abort, Reject


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def act(data: Any) -> Any:
    """Do what the data says."""
    what, argument = data if isinstance(data, tuple) else (data, None)
    match what:
        case "pid":
            return os.getpid()
        case "slow pid":
            time.sleep(argument)
            return os.getpid()
        case "sleep":
            time.sleep(argument)
        case "exit":
            os._exit(argument)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit(3)
        case "lock":
            return threading.Lock()
        case "unpicklable":
            raise Unpicklable(1, 2)
        case "abort":
            raise Abort("no")
        case "reject":
            raise Reject("bad")
        case "raise":
            raise KeyError(argument)
        case "append":
            argument.append(1)
            raise ValueError("appended")
        case _:
            pass
    return what
