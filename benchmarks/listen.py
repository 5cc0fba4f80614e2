"""What the listener itself costs: CPU time for a request, without sockets, kernel or pipeline.

    python benchmarks/listen.py [--requests 20000] [--passes 15] [--connections 64] [--only NAMES]
                                [--asyncio] [--count]

The bytes of requests are handed to the connections' protocol objects, as an event loop does that
has found so many sockets readable, and what they write goes to a transport that only counts. In
place of the channel stands a sender that settles each message at once (`ack`), so that what is
left is the listener, the `Message`, its settling and the answer.

A figure is the fastest of many short passes, in CPU time of this process: what else the machine
does can only add. It includes the turn of the event loop in which messages are forwarded, shared
by the connections of a round. ``--count`` makes one short pass of the first kind of request and
prints nothing else, for a tool that counts instructions:

    valgrind --tool=callgrind python benchmarks/listen.py --count --asyncio
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any, cast

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import cpu_name
from tailrace import Message
from tailrace.listen import HttpServer
from tailrace.listen.http.admission import Limits
from tailrace.listen.http.protocol import HttpProtocol
from tailrace.listen.http.server import Connections

ANSWER = "OK: ☆ foo ☆"
HOST = b"host: 127.0.0.1:8080\r\n"
CURL = b"user-agent: curl/8.5.0\r\naccept: */*\r\n"
BROWSER = (
    b"user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"accept-language: en-US,en;q=0.5\r\naccept-encoding: gzip, deflate\r\n"
    b"connection: keep-alive\r\nupgrade-insecure-requests: 1\r\n"
)
FORM = b"content-type: application/x-www-form-urlencoded\r\ncontent-length: 8\r\n"
KEY = b"idempotency-key: %d\r\n"
TRACED = b"x-request-id: %032d\r\ntraceparent: 00-%032d-0000000000000001-01\r\n"
JSON = b"authorization: Bearer secret\r\ncontent-type: application/json\r\ncontent-length: 17\r\n"


def get(target: bytes, headers: bytes = HOST) -> list[bytes]:
    return [b"GET %b HTTP/1.1\r\n%b\r\n" % (target, headers)]


KINDS: dict[str, list[bytes]] = {
    # What wrk sends: one header.
    "GET": get(b"/incoming?data=foo"),
    "GET of other data each time": [
        b"GET /incoming?data=%d HTTP/1.1\r\n%b\r\n" % (1000 + n, HOST) for n in range(1000)
    ],
    "GET with an escape": get(b"/incoming?data=f%6fo"),
    "GET as of curl": get(b"/incoming?data=foo", HOST + CURL),
    "GET as of a browser": get(b"/incoming?data=foo", HOST + BROWSER),
    "GET with Idempotency-Key": [
        b"GET /incoming?data=foo HTTP/1.1\r\n%b\r\n" % (HOST + CURL + KEY % n) for n in range(1000)
    ],
    "GET with tracing": [
        b"GET /incoming?data=foo HTTP/1.1\r\n%b\r\n" % (HOST + CURL + TRACED % (n, n))
        for n in range(1000)
    ],
    "POST of JSON, traced, with a key": [
        b"POST /incoming HTTP/1.1\r\n%b\r\n" % (HOST + CURL + TRACED % (n, n) + KEY % n + JSON)
        + b'{"data": "%05d"}' % n
        for n in range(1000)
    ],
    "POST of a form": [
        b"POST /incoming HTTP/1.1\r\n%b\r\ndata=foo" % (HOST + CURL + FORM),
    ],
    "four pipelined": [get(b"/incoming?data=foo")[0] * 4],
}


class Transport:
    """Takes in what is written."""

    def __init__(self) -> None:
        self.last = b""
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += 1
        self.last = data

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 50000) if name == "peername" else None


class Sink:
    """In place of a channel: settles what is sent."""

    async def send(self, message: Message[Any]) -> None:
        message.data = ANSWER[4:]
        message.ack()


async def measure(kind: str, requests: int, passes: int, connections: int) -> float:
    """Seconds of CPU for a request; the fastest pass counts."""
    server = HttpServer("127.0.0.1:0")
    listener = server.listen("/incoming")
    host = listener._shared
    served = Connections(host.routes, host.admission, Limits(4096, 16384, 30.0, 75.0), None)
    served.service._date = "Thu, 01 Jan 1970 00:00:00 GMT"
    route = listener._route
    route.start()
    forwarding = asyncio.ensure_future(route.forward(cast(Any, Sink())))
    carried = []
    for _ in range(connections):
        protocol, transport = HttpProtocol(served.service, served), Transport()
        served._protocols.add(protocol)
        protocol.connection_made(cast(Any, transport))
        carried.append((protocol.data_received, transport))
    packets = KINDS[kind]
    each = packets[0].count(b" HTTP/1.1\r\n")
    rounds = max(1, requests // (connections * each))
    best = float("inf")
    gc.collect()
    gc.disable()
    n = 0
    for _ in range(passes):
        began = time.process_time()
        for _ in range(rounds):
            packet = packets[n % len(packets)]
            n += 1
            for receive, _ in carried:
                receive(packet)
            while route.unanswered:  # noqa: ASYNC110 (it is what is measured)
                await asyncio.sleep(0)
        best = min(best, time.process_time() - began)
    gc.enable()
    for _, transport in carried:
        assert transport.last.endswith(ANSWER.encode()), transport.last
    assert host.admission.answers == {200: passes * rounds * connections * each}, (
        host.admission.answers
    )
    forwarding.cancel()
    return best / (rounds * connections * each)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time of the listener for a request")
    parser.add_argument("--requests", type=int, default=20_000, help="in a pass (default 20000)")
    parser.add_argument("--passes", type=int, default=15, help="default 15; the fastest counts")
    parser.add_argument("--connections", type=int, default=64, help="default 64")
    parser.add_argument("--only", metavar="NAMES", help="those whose name contains one of these")
    parser.add_argument("--asyncio", action="store_true", help="its own loop, and not uvloop")
    parser.add_argument("--count", action="store_true", help="one short pass, for a tool")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    start: Any = asyncio.run
    if not asked.asyncio:
        import uvloop

        start = uvloop.run
    if asked.count:
        start(measure("GET", asked.requests, 1, asked.connections))
        return
    print(f"The listener, CPU time for a request; {asked.connections} connections")
    print(f"  machine: {cpu_name()}\n  python: {sys.version.split()[0]}", flush=True)
    for kind in KINDS:
        if asked.only and not any(part in kind for part in asked.only.split(",")):
            continue
        seconds = start(measure(kind, asked.requests, asked.passes, asked.connections))
        print(f"{kind:32} {seconds * 1e6:8.2f} µs", flush=True)


if __name__ == "__main__":
    main()
