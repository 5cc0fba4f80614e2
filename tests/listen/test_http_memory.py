"""What clients make a server keep is counted, at its real size, and limited."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from tailrace import Message, Receiver
from tailrace.listen import HttpServer, ListenHttp, Request, listen_http
from tailrace.listen.http import connection as connection_module
from tailrace.listen.http import protocol as protocol_module
from tailrace.listen.http import route as route_module
from tailrace.listen.http import server as server_module
from tailrace.listen.http.parser import Parser
from tailrace.listen.http.protocol import HttpProtocol

from .conftest import Client

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"
FORM = "application/x-www-form-urlencoded"
LARGE = 24 * 1024 * 1024  # more than the system's own buffers take


def limited(*, max_body: int = 1000, **limits: Any) -> ListenHttp[str]:
    return HttpServer(ANY, **limits).listen("/incoming", max_body=max_body)


async def large(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack("x" * LARGE)


async def slow_client(listener: ListenHttp[Any]) -> socket.socket:
    """A connection for which the system keeps little."""
    host, _, port = listener.server.address.rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def say(client: socket.socket, text: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, text)


async def hear_all(client: socket.socket, pause: float = 0.0) -> int:
    """How many bytes come until the connection ends."""
    loop, heard = asyncio.get_running_loop(), 0
    try:
        while said := await loop.sock_recv(client, 1024 * 1024):
            heard += len(said)
            await asyncio.sleep(pause)
    except ConnectionError:
        pass
    return heard


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a drain allows, a tenth of it."""
    for module in (route_module, server_module, connection_module):
        monkeypatch.setattr(module, "RECEIVE_IN_DRAIN", 0.5)
    monkeypatch.setattr(server_module, "FLUSH", 0.2)
    monkeypatch.setattr(protocol_module, "STALLED", 0.5)
    monkeypatch.setattr(connection_module, "LINGER", 0.5)


async def test_a_body_of_small_pieces_takes_its_size(serve: Any) -> None:
    listener = limited(max_body=1_000_000)
    async with serve(listener) as service:
        fields = {b"content-type": FORM.encode()}
        exchange = listener._route.open(Request("POST", "/incoming", b"", fields), [].append)
        tracemalloc.start()
        try:
            for _ in range(100_000):
                exchange.feed(b"ab")
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert service.server.statistics().body_bytes == 200_000
        exchange.client_left()
    assert taken < 300_000
    assert service.server.statistics().body_bytes == 0


def test_what_has_been_read_is_not_kept() -> None:
    parser = Parser(1000)
    head = b"POST / HTTP/1.1\r\nhost: a\r\n"
    for data in (
        head + b"content-length: 100000\r\n\r\n" + bytes(100_000),
        head + b"transfer-encoding: chunked\r\n\r\n186a0\r\n" + bytes(100_000) + b"\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 1000,
    ):
        before = sys.getrefcount(data)
        parser.feed(data)
        while parser.head() is not None:
            while not parser.ended:
                parser.body()
        assert sys.getrefcount(data) == before


