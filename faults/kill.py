"""SIGKILL at random moments under load: what was answered 200 is in the table, once."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from faults.clients import Ledger, load
from faults.databases import Database, SqliteDatabase, compare, postgres
from faults.process import serving
from faults.program import Options
from faults.report import Row

__all__ = ["kill_postgres", "kill_sqlite"]

CONNECTIONS = (32, 64)
LONGEST = 0.8
"""Seconds under load before the kill, at most."""


def kill_sqlite(row: Row, runs: int, folder: Path) -> None:
    """Over SQLite."""
    _kill(row, runs, SqliteDatabase(folder / "kill.db"))


def kill_postgres(row: Row, runs: int, folder: Path) -> None:
    """Over PostgreSQL, whose server goes on."""
    with postgres() as database:
        _kill(row, runs, database)


def _kill(row: Row, kills: int, database: Database) -> None:
    ledger, chance = Ledger(), random.Random()
    torn = 0
    for kill in range(kills):
        if kill % 8 == 7:
            asyncio.run(_while_it_starts(database, chance))
        else:
            torn += asyncio.run(_under_load(ledger, database, chance))
        if kill % 20 == 19:
            compare(row, ledger, database)
        row.runs += 1
    asyncio.run(_repeat_all(ledger, database))
    row.check(not ledger.pending, f"not answered after the last restart: {len(ledger.pending)}")
    row.check(torn >= kills // 2, f"only {torn} requests were cut off: it was not under load")
    row.notes.append(
        f"{kills} kills, {torn} requests cut off and repeated, {ledger.aborted} aborted, "
        f"answers {dict(ledger.answers)}"
    )
    compare(row, ledger, database)


async def _while_it_starts(database: Database, chance: random.Random) -> None:
    async with serving(Options(database.target), wait=False) as program:
        await asyncio.sleep(chance.uniform(0, 1))
        program.kill()


async def _under_load(ledger: Ledger, database: Database, chance: random.Random) -> int:
    """Kill it under load; returns how many requests then had no answer."""
    ledger.repeat()
    async with serving(Options(database.target)) as program:
        assert program.port is not None
        loading = asyncio.create_task(load(ledger, program.port, chance.randint(*CONNECTIONS)))
        await asyncio.sleep(chance.uniform(0.01, LONGEST))
        program.kill()
        await loading
    return len(ledger.unheard)


async def _repeat_all(ledger: Ledger, database: Database) -> None:
    """Repeat on a last server what has no answer yet."""
    until = time.monotonic() + 30
    async with serving(Options(database.target)) as program:
        assert program.port is not None
        while ledger.repeat() and time.monotonic() < until:
            await load(ledger, program.port, 32, lambda: not ledger.finished())
