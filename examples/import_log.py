"""Import a log of visits, with the country of each address from a service of two replicas.

    python examples/import_log.py visits.jsonl --geo http://10.0.0.1/geo --geo http://10.0.0.2/geo

A line is {"time": "2026-11-28T10:00:00Z", "address": "192.0.2.7", "path": "/", "status": 200}.
Lines of health checks are left out. Each address is looked up at one replica, and at the other one
when that pays. Rows go into visits.db; a visit whose lookup fails five times goes into the table
`dead_visits` there, with the error.

Stop it at any time, even by SIGKILL, and start it again: it goes on where it was, and no line is
stored twice. At the end it says what became of all lines. Needs tailrace[http,progress] and httpx.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tailrace import (
    Channel,
    DeadLetter,
    Group,
    Hedged,
    Message,
    Receiver,
    Reject,
    Retry,
    Sender,
    each,
    remaining,
    run,
)
from tailrace.listen import read_lines
from tailrace.store import store_sqlite

LOOKUPS = 16  # at once


@dataclass
class Visit:
    """A line of the log."""

    time: datetime.datetime
    address: str
    path: str
    status: int


@dataclass
class LocatedVisit(Visit):
    """A row: a visit with the country that it came from."""

    country: str


async def without_health_checks(
    inbox: Receiver[Message[Visit]], out: Sender[Message[Visit]]
) -> None:
    """Leave out what load balancers ask for."""
    async for msg in inbox:
        if msg.data.path == "/healthz":
            msg.abort("health check")
        else:
            await out.send(msg)


class GeoReplica:
    """One server of the service that knows the country of an address."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.name = url
        self._client = client

    async def query(self, address: str, /) -> str:
        """The country's code."""
        answer = await self._client.get(
            self.name, params={"address": address}, timeout=remaining() or 2.0
        )
        if answer.status_code == 404:
            raise Reject(f"{address} is nowhere")
        answer.raise_for_status()
        return str(answer.json()["country"])


class Locate:
    """The stage function that looks the country of a visit up."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str]) -> None:
        replicas = (GeoReplica(client, url) for url in urls)
        self.geo = Hedged(*replicas, name="geo", fatal=lambda error: isinstance(error, Reject))

    async def __call__(self, visit: Visit) -> LocatedVisit:
        country = await self.geo.query(visit.address)
        return LocatedVisit(visit.time, visit.address, visit.path, visit.status, country)


async def main(go: Group, log: Path, geo: Sequence[str], database: Path) -> None:
    """Read lines → without health checks → locate → store, and dead letters beside it."""
    lines = Channel[Message[Visit]](64, name="lines")
    visits = Channel[Message[Visit]](64, name="visits")
    located = Channel[Message[LocatedVisit]](64, name="located")
    dead = Channel[Message[DeadLetter[Visit]]](64, name="dead")
    checkpoint = database.with_suffix(".checkpoint")
    retry = Retry(5, also=(httpx.HTTPError, ExceptionGroup))
    async with httpx.AsyncClient() as client:
        locate = each(Locate(client, geo), timeout=5.0, retry=retry)
        go(read_lines(log, format="json", type=Visit, checkpoint=checkpoint), lines)
        go(without_health_checks, lines, visits)
        go(locate, visits, located, dead, actors=LOOKUPS, name="locate")
        go(store_sqlite(database, "visits", type=LocatedVisit), located)
        go(store_sqlite(database, "dead_visits", type=DeadLetter[Visit]), dead, name="store_dead")
        await go.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Import a log of visits into SQLite.")
    parser.add_argument("log", type=Path, help="a file of JSON lines; may be compressed by gzip")
    parser.add_argument("--geo", action="append", required=True, help="URL of a replica")
    parser.add_argument(
        "--database", type=Path, default=Path("visits.db"), help="default visits.db"
    )
    arguments = parser.parse_args()
    run(main, arguments.log, arguments.geo, arguments.database)
