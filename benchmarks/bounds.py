"""What hostile clients can make a listener take: memory, time of the event loop, connections.

    python benchmarks/bounds.py [--only NAMES] [--asyncio] [--python PYTHON]

A server runs in a process of its own, with the 1024 open files that systems allow by default; the
attackers run in this one. For each attack a server is started, and these are taken:

- RSS: how far the server's resident memory grew, at most, read from /proc every 2 ms.
- blocked: CPU time of the server's thread between two turns of a heartbeat in its event loop, at
  most. Wall time is given beside it; it includes what else the machine does.
- connections, descriptors and counted bytes, at most, as the server reports them.

One request of 1 MiB of any kind may block the loop for 50 ms and take 32 MiB; twenty at once, at
most twenty times that. Clients that hold connections may take what the limits say. Ends with 1 if
a figure is over.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import cpu_name
from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpServer

MiB = 1024 * 1024
FILES = 1024
NDJSON = b"application/x-ndjson"
JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=b"


# --- The server -----------------------------------------------------------------------------------


async def serve(options: dict[str, Any]) -> None:
    """Serve until killed; at SIGUSR1, write what was measured since the last and begin anew."""

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            message.ack()

    server = HttpServer("127.0.0.1:0", **options)
    loop = asyncio.get_running_loop()
    most: dict[str, float] = {}

    def report() -> None:
        print(json.dumps(most), flush=True)
        most.clear()

    loop.add_signal_handler(signal.SIGUSR1, report)
    async with Group() as go:
        for path, kind in (("/text", str), ("/json", object)):
            channel = Channel[Message[Any]](name=path)
            go(server.listen(path, type=kind), channel)
            go(work, channel)
        print((await server.ready()).rpartition(":")[2], flush=True)
        cpu, wall = time.thread_time(), loop.time()
        while True:
            await asyncio.sleep(0.001)
            before, cpu = cpu, time.thread_time()
            began, wall = wall, loop.time()
            now = server.statistics()
            for name, value in (
                ("blocked", (cpu - before) * 1e3),
                ("wall", (wall - began) * 1e3),
                ("connections", now.connections),
                ("counted", now.body_bytes / MiB),
                ("descriptors", len(os.listdir("/proc/self/fd"))),  # noqa: PTH208 (it is faster)
            ):
                most[name] = max(most.get(name, 0), value)


class Server:
    """A server in another process."""

    def __init__(self, python: str, uvloop: bool, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "--serve", json.dumps(options), *([] if uvloop else ["--asyncio"])],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._peak = 0.0
        self._over = threading.Event()

    def rss(self) -> float:
        """Resident memory in MiB."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize() / MiB

    def report(self) -> dict[str, float]:
        """What it measured since the last report."""
        self._process.send_signal(signal.SIGUSR1)
        assert self._process.stdout is not None
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    @contextmanager
    def measured(self, figures: dict[str, float]) -> Iterator[None]:
        """Put what happens in the block into `figures`."""
        before = self.rss()
        self.report()
        over, peak = threading.Event(), before

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.002):
                peak = max(peak, self.rss())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
        figures.update(self.report())
        figures["RSS"] = peak - before

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


# --- One request ----------------------------------------------------------------------------------


