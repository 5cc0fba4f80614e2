"""What is made of the rounds: medians, ratios within a round, tables, and what they ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import median

from tailrace._core import active

__all__ = [
    "Block",
    "Rounds",
    "cpu_name",
    "figure",
    "load_warnings",
    "machine",
    "progress",
    "ratio",
    "table",
]

Rounds = dict[str, list[dict[str, float]]]
"""Competitor → for each round, column → figure."""

Block = tuple[str, int, Callable[[str, str], float | None]]
"""A part of a table: its title, its decimals, and its value for a competitor and a column."""


def figure(measured: Rounds, name: str, column: str) -> float | None:
    """The median over the rounds."""
    figures = [each[column] for each in measured[name] if column in each]
    return median(figures) if figures else None


def ratio(
    measured: Rounds, name: str, column: str, baseline: str, its_column: str | None = None
) -> float | None:
    """The median of the ratios within each round; the baseline's column may be another."""
    below = column if its_column is None else its_column
    ratios = [
        ours[column] / theirs[below]
        for ours, theirs in zip(measured.get(name, ()), measured.get(baseline, ()), strict=False)
        if column in ours and below in theirs
    ]
    return median(ratios) if ratios else None


# --- The table ----------------------------------------------------------------------------------


def _cell(value: float | None, fine: int) -> str:
    """The number with `fine` decimals, fewer where it is large."""
    if value is None:
        return "–"
    return f"{value:.{fine if value < 10 else min(fine, 1) if value < 100 else 0}f}"


def table(
    heading: str, names: Collection[str], columns: Sequence[str], blocks: Sequence[Block]
) -> str:
    """A row for each name, a group of columns for each block."""
    narrow = max(7, *(len(column) + 2 for column in columns))
    titles = [title for title, _, _ in blocks]
    head = "".join(f"{column:>{narrow}}" for column in columns)
    rows = [("", titles), (heading, [head] * len(blocks))]
    for name in names:
        cells = [[_cell(value(name, c), fine) for c in columns] for _, fine, value in blocks]
        rows.append((name, ["".join(f"{cell:>{narrow}}" for cell in block) for block in cells]))
    wide = max(len(name) for name, _ in rows)
    widths = [max(len(title) + 1, narrow * len(columns)) for title in titles]
    lines = [
        f"{name:{wide}}" + "".join(f" │{b:>{w}}" for b, w in zip(parts, widths, strict=True))
        for name, parts in rows
    ]
    lines.insert(2, "─" * wide + "".join("─┼" + "─" * width for width in widths))
    return "\n".join(lines)


def progress(text: str) -> None:
    """One line on a terminal, overwritten by the next."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# --- The machine --------------------------------------------------------------------------------


def cpu_name() -> str:
    """What the machine calls its processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def load_warnings() -> list[str]:
    """A line to be shown when others use this machine."""
    load = os.getloadavg()[0]
    if load <= (os.cpu_count() or 1) / 2:
        return []
    return [f"THE MACHINE IS BUSY (load {load:.1f}): more --rounds, or another time"]


def machine(packages: Collection[str], *, uvloop: bool, go: str | None) -> dict[str, str]:
    """What a run depended on: the core, the versions, the processor."""
    needed = sorted({*packages, *(["uvloop"] if uvloop else [])})
    versions = [f"{package} {importlib.metadata.version(package)}" for package in needed]
    return {
        "tailrace core": f"{active} (TAILRACE_CORE={os.environ.get('TAILRACE_CORE', 'auto')})",
        "python": f"{platform.python_implementation()} {platform.python_version()}"
        f" on {'uvloop' if uvloop else 'asyncio'}",
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        **({} if go is None else {"go": go}),
        "peers": ", ".join(versions) or "none that would need installing",
    }
