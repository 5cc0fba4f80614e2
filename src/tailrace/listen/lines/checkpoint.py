"""How far an import has come, kept in a file that is replaced atomically.

What it says is exact after any kill: every line before `offset` is settled, and is either counted
by its outcome or listed in `again`, to be read once more. Lines after `offset` that were settled
before a kill are read once more too; their ids make them repeats.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tailrace.listen.lines.files import Identity

__all__ = ["Checkpoint", "Progress", "save"]

VERSION: Final = 1


@dataclass(slots=True)
class Progress:
    """How far one file was read. `name` and `generation` are what the ids of its lines begin with:
    another file under the same name has the next generation."""

    name: str
    generation: int
    identity: Identity | None
    offset: int = 0
    number: int = 1  # of the line at `offset`
    again: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Offset and number of lines before `offset` that failed or were lost."""
    end: int | None = None
    """Where the file ended, once another has its name and it was read to its end."""

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to be read."""
        return self.end is not None and self.offset >= self.end and not self.again


@dataclass(slots=True)
class Checkpoint:
    """The files of an import, the oldest generation first, and its outcomes so far."""

    files: list[Progress] = field(default_factory=list[Progress])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def latest(self, name: str) -> Progress | None:
        """The newest generation of `name`."""
        return next((file for file in reversed(self.files) if file.name == name), None)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read it; an empty one if there is no such file. ValueError for a file that is none."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        try:
            kept = json.loads(text)
            if kept["version"] != VERSION:
                raise ValueError(f"it is of version {kept['version']!r}")
            return cls([_progress(file) for file in kept["files"]], dict(kept["counts"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is no checkpoint of read_lines: {error!r}; give another path, or remove "
                f"the file to begin anew"
            ) from error

    def text(self) -> str:
        """It as JSON, to be given to `save`; files that are over are forgotten."""
        self.files = [f for f in self.files if not f.over or f is self.latest(f.name)]
        kept = {"version": VERSION, "counts": self.counts, "files": [asdict(f) for f in self.files]}
        return json.dumps(kept, indent=1)


def _progress(kept: dict[str, Any]) -> Progress:
    identity = kept.pop("identity")
    again = [(int(offset), int(number)) for offset, number in kept.pop("again")]
    return Progress(**kept, identity=identity and Identity(**identity), again=again)


def save(path: Path, text: str) -> None:
    """Replace the file at `path`, so that it holds either the old text or the new, on disk."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
