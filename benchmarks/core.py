"""All benchmarks of the core in one go, and whether its goals are met.

    python benchmarks/core.py [--rounds 5] [--uvloop] [--json FOLDER] [SCRIPT...]

Runs relay, talk_pipeline, spawn, selects, threads, sieve and scale, or those that are named,
against the peers that the goals are about (run a script by itself for all of its peers). Closes
with one table: each goal, the ratio that was measured, and whether that is enough. A goal that is
missed is information and no error; a script that fails is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import GO, QUEUE
from benchmarks.report import Rounds, ratio

SCRIPTS = ("relay", "talk_pipeline", "spawn", "selects", "threads", "sieve", "scale")
PEERS = "tailrace,asyncio.,culsans,Go"
ACTORS, TASKS = "tailrace, actors", "tailrace, plain tasks"
MANY = "tailrace, send_many/recv_many(64)"
TO_LOOP = "tailrace, thread to actor"


@dataclass(frozen=True)
class Goal:
    """At most `limit` times what the baseline takes, in the same column."""

    text: str
    limit: float
    baseline: str
    benchmark: str  # its key
    column: str
    peer: str = ACTORS


GOALS = (
    Goal("unbuffered hop", 1.1, GO, "relay", "0"),
    Goal("hop at capacity 1", 1.35, GO, "relay", "1"),
    Goal("buffered hop (64), per value", 3.0, GO, "relay", "64"),
    Goal("the same, send_many/recv_many", 1.0, GO, "relay", "64", MANY),
    Goal("the talk's pipeline, unbuffered", 1.0, GO, "talk_pipeline", "0"),
    Goal("100 000 actors that park: time", 1.2, GO, "spawn", "start"),
    Goal("100 000 actors that park: memory", 0.35, GO, "spawn", "bytes"),
    Goal("uncontended select", 4.0, GO, "selects", "uncontended"),
    Goal("thread to loop, capacity 100", 0.5, "culsans", "thread_to_loop", "100", TO_LOOP),
    Goal("plain asyncio.Task, unbuffered hop", 0.2, f"{QUEUE}(1)", "relay", "0", TASKS),
    Goal("plain asyncio.Task, hop at capacity 1", 0.2, f"{QUEUE}(1)", "relay", "1", TASKS),
    Goal("prime sieve", 1.3, GO, "sieve", "0"),
)


def run(script: str, rounds: int, uvloop: bool, folder: Path) -> dict[str, Any] | None:
    """Runs a script; returns what it wrote as JSON, or None if it failed."""
    file, written = Path(__file__).with_name(f"{script}.py"), folder / f"{script}.json"
    command = [sys.executable, str(file), "--rounds", str(rounds), "--only", PEERS]
    command += ["--json", str(written), *(["--uvloop"] if uvloop else [])]
    print(f"== {script}", flush=True)
    failed = subprocess.run(command, check=False).returncode
    print(flush=True)
    if failed:
        return None
    document: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return document


def rounds_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Rounds]:
    """The rounds of each benchmark, by its key, of what scripts wrote as JSON."""
    return {key: found["rounds"] for each in documents for key, found in each["benchmarks"].items()}


def reached(goal: Goal, measured: Mapping[str, Rounds]) -> float | None:
    """The ratio that the goal limits; None if it was not measured."""
    # An asyncio.Queue has one place where the others have none: its column 0 is a Queue(1).
    baseline = QUEUE if goal.baseline.startswith(QUEUE) else goal.baseline
    return ratio(measured.get(goal.benchmark, {}), goal.peer, goal.column, baseline)


def summary(documents: list[dict[str, Any]]) -> str:
    """What it ran on, and a line for each goal."""
    measured = rounds_of(documents)
    header = {key: value for each in documents for key, value in each.items()}
    lines = [f"{key}: {header.get(key, '–')}" for key in ("tailrace core", "python", "go")]
    wide = max(len(goal.text) for goal in GOALS)
    lines += ["", f"{'goal':{wide}} │{'at most':>27} │ measured │"]
    lines.append("─" * wide + "─┼" + "─" * 28 + "┼" + "─" * 10 + "┼" + "─" * 9)
    for goal in GOALS:
        value = reached(goal, measured)
        limit = f"{goal.limit:.2f} × {goal.baseline}"
        if value is None:
            said, verdict = "–", "not run"
        else:
            said, verdict = f"{value:.2f} ×", "ok" if value <= goal.limit else "not ok"
        lines.append(f"{goal.text:{wide}} │{limit:>27} │{said:>9} │ {verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks of the core, and its goals.")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    parser.add_argument("--uvloop", action="store_true", help="asyncio's peers run on uvloop")
    parser.add_argument("--json", metavar="FOLDER", type=Path, help="keep all figures there")
    asked = parser.parse_args()
    if unknown := set(asked.scripts) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    scripts = asked.scripts or SCRIPTS
    with ExitStack() as stack:
        if asked.json is None:
            temporary = tempfile.TemporaryDirectory(prefix="tailrace-bench-")
            folder = Path(stack.enter_context(temporary))
        else:
            folder = asked.json
            folder.mkdir(parents=True, exist_ok=True)
        found = {each: run(each, asked.rounds, asked.uvloop, folder) for each in scripts}
    documents = [document for document in found.values() if document is not None]
    print(f"== The goals, medians of {asked.rounds} rounds")
    print(summary(documents))
    if failed := [script for script, document in found.items() if document is None]:
        raise SystemExit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
