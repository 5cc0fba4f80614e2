"""The program as a child process, and its memory."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from faults.program import Options

__all__ = ["Process", "adds_up", "serving", "watched"]

MiB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[1]


class Process:
    """A running program. `port` is None if it was ended before it listened."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.port: int | None = None
        self._log = log
        self._killed = False

    async def ready(self) -> None:
        """Return when it listens. RuntimeError if it ends before."""
        assert self.process.stdout is not None
        url = (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode().strip()
        if not url.startswith("http"):
            raise RuntimeError(f"the program did not start: {self.errors()[-2000:]}")
        self.port = int(url.rpartition(":")[2])

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.process.returncode is None and not self._killed:
            self._killed = True  # a second signal might reap it before asyncio does
            self.process.kill()

    async def end(self, seconds: float) -> int:
        """Send SIGTERM, and return the exit code. TimeoutError after `seconds`."""
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def account(self) -> dict[str, int]:
        """What the program counted, after its end."""
        assert self.process.stdout is not None
        found: dict[str, int] = json.loads(await self.process.stdout.read())
        return found

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text(errors="replace")

    def rss(self) -> float:
        """Resident memory in MiB; 0 when it has ended."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0.0
        return int(pages) * resource.getpagesize() / MiB


def adds_up(account: dict[str, int]) -> bool:
    """Whether what entered is what became of it, and nothing is open."""
    parts = dict(account)
    entered = parts.pop("entered")
    return entered == sum(parts.values()) and parts["open"] == 0


@asynccontextmanager
async def serving(options: Options, *, wait: bool = True) -> AsyncIterator[Process]:
    """The program for the length of the block, at whose end it is killed if it still runs."""
    with tempfile.NamedTemporaryFile(prefix="tailrace-faults-", suffix=".log") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "faults.program", json.dumps(asdict(options))),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        program = Process(process, Path(log.name))
        try:
            if wait:
                await program.ready()
            yield program
        finally:
            program.kill()
            await process.wait()


@asynccontextmanager
async def watched(program: Process) -> AsyncIterator[list[float]]:
    """A list whose only member is, after the block, the most memory (MiB) that was in use."""
    peak = [program.rss()]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.02)
            peak[0] = max(peak[0], program.rss())

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
