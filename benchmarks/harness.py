"""What the benchmarks share: peers in fresh processes, interleaved rounds, medians, ratios.

- A *round* runs every competitor once, each in a process of its own (so that one's heap, imports
  and warm caches do not help or hurt the next), in an order that rotates from round to round.
- A figure is the median over the rounds. A ratio is the median of the ratios *within* a round:
  a machine that is slow for a minute is slow for both sides of each ratio.
- A worker times inside its event loop, after a warm-up, and gives the fastest of its passes:
  what else the machine does can only add. It checks its result: a competitor that computes
  something else ends the benchmark.
- A peer that is not installed is named and left out. Without Go the tables have no Go column,
  and that is said at the top and at the bottom.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.golang import SOURCES, GoUnavailableError, build_go, go_version
from benchmarks.report import (
    Block,
    Rounds,
    figure,
    load_warnings,
    machine,
    progress,
    ratio,
    table,
)
from tailrace._core import active

__all__ = [
    "GO",
    "GO_SHARE",
    "OURS",
    "QUEUE",
    "Benchmark",
    "GoProgram",
    "Peer",
    "Timed",
    "chosen",
    "each_capacity",
    "main",
]

QUEUE = "asyncio.Queue"
GO = "Go, GOMAXPROCS=1"
GO_SHARE = 20.0  # Go moves so many times more values than --n, or it would be done in a blink
OURS = GO_SHARE if active == "native" else 1.0  # `share` of tailrace's own rows: likewise
PASSES = 3  # in which a worker moves its n values, after one more to warm up (as in go/)
WORKER_SECONDS = 600.0


@dataclass(frozen=True)
class Timed:
    """What a program returns that times only a part of itself, and has checked its result."""

    nanoseconds: int
    units: int


Program = Callable[[int], Coroutine[Any, Any, int | Timed]]
"""``program(n)`` moves n values and returns what `Benchmark.expected` says it must, or `Timed`."""

Once = Callable[[int], Coroutine[Any, Any, dict[str, float]]]
"""``once(n)`` gives the figures of all columns: it has taken them, and checked the result."""


def each_capacity(
    work: Callable[[int, int], Coroutine[Any, Any, int]], capacities: Iterable[int]
) -> dict[str, Program]:
    """A column for each capacity: ``work(capacity, n)``."""
    return {str(capacity): partial(work, capacity) for capacity in capacities}


@dataclass(frozen=True)
class Peer:
    """One way to do the work in Python."""

    name: str
    programs: Mapping[str, Program] = field(default_factory=dict)  # by column
    once: Once | None = None  # instead of `programs`, for what must be measured cold
    needs: str | None = None  # what it imports; left out where that is not installed
    share: float = 1.0  # of --n: slow ones move fewer values, fast ones more, to take as long
    trio: bool = False  # runs in `trio.run`, not on an asyncio loop

    @property
    def missing(self) -> bool:
        return self.needs is not None and importlib.util.find_spec(self.needs) is None


@dataclass(frozen=True)
class GoProgram:
    """The same in Go: a file in go/, called with n and `arguments`, which prints all columns."""

    source: str
    arguments: tuple[str, ...] = ()
    share: float = GO_SHARE


def _as_many(n: int) -> int:
    return n


@dataclass(frozen=True)
class Benchmark:
    """One comparison: who takes part, and what is counted."""

    key: str  # its name in JSON
    title: str
    unit: str
    columns: tuple[str, ...]
    n: int  # how many values in each pass, unless --n says otherwise
    peers: Sequence[Peer]
    expected: Callable[[int], int] = _as_many  # what programs return for n values
    units: Callable[[int], int] = _as_many  # how many units (hops, events) n values are
    go: GoProgram | None = None
    heading: str = "channel capacity"  # what the columns are
    baselines: tuple[str, ...] = (QUEUE, GO)
    shares: Mapping[str, float] = field(default_factory=dict)  # of n, for columns that are slow
    passes: int = PASSES
    growth: bool = False  # also show each column relative to the first
    fine: int = 0  # decimals of a figure
    note: str = ""

    def count(self, n: int, share: float = 1.0) -> int:
        """How many values a competitor moves; a multiple of 10, so that 60 % is exact."""
        return max(10, int(n * share) // 10 * 10)


@dataclass(frozen=True)
class Competitor:
    """Something that can be run as a process and prints ``{column: figure}`` as JSON."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, float]:
        try:
            done = subprocess.run(
                self.command,
                env={**os.environ, **self.env},
                capture_output=True,
                encoding="utf-8",
                timeout=WORKER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{self.name} took longer than {WORKER_SECONDS:.0f} s") from None
        if done.returncode:
            raise SystemExit(f"{self.name} failed:\n{done.stdout}{done.stderr}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


# --- A worker: one competitor, one round --------------------------------------------------------


async def _timed(program: Program, n: int) -> tuple[int | Timed, int]:
    began = time.perf_counter_ns()
    result = await program(n)
    return result, time.perf_counter_ns() - began


def _run(peer: Peer, uvloop: bool, work: Callable[..., Any], *args: Any) -> Any:
    if peer.trio:
        import trio

        return trio.run(work, *args)
    if uvloop:
        import uvloop as loops

        return loops.run(work(*args))
    return asyncio.run(work(*args))


def _pass(benchmark: Benchmark, peer: Peer, column: str, n: int, uvloop: bool) -> float:
    """One pass: nanoseconds per unit."""
    result, took = _run(peer, uvloop, _timed, peer.programs[column], n)
    if isinstance(result, Timed):
        return result.nanoseconds / result.units
    if result != benchmark.expected(n):
        raise SystemExit(
            f"{peer.name}, {benchmark.heading} {column}: {result}, not "
            f"{benchmark.expected(n)}: it lost or invented values"
        )
    return float(took / benchmark.units(n))


def _work(benchmark: Benchmark, peer: Peer, n: int, uvloop: bool) -> dict[str, float]:
    if peer.once is not None:
        figures: dict[str, float] = _run(peer, uvloop, peer.once, n)
        return figures
    fastest = {}
    for column in peer.programs:
        count = benchmark.count(n, benchmark.shares.get(column, 1.0))
        passes = (
            _pass(benchmark, peer, column, count, uvloop) for _ in range(1 + benchmark.passes)
        )
        fastest[column] = min(passes)
    return fastest


# --- The rounds ---------------------------------------------------------------------------------


def _competitors(
    benchmark: Benchmark, peers: Sequence[Peer], n: int, uvloop: bool, go: Path | None
) -> list[Competitor]:
    found = []
    script = str(Path(sys.argv[0]).resolve())
    for peer in peers:
        command = [sys.executable, script, "--worker", benchmark.key, peer.name]
        command += ["--n", str(benchmark.count(n, peer.share))]
        found.append(Competitor(peer.name, (*command, *(["--uvloop"] if uvloop else []))))
    if go is not None and benchmark.go is not None:
        command = [str(go), str(benchmark.count(n, benchmark.go.share)), *benchmark.go.arguments]
        for threads in ("1", "2"):
            name = f"Go, GOMAXPROCS={threads}"
            found.append(Competitor(name, tuple(command), {"GOMAXPROCS": threads}))
    return found


def _measure(competitors: Sequence[Competitor], rounds: int) -> Rounds:
    measured: Rounds = {each.name: [] for each in competitors}
    for number in range(rounds):
        turn = number % len(competitors)
        for competitor in (*competitors[turn:], *competitors[:turn]):
            progress(f"round {number + 1} of {rounds}: {competitor.name}")
            measured[competitor.name].append(competitor.run())
    progress("")
    return measured


# --- What is shown ------------------------------------------------------------------------------


def _table(benchmark: Benchmark, measured: Rounds) -> str:
    blocks: list[Block] = [(benchmark.unit, benchmark.fine, partial(figure, measured))]
    if benchmark.growth:
        first = benchmark.columns[0]
        blocks.append((f"× {first}", 2, lambda name, c: ratio(measured, name, c, name, first)))
    for baseline in benchmark.baselines:
        if baseline in measured:
            blocks.append((f"× {baseline}", 2, partial(_against, measured, baseline)))
    return table(benchmark.heading, measured, benchmark.columns, blocks)


def _against(measured: Rounds, baseline: str, name: str, column: str) -> float | None:
    return ratio(measured, name, column, baseline)


def _as_json(benchmark: Benchmark, measured: Rounds) -> dict[str, Any]:
    def each(value: Callable[[str, str], float | None]) -> dict[str, dict[str, float | None]]:
        return {name: {c: value(name, c) for c in benchmark.columns} for name in measured}

    return {
        "title": benchmark.title,
        "unit": benchmark.unit,
        "median": each(partial(figure, measured)),
        "ratios": {
            baseline: each(partial(_against, measured, baseline))
            for baseline in benchmark.baselines
        },
        "rounds": measured,
    }


# --- The command --------------------------------------------------------------------------------


def _arguments(benchmarks: Sequence[Benchmark]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="; ".join(each.title for each in benchmarks))
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    defaults = ", ".join(f"{each.n}" for each in benchmarks)
    parser.add_argument("--n", type=int, help=f"values in each pass (default {defaults})")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="comma-separated: those whose name contains one of these, case aside",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--uvloop", action="store_true", help="asyncio's peers run on uvloop")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or (arguments.n is not None and arguments.n < 10):
        parser.error("--rounds must be at least 1, --n at least 10")
    if arguments.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed")
    return arguments


def chosen(name: str, only: str | None) -> bool:
    """Whether ``--only`` means this competitor."""
    return only is None or any(part.strip().lower() in name.lower() for part in only.split(","))


def main(*benchmarks: Benchmark) -> None:
    """Reads the command line and runs the benchmarks of a script, or one worker of one."""
    arguments = _arguments(benchmarks)
    if arguments.worker is not None:
        key, name = arguments.worker
        benchmark = next(each for each in benchmarks if each.key == key)
        peer = next(peer for peer in benchmark.peers if peer.name == name)
        print(json.dumps(_work(benchmark, peer, arguments.n, arguments.uvloop)))
        return
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        _compare(benchmarks, arguments, Path(directory))


def _build(benchmarks: Sequence[Benchmark], into: Path) -> dict[str, Path]:
    """Source → program."""
    sources = {each.go.source for each in benchmarks if each.go is not None}
    return {source: build_go(SOURCES / source, into) for source in sources}


def _compare(
    benchmarks: Sequence[Benchmark], arguments: argparse.Namespace, directory: Path
) -> None:
    wanted = [p for each in benchmarks for p in each.peers if chosen(p.name, arguments.only)]
    missing = {peer.name: peer.needs for peer in wanted if peer.missing}
    warnings = [
        *(f"NOT COMPARED: {name}: {needs} is not installed" for name, needs in missing.items()),
        *load_warnings(),
    ]
    programs: dict[str, Path] = {}
    version = None
    if any(each.go is not None for each in benchmarks):
        version = "left out by --only"
        if chosen("Go", arguments.only):
            try:
                programs = _build(benchmarks, directory)
                version = go_version()
            except GoUnavailableError as error:
                version = "none"
                lack = f"*** NO GO: THERE ARE NO FIGURES FOR GO IN THIS RUN: {error} ***"
                warnings.append(lack)
    packages = {peer.needs for peer in wanted if peer.needs and not peer.missing}
    header = machine(packages, uvloop=arguments.uvloop, go=version)
    for key, value in header.items():
        print(f"{key}: {value}")
    for warning in warnings:
        print(warning)

    results = {}
    for benchmark in benchmarks:
        peers = [peer for peer in benchmark.peers if peer in wanted and not peer.missing]
        n = arguments.n or benchmark.n
        go = programs.get(benchmark.go.source) if benchmark.go is not None else None
        competitors = _competitors(benchmark, peers, n, arguments.uvloop, go)
        if not competitors:
            continue  # --only is for another of the script's benchmarks
        rounds = f"medians of {arguments.rounds} rounds"
        print(f"\n{benchmark.title}: {benchmark.unit}, {rounds}\n", flush=True)
        measured = _measure(competitors, arguments.rounds)
        print(_table(benchmark, measured))
        if benchmark.note:
            print(f"({benchmark.note})")
        results[benchmark.key] = _as_json(benchmark, measured)
    if not results:
        raise SystemExit(f"nobody to run: --only {arguments.only}")
    for warning in warnings:
        print(warning)
    if arguments.json is not None:
        document = {**header, "rounds": arguments.rounds, "benchmarks": results}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        arguments.json.write_text(text, encoding="utf-8")
