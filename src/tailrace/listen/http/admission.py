"""Admission: the limits of a server, and the counters of what is in flight and was answered.

What bounds the memory of a server. `in_flight` and `bytes` are the counters of `Admission`; every
holder adds what it holds, and subtracts that when it lets go.

| what is held | counter | limit | checked in | beyond it |
|---|---|---|---|---|
| a request, until it is answered and settled | `in_flight` | `in_flight` | `Route.open` | 503 |
| its body, as it comes, and unpacked | `bytes` | `max_body` | `Exchange.feed`, `unpack` | 413 |
| all bodies | `bytes` | `body_memory` | `Exchange.feed`, `unpack` | 503 |
| unsettled lines of NDJSON, a request | – | `in_flight` | `LinesExchange.take` | they wait |
| these lines and their reports | `bytes` | `body_memory` | `LinesExchange.take` | they wait |
| later requests, in the parser | `bytes` | `body_memory` | `Connection._pause` | dropped |
| unsent bytes of answers | `bytes` | `body_memory` | `Supervisor.write_paused` | cut off |
| the head of a request | – | `max_head` | `Parser` | 431 |
| the arrays and objects of its JSON | – | by `max_body` | `Decoder` | 413 |
| a connection | – | `connections`, open files | `Connections._admit` | 503 |

Not counted: one read of each connection, up to MOST_UNSENT bytes of its answers, and with TLS the
buffers of the event loop.
"""

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
    """Counts requests and bytes in flight, over all listeners of a server; see the table above.

    `limit` is the most requests, `memory` the most bytes. A request is in flight from its admission
    until it is answered and its messages are settled.
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
