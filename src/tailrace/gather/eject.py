"""When a backend that fails is left alone, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["Eject", "Health"]

MEMORY: Final = 0.05  # weight of the newest query in the success rate
FINE: Final = 0.999
ENOUGH: Final = 20  # queries before the success rate means anything


@dataclass(frozen=True, slots=True)
class Eject:
    """Leave a backend alone after `failures` in a row, or when less than `success_rate` succeed.

    For `seconds` at first, twice as long each time it fails again when it is tried, at most
    `longest`. It is tried by one query at a time. Never more than half of the backends are left
    alone at once. A failure that is `fatal` says nothing against the backend.
    """

    failures: int = 5
    success_rate: float = 0.0
    seconds: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"Eject: failures={self.failures} is less than 1")
        if not 0 <= self.success_rate < 1:
            raise ValueError(f"Eject: success_rate={self.success_rate} is not in [0, 1)")
        if not 0 < self.seconds <= self.longest:
            raise ValueError(
                f"Eject: seconds={self.seconds} is not above 0 and at most longest={self.longest}"
            )


class Health:
    """What one backend's answers and failures say. Who asks decides whether to eject it."""

    __slots__ = ("_rate", "_rule", "_seen", "_streak", "_times", "blemished", "out_until", "trying")

    def __init__(self, rule: Eject) -> None:
        self._rule = rule
        self.out_until = -math.inf
        self._clear()

    def _clear(self) -> None:
        self.blemished = False  # whether an answer would mend anything
        self.trying = False  # a query is finding out whether it is back
        self._streak = 0  # failures in a row
        self._rate = 1.0  # of success, of late
        self._seen = 0  # since it was last without blemish
        self._times = 0  # ejected without having answered since

    @property
    def suspect(self) -> bool:
        """Whether it has not answered since it was ejected."""
        return self._times > 0

    def good(self) -> None:
        """It has answered."""
        self._streak = 0
        self._seen += 1
        self._rate += MEMORY * (1 - self._rate)
        if self.suspect or self._rate > FINE:
            self._clear()

    def bad(self) -> bool:
        """It has failed; whether it should be ejected."""
        self.blemished = True
        self.trying = False
        self._streak += 1
        self._seen += 1
        self._rate -= MEMORY * self._rate
        return (
            self.suspect
            or self._streak >= self._rule.failures
            or (self._seen >= ENOUGH and self._rate < self._rule.success_rate)
        )

    def eject(self, now: float) -> None:
        """Leave it alone from now on, for longer than the last time."""
        rule = self._rule
        self.out_until = now + min(rule.longest, rule.seconds * 2.0 ** min(self._times, 60))
        self._times += 1

    def usable(self, now: float) -> bool:
        """Whether it may be asked: not while it is left alone, nor while another tries it."""
        return now >= self.out_until and not (self._times and self.trying)
