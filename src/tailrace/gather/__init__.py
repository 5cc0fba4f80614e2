"""Layer 4: one question to several backends, at once.

`query_all` wants every answer, `query_some` those that come in time, `query_each` each as it
comes, `together` does the same for questions of different types, and `Replicas` makes one backend
of several that know the same: the first to answer wins.

One job each: `deadline` (how much time is left), `backends` (what is asked, and what it said),
`race` (copies that run at once, and all end), `queries` and `replicas` (what is made of them).
"""

from __future__ import annotations

from tailrace.gather.backends import Answer, Backend, backend
from tailrace.gather.deadline import remaining
from tailrace.gather.queries import query_all, query_each, query_some, together
from tailrace.gather.replicas import Replicas

__all__ = [
    "Answer",
    "Backend",
    "Replicas",
    "backend",
    "query_all",
    "query_each",
    "query_some",
    "remaining",
    "together",
]
