"""The talk's last program as an HTTP service: requests per second, and how long one takes.

    python benchmarks/talk_http.py [--rounds 5] [--seconds 4] [--connections 64] [--only NAMES]
                                   [--json FILE]

Each request is ``GET /incoming?data=foo`` and goes through Listen → Filter → Enrich → Store,
unbuffered, before it is answered ``OK: ☆ foo ☆``. Competitors, each a process of its own, one at a
time, in an order that rotates:

- Go: the talk's program with net/http, on all cores (``go/talk_http.go``).
- tailrace: `listen_http` and three actors, on one core, on uvloop; and on plain asyncio.
- tailrace, SQLite: the same, but each answer says that the row is on disk (WAL, fsync).
- tailrace, app in uvicorn: `HttpServer.app`, carried by uvicorn.
- uvicorn: a plain ASGI application with the same pipeline of `asyncio.Queue(1)` and Futures.

wrk makes the load from the same machine. Figures are medians over the rounds, ratios medians of
the ratios within a round. What is answered is checked before each run, and any answer that is not
a 2xx during it ends the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qs

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.golang import SOURCES, GoUnavailableError, build_go, go_version
from benchmarks.harness import chosen
from benchmarks.report import cpu_name, progress
from tailrace import Channel, Group, Message, Receiver, Sender
from tailrace.listen import HttpServer, ListenHttp, listen_http

GO_SOURCE = SOURCES / "talk_http.go"
GO = "Go"
ANSWER = "OK: ☆ foo ☆"
LOOPBACK = "127.0.0.1:0"

Program = Callable[[], Coroutine[Any, Any, None]]
Rounds = dict[str, list[dict[str, float]]]
"""Competitor → for each round: requests per second, and the quantiles in seconds."""


# --- tailrace -----------------------------------------------------------------------------------


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


async def store(inbox: Receiver[Message[str]]) -> None:
    async for msg in inbox:
        msg.ack()


def wire(go: Group, listener: ListenHttp[str], store: Callable[..., Any]) -> None:
    to_filter = Channel[Message[str]](name="to_filter")
    to_enrich = Channel[Message[str]](name="to_enrich")
    to_store = Channel[Message[str]](name="to_store")
    go(listener, to_filter)
    go(filter, to_filter, to_enrich)
    go(enrich, to_enrich, to_store)
    go(store, to_store)


async def tailrace() -> None:
    listener = listen_http(LOOPBACK, "/incoming")
    async with Group() as go:
        wire(go, listener, store)
        announce(await listener.server.ready())


async def tailrace_sqlite() -> None:
    from tailrace.store import store_sqlite

    listener = listen_http(LOOPBACK, "/incoming")
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        async with Group() as go:
            wire(go, listener, store_sqlite(str(Path(directory) / "events.db")))
            announce(await listener.server.ready())


async def tailrace_app_in_uvicorn() -> None:
    server = HttpServer(None)
    async with Group() as go:
        wire(go, server.listen("/incoming"), store)
        await uvicorn_serves(server.app)


# --- peers --------------------------------------------------------------------------------------


async def uvicorn_serves(app: Any) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, port=0, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    announce(f"http://{host}:{port}")
    await serving


@dataclass(slots=True)
class Msg:
    """The talk's message, with a Future for its Done."""

    data: str
    done: asyncio.Future[bool]


