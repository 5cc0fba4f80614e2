"""Admission: how much may be at work at once, and the counters of what was answered."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tailrace.listen.http.access import log_access
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.request import Request
from tailrace.listen.http.sites import Sites

__all__ = ["Admission", "Limits"]


@dataclass(frozen=True)
class Limits:
    """What clients may do; see HttpServer."""

    connections: int | None  # as many as the limit of open files allows, within reason
    max_head: int
    receive_timeout: float
    keep_alive: float
    sites: Sites = field(default_factory=Sites)
    reuse_port: bool = False


class Admission:
    """Who is inside: requests and bytes of bodies, over all listeners of a server."""

    __slots__ = ("access_log", "answers", "bytes", "in_flight", "limit", "memory")

    def __init__(self, limit: int, memory: int, access_log: bool = False) -> None:
        self.access_log = access_log
        self.limit = limit
        self.memory = memory
        self.in_flight = 0
        self.bytes = 0
        self.answers: defaultdict[int, int] = defaultdict(int)  # by status

    def __repr__(self) -> str:
        return (
            f"<Admission {self.in_flight}/{self.limit} in flight, {self.bytes}/{self.memory} bytes>"
        )

    def count_refusal(self, request: Request | None, refusal: Answer) -> None:
        """Count a request that was not let in, or bytes that were none."""
        self.answers[refusal.status] += 1
        if self.access_log:
            log_access(request, refusal.status, len(refusal.body), None)
