"""Layer 4: one question to several backends, at once.

`query_all` wants every answer, `query_some` those that come in time, `query_each` each as it
comes, `together` does the same for questions of different types. `Replicas` makes one backend of
several that know the same, of which the first to answer wins; `Hedged` does so at hardly more than
the price of one.

One job each: `backends` (what is asked, and what it said), `race` (copies that run at once, and
all end), `fanout` (a race of one copy for each backend), `queries` and `replicas` (what is made
of that), `hedging/` (`Hedged`).
"""

from __future__ import annotations

from tailrace.deadline import remaining
from tailrace.gather.backends import Answer, Backend, backend
from tailrace.gather.hedging import (
    BackendStatistics,
    Eject,
    Hedged,
    HedgedStatistics,
    hedged,
)
from tailrace.gather.queries import query_all, query_each, query_some, together
from tailrace.gather.replicas import Replicas

__all__ = [
    "Answer",
    "Backend",
    "BackendStatistics",
    "Eject",
    "Hedged",
    "HedgedStatistics",
    "Replicas",
    "backend",
    "hedged",
    "query_all",
    "query_each",
    "query_some",
    "remaining",
    "together",
]
