"""`Hedged`: one query to one of several backends, and a second copy of it when that pays.

Begin with `hedged`, the public side, and `copies`, the race of one query. All queries share a
`pool` (budget, timer, counters) of backends (`replica`: load, health, and the choice of one).
`delay` chooses the policy: a delay and a probability. `HedgedRace.start` in `copies` throws the die
and schedules (a delay of 0: sends at once); `HedgedRace.due` sends another copy if the race is not
over, fewer than `max_copies` were sent, and `Budget.take` in `pool` pays. `statistics` reports.
"""

from __future__ import annotations

from tailrace.gather.hedging.hedged import Hedged, HedgedFunction, hedged
from tailrace.gather.hedging.replica import Eject
from tailrace.gather.hedging.statistics import BackendStatistics, HedgedStatistics

__all__ = ["BackendStatistics", "Eject", "Hedged", "HedgedFunction", "HedgedStatistics", "hedged"]