def post(path: bytes, kind: bytes, body: bytes, more: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
    return head % (path, kind, len(body), more) + body


def chunked(path: bytes, kind: bytes, chunks: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
    return head % (path, kind) + chunks


def filled(unit: bytes, size: int = MiB) -> bytes:
    """As many of `unit` as go into `size` bytes."""
    return unit * (size // len(unit))


def part(headers: bytes, value: bytes = b"x") -> bytes:
    return b"--b\r\n" + headers + b"\r\n\r\n" + value + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="data"'
GZIP = b"content-encoding: gzip\r\n"

REQUESTS: dict[str, Callable[[], bytes]] = {
    "chunks of two bytes": lambda: chunked(
        b"/text", FORM, b"5\r\ndata=\r\n" + b"2\r\nab\r\n" * (MiB // 2 - 8) + b"0\r\n\r\n"
    ),
    "chunks with extensions": lambda: chunked(b"/text", FORM, filled(b"1;a=b\r\nx\r\n", 8 * MiB)),
    "NDJSON, good lines": lambda: post(b"/json", NDJSON, filled(b'{"a":"' + b"x" * 55 + b'"}\n')),
    "NDJSON, good short lines": lambda: post(b"/json", NDJSON, filled(b"1\n")),
    "NDJSON, 16 384 short lines": lambda: post(b"/json", NDJSON, b"{}\n" * 16384),
    "NDJSON, bad lines": lambda: post(b"/json", NDJSON, filled(b"x" * 63 + b"\n")),
    "NDJSON, bad short lines": lambda: post(b"/json", NDJSON, filled(b"x\n")),
    "NDJSON, blank lines": lambda: post(b"/json", NDJSON, filled(b"\n")),
    "NDJSON, one long line": lambda: post(b"/json", NDJSON, b'"' + filled(b"x", MiB - 2) + b'"'),
    "JSON, a text": lambda: post(b"/json", JSON, b'"' + filled(b"\\n", MiB - 2) + b'"'),
    "JSON, deep": lambda: post(b"/json", JSON, filled(b"[")),
    "JSON, arrays": lambda: post(b"/json", JSON, b"[" + filled(b"[],", MiB - 4) + b"[]]"),
    "JSON, 52 000 arrays": lambda: post(b"/json", JSON, b"[" + b"[1]," * 52_000 + b"1]"),
    "JSON, 52 000 objects": lambda: post(b"/json", JSON, b"[" + b'{"a":1},' * 52_000 + b"1]"),
    "JSON, nested arrays": lambda: post(
        b"/json", JSON, b"[" + (b"[" * 500 + b"]" * 500 + b",") * 104 + b"1]"
    ),
    "JSON, numbers": lambda: post(b"/json", JSON, b"[" + filled(b"1.5,", MiB - 4) + b"1]"),
    "JSON, keys": lambda: post(
        b"/json", JSON, b'{"a":1' + b"".join(b',"%d":1' % n for n in range(100_000)) + b"}"
    ),
    "JSON, one number": lambda: post(b"/json", JSON, filled(b"9")),
    "form of escapes": lambda: post(b"/text", FORM, b"data=" + filled(b"%41", MiB - 5)),
    "form of fields": lambda: post(b"/text", FORM, filled(b"a=b&")),
    "multipart, parts": lambda: post(
        b"/text", MULTIPART, filled(part(b"a: b"), MiB - 5) + b"--b--"
    ),
    "multipart, 900 parts": lambda: post(
        b"/text",
        MULTIPART,
        (part(b"a: " + b"b" * 1000) * 900)[: MiB - 200] + part(NAMED) + b"--b--",
    ),
    "multipart, headers": lambda: post(b"/text", MULTIPART, b"--b\r\n" + filled(b"a: b\r\n")),
    "multipart, parameters": lambda: post(
        b"/text", MULTIPART, filled(part(NAMED + b";a=b" * 30), MiB - 5) + b"--b--"
    ),
    "multipart, no end": lambda: post(
        b"/text", MULTIPART, b"--b\r\n" + NAMED + b"\r\n\r\n" + filled(b"\r\n--", MiB - 100)
    ),
    "multipart, a value": lambda: post(
        b"/text",
        MULTIPART,
        part(NAMED, filled(b"\x01", MiB - 100)) + b"--b--",
        b"accept: " + JSON + b"\r\n",
    ),
    "gzip bomb": lambda: post(b"/json", JSON, gzip.compress(bytes(1000 * MiB), 9)[:MiB], GZIP),
    "gzip of 1 MiB": lambda: post(
        b"/json", JSON, gzip.compress(b'"%b"' % (b"x" * (MiB - 2))), GZIP
    ),
    "gzip of members": lambda: post(b"/json", JSON, filled(gzip.compress(b"")), GZIP),
    "head of 1 MiB": lambda: b"GET /text?data=1 HTTP/1.1\r\nhost: a\r\n" + filled(b"x-a: b\r\n"),
    "pipelined": lambda: filled(b"GET /text?data=1 HTTP/1.1\r\nhost: a\r\n\r\n"),
}


def ask(port: int, said: bytes) -> None:
    """Send, and read until the server has answered and says no more for a moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:

        def send() -> None:
            with suppress(OSError):
                client.sendall(said)

        sending = threading.Thread(target=send)
        sending.start()
        with suppress(OSError):
            while client.recv(MiB):
                client.settimeout(1)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        sending.join()


def request(said: bytes, times: int) -> Callable[[Server, ExitStack], None]:
    def attack(server: Server, stack: ExitStack) -> None:
        attackers = [threading.Thread(target=ask, args=(server.port, said)) for _ in range(times)]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()

    return attack


# --- Clients that hold connections ----------------------------------------------------------------


def hold(times: int, said: bytes, small: bool = False) -> Callable[[Server, ExitStack], None]:
    """Connect, say something and read nothing, for some seconds."""

    def attack(server: Server, stack: ExitStack) -> None:
        for _ in range(times):
            client = stack.enter_context(socket.socket())
            if small:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            client.settimeout(10)
            with suppress(OSError):
                client.connect(("127.0.0.1", server.port))
                client.sendall(said)
        time.sleep(2)

    return attack


@dataclass
class Attack:
    """What is done, with which server, and how much of each figure is allowed."""

    name: str
    run: Callable[[Server, ExitStack], None]
    limits: dict[str, float]
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    tls: bool = False


def attacks() -> Iterator[Attack]:
    for times in (1, 20):
        for name, made in REQUESTS.items():
            limits = {"blocked": 50.0 * times, "RSS": 32.0 * times}
            yield Attack(f"{times} x {name}", request(made(), times), limits)
    silent = {"connections": 500, "descriptors": 500 + 40}
    # asyncio's TLS keeps a buffer of 256 KiB for each connection.
    for said, name in ((b"", "silent"), (b"\x16\x03\x01\x02\x00\x01", "begun")):
        yield Attack(
            f"1000 stalled TLS handshakes, {name}",
            hold(1000, said),
            {**silent, "RSS": 500 * 0.5, "blocked": 50.0},
            {"connections": 500},
            tls=True,
        )
    yield Attack(
        "1000 clients over the limit",
        hold(1000, b"GET /text?da"),
        {"connections": 10, "descriptors": 10 + 40, "RSS": 32.0, "blocked": 50.0},
        {"connections": 10},
    )
    yield Attack(
        "1000 clients, 1024 files",
        hold(1000, b"GET /text?da"),
        {"connections": 768, "descriptors": 768 + 40, "RSS": 32.0, "blocked": 50.0},
    )
    value = part(NAMED, filled(b"\x01", MiB - 100)) + b"--b--"
    answer = 6.0  # MiB: each byte of it as \u0001
    yield Attack(
        "100 clients that do not read",
        hold(100, post(b"/text", MULTIPART, value, b"accept: " + JSON + b"\r\n"), small=True),
        {"counted": 32 + answer, "RSS": 2 * (32 + answer) + 100 / 16},
        {"body_memory": 32 * MiB},
    )
    yield Attack(
        "100 bodies that do not end",
        hold(100, post(b"/text", FORM, bytes(MiB))[:-1]),
        {"counted": 32.0, "RSS": 2 * 32.0, "blocked": 50.0},
        {"body_memory": 32 * MiB},
    )
    yield Attack(
        "500 that pipeline and do not read",
        hold(500, filled(b"GET /text?data=1 HTTP/1.1\r\nhost: a\r\n\r\n", MiB // 4), small=True),
        {"counted": 32 + 1, "RSS": 2 * 32 + 500 / 8, "blocked": 50.0},
        {"body_memory": 32 * MiB},
    )


# --- The table ------------------------------------------------------------------------------------

COLUMNS = ("blocked", "wall", "RSS", "counted", "connections", "descriptors")
UNITS = {"blocked": "ms", "wall": "ms", "RSS": "MiB", "counted": "MiB"}
WARM = (
    b"GET /text?data=a HTTP/1.1\r\nhost: a\r\n\r\n",
    post(b"/json", JSON, b"[1]"),
    post(b"/json", NDJSON, b"1\n2\nx\n"),
    post(b"/text", MULTIPART, part(NAMED) + b"--b--"),
    post(b"/json", JSON, gzip.compress(b"[1]"), GZIP),
)


def measure(attack: Attack, asked: argparse.Namespace) -> dict[str, float]:
    options, figures = dict(attack.options), dict[str, float]()
    with ExitStack() as stack:
        if attack.tls:
            import trustme

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            issued = trustme.CA().issue_cert("127.0.0.1")
            issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
            issued.private_key_pem.write_to_path(folder / "key.pem")
            options["tls"] = [str(folder / "cert.pem"), str(folder / "key.pem")]
        server = Server(asked.python, not asked.asyncio, options)
        stack.callback(server.close)
        if not attack.tls:
            for said in WARM * 3:
                with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                    client.sendall(said)
                    client.recv(65536)
        with server.measured(figures), ExitStack() as held:
            attack.run(server, held)
    return figures


def cell(attack: Attack, figures: dict[str, float], column: str) -> str:
    value, most = figures.get(column, 0.0), attack.limits.get(column)
    return f"{value:.0f}" if most is None else f"{value:.0f}/{most:.0f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="memory and time that hostile clients can take")
    parser.add_argument("--only", metavar="NAMES", help="those whose name contains one of these")
    parser.add_argument("--asyncio", action="store_true", help="its own loop, and not uvloop")
    parser.add_argument("--python", default=sys.executable, help="that runs the server")
    parser.add_argument("--serve", metavar="OPTIONS", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if asked.serve is not None:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        options = json.loads(asked.serve)
        if "tls" in options:
            options["tls"] = tuple(options["tls"])
        start: Any = asyncio.run
        if not asked.asyncio:
            import uvloop

            start = uvloop.run
        start(serve(options))
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else 4096, hard))
    loop = "asyncio" if asked.asyncio else "uvloop"
    print(f"What hostile clients can take: figure/limit; {loop}, {FILES} open files")
    print(f"  machine: {cpu_name()}\n  python: {sys.version.split()[0]}", flush=True)
    print(f"{'':40}" + "".join(f"{name:>14}" for name in COLUMNS))
    print(f"{'':40}" + "".join(f"{UNITS.get(name, ''):>14}" for name in COLUMNS), flush=True)
    over = 0
    for attack in attacks():
        if asked.only and not any(name in attack.name for name in asked.only.split(",")):
            continue
        figures = measure(attack, asked)
        exceeded = [name for name, most in attack.limits.items() if figures.get(name, 0) > most]
        over += bool(exceeded)
        verdict = f"over: {', '.join(exceeded)}" if exceeded else "ok"
        cells = "".join(f"{cell(attack, figures, name):>14}" for name in COLUMNS)
        print(f"{attack.name:40}{cells}  {verdict}", flush=True)
    print("all within their limits" if not over else f"{over} over")
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
