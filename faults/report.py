"""The table that a run ends with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Row", "as_table", "measured"]

HEADS = ("scenario", "runs", "acked", "missing", "doubled", "account", "RSS", "seconds", "")


@dataclass
class Row:
    """One scenario. A figure that the scenario does not take is None.

    `acknowledged`: how many messages were reported stored. `missing`: how many of these are not in
    the table with the values that were reported. `doubled`: rows that are there twice. `account`:
    whether `Group.account` added up. `rss`: MiB above idle, at most. `stamps`: repeats whose
    answer showed the stamp of their own attempt, and not that of the row. `notes`: further figures.
    """

    scenario: str
    runs: int = 0
    acknowledged: int | None = None
    missing: int | None = None
    doubled: int | None = None
    account: bool | None = None
    rss: float | None = None
    seconds: float = 0.0
    stamps: int = 0
    notes: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])
    skipped: str = ""

    def check(self, holds: bool, failure: str) -> None:
        """Note `failure` if a promise does not hold."""
        if not holds and failure not in self.failures:
            self.failures.append(failure)

    def verdict(self) -> str:
        """ok, FAILED or SKIPPED."""
        if self.missing:
            self.check(False, f"{self.missing} acknowledged rows are missing")
        if self.doubled:
            self.check(False, f"{self.doubled} rows are doubled")
        self.check(self.account is not False, "the account does not add up")
        return "FAILED" if self.failures else "SKIPPED" if self.skipped else "ok"


def measured(scenario: str, run: Callable[[Row], None]) -> Row:
    """The row of `run`, which fills it in; an exception is a failure."""
    row, began = Row(scenario), time.monotonic()
    print(f"{scenario} …", file=sys.stderr, flush=True)
    try:
        run(row)
    except Exception as error:  # a scenario that breaks must not hide the table of the others
        row.failures.append(f"{type(error).__name__}: {error}")
    row.seconds = time.monotonic() - began
    return row


def as_table(rows: Sequence[Row]) -> str:
    """`rows` as text: a line each, then what failed, was skipped or is to be added."""
    lines = [HEADS] + [_cells(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    text = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0], cells[-1] = line[0].ljust(widths[0]), line[-1]
        text.append("  ".join(cells).rstrip())
    for row in rows:
        said = [*(f"FAILED: {failure}" for failure in row.failures), *row.notes]
        if row.stamps:
            said.append(f"{row.stamps} repeats were answered with their own stamp, not the row's")
        said += [f"SKIPPED: {row.skipped}"] if row.skipped else []
        text += [f"{row.scenario}: {line}" for line in said]
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = row.verdict()
    account = {None: "-", True: "adds up", False: "WRONG"}[row.account]
    counts = (row.acknowledged, row.missing, row.doubled)
    return (
        row.scenario,
        str(row.runs),
        *("-" if count is None else str(count) for count in counts),
        account,
        "-" if row.rss is None else f"{row.rss:.0f} MiB",
        f"{row.seconds:.1f}",
        verdict,
    )
