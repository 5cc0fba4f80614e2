"""How many more copies may be sent: a token bucket that is fed by queries, never by the clock.

Overload brings no more queries in, so it cannot pay for more copies: what a clock feeds would.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Budget"]

BURST: Final = 50.0  # copies at once; with fewer, chance alone would often empty the bucket
ALMOST: Final = 1 - 1e-9  # twenty times 0.05 is a little less than one


class Budget:
    """`rate` copies for each query.

    It begins empty where nothing is hedged at first, so that the total never passes the budget;
    `full` where something may be, or a first slow query would go unhelped.
    """

    __slots__ = ("_denied_before", "_fed", "_rate", "_size", "_tokens", "_wanted", "denied")

    def __init__(self, rate: float, *, full: bool) -> None:
        self._rate = rate
        self._size = max(BURST, rate) if rate > 0 else 0.0
        self._tokens = self._size if full else 0.0
        self._fed = 0  # by how many queries
        self.denied = 0
        self._wanted = 0  # since `paid_share` was last asked
        self._denied_before = 0

    def take(self, queries: int) -> bool:
        """Whether a copy may be sent, after so many queries; it is paid for then."""
        if queries > self._fed:
            self._tokens = min(self._tokens + self._rate * (queries - self._fed), self._size)
            self._fed = queries
        self._wanted += 1
        if self._tokens < ALMOST:
            self.denied += 1
            return False
        self._tokens -= 1
        return True

    def paid_share(self) -> float:
        """Which part of the copies wanted since this was last asked was paid for.

        Stragglers come one by one, and then it is nearly 1. It is less when they come in bursts:
        then the backends are slow together, and what more is asked of them makes them slower.
        """
        wanted, denied = self._wanted, self.denied - self._denied_before
        self._wanted, self._denied_before = 0, self.denied
        return 1 - denied / wanted if wanted else 1.0

    def give_back(self) -> None:
        """A copy that was paid for was never asked."""
        self._tokens = min(self._tokens + 1, self._size)
