"""The talk's last program as an HTTP service: requests per second, and how long one takes.

    python benchmarks/talk_http.py [--rounds 5] [--seconds 4] [--connections 64] [--only NAMES]
                                   [--kinds get,post] [--json FILE]

Two kinds of request, each as real clients send them, no two alike:

- get: ``GET /incoming?data=…``, with headers that vary (tracing, request ids, user agents).
- post: ``POST /orders``, a JSON body of a typed struct, a token and an Idempotency-Key.

Each goes through Listen → Filter → Enrich → Store, unbuffered, before it is answered. Competitors
(``http_programs.py``), each a process of its own, one at a time, in an order that rotates:

- Go: the same program with net/http and encoding/json, in memory, on all cores
  (``go/talk_http.go``).
- tailrace: `HttpServer` and its actors, in memory, on one core, on uvloop; on plain asyncio; with
  the Python core; as an ASGI application carried by uvicorn.
- tailrace, SQLite: each 200 says that the row is on disk (WAL, synchronous=FULL).
- FastAPI, in uvicorn and in Granian, in memory; and on aiosqlite, durable in the same way, with a
  commit for each request, and with a group commit written by hand.

The load comes from the same machine (``go/load_http.go``). Figures are medians over the rounds,
ratios medians of the ratios within a round. What is answered is checked before each run, and any
answer that is not 200 during it ends the benchmark. With two cores the load takes what Go's server
could use: the column "load" says how much of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.golang import SOURCES, GoUnavailableError, build_go, go_version
from benchmarks.harness import chosen
from benchmarks.http_programs import PROGRAMS, TOKEN
from benchmarks.report import cpu_name, machine, progress

GO = "Go"
KINDS = ("get", "post")
FIGURES = ("rate", "p50", "p99")

GOALS: tuple[tuple[str, str, str, str, Callable[[float], bool], str], ...] = (
    ("get", "tailrace", "rate", GO, lambda r: r >= 1.1, "≥ 1.1"),
    ("get", "tailrace", "p99", GO, lambda r: r <= 1.0, "≤ 1.0"),
    ("post", "tailrace", "rate", GO, lambda r: r >= 1.1, "≥ 1.1"),
    ("post", "tailrace", "p99", GO, lambda r: r <= 1.0, "≤ 1.0"),
    ("get", "tailrace, SQLite", "rate", GO, lambda r: r >= 0.7, "≥ 0.7"),
    *(
        ("post", "tailrace, SQLite", "rate", f"FastAPI, aiosqlite, {how}", right, goal)
        for how, right, goal in (
            ("commit each", lambda r: r >= 30, "≥ 30"),
            ("group commit", lambda r: r >= 1.5, "≥ 1.5"),
        )
    ),
)

Rounds = dict[str, dict[str, list[dict[str, float]]]]
"""Kind → competitor → for each round: requests per second, seconds, CPU of the load."""


def serve(name: str) -> None:
    program = next(each for each in PROGRAMS if each.name == name)
    start: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    if program.uvloop:
        import uvloop

        start = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        start(program.serve())


# --- The rounds ---------------------------------------------------------------------------------


def ask(url: str, body: object = None) -> str:
    """What is answered; a server that has just been started may not listen yet."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, headers)
    until = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                said: str = answer.read().decode()
                return said
        except urllib.error.HTTPError as error:
            return f"{error.code}: {error.read().decode()}"
        except urllib.error.URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def check(url: str, name: str) -> None:
    """That both paths do what they are to do."""
    order = {"item": "lamp", "quantity": 2, "price": 9.5, "note": "foo", "express": True}
    right: list[tuple[str, object, object]] = [
        (ask(f"{url}/incoming?data=foo"), "OK: ☆ foo ☆", None),
        (ask(f"{url}/incoming?data=bar"), "aborted: bar", None),
    ]
    for item, word, note in (("lamp", "OK", "☆ foo ☆"), ("bar", "aborted", "foo")):
        said, _, data = ask(f"{url}/orders", order | {"item": item}).partition(": ")
        right.append((said, word, data))
        if said == word:
            right.append((json.loads(data), order | {"item": item, "note": note}, data))
    for said, expected, more in right:
        if said != expected:
            raise SystemExit(f"{name} answered {said!r} ({more}), not {expected!r}")


