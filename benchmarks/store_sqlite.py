"""What it costs to store: rows per second and CPU per row, by how many senders wait for their acks.

    python benchmarks/store_sqlite.py [--rounds 5] [--n 20000] [--folder DIR] [--json FILE]

Each of so many senders sends one message, waits until it is settled, and sends the next: as HTTP
clients do. Messages have no id, so the store makes one up for each. Competitors, on one loop, in
an order that rotates from round to round:

- ack only: an actor that stores nothing: what sending, settling and waiting cost by themselves.
- store(no-op): group commit into a plain function that does nothing, in its thread.
- store_sqlite: WAL, each transaction on disk before its acks (``durability="full"``).
- store_sqlite, normal: the same, without an fsync for each transaction.
- one by one: sqlite3 in a thread, a transaction on disk for each row, for comparison.

``--folder`` says where the databases are made: by default in a temporary folder, whose disk
decides; on a file system in memory (/dev/shm) an fsync is nothing, and what is left is CPU.
Figures are medians over the rounds; `loop` and `process` are CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import cpu_name
from tailrace import Channel, Group, Message, Receiver
from tailrace.store import Store, store, store_sqlite

SENDERS = (1, 8, 64, 512)
Actor = Any  # a Store, or a coroutine function


@dataclass(frozen=True)
class Figures:
    """One competitor in one round."""

    rows_per_second: float
    rows_per_transaction: float
    loop_us_per_row: float
    process_us_per_row: float


async def ack_only(inbox: Receiver[Message[str]]) -> None:
    async for message in inbox:
        message.ack()


def nothing(rows: object) -> None:
    """Stores nothing."""


class OneByOne:
    """What one would write first: a transaction for each message, in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(self, inbox: Receiver[Message[str]]) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            connection = await loop.run_in_executor(thread, self._open)
            async for message in inbox:
                row = (message.id, message.data)
                await loop.run_in_executor(
                    thread, connection.execute, "INSERT INTO events VALUES (?, ?)", row
                )
                message.ack()
            await loop.run_in_executor(thread, connection.close)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY NOT NULL, data TEXT NOT NULL)")
        return connection


COMPETITORS: dict[str, Callable[[Path], Actor]] = {
    "ack only": lambda path: ack_only,
    "store(no-op)": lambda path: store(nothing),
    "store_sqlite": lambda path: store_sqlite(path, type=str),
    "store_sqlite, normal": lambda path: store_sqlite(path, type=str, durability="normal"),
    "one by one": OneByOne,
}


async def measure(actor: Actor, path: Path, senders: int, n: int) -> Figures:
    """Have `senders` send n messages in all to `actor`; check that all were stored."""
    each = n // senders
    n = each * senders
    to_store = Channel[Message[str]](name="to_store")

    async def send() -> None:
        for _ in range(each):
            message = Message("☆ foo ☆")
            ending = message.settled()
            await to_store.send(message)
            del message
            if not (await ending).ok:
                raise SystemExit(f"{actor!r} did not store: {ending!r}")

    async with Group(on_exit="cancel") as go:
        go(actor, to_store)
        began = time.perf_counter(), time.thread_time(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(senders):
                tasks.create_task(send())
        ended = time.perf_counter(), time.thread_time(), time.process_time()
    seconds, loop, process = (b - a for a, b in zip(began, ended, strict=True))
    check(actor, path, n)
    transactions = actor.statistics().transactions if isinstance(actor, Store) else n
    return Figures(n / seconds, n / transactions, loop / n * 1e6, process / n * 1e6)


def check(actor: Actor, path: Path, n: int) -> None:
    """Nothing lost, nothing twice, where there is a database."""
    if path.exists():
        with closing(sqlite3.connect(path)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM events").fetchone()
        if found != n:
            raise SystemExit(f"{actor!r}: {found} rows, not {n}")


def one_round(turn: int, n: int, folder: Path | None) -> dict[tuple[str, int], Figures]:
    names = list(COMPETITORS)
    turn %= len(names)
    measured: dict[tuple[str, int], Figures] = {}
    for name in names[turn:] + names[:turn]:
        for senders in SENDERS:
            # Those that wait for the disk each time would take for ever.
            rows = max(senders * 5, n // 20 if name == "one by one" or senders == 1 else n)
            with tempfile.TemporaryDirectory(prefix="tailrace-bench-", dir=folder) as directory:
                path = Path(directory) / "events.db"
                work = measure(COMPETITORS[name](path), path, senders, rows)
                measured[name, senders] = run(work)
    return measured


def run(work: Any) -> Figures:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        figures: Figures = runner.run(work)
        return figures


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def medians(rounds: list[dict[tuple[str, int], Figures]]) -> dict[tuple[str, int], Figures]:
    fields = list(Figures.__dataclass_fields__)
    return {
        key: Figures(*(median(getattr(each[key], field) for each in rounds) for field in fields))
        for key in rounds[0]
    }


def print_table(figures: dict[tuple[str, int], Figures]) -> None:
    print(f"{'':22}{'senders':>8}{'rows/s':>10}{'rows/commit':>13}{'loop µs':>9}{'process µs':>12}")
    for name in COMPETITORS:
        for senders in SENDERS:
            found = figures[name, senders]
            print(
                f"{name if senders == SENDERS[0] else '':22}{senders:8}"
                f"{found.rows_per_second:10.0f}{found.rows_per_transaction:13.1f}"
                f"{found.loop_us_per_row:9.1f}{found.process_us_per_row:12.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per second, and CPU per row, of stores.")
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    parser.add_argument("--n", type=int, default=20_000, help="rows (default 20000)")
    parser.add_argument("--folder", type=Path, help="where to make the databases")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    print(f"Storing, medians of {arguments.rounds} rounds")
    print(f"  python: {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    print(f"  machine: {cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  databases in: {arguments.folder or tempfile.gettempdir()}\n", flush=True)
    rounds = [one_round(turn, arguments.n, arguments.folder) for turn in range(arguments.rounds)]
    figures = medians(rounds)
    print_table(figures)
    if arguments.json is not None:
        flat = [
            {"competitor": name, "senders": senders, **asdict(found)}
            for (name, senders), found in figures.items()
        ]
        arguments.json.write_text(json.dumps(flat, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
