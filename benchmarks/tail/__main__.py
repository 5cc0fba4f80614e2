"""What hedging does to the tail, in virtual time, and what it costs.

    python -m benchmarks.tail [--seeds 5] [--queries 20000] [--only NAMES] [--quick]
                              [--json FILE] [--plots DIR] [--from FILES]

It is the real `Replicas`, `Hedged` and `query_all` that are asked, on the event loop of
`tailrace.testing`; only the backends are made up. A figure is the mean of those of all seeds, with
half the width of its 95 % confidence interval (Student's t). *extra* is how many more requests
than queries reached a backend, *work* how much more time the backends spent than on the first
copies alone, both in per cent: a straggler that is cancelled saves work.

``--only`` names experiments: talk, alone, queueing, sweep, slowdown, fan-out. ``--quick`` is one
seed of few queries, to see that it runs. ``--json`` keeps all figures, ``--plots`` draws them
(matplotlib, of the extra `bench`) and ``--from`` draws what was kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import chosen
from benchmarks.report import machine
from benchmarks.tail import alone, queueing, talk
from benchmarks.tail.load import Goal, Table

Found = tuple[list[Table], list[Goal]]

EXPERIMENTS: dict[str, Callable[[int, int], Found]] = {
    "talk": lambda seeds, queries: talk.run(seeds, queries // 2),
    "alone": lambda seeds, queries: alone.run(seeds, queries * 3 // 2),
    "queueing": queueing.run,
    "sweep": lambda seeds, queries: queueing.run_sweep(seeds, queries * 2 // 5),
    "slowdown": queueing.run_slowdown,
    "fan-out": queueing.run_fan_out,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="simulations of Replicas and Hedged")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=20_000, help="for each seed, about")
    parser.add_argument("--only", help="parts of names, comma-separated")
    parser.add_argument("--quick", action="store_true", help="one seed of 1000 queries")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR")
    parser.add_argument("--from", dest="kept", type=Path, metavar="FILES", nargs="+")
    args = parser.parse_args()
    seeds, queries = (1, 1000) if args.quick else (args.seeds, args.queries)
    tables: list[Table] = []
    goals: list[Goal] = []
    if args.kept:
        for path in args.kept:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            tables += [Table(**each) for each in kept["tables"]]
            goals += [Goal(**each) for each in kept["goals"]]
        print(*tables, sep="\n\n")
    else:
        for name, value in machine((), uvloop=False, go=None).items():
            print(f"{name:14} {value}")
        print(f"{'seeds':14} {seeds}, of about {queries} queries")
        for name, experiment in EXPERIMENTS.items():
            if not chosen(name, args.only):
                continue
            began = time.perf_counter()
            more_tables, more_goals = experiment(seeds, queries)
            tables += more_tables
            goals += more_goals
            print(*("", *more_tables), sep="\n\n")
            print(f"({name} took {time.perf_counter() - began:.0f} s)", flush=True)
    print()
    print(*goals, sep="\n")
    if args.json:
        kept = {
            "seeds": seeds,
            "queries": queries,
            "tables": [asdict(table) for table in tables],
            "goals": [asdict(goal) for goal in goals],
        }
        args.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    if args.plots:
        from benchmarks.tail import plots

        for path in plots.draw({table.key: table for table in tables}, args.plots):
            print(f"drawn: {path}")
    return 0 if args.quick or all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
