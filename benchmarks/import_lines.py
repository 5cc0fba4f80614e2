"""How fast lines of JSON come into a SQLite database, beside the usual ways.

    python benchmarks/import_lines.py [--rounds 3] [--n 2000000] [--folder DIR] [--json FILE]

Each competitor loads the same file into a new database, in a process of its own, in an order that
rotates from round to round. The time is that of the import alone, not of starting the interpreter:
but for sqlite-utils, which is a command, it is that of the whole command.

- tailrace: `read_lines` with a checkpoint into `store_sqlite`. Each line is acknowledged once it is
  on disk; after a kill the import goes on where it was.
- tailrace, two stages: the same through a filter and an `each` between them.
- executemany: json.loads and one `executemany` in one transaction. A kill loses all.
- executemany, 1000: a transaction on disk for each 1 000 rows. A kill leaves it unknown how far it
  came.
- sqlite-utils: ``sqlite-utils insert --nl``.

Figures are medians over the rounds; ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from benchmarks.report import cpu_name, figure, ratio
from tailrace import Channel, Group, Message, Receiver, Sender, each, run
from tailrace.listen import ReadLines, read_lines
from tailrace.store import store_sqlite

WORKER_SECONDS = 900.0
BASELINE = "executemany"
COLUMNS = ("user", "action", "amount", "number", "ok")


class Event(msgspec.Struct):
    """A line of the file."""

    user: str
    action: str
    amount: float
    number: int
    ok: bool


def generate(path: Path, n: int) -> None:
    """Write n lines, the same ones each time."""
    dice = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for number in range(n):
            event = {
                "user": f"user{dice.randrange(5000)}",
                "action": dice.choice(("view", "search", "buy")),
                "amount": round(dice.random() * 100, 2),
                "number": number,
                "ok": dice.random() < 0.5,
            }
            file.write(json.dumps(event) + "\n")


# --- the competitors


def ours(lines: Path, database: Path) -> None:
    def main(go: Group) -> None:
        to_store = Channel[Message[Event]](name="to_store")
        go(source(lines, database), to_store)
        go(store_sqlite(database, type=Event), to_store)

    run(main)


def ours_two_stages(lines: Path, database: Path) -> None:
    async def keep_known(inbox: Receiver[Message[Event]], out: Sender[Message[Event]]) -> None:
        async for message in inbox:
            if message.data.user:
                await out.send(message)
            else:
                message.abort("no user")

    def enrich(event: Event) -> Event:
        event.action = event.action.upper()
        return event

    def main(go: Group) -> None:
        to_filter = Channel[Message[Event]](64, name="to_filter")
        to_enrich = Channel[Message[Event]](64, name="to_enrich")
        to_store = Channel[Message[Event]](64, name="to_store")
        go(source(lines, database), to_filter)
        go(keep_known, to_filter, to_enrich)
        go(each(enrich), to_enrich, to_store)
        go(store_sqlite(database, type=Event), to_store)

    run(main)


def source(lines: Path, database: Path) -> ReadLines[Event]:
    return read_lines(
        lines,
        format="json",
        type=Event,
        checkpoint=database.with_suffix(".checkpoint"),
        in_flight=4000,  # of which a transaction takes up to 1 000; with 1 000 it is a third slower
        progress="off",
    )


def rows_of(lines: Path) -> Iterator[tuple[object, ...]]:
    with lines.open(encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            yield tuple(event[column] for column in COLUMNS)


def connect(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database)
    connection.execute(f"CREATE TABLE events ({', '.join(COLUMNS)})")
    return connection


INSERT = f"INSERT INTO events VALUES ({', '.join('?' * len(COLUMNS))})"


def executemany(lines: Path, database: Path) -> None:
    with closing(connect(database)) as connection, connection:
        connection.executemany(INSERT, rows_of(lines))


def executemany_batches(lines: Path, database: Path) -> None:
    rows = rows_of(lines)
    with closing(connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        while batch := list(islice(rows, 1000)):
            with connection:
                connection.executemany(INSERT, batch)


def sqlite_utils(lines: Path, database: Path) -> None:
    command = "insert", str(database), "events", str(lines), "--nl", "--silent"
    subprocess.run([sys.executable, "-m", "sqlite_utils", *command], check=True)


COMPETITORS: dict[str, Callable[[Path, Path], None]] = {
    "tailrace": ours,
    "tailrace, two stages": ours_two_stages,
    "executemany": executemany,
    "executemany, 1000": executemany_batches,
    "sqlite-utils": sqlite_utils,
}


# --- the rounds


def work(name: str, lines: Path, n: int) -> None:
    """In a process of its own: import once, print the seconds."""
    with tempfile.TemporaryDirectory(prefix="import-", dir=lines.parent) as folder:
        database = Path(folder) / "events.db"
        began = time.perf_counter()
        COMPETITORS[name](lines, database)
        seconds = time.perf_counter() - began
        with closing(sqlite3.connect(database)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM events").fetchone()
    if found != n:
        raise SystemExit(f"{name}: {found} rows, not {n}")
    print(seconds)


def measure(name: str, lines: Path, n: int) -> float:
    command = sys.executable, __file__, "--worker", name, "--file", str(lines), "--n", str(n)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=WORKER_SECONDS)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Lines of JSON into SQLite.")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; figures are medians")
    parser.add_argument("--n", type=int, default=2_000_000, help="lines (default 2 000 000)")
    parser.add_argument("--folder", type=Path, help="where to make the file and the databases")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.file, arguments.n)
        return
    print(f"Importing {arguments.n} lines of JSON, medians of {arguments.rounds} rounds")
    print(f"  python: {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    print(f"  machine: {cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    names = list(COMPETITORS)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-", dir=arguments.folder) as folder:
        lines = Path(folder) / "events.jsonl"
        generate(lines, arguments.n)
        for turn in range(arguments.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds = measure(name, lines, arguments.n)
                measured[name].append({"rows/s": arguments.n / seconds})
    print(f"{'':24}{'rows/s':>10}{'× executemany':>16}")
    for name in names:
        found = figure(measured, name, "rows/s")
        beside = ratio(measured, name, "rows/s", BASELINE)
        print(f"{name:24}{found:10.0f}{beside:16.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