async def test_requests_that_wait_behind_another_are_counted(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    async with serve(limited(), held) as service, await service.connect() as client:
        client.ask("GET", "/incoming?data=first")
        (first,) = await held.reached(1)
        client.say(b"GET /incoming?data=next HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
        await service.until(lambda now: now.body_bytes >= 4400)
        first.ack()
        await held.reached(2)
        for n in range(1, 101):
            (await held.reached(n + 1))[n].ack()
        for _ in range(101):
            assert (await client.hear()).status == 200
        assert service.server.statistics().body_bytes == 0


async def test_requests_that_wait_for_the_turns_of_others_are_counted(
    serve: Any, any_loop: Loops
) -> None:
    """A client that sends very many has some of them answered in each turn of the loop."""
    async with serve(limited()) as service, await service.connect() as client:
        client.say(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        most = 0
        while service.server.statistics().answers.get(404, 0) < 1000:
            most = max(most, service.server.statistics().body_bytes)
            await asyncio.sleep(0)
        for _ in range(1000):
            assert (await client.hear()).status == 404
        assert service.server.statistics().body_bytes == 0
    assert most > 1000


async def test_requests_that_wait_are_dropped_where_there_is_no_room(serve: Any, hold: Any) -> None:
    held = hold()
    listener = limited(body_memory=1000)
    async with serve(listener, held) as service, await service.connect() as client:
        client.ask("GET", "/incoming?data=first")
        (first,) = await held.reached(1)
        client.say(b"GET /incoming?data=next HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
        while client.writer.transport.get_write_buffer_size():
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert service.server.statistics().body_bytes <= 1000
        first.ack()
        answer = await client.hear()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()
    assert len(held.messages) == 1


async def test_answers_that_are_not_read_are_counted(serve: Any, any_loop: Loops) -> None:
    listener = limited(body_memory=1_000_000)
    async with serve(listener, large) as service:
        first = await slow_client(listener)
        await say(first, b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.until(lambda now: now.body_bytes > 1_000_000)
        refused = await service.post("/incoming", b"data=foo", content_type=FORM)
        # One more: the client that has not read for the longest is cut off.
        second = await slow_client(listener)
        await say(second, b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await hear_all(first) < LARGE
        first.close()
        assert service.server.statistics().connections == 1
        assert LARGE > service.server.statistics().body_bytes > 1_000_000
        second.close()
        await service.until(lambda now: now.connections == 0)
        assert service.server.statistics().body_bytes == 0
    assert refused.status == 503


async def test_what_a_client_has_read_of_its_answer_is_counted_no_longer(
    serve: Any, any_loop: Loops
) -> None:
    listener, loop = limited(), asyncio.get_running_loop()
    async with serve(listener, large) as service, asyncio.timeout(20):
        client = await slow_client(listener)
        await say(client, b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.until(lambda now: now.body_bytes > LARGE // 2)
        heard = 0
        while heard < LARGE // 2:
            heard += len(await loop.sock_recv(client, 1024 * 1024))
        await service.until(lambda now: now.body_bytes <= LARGE // 2)
        client.close()


async def test_a_client_that_reads_its_answer_slowly_gets_all_of_it_in_a_drain(
    serve: Any, any_loop: Loops, hurried: None
) -> None:
    listener = limited()
    async with serve(listener, large) as service:
        client = await slow_client(listener)
        await say(client, b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.until(lambda now: now.body_bytes)
        heard = asyncio.ensure_future(hear_all(client, 0.002))
        service.go.drain()
        assert await heard > LARGE
        client.close()


async def test_a_last_answer_that_is_read_slowly_ends_the_connection(
    serve: Any, any_loop: Loops
) -> None:
    listener = limited()
    async with serve(listener, large) as service:
        client = await slow_client(listener)
        await say(client, b"GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await service.until(lambda now: now.body_bytes)
        await say(client, b"GET /incoming?data=2 HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(4):  # before the end of `keep_alive` and of the lingering
            assert LARGE < await hear_all(client) < 2 * LARGE
        assert service.server.statistics().answers == {200: 1}
        client.close()


async def test_a_client_that_reads_nothing_does_not_hold_a_drain(
    serve: Any, any_loop: Loops, hurried: None
) -> None:
    listener = limited()
    loop = asyncio.get_running_loop()
    async with serve(listener, large) as service:
        client = await slow_client(listener)
        await say(client, b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.until(lambda now: now.body_bytes)
        began = loop.time()
    assert loop.time() - began < 10  # it would be `receive_timeout`, 30 s
    assert service.server.statistics().body_bytes == 0
    client.close()


class Choking:
    """A transport whose client takes in nothing of what is written, for a moment."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self._transport = protocol._transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, said: bytes) -> None:
        self._transport.write(said)
        self._protocol.pause_writing()


async def test_a_refused_client_that_takes_in_its_answer_by_pieces_is_let_go(
    serve: Any, any_loop: Loops, hurried: None
) -> None:
    """The time that a client has after its last answer does not end with a pause in that."""
    listener = limited()
    async with serve(listener) as service, await service.connect() as client:
        await service.until(lambda now: now.connections)
        (protocol,) = listener._shared._connections._protocols  # type: ignore[union-attr]
        choking = Choking(protocol)
        protocol._transport, protocol.write = cast("Any", choking), choking.write
        client.say("this is not HTTP\r\n\r\n")
        assert (await client.hear()).status == 400
        protocol.resume_writing()
        async with asyncio.timeout(5):
            await service.until(lambda now: not now.connections)


def ask_by_tls(listener: ListenHttp[Any], context: ssl.SSLContext, more: str = "") -> ssl.SSLSocket:
    """Ask for a large answer, and read its first byte."""
    host, _, port = listener.server.address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10)
    client = context.wrap_socket(plain, server_hostname=host)
    client.sendall(f"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n{more}\r\n".encode())
    assert client.recv(1) == b"H"
    return client


def hear_all_by_tls(client: ssl.SSLSocket) -> int:
    heard = 0
    try:
        while said := client.recv(65536):
            heard += len(said)
    except OSError:
        pass
    client.close()
    return heard


@pytest.mark.parametrize("more", ["", "connection: close\r\n"])
async def test_a_client_of_tls_that_reads_nothing_is_counted_and_does_not_hold_a_drain(
    serve: Any, tls: Any, any_loop: Loops, hurried: None, more: str
) -> None:
    files, context = tls
    listener = limited(tls=files)
    loop = asyncio.get_running_loop()
    async with serve(listener, large) as service:
        clients = [await asyncio.to_thread(ask_by_tls, listener, context, more) for _ in range(3)]
        await service.until(lambda now: now.body_bytes > LARGE)  # but for what the system took
        began = loop.time()
    assert loop.time() - began < 10
    statistics = service.server.statistics()
    assert (statistics.connections, statistics.body_bytes) == (0, 0)
    for client in clients:
        client.close()


@pytest.mark.parametrize("more", ["", "connection: close\r\n"])
async def test_a_client_of_tls_that_reads_its_answer_in_a_drain_gets_all_of_it(
    serve: Any, tls: Any, any_loop: Loops, hurried: None, more: str
) -> None:
    files, context = tls
    listener = limited(tls=files)
    async with serve(listener, large) as service:
        client = await asyncio.to_thread(ask_by_tls, listener, context, more)
        await service.until(lambda now: now.body_bytes)
        service.go.drain()
        assert await asyncio.to_thread(hear_all_by_tls, client) > LARGE
    assert service.server.statistics().body_bytes == 0


async def test_a_client_of_tls_hears_large_answers_in_turn(
    serve: Any, tls: Any, any_loop: Loops
) -> None:
    files, context = tls
    async with serve(listen_http(ANY, "/incoming", tls=files)) as service:
        _, _, port = service.server.address.rpartition(":")
        opened = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
        asked = [str(n) * size for n, size in enumerate((300_000, 1, 65_536, 500_000, 70_000))]
        async with Client(*opened) as client:
            for data in asked:
                client.ask("POST", "/incoming", b"data=" + data.encode(), content_type=FORM)
            answers = [await client.hear() for _ in asked]

    assert [answer.text for answer in answers] == [f"OK: ☆ {data} ☆" for data in asked]


async def drip(client: Any) -> None:
    while True:
        client.say(b"x")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("head", ["GET /incoming?da", "POST /incoming HTTP/1.1\r\nhost: x\r\n"])
async def test_a_client_that_drips_does_not_hold_a_drain(
    serve: Any, any_loop: Loops, hurried: None, head: str
) -> None:
    listener = limited()
    loop = asyncio.get_running_loop()
    async with serve(listener) as service:
        client = await service.connect()
        if head.startswith("POST"):
            head += f"content-type: {FORM}\r\ncontent-length: 1000\r\n\r\n"
        client.say(head)
        await service.until(lambda now: now.connections == 1)
        dripping = asyncio.ensure_future(drip(client))
        await asyncio.sleep(0.05)
        began = loop.time()
        service.go.drain()
        answer = await client.hear()
        dripping.cancel()
        client.close()
    assert (answer.status, answer.text) == (503, "unavailable: the server is stopping")
    assert loop.time() - began < 10


async def test_a_body_ends_in_a_drain_as_soon_as_its_time_is_over(
    serve: Any, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the server next looks at all of its connections."""
    monkeypatch.setattr(server_module.Connections, "_sweep", lambda connections: None)
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, content_length="8")
        client.say(b"data=")
        await service.until(lambda now: now.body_bytes == 5)
        service.go.drain()
        async with asyncio.timeout(20):
            answer = await client.hear()
    assert (answer.status, answer.text) == (503, "unavailable: the server is stopping")


async def test_a_drain_of_one_path_leaves_the_requests_of_others_alone(
    serve: Any, hurried: None
) -> None:
    server = HttpServer(ANY)
    drained, kept = server.listen("/drained"), server.listen("/incoming")
    async with serve(drained), serve(kept) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, content_length="8")
        client.say(b"data=")
        await service.until(lambda now: now.body_bytes == 5)
        await drained.drain()
        await asyncio.sleep(1)
        client.say(b"foo")
        assert (await client.hear()).status == 200


async def test_a_mounted_listener_drains_in_spite_of_a_client_that_drips(
    serve: Any, hurried: None
) -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming")
    begun = asyncio.Event()

    async def body() -> Any:
        begun.set()
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    transport = httpx.ASGITransport(server.app)
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        serve(listener) as service,
    ):
        post = client.post("/incoming", content=body(), headers={"content-type": FORM})
        posting = asyncio.ensure_future(post)
        await begun.wait()
        began = loop.time()
        service.go.drain()
        answer = await posting
    assert (answer.status_code, answer.text) == (503, "unavailable: the server is stopping")
    assert loop.time() - began < 10


async def test_a_mounted_listener_refuses_a_head_too_large(serve: Any) -> None:
    server = HttpServer(None, max_head=1000)
    transport = httpx.ASGITransport(server.app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        serve(server.listen("/incoming")),
    ):
        headers = [("x-more", "and more")] * 100
        large_headers = await client.get("/incoming?data=foo", headers=headers)
        large_target = await client.get("/incoming?data=" + "x" * 1000)
        fine = await client.get("/incoming?data=foo")
    assert [large_headers.status_code, large_target.status_code] == [431, 431]
    assert fine.status_code == 200
