"""The talk's pipeline for csp, which reads the source and the annotations of its nodes."""

from datetime import datetime, timedelta

import csp  # type: ignore[import-not-found, import-untyped, unused-ignore]
from csp import ts  # type: ignore[import-not-found, import-untyped, unused-ignore]


@csp.node  # type: ignore[untyped-decorator, unused-ignore]  # noqa: RET503  # without a value it does not tick
def keep(data: ts[str]) -> ts[str]:
    if csp.ticked(data) and data != "bar":
        return data


@csp.node  # type: ignore[untyped-decorator, unused-ignore]  # noqa: RET503  # without a value it does not tick
def enrich(data: ts[str]) -> ts[str]:
    if csp.ticked(data):
        return f"☆ {data} ☆"


@csp.node  # type: ignore[untyped-decorator, unused-ignore]
def store(data: ts[str], stored: list):  # type: ignore[no-untyped-def, type-arg]
    if csp.ticked(data):
        stored.append(data)


@csp.graph  # type: ignore[untyped-decorator, unused-ignore]
def talk(events: object, stored: list):  # type: ignore[no-untyped-def, type-arg]
    store(enrich(keep(csp.curve(str, events))), stored)


def run(events: list[str]) -> list[str]:
    """Run the pipeline over `events`, one per microsecond of csp's clock; return what it stored."""
    stored: list[str] = []
    ticks = [(timedelta(microseconds=number + 1), data) for number, data in enumerate(events)]
    start = datetime(2020, 1, 1)
    csp.run(talk, ticks, stored, starttime=start, endtime=start + timedelta(days=1))
    return stored
