"""A race of one copy each for several backends, which counts answers and failures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import copy_context
from operator import attrgetter
from types import CoroutineType
from typing import Any, Generic, TypeAlias, TypeVar

from tailrace import deadline
from tailrace.gather.backends import Answer, label
from tailrace.gather.race import Dispose, Race, awaiting, failing, sign
from tailrace.usercode import is_a

__all__ = ["Tally"]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

How: TypeAlias = Callable[[T], Callable[[Q], Awaitable[R]]]


class Tally(Race[R], Generic[T, R]):
    """Runs until `wanted` have answered, more than `borne` have failed or time is up.

    With `wanted` 0 it is over whenever somebody looks: for who takes each as it comes.
    """

    answered = 0
    _deadline: deadline.Deadline | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        who: str,
        backends: Sequence[T],
        wanted: int,
        borne: int,
        timeout: float | None = None,
        dispose: Dispose[R] | None = None,
    ) -> None:
        super().__init__(who, dispose)
        self.backends = backends
        self.ends: dict[asyncio.Task[R], float] = {}  # when, in order of arrival
        self.failures: dict[asyncio.Task[R], Exception] = {}  # in order of arrival
        self._wanted = wanted
        self._borne = borne
        self._timeout = None if timeout == math.inf else timeout

    def ask(self, question: Q, how: How[T, Q, R] = attrgetter("query")) -> None:
        """Ask each of the backends, with the deadline set for them to inherit.

        `how` makes of a backend the function that asks it.
        """
        if self._timeout is None:
            self._ask(question, how)
            return
        self._deadline = deadline.Deadline(self._timeout)
        self._timer = self.loop.call_at(self._deadline.when, self.expire)
        before = deadline.current.get()
        deadline.current.set(self._deadline)
        try:
            self._ask(question, how)
        finally:
            deadline.current.set(before)

    def _ask(self, question: Q, how: How[T, Q, R]) -> None:
        ended, context = self._ended, copy_context()
        for candidate in self.backends:
            try:
                answering: Any = how(candidate)(question)
            except (Exception, asyncio.CancelledError) as error:
                answering = failing(error)  # so that it comes of the copy
            coroutine: Coroutine[Any, Any, R] = (
                answering if answering.__class__ is CoroutineType else awaiting(answering)
            )
            task = asyncio.Task(coroutine, loop=self.loop, name=f"{self.who}: {label(candidate)}")
            task.add_done_callback(ended, context=context)
            self.tasks.append(task)
            self.running += 1

    def _ended(self, task: asyncio.Task[R]) -> None:
        self.running -= 1
        self.ends[task] = self.loop.time()
        if task.cancelled():
            if not self.ending:
                self._failed(task, RuntimeError(f"cancelled, and not by {self.who}"))
        elif (error := task.exception()) is None:
            self.answered += 1
            try:
                self.won(task)
            except BaseException as crash:  # of `dispose`
                self.crash = crash
        elif is_a(error, Exception):
            self._failed(task, error)
        else:
            self.crash = error
        self.look()

    def _failed(self, task: asyncio.Task[R], error: Exception) -> None:
        position = self.tasks.index(task)
        sign(error, self.backends[position], position + 1, len(self.backends))
        self.failures[task] = error

    def over(self) -> bool:
        """As described."""
        return (
            self.answered >= self._wanted
            or len(self.failures) > self._borne
            or not self.running
            or self.late
            or self.crash is not None
        )

    async def arrival(self, number: int) -> Answer[R] | None:
        """What came as number 0, 1 and so on; None when time or copies ran out before."""
        while number >= len(self.ends):
            if self.crash is not None:
                raise self.crash
            if self.late or not self.running:
                return None
            self.settled = False  # each that ends is worth a look
            await self
        return self._answer(list(self.ends)[number])

    def stop(self) -> bool:
        """As for any race; the deadline is over with it."""
        if self._deadline is not None:
            self._deadline.active = False
        if self._timer is not None:
            self._timer.cancel()
        return super().stop()

    # --- what came of it

    def answers(self, why: str) -> list[Answer[R]]:
        """An answer for each backend, in order; those that have not come say `why`."""
        late = self.loop.time() - self.started
        return [
            self._answer(task)
            if task in self.ends
            else Answer(whom, error=TimeoutError(f"{label(whom)}: {why}"), seconds=late)
            for whom, task in zip(self.backends, self.tasks, strict=True)
        ]

    def _answer(self, task: asyncio.Task[R]) -> Answer[R]:
        whom = self.backends[self.tasks.index(task)]
        seconds = self.ends[task] - self.started
        error = self.failures.get(task)
        if error is None:
            return Answer(whom, task.result(), seconds=seconds)
        return Answer(whom, error=error, seconds=seconds)

    def missing(self) -> str:
        """The names of those that have not answered."""
        return ", ".join(
            label(whom)
            for whom, task in zip(self.backends, self.tasks, strict=True)
            if task not in self.ends
        )

    def errors(self) -> list[Exception]:
        """The failures so far, in the order of the backends."""
        return [self.failures[task] for task in self.tasks if task in self.failures]
