"""`Hedged`: one query to one of several backends, and a second copy of it when that pays.

Begin with `hedged`, the public side, and `copies`, the race of one query. All queries share a
`pool` (budget, timer, counters) of backends (`replica`: load, health, and the choice of one);
`delay` decides when another copy is sent; `statistics` reports.
"""

from __future__ import annotations

from tailrace.gather.hedging.hedged import Hedged, HedgedFunction, hedged
from tailrace.gather.hedging.replica import Eject
from tailrace.gather.hedging.statistics import BackendStatistics, HedgedStatistics

__all__ = ["BackendStatistics", "Eject", "Hedged", "HedgedFunction", "HedgedStatistics", "hedged"]
