"""Admission: the limits of a server, and the counters of what is in flight and was answered."""

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
    """The limits of a server; `HttpServer` documents them."""

    connections: int | None  # None: as many as the limit of open files allows, at most 4096
    max_head: int
    receive_timeout: float
    keep_alive: float
    sites: Sites = field(default_factory=Sites)
    reuse_port: bool = False


class Admission:
    """Counts the requests and the bytes in flight, over all listeners of a server.

    A request is admitted while `in_flight` is below `limit`, and bytes while `bytes` is below
    `memory`. Each part of the server adds and subtracts what it holds.
    """

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
        """Count and log a refusal. `request` is None if no request could be read."""
        self.answers[refusal.status] += 1
        if self.access_log:
            log_access(request, refusal.status, len(refusal.body), None)
