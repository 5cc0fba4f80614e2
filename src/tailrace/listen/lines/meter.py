"""Shows how far an import has come: a bar on a terminal (by rich), else a line every 10 s."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

__all__ = ["Meter", "Style", "check_style", "meter"]

Style: TypeAlias = Literal["auto", "bar", "lines", "off"]

EVERY: Final = 10.0  # seconds between two lines


class Meter(Protocol):
    """Shows progress."""

    def show(self, lines: int, read: int) -> None:
        """So many lines are settled; so many bytes were read."""
        ...

    def close(self) -> None:
        """The import has ended, or was stopped."""
        ...


def check_style(style: Style) -> Style:
    """`style` itself. ValueError if it is no style."""
    if style not in get_args(Style):
        raise ValueError(f"read_lines: progress={style!r} is none of {get_args(Style)}")
    return style


def meter(style: Style, name: str, total: int | None) -> Meter:
    """A meter for an import of `total` bytes, if that is known. ImportError for "bar" without
    rich."""
    if style == "off":
        return Silent()
    if style == "bar" or (style == "auto" and sys.stderr.isatty()):
        try:
            return Bar(name, total)
        except ImportError:
            if style == "bar":
                raise
    return Lines(name, total)


class Silent:
    """Shows nothing."""

    def show(self, lines: int, read: int) -> None:
        """See `Meter`."""

    def close(self) -> None:
        """See `Meter`."""


class Lines:
    """Writes a line to stderr every ten seconds."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._began = time.monotonic()
        self._due = self._began + EVERY
        self._first: tuple[int, int] | None = None

    def show(self, lines: int, read: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = lines, read
        if now < self._due:
            return
        self._due = now + EVERY
        seconds = now - self._began
        rate = (lines - self._first[0]) / seconds
        text = f"{self._name}: {lines:,} lines, {rate:,.0f} a second"
        speed = (read - self._first[1]) / seconds
        if self._total:
            text += f", {min(read / self._total, 1):.0%}"
        if self._total and speed > 0:
            text += f", {max(self._total - read, 0) / speed:,.0f} s left"
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """A bar with rate and time left."""

    def __init__(self, name: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
        columns += [TextColumn("{task.fields[lines]:,} lines"), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._task = self._progress.add_task(Path(name).name, total=total, lines=0)
        self._progress.start()

    def show(self, lines: int, read: int) -> None:
        self._progress.update(self._task, completed=read, lines=lines)

    def close(self) -> None:
        self._progress.stop()
