"""`Replicas`: several backends that know the same, as one."""

from __future__ import annotations

from typing import Generic, TypeVar

from tailrace.gather.backends import Backend, check, label
from tailrace.gather.race import Race, factories

__all__ = ["Replicas"]

Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Replicas(Generic[Q_contra, R_co]):
    """Several backends that know the same, as one: all are asked, the first answer wins.

    The losers are cancelled and awaited before `query` returns; a failure never beats an answer.
    When all fail: ExceptionGroup of the failures, each with a note that names its backend.
    Cancelled: as for `query_all`. It is a `Backend` itself, so it nests.
    """

    def __init__(self, *backends: Backend[Q_contra, R_co], name: str = "") -> None:
        check("Replicas", backends)
        self.backends = backends
        self.name = name

    async def query(self, query: Q_contra, /) -> R_co:
        """The first answer."""
        async with Race("Replicas", factories("Replicas", query, self.backends)) as race:
            answer = await race.arrival()
            while answer is not None and not answer.ok:
                answer = await race.arrival()
        if answer is None:
            raise ExceptionGroup(f"all {len(self.backends)} replicas failed", race.errors())
        return answer.value

    def __repr__(self) -> str:
        names = ", ".join(label(b) for b in self.backends)
        return f"Replicas({names}{f', name={self.name!r}' if self.name else ''})"
