"""`run`: a whole program as one group, on a loop of its own, which signals drain.

The first SIGINT or SIGTERM drains: sources stop, and the values that they have sent are processed.
The second one, or `grace` seconds, cancels; the exit code says which. The third one ends the
process at once, for the case that clean-up hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVarTuple

from tailrace import _core
from tailrace.arguments import check_seconds
from tailrace.group.grace import THREADS_END
from tailrace.group.group import Group
from tailrace.group.nest import Nest
from tailrace.group.signals import Signals
from tailrace.group.watchdog import Watchdog
from tailrace.usercode import log_error

_log = logging.getLogger("tailrace")

Ts = TypeVarTuple("Ts")
Main: TypeAlias = Callable[[Group], Awaitable[None] | None]

GRACE_OVER: Final = 124
"""The exit code after `grace` seconds, as of timeout(1)."""


def run(
    main: Callable[[Group, *Ts], Awaitable[None] | None], /, *args: *Ts, grace: float = 30.0
) -> None:
    """Run ``main(go, *args)``, plain or async, and all that it starts, until all has ended.

    Uses uvloop if it is installed. The first SIGINT or SIGTERM drains the group, with a line on
    stderr. A second one, more than half a second later, cancels it, and so do `grace` seconds. A
    third signal ends the process at once. An async `main` is a source: the drain cancels it,
    unless it waits in `Group.wait` or `Group.idle`.

    Returns when all actors have ended. Raises their failures as an `ExceptionGroup`. Raises
    SystemExit with code 128 + the signal's number after a second signal, with code 124 after the
    grace (then failures are logged), or the SystemExit of an actor. A thread that does not end
    within the grace is left behind, with a warning.

    At the end it prints on stderr what became of the messages that came in (`Group.account`):
    ``46 in: 27 stored, 19 aborted``. Nothing, if none came in.

    A warning names the line that has kept the event loop from turning for a second.

    RuntimeError in a process of ``each(processes=n)``, and if an event loop is running: use
    ``async with Group()`` there.
    """

    _check_no_child()

    def bound(go: Group) -> Awaitable[None] | None:
        return main(go, *args)

    if _interceptor is not None:
        _interceptor(bound, grace)
    else:
        run_in(Group(), bound, grace)


def _check_no_child() -> None:
    """RuntimeError in a process of `each(processes=n)` that imports the program anew."""
    module: Any = sys.modules.get("multiprocessing.process")
    if module is not None and getattr(module.current_process(), "_inheriting", False):
        raise RuntimeError(
            "run() was called by a process that only imports the program, to call a function of "
            'it: write `if __name__ == "__main__":` before run(...)'
        )


def run_in(group: Group, main: Main, grace: float) -> None:
    """As `run`, in a group that the caller has made."""
    check_seconds("grace", grace, endless=True)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run() makes an event loop, but one runs here: use `async with Group()`")
    program = _Program(group, grace)
    try:
        program.run(main)
    except BaseExceptionGroup as failures:
        if not program.exit_code:
            raise
        _log.error("failed while the program was cancelled", exc_info=failures)
    if program.exit_code:
        sys.exit(program.exit_code)


_interceptor: Callable[[Main, float], None] | None = None


class intercepted:  # noqa: N801  # used as a statement
    """In this block, `run` calls `interceptor` with its main function and its grace instead."""

    def __init__(self, interceptor: Callable[[Main, float], None]) -> None:
        self._interceptor = interceptor

    def __enter__(self) -> None:
        global _interceptor  # noqa: PLW0603  # one program is loaded at a time
        _interceptor = self._interceptor

    def __exit__(self, *_: object) -> None:
        global _interceptor  # noqa: PLW0603
        _interceptor = None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = importlib.import_module("uvloop").new_event_loop
    return factory


class _Program:
    """A group that is drained and cancelled by signals."""

    def __init__(self, group: Group, grace: float) -> None:
        self.group = group
        self.grace = grace
        self.exit_code = 0
        self._signals = Signals(self._on_signal)
        self._watchdog = Watchdog()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None  # the parent of the group
        self._early = False  # a signal came before the loop was there
        self._ended = False
        self._main = Nest()
        group._abandon_after = grace

    def run(self, main: Main) -> None:
        """Run `main` until the group has ended."""
        try:
            # Signals first: the runner sets no handler of its own if there is one.
            with (
                self._watchdog,
                self._signals,
                asyncio.Runner(loop_factory=_loop_factory()) as runner,
            ):
                try:
                    runner.run(self._supervise(main))
                except (SystemExit, KeyboardInterrupt):
                    self._end_group(runner.get_loop())
                    raise
        finally:
            account = self.group.account()
            if account.entered:
                with contextlib.suppress(AttributeError, OSError, ValueError):  # stderr is gone
                    sys.stderr.write(f"{account}\n")
                    sys.stderr.flush()

    def _end_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """After SystemExit, which stops the loop at once: run the loop until the group has ended.

        Each group that SystemExit passes through raises it again, and so stops the loop again. If
        this were left to the runner, it would cancel all tasks (some for the second time), run the
        loop only until it stops, and close it while actors clean up.
        """
        task = self._task
        if task is None:
            return
        task.cancel()  # SystemExit may not come from an actor, so the group may not know
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt, asyncio.CancelledError):
                pass
            except BaseException as error:
                log_error(_log, "failed while the program ended", error=error)

    async def _supervise(self, main: Main) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        assert task is not None
        task.set_name("main")
        try:
            async with self.group as go:
                self._main.add(go)
                go._main = self._main
                _core.enclosing.set(self._main)
                started = main(go)
                self._watchdog.watch()  # not before: `main` may block while it starts the program
                if self._early:
                    self._loop.call_soon(self._drain)
                if inspect.isawaitable(started):
                    await started
        except asyncio.CancelledError:
            if not self._main.stopping:
                raise
            task.uncancel()  # the drain has cancelled it
        finally:
            self._ended = True
            self._loop = None
            self._watchdog.unwatch()

    def _on_signal(self, number: signal.Signals, count: int) -> None:
        """In a signal handler: the loop may be blocked, and any lock may be held."""
        if self._ended:  # the runner waits for an executor: let the handler of before act
            self._signals.restore()
            signal.raise_signal(number)
        elif count == 1:
            again = "press Ctrl-C" if number == signal.SIGINT else "send it"
            self._watchdog.say(
                f"{number.name}: draining, for at most {self.grace:g} s; {again} again to stop "
                f"at once"
            )
            if self._loop is None:
                self._early = True
            else:
                self._post(self._drain)
        elif count == 2:
            self._watchdog.say(
                f"{number.name}: stopping at once; a third signal ends the process without clean-up"
            )
            self._post(self._cut_short, 128 + number)
        else:
            with contextlib.suppress(OSError):
                os.write(2, f"{number.name}: ending the process\n".encode())
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _post(self, call: Callable[[*Ts], object], *args: *Ts) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(call, *args)

    def _drain(self) -> None:
        self.group.drain()
        self.group.loop.call_later(self.grace, self._grace_over)

    def _grace_over(self) -> None:
        self._cut_short(GRACE_OVER)
        self.group.loop.call_later(THREADS_END, self.group.abandon_threads)

    def _cut_short(self, exit_code: int) -> None:
        if self.exit_code == 0:
            self.exit_code = exit_code
            for state in self.group.actors():
                _log.warning("cancelled: %s", state)
            if exit_code != GRACE_OVER and (threads := self.group.threads()):
                self._watchdog.say(
                    f"waiting until the end of the grace for actors in threads, which cannot be "
                    f"cancelled: {', '.join(threads)}"
                )
        self.group.cancel()
