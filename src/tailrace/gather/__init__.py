"""Layer 4: one question to several backends, at once.

`query_all` wants every answer, `query_some` those that come in time; `query_each` gives each as it
comes; `together` awaits things of different types. `Replicas` makes one backend of several that
know the same: all are asked, and the first answer wins. `Hedged` asks one of them, and another one
when that pays.

Begin with `queries` and `replicas`: a `fanout` carries them out, one copy for each backend. It
shares `race` with `hedging/`: copies that run at once and end together. `backends` has `Backend`
and `Answer`.
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
