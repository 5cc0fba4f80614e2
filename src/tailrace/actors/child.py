"""What runs in a process of `each(processes=n)`: calls a function for one message after another.

It ends when its parent closes the pipe, or is gone, however that ended. It ignores SIGINT and
SIGTERM, which a terminal or a supervisor sends to all processes of a program: the parent drains,
and needs its processes for that.
"""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from tailrace.actors.calls import NOT_RUN, not_run
from tailrace.errors import Abort, Reject
from tailrace.usercode import describe

__all__ = ["FAILED", "READY", "serve"]

READY: Final = b"ready"
FAILED: Final = b"\0"
_RETURNED: Final = b"\1"


def serve(pipe: Connection, pickled: bytes, name: str) -> None:
    """Answer each message of `pipe`, until that ends. The first answer is `READY`, or an error."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the parent has blocked them while this began
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with_parent, name="end_with_parent", daemon=True).start()
    try:
        fn: Callable[[Any], Any] = pickle.loads(pickled)
    except BaseException as error:
        pipe.send_bytes(describe(error).encode("utf-8", "backslashreplace"))
        return
    pipe.send_bytes(READY)
    try:
        while True:
            pipe.send_bytes(_answer(fn, name, pipe.recv_bytes()))
    except (EOFError, OSError):
        return  # the parent has closed the pipe, or is gone


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _answer(fn: Callable[[Any], Any], name: str, payload: bytes) -> bytes:
    """The pickled result of one call, or its error."""
    try:
        value = fn(pickle.loads(payload))
        if inspect.isawaitable(value) or type(value) in NOT_RUN:
            raise not_run(name, value)
    except BaseException as error:
        return _failed(name, error)
    try:
        return _RETURNED + pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        kind = type(value).__qualname__
        return _failed(
            name,
            TypeError(
                f"{name} returned a {kind}, which cannot be pickled on its way out of its process: "
                f"{describe(error)}"
            ),
        )


def _failed(name: str, error: BaseException) -> bytes:
    """An error, if it can be pickled, or else one that says the same; and its traceback."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # its own code raises
        text = describe(error)
    if not isinstance(error, Exception) or isinstance(error, StopIteration):
        # Not for the parent: `sys.exit()` is to end a message, not the program.
        pickled = pickle.dumps(RuntimeError(f"{name} raised {describe(error)}"))
    else:
        try:
            pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
            pickle.loads(pickled)  # many exceptions with a constructor of their own cannot
        except BaseException:
            pickled = pickle.dumps(_like(error))
    return FAILED + pickle.dumps((pickled, text))


def _like(error: Exception) -> Exception:
    if isinstance(error, Abort):
        return Abort(str(error.reason))
    if isinstance(error, Reject):
        return Reject(str(error.reason))
    return RuntimeError(describe(error))
