"""How late a timer is, and how long an echo takes, beside actors that never stop.

    python benchmarks/lateness.py [--seconds 30] [--rounds 3] [--uvloop] [--only NAMES]
                                  [--json FILE]

On one event loop: an HTTP server that has nothing to do, a TCP server that echoes, a plain task
that sleeps for 5 ms again and again, and a relay of three hops that runs flat out. Lateness is how
long after those 5 ms the task goes on. An echo is a round trip of one byte over the loopback, from
another process, which pauses 2 ms between two. Competitors, in an order that rotates:

- nothing else: no relay; what this machine and this loop do by themselves.
- tailrace, unbuffered, and with buffers of 64: actors of a Group.
- asyncio.Queue(1): the same relay with tasks and queues.

Each runs for `--seconds` in all, in so many `--rounds`, whose samples are put together. These are
milliseconds and no ratios, so they mean something on an idle machine only. The goals, beside either
relay: a median below 0.6 ms and a p99 below 5 ms. At its end each run asks the HTTP server for an
answer, and looks whether the relay has moved anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import chosen
from benchmarks.report import load_warnings, machine, progress
from tailrace import Channel, Group, Message, Receiver, Sender
from tailrace.listen import listen_http

PERIOD = 0.005  # seconds that the timer sleeps
PAUSE = 0.002  # between two echoes
MEDIAN, P99 = 0.6, 5.0  # the goals, in milliseconds
SAMPLES = ("timer", "echo")
Samples = dict[str, list[float]]
"""Timer or echo → milliseconds."""


# --- What runs flat out -------------------------------------------------------------------------


async def produce(out: Sender[int]) -> None:
    for value in count():
        await out.send(value)


async def plus_one(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value + 1)


async def keep_last(inbox: Receiver[int], moved: list[int]) -> None:
    async for value in inbox:
        moved[0] = value


async def actors(capacity: int, go: Group, moved: list[int]) -> None:
    a, b, c = (Channel[int](capacity) for _ in range(3))
    go(produce, a)
    go(plus_one, a, b)
    go(plus_one, b, c)
    go(keep_last, c, moved)


async def queues(go: Group, moved: list[int]) -> None:
    a, b, c = (asyncio.Queue[int](1) for _ in range(3))

    async def first() -> None:
        for value in count():
            await a.put(value)

    async def between(inbox: asyncio.Queue[int], out: asyncio.Queue[int]) -> None:
        while True:
            await out.put(await inbox.get() + 1)

    async def last() -> None:
        while True:
            moved[0] = await c.get()

    for work in (first(), between(a, b), between(b, c), last()):
        go(partial(_await, work))


async def _await(work: Coroutine[Any, Any, None]) -> None:
    await work


async def nothing(go: Group, moved: list[int]) -> None:
    moved[0] = 1


Load = Callable[[Group, list[int]], Coroutine[Any, Any, None]]
LOADS: dict[str, Load] = {
    "nothing else": nothing,
    "tailrace, unbuffered": partial(actors, 0),
    "tailrace, buffers of 64": partial(actors, 64),
    "asyncio.Queue(1)": queues,
}


# --- One run: a process with the loop, and one that asks it for echoes --------------------------


async def acknowledge(inbox: Receiver[Message[str]]) -> None:
    async for message in inbox:
        message.ack()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        while data := await reader.read(64):
            writer.write(data)


async def lateness(seconds: float) -> list[float]:
    """Milliseconds by which a sleep of 5 ms was too long, again and again."""
    found = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await asyncio.sleep(PERIOD)
        found.append((time.perf_counter() - before - PERIOD) * 1000)
    return found


async def run(load: Load, seconds: float) -> Samples:
    listener = listen_http("127.0.0.1:0", "/incoming")
    requests = Channel[Message[str]](name="requests")
    moved = [0]
    async with Group(on_exit="cancel") as go, await asyncio.start_server(echo, "127.0.0.1", 0) as s:
        go(listener, requests)
        go(acknowledge, requests)
        url = await listener.server.ready()
        await load(go, moved)
        port = s.sockets[0].getsockname()[1]
        command = (sys.executable, __file__, "--client", str(port), url)
        client = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        timer = await lateness(seconds)
        said, _ = await client.communicate(b"\n")  # which tells it to end
        if client.returncode or not moved[0]:
            raise SystemExit(f"the client failed, or the relay moved nothing ({moved[0]})")
    return {"timer": timer, "echo": json.loads(said)}


def client(port: int, url: str) -> list[float]:
    """Milliseconds of each round trip, until something comes on stdin."""
    import select

    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            began = time.perf_counter()
            connection.sendall(b"x")
            if connection.recv(64) != b"x":
                raise SystemExit("that was no echo")
            found.append((time.perf_counter() - began) * 1000)
    with urllib.request.urlopen(f"{url}/incoming?data=foo", timeout=10) as answer:
        if (text := answer.read().decode()) != "OK: foo":
            raise SystemExit(f"the HTTP server answered {text!r}")
    return found


# --- The command --------------------------------------------------------------------------------


def quantile(samples: list[float], q: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(q * len(samples)))]


def table(measured: dict[str, Samples]) -> str:
    wide = max(len(name) for name in measured)
    cells = "".join(f"{cell:>9}" for cell in ("median", "p99", "max"))
    lines = [
        f"{'ms':{wide}} │{' timer is late':<27} │{' echo':<27} │",
        f"{'':{wide}} │{cells} │{cells} │ goals",
        "─" * wide + ("─┼" + "─" * 27) * 2 + "─┼" + "─" * 7,
    ]
    for name, samples in measured.items():
        row = f"{name:{wide}}"
        for kind in SAMPLES:
            three = (quantile(samples[kind], q) for q in (0.5, 0.99, 1.0))
            row += " │" + "".join(f"{value:9.2f}" for value in three)
        timer = samples["timer"]
        met = quantile(timer, 0.5) < MEDIAN and quantile(timer, 0.99) < P99
        verdict = ("ok" if met else "not ok") if name.startswith("tailrace") else ""
        lines.append(f"{row} │ {verdict}".rstrip())
    return "\n".join(lines)


def one_run(name: str, seconds: float, uvloop: bool) -> Samples:
    command = [sys.executable, __file__, "--worker", name, "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, *(["--uvloop"] if uvloop else [])],
        capture_output=True,
        encoding="utf-8",
        timeout=seconds + 120,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
    samples: Samples = json.loads(done.stdout)
    return samples


def work(name: str, seconds: float, uvloop: bool) -> None:
    start: Callable[[Coroutine[Any, Any, Samples]], Samples] = asyncio.run
    if uvloop:
        import uvloop as loops

        start = loops.run
    print(json.dumps(start(run(LOADS[name], seconds))))


def main() -> None:
    parser = argparse.ArgumentParser(description="Timers and sockets beside busy actors.")
    parser.add_argument("--seconds", type=float, default=30, help="for each, in all (default 30)")
    parser.add_argument("--rounds", type=int, default=3, help="in so many parts (default 3)")
    parser.add_argument("--only", metavar="NAMES", help="those whose name contains one of these")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop instead of asyncio's loop")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client is not None:
        print(json.dumps(client(int(asked.client[0]), asked.client[1])))
        return
    if asked.worker is not None:
        work(asked.worker, asked.seconds, asked.uvloop)
        return
    if asked.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed")
    names = [name for name in LOADS if chosen(name, asked.only)]
    if not names:
        raise SystemExit(f"nobody to run: --only {asked.only}")
    header = machine((), uvloop=asked.uvloop, go=None)
    for key, value in header.items():
        print(f"{key}: {value}")
    warnings = load_warnings()
    print(
        "\n".join([*warnings, f"\n{asked.seconds:g} s each, in {asked.rounds} rounds\n"]),
        flush=True,
    )
    measured: dict[str, Samples] = {name: {kind: [] for kind in SAMPLES} for name in names}
    for number in range(asked.rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            progress(f"round {number + 1} of {asked.rounds}: {name}")
            for kind, samples in one_run(name, asked.seconds / asked.rounds, asked.uvloop).items():
                measured[name][kind] += samples
    progress("")
    print(table(measured))
    print(f"(Goals: the timer's median below {MEDIAN} ms, its p99 below {P99:g} ms.)")
    if asked.json is not None:
        text = json.dumps({**header, "samples": measured}, ensure_ascii=False)
        asked.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
