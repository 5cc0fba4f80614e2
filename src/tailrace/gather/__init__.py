"""Layer 4: one question to several backends, at once.

`query_all` wants every answer, `query_some` those that come in time, `query_each` each as it
comes, `together` does the same for questions of different types. `Replicas` makes one backend of
several that know the same, of which the first to answer wins; `Hedged` does so at hardly more than
the price of one.

One job each: `deadline` (how much time is left), `backends` (what is asked, and what it said),
`race` (copies that run at once, and all end), `tally` (one for each backend, counted), `queries`
and `replicas` (what is made of that). Of `Hedged`: `hedged` (the public side), `copies` (the race
of one query), `pool` (what all queries share), and its parts: `replica` (one backend), `balance`
(whom to ask), `eject` (whom not to), `budget` (how often), `sketch` and `tuning` (when), `schedule`
(one timer for all), `statistics`.
"""

from __future__ import annotations

from tailrace.gather.backends import Answer, Backend, backend
from tailrace.gather.deadline import remaining
from tailrace.gather.eject import Eject
from tailrace.gather.hedged import Hedged, hedged
from tailrace.gather.queries import query_all, query_each, query_some, together
from tailrace.gather.replicas import Replicas
from tailrace.gather.statistics import BackendStatistics, HedgedStatistics

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
