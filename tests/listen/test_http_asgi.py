"""The ASGI application: mounted in another, and served by another server."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpServer, ListenHttp, Request

FORM = "application/x-www-form-urlencoded"
Work = Callable[[Receiver[Message[Any]]], Any]


@asynccontextmanager
async def running(listener: ListenHttp[Any], work: Work) -> AsyncIterator[Group]:
    channel = Channel[Message[Any]]()
    async with Group() as go:
        go(listener, channel)
        go(work, channel)
        await asyncio.sleep(0)
        yield go
        go.drain()


async def store(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        if message.data == "bar":
            message.abort("filtered")
        else:
            message.ack()


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


async def test_it_answers_as_the_servers_own_socket_does() -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming", max_body=1000)
    async with running(listener, store), client_of(server.app) as client:
        answers = [
            await client.get("/incoming?data=foo"),
            await client.get("/incoming?data=bar"),
            await client.post("/incoming", data={"data": "form"}),
            await client.post("/incoming", files={"data": (None, "multipart")}),
            await client.post("/incoming", json="json"),
            await client.post("/incoming", content="x" * 1001, headers={"content-type": FORM}),
            await client.get("/incoming"),
            await client.put("/incoming?data=foo"),
            await client.get("/elsewhere"),
            await client.head("/incoming"),
        ]
        lines = await client.post(
            "/incoming", content=b'"a"\n', headers={"content-type": "application/x-ndjson"}
        )

    assert [answer.status_code for answer in answers] == [
        *(200, 200, 200, 200, 200),
        *(413, 400, 405, 404, 405),
    ]
    assert [answer.text for answer in answers[:5]] == [
        "OK: foo",
        "aborted: bar",
        "OK: form",
        "OK: multipart",
        "OK: json",
    ]
    assert answers[0].headers["cache-control"] == "no-store"
    assert json.loads(lines.text)["status"] == "stored"
    assert server.statistics().in_flight == 0


async def test_headers_client_and_gzip_are_what_they_are_on_a_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers: list[Any] = []

    def who(request: Request) -> dict[str, str]:
        return {"client": request.client}

    async def look(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            headers.append(message.headers)
            message.ack()

    server = HttpServer(None, access_log=True)
    listener = server.listen("/in", authorize=who, body="json")
    with caplog.at_level(logging.INFO, logger="tailrace.access"):
        async with running(listener, look), client_of(server.app) as client:
            packed = gzip.compress(b'"foo"')
            sent = {"content-encoding": "gzip", "cookie": "s3cret", "x-event": "push"}
            answer = await client.post("/in", content=packed, headers=sent)
            await client.get("/nowhere")

    assert (answer.status_code, answer.text) == (200, "OK: foo")
    assert headers[0]["client"] == "127.0.0.1"  # what the transport says
    assert headers[0]["x-event"] == "push"
    assert "cookie" not in headers[0]
    records: list[Any] = [r for r in caplog.records if r.name == "tailrace.access"]
    assert [(r.client, r.status) for r in records] == [("127.0.0.1", 200), ("127.0.0.1", 404)]


async def test_it_is_mounted_in_starlette() -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming")

    async def home(request: object) -> PlainTextResponse:
        return PlainTextResponse("home")

    app = Starlette(routes=[Route("/", home), Mount("/events", app=server.app)])
    async with running(listener, store), client_of(app) as client:
        mounted = await client.get("/events/incoming?data=foo")
        elsewhere = await client.get("/events/other")
        other = await client.get("/")

    assert (mounted.text, elsewhere.status_code, other.text) == ("OK: foo", 404, "home")


async def test_it_is_served_by_uvicorn() -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming")
    config = uvicorn.Config(server.app, port=0, log_config=None, lifespan="on")
    other = uvicorn.Server(config)
    async with running(listener, store):
        serving = asyncio.ensure_future(other._serve())  # `serve` would take over the signals
        while not other.started:
            await asyncio.sleep(0.01)
        port = other.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answers = [
                await client.get("/incoming?data=foo"),
                await client.post("/incoming", data={"data": "x" * 100_000}),
            ]
        other.should_exit = True
        await serving

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_without_its_actor_it_answers_503() -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming")
    async with client_of(server.app) as client:
        before = await client.get("/incoming?data=foo")
        async with running(listener, store):
            during = await client.get("/incoming?data=foo")
        after = await client.get("/incoming?data=foo")

    assert [answer.status_code for answer in (before, during, after)] == [503, 200, 503]
    assert before.headers["retry-after"] == "1"


class Call:
    """A request made by hand: what the server says is `events`, what it hears is `sent`."""

    def __init__(self, server: HttpServer, body: bytes, *, end: bool = True) -> None:
        self.sent: list[MutableMapping[str, Any]] = []
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.events.put_nowait({"type": "http.request", "body": body, "more_body": not end})
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/incoming",
            "query_string": b"",
            "headers": [(b"Content-Type", FORM.encode())],
        }

        async def send(event: MutableMapping[str, Any]) -> None:
            self.sent.append(event)

        self.task = asyncio.ensure_future(server.app(scope, self.events.get, send))


async def test_a_cancelled_request_does_not_take_its_message_with_it(hold: Any) -> None:
    server = HttpServer(None)
    held = hold()
    async with running(server.listen("/incoming"), held):
        call = Call(server, b"data=foo")
        await held.reached(1)
        call.task.cancel()
        await asyncio.wait([call.task])
        assert call.task.cancelled()
        assert held.messages[0].ack()

    assert held.messages[0].data == "foo"
    assert server.statistics().in_flight == 0


@pytest.mark.parametrize("order", ["cancelled first", "settled first"])
async def test_a_request_that_is_cancelled_as_its_message_is_settled_is_not_answered(
    hold: Any, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    server = HttpServer(None)
    held = hold()
    async with running(server.listen("/incoming"), held):
        call = Call(server, b"data=foo")
        (message,) = await held.reached(1)
        if order == "cancelled first":
            call.task.cancel()
        message.ack()
        call.task.cancel()
        await asyncio.wait([call.task])

    assert call.task.cancelled()
    assert call.sent == []
    assert server.statistics().in_flight == 0
    assert caplog.records == []


async def test_the_access_log_has_what_was_refused_at_the_head(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = HttpServer(None, access_log=True)
    with caplog.at_level(logging.INFO, logger="tailrace.access"):
        async with running(server.listen("/incoming"), store), client_of(server.app) as client:
            await client.get("/incoming?data=foo")
            await client.get("/incoming?data=foo", headers={"origin": "http://foreign.test"})
            await client.request("MIRACLE", "/incoming")
            await client.get("/incoming?data=" + "x" * 20_000)

    records: list[Any] = [r for r in caplog.records if r.name == "tailrace.access"]
    assert [(r.status, r.method) for r in records] == [
        (200, "GET"),
        (403, "GET"),
        (501, "MIRACLE"),
        (431, ""),  # nothing was read of it
    ]


async def test_a_client_that_leaves_before_its_end_makes_no_message(hold: Any) -> None:
    server = HttpServer(None)
    held = hold()
    async with running(server.listen("/incoming"), held):
        call = Call(server, b"data=f", end=False)
        call.events.put_nowait({"type": "http.disconnect"})
        await call.task
        assert (call.sent, held.messages) == ([], [])
        assert server.statistics().in_flight == 0


async def test_a_body_that_stalls_is_let_go(hold: Any) -> None:
    server = HttpServer(None, receive_timeout=0.05)
    held = hold()
    async with running(server.listen("/incoming"), held):
        call = Call(server, b"data=f", end=False)
        await call.task

    assert call.sent[0]["status"] == 408
    assert server.statistics().in_flight == 0


async def test_another_loop_than_its_actors_is_an_error() -> None:
    server = HttpServer(None)

    async def elsewhere() -> None:
        async with client_of(server.app) as client:
            await client.get("/incoming?data=foo")

    async with running(server.listen("/incoming"), store):
        with pytest.raises(RuntimeError, match="runs on another loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())


@pytest.mark.parametrize(("max_head", "status"), [(26, 200), (25, 431)])
async def test_a_head_may_be_just_as_large_as_the_limit(max_head: int, status: int) -> None:
    server = HttpServer(None, max_head=max_head)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": "/incoming", "query_string": b"data=foo"}
    async with running(server.listen("/incoming"), store):
        await server.app(scope | {"headers": [(b"host", b"a")]}, receive, send)

    assert sent[0]["status"] == status


async def test_websockets_are_closed_and_the_unknown_is_an_error() -> None:
    app = HttpServer(None).app
    sent: list[MutableMapping[str, Any]] = []

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("there is nothing to receive")

    await app({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(ValueError, match="does not serve"):
        await app({"type": "smtp"}, receive, send)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": [(b"host", b"a"), (b"Host", b"b")]}, 400),
        ({"headers": [(b"host", b"a b")]}, 400),
        ({"headers": []}, 400),
        ({"headers": [], "http_version": "1.0"}, 200),
        ({"headers": [(b"host", b"a")], "http_version": "2"}, 200),
        ({"method": "FOO"}, 501),
        ({"method": "PUT"}, 405),
        ({"path": "*", "raw_path": b"*"}, 400),
        ({"raw_path": b"/incoming#a"}, 400),
        ({"headers": [(b"host", b"a"), (b"expect", b"miracles")]}, 417),
        ({"headers": [(b"expect", b"miracles")], "http_version": "1.0"}, 200),
        ({"headers": [(b"host", b"a"), (b"content-length", b"x")]}, 400),
        ({"headers": [(b"host", b"a"), (b"content-length", b"9" * 5000)]}, 400),
        ({"headers": [(b"host", b"a"), (b"content-length", b"0"), (b"content-length", b"0")]}, 400),
        ({"headers": [(b"host", b"a"), (b"transfer-encoding", b"gzip, chunked")]}, 501),
        ({"headers": [(b"transfer-encoding", b"chunked")], "http_version": "1.0"}, 400),
        ({"headers": [(b"host", b"a"), (b"connection", b"upgrade"), (b"upgrade", b"h2c")]}, 200),
    ],
)
async def test_what_a_server_lets_through_is_judged_as_on_a_connection_of_its_own(
    change: dict[str, Any], status: int
) -> None:
    server = HttpServer(None)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/incoming",
        "raw_path": b"/incoming",
        "query_string": b"data=foo",
        "headers": [(b"host", b"a")],
    }
    async with running(server.listen("/incoming"), store):
        await server.app(scope | change, receive, send)

    assert sent[0]["status"] == status
