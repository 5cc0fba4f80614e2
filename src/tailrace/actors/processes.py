"""The processes of `each(processes=n)`: one pipe, and one thread that waits, for each.

Why processes, and not interpreters, where Python has those (3.14): an extension module of C that
does not say that it may be loaded twice cannot be imported in a second interpreter, and a crash or
a lack of memory in one interpreter ends all of them. Why no `ProcessPoolExecutor`: if one of its
processes dies, all messages in hand fail; it cannot end the one that takes too long; and a program
waits for it at its end.

Invariants:
- A process has one message at a time. If it dies, that message fails, and no other.
- A process that has died, or that was ended because an attempt took too long or was cancelled, is
  replaced when its slot is used next.
- Processes are spawned: a fork copies locks that threads of the parent hold.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import multiprocessing.util
import pickle
import signal
import sys
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from tailrace.actors import child
from tailrace.actors.calls import at_most
from tailrace.channel import Channel
from tailrace.errors import ProcessDied
from tailrace.usercode import describe, unwrapped
from tailrace.worker import Worker

__all__ = ["Pool", "pickled_function"]

ENDING_SECONDS: Final = 1.0
"""How long a process that has nothing to do may take to end, before it is killed."""

_GUARD: Final = (
    'A program that starts itself when it is imported must do so under `if __name__ == "__main__":`'
)


class _RemoteTraceback(Exception):
    """The traceback of an error in its process, as text: the cause of the error here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def pickled_function(where: str, fn: Callable[..., Any]) -> bytes:
    """`fn` for another process. TypeError, with what would be right, if that cannot import it."""
    inner: Any = unwrapped(fn)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    module = getattr(inner, "__module__", None) or type(inner).__module__
    right = "define it with `def` at the top level of a module"
    if "<lambda>" in name:
        raise TypeError(f"{where}: a process cannot import a lambda: {right}")
    if "<locals>" in name:
        raise TypeError(f"{where}: a process cannot import {name}, a local function: {right}")
    main = sys.modules["__main__"]
    if module == "__main__" and not hasattr(main, "__file__") and main.__spec__ is None:
        raise TypeError(
            f"{where}: a process cannot import {name}, which is of an interactive session, of "
            f"`python -c` or of standard input: {right}, and import it"
        )
    try:
        return pickle.dumps(fn, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(
            f"{where}: a process cannot be given {name}, which cannot be pickled "
            f"({describe(error)}): {right}, and give it nothing that only this process has, such "
            f"as a lock, a connection or an open file"
        ) from error


class Pool:
    """A `Caller` of any number of messages at once, in `n` processes."""

    busy: None = None

    def __init__(self, pickled: bytes, n: int, timeout: float | None, name: str) -> None:
        self._timeout = timeout
        self._slots = [_Slot(pickled, name) for _ in range(n)]
        self._free = Channel[_Slot](n, name=f"free processes of {name}")

    async def start(self) -> None:
        """Start all processes, and return when the first is ready. RuntimeError if that fails."""
        loop = asyncio.get_running_loop()
        starts: list[asyncio.Future[None]] = []
        for slot in self._slots:
            start = loop.run_in_executor(slot.worker, slot.start)
            start.add_done_callback(partial(self._is_free, slot))
            starts.append(start)
        done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        for first in done:
            first.result()

    async def call(self, data: Any) -> Any:
        """One attempt, in a process that is free. Waiting for that does not count as time of the
        attempt. After a timeout, and cancelled, the process is killed."""
        slot = await self._free.recv()
        loop = asyncio.get_running_loop()
        job: asyncio.Future[Any] | None = None
        try:
            if not slot.started:
                job = loop.run_in_executor(slot.worker, slot.start)
                await asyncio.shield(job)
            job = loop.run_in_executor(slot.worker, slot.ask, data)
            return await at_most(self._timeout, asyncio.shield(job))
        finally:
            if job is None or job.done():
                self._free.send_nowait(slot)
            else:
                slot.kill()
                job.add_done_callback(partial(self._is_free, slot))
            del data

    def _is_free(self, slot: _Slot, job: asyncio.Future[Any]) -> None:
        if not job.cancelled():
            job.exception()  # or asyncio would log that it was never retrieved
        self._free.send_nowait(slot)

    def close(self) -> None:
        """See `end`."""

    async def end(self) -> None:
        """End all processes, and wait for that."""
        loop = asyncio.get_running_loop()
        ends = [loop.run_in_executor(slot.worker, slot.end) for slot in self._slots]
        for slot in self._slots:
            slot.worker.shutdown(wait=False)
        await asyncio.wait(ends)


class _Slot:
    """One process, and the thread that speaks with it. All but `kill` is called in that thread."""

    def __init__(self, pickled: bytes, name: str) -> None:
        self._pickled = pickled
        self._name = name
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self.worker = Worker(f"{name}_process")
        _slots.add(self)

    @property
    def started(self) -> bool:
        """Whether there is a process that is not known to have died."""
        return self._process is not None

    def start(self) -> None:
        """Start the process, and wait until it can call the function."""
        if self._process is not None:
            return
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(f"{self._name}: this process is one of its own. {_GUARD}")
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # it unblocks them when it starts
            # The process inherits this. Else a Ctrl-C while it begins would end it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=child.serve, args=(theirs, self._pickled, self._name), name=self.worker.name
        )
        self._process, self._pipe = process, ours
        try:
            process.start()
        except BaseException:
            self._forget()
            raise
        finally:
            theirs.close()
        try:
            answer = ours.recv_bytes()
        except (EOFError, OSError):
            how = self._how_it_ended(process)
            raise RuntimeError(
                f"{self._name}: its process {how} before it was ready; what it wrote to stderr "
                f"says why. {_GUARD}"
            ) from None
        if answer != child.READY:
            self._how_it_ended(process)
            raise RuntimeError(
                f"{self._name} cannot be imported in its process: {answer.decode()}; define it "
                f"at the top level of a module that can be imported by its name"
            )

    def ask(self, data: Any) -> Any:
        """Have the function called. Raises what it raises, and `ProcessDied`."""
        try:
            payload = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise TypeError(
                f"{self._name}: a {type(data).__qualname__} cannot be pickled on its way into a "
                f"process ({describe(error)}); pass on plain data, such as a path for a file"
            ) from error
        process, pipe = self._process, self._pipe
        assert process is not None
        assert pipe is not None
        try:
            pipe.send_bytes(payload)
            answer = pipe.recv_bytes()
        except (EOFError, OSError):
            how = self._how_it_ended(process)
            raise ProcessDied(f"{self._name}: its process {how} with the message in hand") from None
        return self._read(answer)

    def _read(self, answer: bytes) -> Any:
        if not answer.startswith(child.FAILED):
            try:
                return pickle.loads(memoryview(answer)[1:])
            except Exception as error:
                raise RuntimeError(
                    f"{self._name}: what it returned cannot be unpickled: {describe(error)}"
                ) from error
        pickled, text = pickle.loads(memoryview(answer)[1:])
        try:
            raised: Exception = pickle.loads(pickled)
        except Exception as error:
            raised = RuntimeError(f"an error that cannot be unpickled: {describe(error)}")
        raise raised from _RemoteTraceback(text)

    def kill(self) -> None:
        """Kill the process. From any thread."""
        process = self._process
        if process is not None and process.pid is not None:
            process.kill()

    def end(self) -> None:
        """End the process, which has nothing to do, and wait for it."""
        process = self._process
        self._forget()
        if process is not None and process.pid is not None:
            process.join(ENDING_SECONDS)
            process.kill()
            process.join()

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _how_it_ended(self, process: SpawnProcess) -> str:
        """How the process ended, in words. It is forgotten, and replaced at the next start."""
        self._forget()
        process.join(ENDING_SECONDS)
        code = process.exitcode
        if code is None:  # it has closed its pipe
            process.kill()
            process.join()
            return "closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        why = {"SIGKILL": " (out of memory?)", "SIGSEGV": " (a fault in an extension module?)"}
        return f"was killed by {name}{why.get(name, '')}"


_slots: Final[weakref.WeakSet[_Slot]] = weakref.WeakSet()


_imported_before: Final = multiprocessing.util
"""Its handler of the exit, which waits for all processes, is registered before the next one, and so
runs after it."""


@atexit.register
def _kill_all() -> None:
    for slot in list(_slots):
        slot.kill()
