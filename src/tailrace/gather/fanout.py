"""A fan-out: a race of one copy for each of several backends, which counts answers and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, TypeVar

from tailrace import deadline
from tailrace.arguments import check_timeout
from tailrace.gather.backends import Answer, Backend, label
from tailrace.gather.race import Dispose, Race, add_origin, asking
from tailrace.usercode import is_a

__all__ = ["FanOut", "ask_with"]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")


class FanOut(Race[R], Generic[T, R]):
    """Asks each backend by ``ask(backend)``, until `needed` have answered, more than `tolerated`
    have failed, or `timeout` seconds have passed.

    Answers and failures are those of the decision: a copy that ends later is late. With `needed` 0
    use `arrival`, which waits for one copy at a time.
    """

    _deadline: deadline.Deadline | None = None
    _timer: asyncio.TimerHandle | None = None
    _stopped = 0.0

    def __init__(
        self,
        caller: str,
        backends: Sequence[T],
        ask: Callable[[T], Awaitable[R]],
        *,
        needed: int,
        tolerated: int,
        timeout: float | None = None,
        dispose: Dispose[R] | None = None,
    ) -> None:
        super().__init__(caller, dispose)
        self.backends = backends
        self.answered = 0
        self._ask = ask
        self._needed = needed
        self._tolerated = tolerated
        self._timeout = check_timeout(timeout, f"{caller}: timeout")
        self._ends: dict[asyncio.Task[R], float] = {}  # when, in order of arrival
        self._failures: dict[asyncio.Task[R], Exception] = {}  # the late ones too

    def start(self) -> None:
        """Ask each backend. The copies inherit the deadline, if there is a timeout."""
        if self._timeout is None:
            self._start()
            return
        self._deadline = deadline.Deadline(self._timeout)
        self._timer = self.loop.call_at(self._deadline.when, self.expire)
        before = deadline.current.get()
        deadline.current.set(self._deadline)
        try:
            self._start()
        finally:
            deadline.current.set(before)

    def _start(self) -> None:
        context = copy_context()
        for backend in self.backends:
            name = f"{self.caller}: {label(backend)}"
            self.tasks.append(self.launch(self._ask, backend, name, self._ended, context))

    def _ended(self, task: asyncio.Task[R]) -> None:
        self.running -= 1
        if not self.ending:
            self._ends[task] = self.loop.time()
        if task.cancelled():
            if not self.ending:
                self._failed(task, RuntimeError(f"cancelled, and not by {self.caller}"))
        elif (error := task.exception()) is None:
            self.answered += not self.ending
            if self._dispose is not None:
                try:
                    self.take(task)
                except BaseException as crash:  # of `dispose`
                    self.crash = crash
        elif is_a(error, Exception):
            self._failed(task, error)
        else:
            self.crash = error
        self.check()

    def _failed(self, task: asyncio.Task[R], error: Exception) -> None:
        position = self.tasks.index(task)
        add_origin(error, self.backends[position], position + 1, len(self.backends))
        self._failures[task] = error

    def over(self) -> bool:
        """Whether enough have answered, too many have failed, or nothing more can come."""
        return (
            self.answered >= self._needed
            or len(self._failures) > self._tolerated
            or not self.running
            or self.timed_out
            or self.crash is not None
        )

    def stop(self) -> bool:
        """As `Race.stop`. The deadline ends too."""
        self._stopped = self.loop.time()
        if self._deadline is not None:
            self._deadline.active = False
        if self._timer is not None:
            self._timer.cancel()
        return super().stop()

    # --- answers

    async def arrival(self, number: int) -> Answer[R] | None:
        """The answer that came as number 0, 1, …; None if time or copies ran out before."""
        while number >= len(self._ends):
            if self.crash is not None:
                raise self.crash
            if self.timed_out or not self.running:
                return None
            self.decided = False  # the end of each copy resumes this task
            await self
        return self._answer(list(self._ends)[number])

    def answers(self, why_late: str) -> list[Answer[R]]:
        """An `Answer` for each backend, in their order; the error of a late one says why."""
        return [
            self._answer(task) if task in self._ends else self._late(backend, why_late)
            for backend, task in zip(self.backends, self.tasks, strict=True)
        ]

    def late_answers(self, why_late: str) -> list[Answer[R]]:
        """The `Answer` of each backend that is late."""
        return [self._late(backend, why_late) for backend in self._late_backends()]

    def missing(self) -> str:
        """The names of the backends that are late."""
        return ", ".join(map(label, self._late_backends()))

    def errors(self, *, late: bool = False) -> list[Exception]:
        """The failures in the order of the backends; with `late`, the late ones too."""
        return [
            self._failures[task]
            for task in self.tasks
            if task in self._failures and (late or task in self._ends)
        ]

    def _late_backends(self) -> list[T]:
        pairs = zip(self.backends, self.tasks, strict=True)
        return [backend for backend, task in pairs if task not in self._ends]

    def _late(self, backend: T, why: str) -> Answer[R]:
        waited = self._stopped - self.started
        return Answer(backend, error=TimeoutError(f"{label(backend)}: {why}"), seconds=waited)

    def _answer(self, task: asyncio.Task[R]) -> Answer[R]:
        backend = self.backends[self.tasks.index(task)]
        seconds = self._ends[task] - self.started
        error = self._failures.get(task)
        if error is None:
            return Answer(backend, task.result(), seconds=seconds)
        return Answer(backend, error=error, seconds=seconds)


def ask_with(query: Q) -> Callable[[Backend[Q, R]], Awaitable[R]]:
    """What a `FanOut` of backends calls: it asks a backend `query`."""

    def ask(backend: Backend[Q, R]) -> Awaitable[R]:
        return asking(backend.query)(query)

    return ask
