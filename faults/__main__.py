"""The command: ``python -m faults [--only NAMES] [--runs N]``, or ``make faults``."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Protocol

from faults.kill import kill_postgres, kill_sqlite
from faults.report import Row, as_table, measured


class Scenario(Protocol):
    """Makes its fault `runs` times, in an empty folder, and fills in the row."""

    def __call__(self, row: Row, *, runs: int, folder: Path) -> None:
        """Raise nothing for a broken promise: say it by `Row.check`."""


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "kill, SQLite": (kill_sqlite, 100),
    "kill, PostgreSQL": (kill_postgres, 100),
}
"""What each name runs, and how often unless ``--runs`` says otherwise."""


def run(only: list[str], runs: int | None, folder: Path) -> list[Row]:
    """The rows of the scenarios whose names contain one of `only`, or of all."""
    rows = []
    for name, (scenario, usual) in SCENARIOS.items():
        if only and not any(part in name for part in only):
            continue
        times = usual if runs is None else runs
        rows.append(measured(name, partial(scenario, runs=times, folder=folder)))
    return rows


def main() -> int:
    """Run what was asked for, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="faults", description="make faults, count what they cost")
    names = "; ".join(SCENARIOS)
    parser.add_argument("--only", default="", help=f"names, or parts of them, with commas: {names}")
    parser.add_argument("--runs", type=int, help="how often each scenario makes its fault")
    asked = parser.parse_args()
    only = [part.strip() for part in asked.only.split(",") if part.strip()]
    with tempfile.TemporaryDirectory(prefix="tailrace-faults-") as folder:
        rows = run(only, asked.runs, Path(folder))
    if not rows:
        parser.error(f"--only {asked.only!r} names no scenario; there are: {names}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"commit {commit or 'unknown'}, Python {platform.python_version()}")
    print(as_table(rows))
    return any(row.verdict() == "FAILED" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