async def uvicorn_and_queues() -> None:
    loop = asyncio.get_running_loop()
    to_filter, to_enrich, to_store = (asyncio.Queue[Msg](1) for _ in range(3))

    async def filtering() -> None:
        while True:
            msg = await to_filter.get()
            if msg.data == "bar":
                msg.done.set_result(False)
            else:
                await to_enrich.put(msg)

    async def enriching() -> None:
        while True:
            msg = await to_enrich.get()
            msg.data = f"☆ {msg.data} ☆"
            await to_store.put(msg)

    async def storing() -> None:
        while True:
            msg = await to_store.get()
            msg.done.set_result(True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        msg = Msg(parse_qs(scope["query_string"].decode())["data"][0], loop.create_future())
        await to_filter.put(msg)
        word = "OK" if await msg.done else "aborted"
        body = f"{word}: {msg.data}".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    actors = [loop.create_task(actor()) for actor in (filtering, enriching, storing)]
    await uvicorn_serves(app)
    for actor in actors:
        actor.cancel()


@dataclass(frozen=True)
class Competitor:
    """A program that serves, and on which event loop."""

    name: str
    program: Program
    uvloop: bool = True


PROGRAMS = (
    Competitor("tailrace", tailrace),
    Competitor("tailrace on asyncio", tailrace, uvloop=False),
    Competitor("tailrace, SQLite", tailrace_sqlite),
    Competitor("tailrace, app in uvicorn", tailrace_app_in_uvicorn),
    Competitor("uvicorn, asyncio.Queue", uvicorn_and_queues),
)


def announce(url: str) -> None:
    print(url, flush=True)


def serve(name: str) -> None:
    competitor = next(each for each in PROGRAMS if each.name == name)
    start: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    if competitor.uvloop:
        import uvloop

        start = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        start(competitor.program())


# --- The rounds ---------------------------------------------------------------------------------


def measure(command: list[str], name: str, seconds: float, connections: int) -> dict[str, float]:
    """Start a server, look whether it answers rightly, load it, and end it."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url.startswith("http://"):
            raise SystemExit(f"{name} did not start")
        for data, right in (("foo", ANSWER), ("bar", "aborted: bar")):
            with urllib.request.urlopen(f"{url}/incoming?data={data}") as answer:
                if (said := answer.read().decode()) != right:
                    raise SystemExit(f"{name} answered {said!r}, not {right!r}")
        load(url, 0.5, connections, name)  # warm up
        return load(url, seconds, connections, name)
    finally:
        server.send_signal(signal.SIGINT)  # and not a kill, so that it removes its database
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def load(url: str, seconds: float, connections: int, name: str) -> dict[str, float]:
    wrk = shutil.which("wrk")
    assert wrk is not None
    command = [wrk, "-t2", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    done = subprocess.run(
        [*command, f"{url}/incoming?data=foo"], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{name} failed under load:\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate is not None
    figures = {"rate": float(rate[1])}
    for quantile in ("50", "99"):
        found = re.search(rf"\s{quantile}%\s+([\d.]+)(us|ms|s|m)", done.stdout)
        assert found is not None
        unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[found[2]]
        figures[f"p{quantile}"] = float(found[1]) * unit
    return figures


def compare(
    commands: Mapping[str, list[str]], rounds: int, seconds: float, connections: int
) -> Rounds:
    measured: Rounds = {name: [] for name in commands}
    names = list(commands)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            progress(f"round {number + 1}: {name}")
            measured[name].append(measure(commands[name], name, seconds, connections))
    progress("")
    return measured


# --- The table ----------------------------------------------------------------------------------


def ratio(measured: Rounds, name: str, figure: str) -> float | None:
    pairs = zip(measured[name], measured.get(GO, ()), strict=False)
    ratios = [ours[figure] / go[figure] for ours, go in pairs]
    return median(ratios) if ratios else None


def table(measured: Rounds) -> str:
    wide = max(len(name) for name in measured)
    lines = [f"{'':{wide}} │    req/s   p50 ms   p99 ms │  × Go's req/s   p50   p99"]
    lines.append("─" * wide + "─┼" + "─" * 28 + "┼" + "─" * 26)
    for name, rounds in measured.items():
        rate, p50, p99 = (median(each[f] for each in rounds) for f in ("rate", "p50", "p99"))
        cells = [ratio(measured, name, figure) for figure in ("rate", "p50", "p99")]
        ratios = ["–" if cell is None else f"{cell:.2f}" for cell in cells]
        lines.append(
            f"{name:{wide}} │ {rate:8.0f} {p50 * 1e3:8.2f} {p99 * 1e3:8.2f} │ "
            f"{ratios[0]:>14} {ratios[1]:>5} {ratios[2]:>5}"
        )
    return "\n".join(lines)


# --- The command --------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The talk's program as an HTTP service")
    parser.add_argument("--rounds", type=int, default=5, help="default 5; figures are medians")
    parser.add_argument("--seconds", type=float, default=4, help="of load in each run (default 4)")
    parser.add_argument("--connections", type=int, default=64, help="default 64")
    parser.add_argument("--only", metavar="NAMES", help="those whose name contains one of these")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.serve is not None:
        serve(asked.serve)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load and is not installed: `apt install wrk` (Debian)")
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        commands: dict[str, list[str]] = {}
        go = "left out by --only"
        if chosen(GO, asked.only):
            try:
                commands[GO] = [str(build_go(GO_SOURCE, Path(directory)))]
                go = go_version()
            except GoUnavailableError as error:
                go = f"*** NO GO: THERE ARE NO RATIOS IN THIS RUN: {error} ***"
        for competitor in PROGRAMS:
            if chosen(competitor.name, asked.only):
                command = [sys.executable, str(Path(__file__)), "--serve", competitor.name]
                commands[competitor.name] = command
        if not commands:
            raise SystemExit(f"nobody to run: --only {asked.only}")
        print(f"The talk's HTTP program, {asked.connections} connections, {asked.rounds} rounds")
        print(
            f"  machine: {cpu_name()}\n  go: {go}\n  python: {sys.version.split()[0]}", flush=True
        )
        measured = compare(commands, asked.rounds, asked.seconds, asked.connections)
    print(table(measured))
    if asked.json is not None:
        asked.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
