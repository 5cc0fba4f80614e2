"""A command in a session of its own: when it ends, or its time is over, nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Its exit code; None if it was ended because its time was over."""
    output: str
    """What it printed, to both of its streams."""


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    seconds: float | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Ended:
    """Run `command` for at most `seconds` (None: without a limit), with nothing to read.

    Processes that it has started are ended with it, unless they left its session. `log` is the
    file for its output, which is there while the command runs.
    """
    with ExitStack() as stack:
        # A file and not a pipe: a process that left the session could keep a pipe open.
        path = log or Path(stack.enter_context(tempfile.TemporaryDirectory()), "output")
        with path.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_all(process)
        return Ended(code, path.read_text(errors="replace"))


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """End the leader of a session and every process that it has left there."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
