"""`run`: a whole program as one group, on a loop of its own, ended well by signals.

The first SIGINT or SIGTERM drains: sources stop, and what they have let in is finished. The
second one, or `grace` seconds, cancels. The exit code says which it was. A third one ends the
process on the spot: clean-up may hang, and then only that is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Final, TypeAlias, TypeVarTuple

from tailrace.group.group import Group

_log = logging.getLogger("tailrace")

Ts = TypeVarTuple("Ts")
Main: TypeAlias = Callable[[Group], Awaitable[None] | None]

GRACE_OVER: Final = 124
"""The exit code after `grace` ran out, as that of timeout(1)."""


def run(
    main: Callable[[Group, *Ts], Awaitable[None] | None], /, *args: *Ts, grace: float = 30.0
) -> None:
    """Run ``main(go, *args)``, plain or async, and everything that it starts, until all ends.

    Uses uvloop where it is installed. The first SIGINT or SIGTERM drains the group; a second
    one, or `grace` seconds, cancels it; a third ends the process there and then. Returns when
    all has ended, drained or not; raises the group's failures as an `ExceptionGroup`; raises
    SystemExit with code 128 + the signal's number if a second signal cut it short, 124 if the
    grace did, or as it is where an actor raised it. A thread that does not end within the grace
    is left behind with a warning.

    RuntimeError when an event loop is running: use ``async with Group()`` there.
    """

    def bound(go: Group) -> Awaitable[None] | None:
        return main(go, *args)

    if _interceptor is not None:
        _interceptor(bound, grace)
    else:
        run_in(Group(), bound, grace)


def run_in(group: Group, main: Main, grace: float) -> None:
    """As `run`, in a group of the caller's making."""
    if not grace >= 0:
        raise ValueError(f"grace must be seconds of 0 or more, not {grace!r}")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run() makes an event loop, but one runs here: use `async with Group()`")
    program = _Program(group, grace)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(program.supervise(main))
    if program.exit_code:
        sys.exit(program.exit_code)


_interceptor: Callable[[Main, float], None] | None = None


@contextlib.contextmanager
def intercepted(interceptor: Callable[[Main, float], None]) -> Generator[None]:
    """In this block `run` hands its main function and its grace to `interceptor` instead."""
    global _interceptor  # noqa: PLW0603  # one program is loaded at a time
    _interceptor = interceptor
    try:
        yield
    finally:
        _interceptor = None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = importlib.import_module("uvloop").new_event_loop
    return factory


class _Program:
    """A group under signals, and what they have asked for so far."""

    def __init__(self, group: Group, grace: float) -> None:
        self.group = group
        self.grace = grace
        self.exit_code = 0
        self.signals = 0
        group._abandon_after = grace

    async def supervise(self, main: Main) -> None:
        """Run `main` in the group, with the signals pointed at it."""
        with self._signals_caught():
            async with self.group as go:
                started = main(go)
                if inspect.isawaitable(started):
                    await started

    @contextlib.contextmanager
    def _signals_caught(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            try:
                loop.add_signal_handler(number, self._signalled, number)
            except NotImplementedError:  # Windows
                signal.signal(
                    number,
                    lambda n, _: loop.call_soon_threadsafe(self._signalled, signal.Signals(n)),
                )
        try:
            yield
        finally:
            for number, handler in before.items():
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)
                if handler is not None:  # None: set by something that is not Python
                    signal.signal(number, handler)

    def _signalled(self, number: signal.Signals) -> None:
        self.signals += 1
        if self.signals == 1:
            _log.info(
                "%s: draining, for at most %g s; once more to stop at once", number.name, self.grace
            )
            self.group.drain()
            self.group.loop.call_later(self.grace, self._grace_over)
        elif self.signals == 2:
            self._cut_short(128 + number)
        else:
            _log.warning("%s: ending at once", number.name)
            with contextlib.suppress(NotImplementedError):
                self.group.loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _grace_over(self) -> None:
        self._cut_short(GRACE_OVER)
        # A thread that was parked on a channel is ending now; one that was not never may.
        self.group.loop.call_later(0.25, self.group.abandon_threads)

    def _cut_short(self, exit_code: int) -> None:
        if self.exit_code == 0:
            self.exit_code = exit_code
            for state in self.group.actors():
                _log.warning("cut short: %s", state)
        self.group.cancel()
