"""Layer 0: `Account`: what became of the messages that the sources of a group let in."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Account"]


class Account(NamedTuple):
    """How many messages the sources of a group have let in, and what became of them.

    `entered` is the sum of the others. `open` messages are not settled yet. `str(account)` is
    ``"46 in: 27 stored, 19 aborted"``, without what is zero.
    """

    entered: int
    stored: int
    aborted: int
    rejected: int
    dead: int
    failed: int
    lost: int
    open: int

    def __str__(self) -> str:
        counts = zip(self._fields[1:], self[1:], strict=True)
        shown = ", ".join(f"{count} {name}" for name, count in counts if count)
        return f"{self.entered} in" + (f": {shown}" if shown else "")
