"""What is simulated: servers, and nothing else. Who asks them is the library's own code.

Seconds, as the loop's clock has it. Each copy takes a time of its own, unless the dice are
`correlated`: then all copies of a query take the same.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

__all__ = ["Free", "Query", "Server", "Service"]


class Query:
    """One question; how often it was asked, and what that cost the servers."""

    __slots__ = ("alone", "began", "copies", "parts", "seconds", "service", "work")

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds = math.nan  # until the answer
        self.copies = 0
        self.alone = 0.0  # what the first copy takes if it is let
        self.work = 0.0  # what the servers spent on all copies
        self.service: float | None = None  # of every copy, where they are correlated
        self.parts: list[Query] = []  # what it asks, if it fans out

    def copy(self, service: float) -> None:
        if not self.copies:
            self.alone = service
        self.copies += 1


Service = Callable[[Query], float]
"""How long a copy of this query takes."""


class Free:
    """A backend that has as many hands as are needed."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self._service = service

    async def query(self, query: Query, /) -> str:
        clock = asyncio.get_running_loop().time
        began, service = clock(), self._service(query)
        query.copy(service)
        try:
            await asyncio.sleep(service)
        finally:
            query.work += clock() - began
        return self.name


class _Job:
    __slots__ = ("answer", "began", "query", "service", "timer")

    def __init__(self, query: Query, service: float, answer: asyncio.Future[None]) -> None:
        self.query, self.service, self.answer = query, service, answer
        self.began = math.nan
        self.timer: asyncio.TimerHandle | None = None


class Server:
    """A backend that serves one copy at a time, first come, first served.

    `heeds` is how many seconds after a cancellation it drops the copy, in its line or in its hands:
    0 is at once, infinity is never.
    """

    def __init__(self, name: str, service: Service, heeds: float = 0.0) -> None:
        self.name = name
        self._service = service
        self._heeds = heeds
        self._line: deque[_Job] = deque()
        self._now: _Job | None = None

    async def query(self, query: Query, /) -> str:
        loop = asyncio.get_running_loop()
        job = _Job(query, self._service(query), loop.create_future())
        query.copy(job.service)
        self._line.append(job)
        if self._now is None:
            self._next(loop)
        try:
            await job.answer
        except asyncio.CancelledError:
            if self._heeds == 0:
                self._drop(loop, job)
            elif self._heeds < math.inf:
                loop.call_later(self._heeds, self._drop, loop, job)
            raise
        return self.name

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._now = job = self._line.popleft() if self._line else None
        if job is not None:
            job.began = loop.time()
            job.timer = loop.call_later(job.service, self._done, loop, job)

    def _done(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        job.query.work += job.service
        if not job.answer.done():
            job.answer.set_result(None)
        self._next(loop)

    def _drop(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        if job is self._now:
            assert job.timer is not None
            job.timer.cancel()
            job.query.work += loop.time() - job.began
            self._next(loop)
        elif math.isnan(job.began):
            self._line.remove(job)  # lines are short