def measure(
    command: list[str], core: str, load: Path, name: str, asked: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Start a server, look whether it answers rightly, load it, and end it."""
    environment = {**os.environ, "TAILRACE_CORE": core}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url.startswith("http://"):
            raise SystemExit(f"{name} did not start")
        check(url, name)
        figures = {}
        for kind in asked.kinds:
            put = [str(load), "-url", url, "-kind", kind, "-token", TOKEN]
            put += ["-connections", str(asked.connections), "-seconds"]
            subprocess.run([*put, "0.5"], stdout=subprocess.DEVNULL, check=True)  # warm up
            done = subprocess.run([*put, str(asked.seconds)], capture_output=True, check=True)
            figures[kind] = json.loads(done.stdout)
            if figures[kind]["failed"]:
                raise SystemExit(f"{name} failed under load: {figures[kind]}")
        return figures
    finally:
        server.send_signal(signal.SIGINT)  # and not a kill, so that it removes its database
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def compare(commands: Mapping[str, list[str]], load: Path, asked: argparse.Namespace) -> Rounds:
    cores = {program.name: program.core for program in PROGRAMS}
    measured: Rounds = {kind: {name: [] for name in commands} for kind in asked.kinds}
    names = list(commands)
    for number in range(asked.rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            progress(f"round {number + 1}: {name}")
            core = cores.get(name, "auto")
            for kind, figures in measure(commands[name], core, load, name, asked).items():
                measured[kind][name].append(figures)
    progress("")
    return measured


# --- The tables ---------------------------------------------------------------------------------


def ratio(
    rounds: Mapping[str, list[dict[str, float]]], name: str, figure: str, to: str
) -> float | None:
    pairs = zip(rounds.get(name, ()), rounds.get(to, ()), strict=False)
    ratios = [ours[figure] / theirs[figure] for ours, theirs in pairs]
    return median(ratios) if ratios else None


def table(kind: str, rounds: Mapping[str, list[dict[str, float]]]) -> str:
    wide = max(len(name) for name in rounds)
    lines = [f"{kind:{wide}} │    req/s   p50 ms   p99 ms  load │  × Go's req/s   p50   p99"]
    lines.append("─" * wide + "─┼" + "─" * 34 + "┼" + "─" * 26)
    for name, each in rounds.items():
        rate, p50, p99, cpu = (median(one[f] for one in each) for f in (*FIGURES, "cpu"))
        cells = [ratio(rounds, name, figure, GO) for figure in FIGURES]
        ratios = ["–" if cell is None else f"{cell:.2f}" for cell in cells]
        lines.append(
            f"{name:{wide}} │ {rate:8.0f} {p50 * 1e3:8.2f} {p99 * 1e3:8.2f} {cpu:5.2f} │ "
            f"{ratios[0]:>14} {ratios[1]:>5} {ratios[2]:>5}"
        )
    return "\n".join(lines)


def goals(measured: Rounds) -> str:
    lines = []
    for kind, name, figure, to, right, goal in GOALS:
        reached = ratio(measured.get(kind, {}), name, figure, to)
        if reached is not None:
            verdict = "ok" if right(reached) else "MISSED"
            lines.append(
                f"{kind:4} {figure:4} of {name} × {to}: {reached:.2f}, goal {goal}: {verdict}"
            )
    return "\n".join(lines)


# --- The command --------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The talk's program as an HTTP service")
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    parser.add_argument("--seconds", type=float, default=4, help="of load in each run (default 4)")
    parser.add_argument("--connections", type=int, default=64, help="default 64")
    parser.add_argument("--only", metavar="NAMES", help="those whose name contains one of these")
    parser.add_argument("--kinds", default=",".join(KINDS), help="get, post, or both (default)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.kinds = [kind for kind in KINDS if kind in asked.kinds.split(",")]
    if not asked.kinds:
        parser.error(f"--kinds: name some of {', '.join(KINDS)}")
    return asked


def main() -> None:
    asked = arguments()
    if asked.serve is not None:
        serve(asked.serve)
        return
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        try:
            load = build_go(SOURCES / "load_http.go", Path(directory))
            go = build_go(SOURCES / "talk_http.go", Path(directory))
        except GoUnavailableError as error:
            raise SystemExit(f"the load is made by a program in Go: {error}") from None
        commands = {GO: [str(go)]} if chosen(GO, asked.only) else {}
        for program in PROGRAMS:
            if chosen(program.name, asked.only):
                commands[program.name] = [sys.executable, __file__, "--serve", program.name]
        if not commands:
            raise SystemExit(f"nobody to run: --only {asked.only}")
        print(f"The talk's HTTP program, {asked.connections} connections, {asked.rounds} rounds")
        print(f"  machine: {cpu_name()}\n  go: {go_version()}")
        print(f"  python: {sys.version.split()[0]}", flush=True)
        measured = compare(commands, load, asked)
    for kind in asked.kinds:
        print(f"\n{table(kind, measured[kind])}")
    print(f"\n{goals(measured)}")
    if asked.json is not None:
        header = machine([], uvloop=True, go=go_version())
        document = {**header, "rounds": asked.rounds, "kinds": measured}
        asked.json.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
