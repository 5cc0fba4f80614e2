"""Raw requests: each hears what it must, and nothing is read in two ways."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tailrace import Message, Receiver
from tailrace.listen import listen_http
from tailrace.listen.http import parser as parser_module
from tailrace.listen.http.parser import Parser
from tailrace.listen.http.request import Refusal

from .raw_requests import CASES, Case

Loops = Callable[[], asyncio.AbstractEventLoop]
PROBE = b"GET /incoming?data=probe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
MAX_HEAD = 16 * 1024


async def heard(client: Any) -> list[int]:
    """The statuses of all answers until the connection ends."""
    statuses = []
    try:
        while True:
            head = await client.reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if not client.asked_head:
                await client.reader.readexactly(length)
            client.asked_head = False
            statuses.append(status)
    except (asyncio.IncompleteReadError, ConnectionError):
        return statuses


async def test_each_hears_what_it_must_and_no_more(
    serve: Any, any_loop: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    async def keep(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            seen.append(message.data)
            message.ack()

    wrong = []
    async with serve(listen_http("127.0.0.1:0", "/incoming"), keep) as service:
        for case in CASES:
            seen.clear()
            async with await service.connect() as client:
                client.asked_head = case.said.startswith(b"HEAD")
                client.say(case.said, PROBE)
                statuses = await heard(client)
            right = [*case.statuses, *[200] * case.goes_on]
            taken = ["ok"] * case.statuses.count(200) + ["probe"] * case.goes_on
            if statuses != right or seen != taken:
                wrong.append((case.name, statuses, right, list(seen)))
        statistics = service.server.statistics()

    assert wrong == [], "\n".join(map(str, wrong))
    assert (statistics.in_flight, statistics.body_bytes) == (0, 0)
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def read(pieces: Iterable[bytes]) -> tuple[list[tuple[str, str, bytes, bytes]], bool, int]:
    """The requests that a parser finds in `pieces`, whether it refuses, and what it leaves."""
    parser = Parser(MAX_HEAD)
    requests: list[tuple[str, str, bytes, bytes]] = []
    request, body = None, b""
    try:
        for piece in pieces:
            parser.feed(piece)
            while True:
                if request is None:
                    request, body = parser.head(), b""
                    if request is None:
                        break
                if not parser.ended:
                    body += parser.body()
                    if parser.more:
                        continue
                    if not parser.ended:
                        break
                requests.append((request.method, request.path, request.raw_query, body))
                request = None
    except Refusal:
        return requests, True, 0
    return requests, False, parser.waiting


SHORT = [case for case in CASES if len(case.said) < 500]


@pytest.mark.parametrize("case", SHORT[::3], ids=[case.name for case in SHORT[::3]])
def test_wherever_packets_end_the_same_is_read(case: Case) -> None:
    said = case.said
    whole = read([said])
    assert read(said[n : n + 1] for n in range(len(said))) == whole
    for cut in range(1, len(said)):
        assert read([said[:cut], said[cut:]]) == whole, said[:cut]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_body_is_the_same_however_it_is_chunked(size: int) -> None:
    body = bytes(range(256)) * 40
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    said = head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    for packet in (len(said), 65_536, 1000, 37):
        pieces = [said[start : start + packet] for start in range(0, len(said), packet)]
        assert read(pieces) == ([("POST", "/", b"", body)], False, 0)


def test_a_head_that_comes_byte_by_byte_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    broken, heading = parser_module._broken, parser_module._heading

    def counted_broken(data: bytes, begin: int) -> bool:
        read.append(len(data) - begin)
        return broken(data, begin)

    def counted_heading(line: bytes) -> Any:
        read.append(len(line))
        return heading(line)

    monkeypatch.setattr(parser_module, "_broken", counted_broken)
    monkeypatch.setattr(parser_module, "_heading", counted_heading)
    head = b"GET /incoming HTTP/1.1\r\nhost: x\r\nx-more: %b\r\n\r\n" % (b"y" * 1000)
    parser = Parser(max_head=16 * 1024)
    requests = []
    for at in range(len(head)):
        parser.feed(head[at : at + 1])
        requests.append(parser.head())
    assert [request is not None for request in requests] == [False] * (len(head) - 1) + [True]
    assert sum(read) < 3 * len(head)


def test_names_that_clients_make_up_are_not_remembered_without_end() -> None:

    for n in range(3 * parser_module.KNOWN_NAMES):
        assert not read([b"GET / HTTP/1.1\r\nhost: x\r\nx-made-up-%d: y\r\n\r\n" % n])[1]
    assert len(parser_module._names) <= parser_module.KNOWN_NAMES


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01",
        b"hello\r\n",
        b"GET /\n",
        b"GET / HTTP/1.1\r\nhost: x\n",
        b"(",
        b"GET / HTTP/2.0\r\n",
    ],
)
async def test_what_cannot_become_a_request_is_refused_before_its_end(
    serve: Any, said: bytes
) -> None:
    listener = listen_http("127.0.0.1:0", "/incoming")
    async with serve(listener) as service, await service.connect() as client:
        client.say(said)
        assert (await client.hear()).status in (400, 505)
        assert await client.closed()


async def test_an_unreadable_packet_is_answered_once(
    serve: Any, any_loop: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    """However large it is, and whatever comes after it."""
    listener = listen_http("127.0.0.1:0", "/incoming")
    async with serve(listener) as service:
        for said in (b"\x00" * 10, b"\x00" * 50_000, b"GET / HTTP/1.1\r\n" + b"x\x00" * 50_000):
            async with await service.connect() as client:
                client.say(said)
                assert (await client.hear()).status in (400, 414, 431)
                for _ in range(5):
                    client.say(said)
                    await asyncio.sleep(0)
                assert await client.closed()
        assert sum(service.server.statistics().answers.values()) == 3
    gc.collect()
    assert "Traceback" not in caplog.text
    assert "failed" not in caplog.text
