"""`Replicas`: several backends that know the same, as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from tailrace.gather.backends import Backend, check, label
from tailrace.gather.fanout import FanOut, ask_with
from tailrace.gather.race import close

__all__ = ["Replicas"]

Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Replicas(Generic[Q_contra, R_co]):
    """Several backends that know the same, as one: all are asked, the first answer wins.

    The losers are cancelled and awaited before `query` returns; a failure never beats an answer.
    When all fail: ExceptionGroup of the failures, each with a note that names its backend.
    `dispose`, plain or async, is called with each further answer; by default an answer is closed
    if it has an ``aclose()`` or ``close()``. Cancelled: as for `query_all`. A `Replicas` is a
    `Backend` itself, so it nests.
    """

    def __init__(
        self,
        *backends: Backend[Q_contra, R_co],
        dispose: Callable[[R_co], object] = close,
        name: str = "",
    ) -> None:
        check("Replicas", backends)
        self._dispose = dispose
        self.backends = backends
        self.name = name

    async def query(self, query: Q_contra, /) -> R_co:
        """The first answer."""
        ask, tolerated = ask_with(query), len(self.backends) - 1
        race: FanOut[Backend[Q_contra, R_co], R_co] = FanOut(
            "Replicas", self.backends, ask, needed=1, tolerated=tolerated, dispose=self._dispose
        )
        await race.run()
        if race.winner is None:
            raise ExceptionGroup(f"all {len(self.backends)} replicas failed", race.errors())
        return race.winner.result()

    def __repr__(self) -> str:
        names = ", ".join(label(b) for b in self.backends)
        return f"Replicas({names}{f', name={self.name!r}' if self.name else ''})"
