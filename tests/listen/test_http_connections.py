"""Connections: kept, pipelined, half closed, lost; and what becomes of their messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tailrace import Message, Receiver
from tailrace.listen import HttpServer, listen_http

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"
FORM = "application/x-www-form-urlencoded"


async def test_a_connection_carries_many_requests(serve: Any, any_loop: Loops) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        texts = [(await client.get(f"/incoming?data={n}")).text for n in range(20)]
        assert service.server.statistics().connections == 1

    assert texts == [f"OK: ☆ {n} ☆" for n in range(20)]


async def test_pipelined_requests_are_answered_in_their_order(serve: Any, any_loop: Loops) -> None:
    async def backwards(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            message.ack(f"{message.data}")

    listener = listen_http(ANY, "/incoming")
    async with serve(listener, backwards) as service, await service.connect() as client:
        asked = b""
        for n in range(30):
            body = b"data=%d" % n
            kind = FORM.encode()
            asked += b"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n" % kind
            asked += b"content-length: %d\r\n\r\n%b" % (len(body), body)
            if n % 3 == 0:
                asked += b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"
        for start in range(0, len(asked), 700):  # packets end anywhere
            client.say(asked[start : start + 700])
            await asyncio.sleep(0)
        expected = []
        for n in range(30):
            expected += [f"OK: {n}"] + ["not found: nobody listens on this path"] * (n % 3 == 0)
        assert [(await client.hear()).text for _ in expected] == expected


async def test_one_request_of_a_connection_is_at_work_at_a_time(serve: Any, hold: Any) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        client.say(b"GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n" * 10)
        await held.reached(1)
        await asyncio.sleep(0.02)
        assert service.server.statistics().in_flight == 1
        for n in range(10):
            (await held.reached(n + 1))[n].ack()
            assert (await client.hear()).status == 200


async def test_who_pipelines_without_end_is_not_parsed_without_end(
    serve: Any, any_loop: Loops
) -> None:
    """What cannot be worked on is left in the socket, so the client has to wait."""
    go_on = asyncio.Event()
    taken: list[Message[Any]] = []

    async def slow(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            taken.append(message)
            await go_on.wait()
            message.ack()

    listener = listen_http(ANY, "/incoming")
    async with serve(listener, slow) as service, await service.connect() as client:
        request = b"GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n"
        client.say(request)
        await service.until(lambda now: taken)

        async def flood() -> None:
            while True:
                client.say(request * 1000)
                await client.writer.drain()

        flooding = asyncio.ensure_future(flood())
        done, _ = await asyncio.wait([flooding], timeout=0.3)
        assert not done, "the server took in everything"
        assert service.server.statistics().body_bytes < 1_000_000  # what was read at one time
        assert len(taken) == 1
        flooding.cancel()
        await asyncio.wait([flooding])
        client.close()
        go_on.set()

    assert service.server.statistics().in_flight == 0


async def test_however_many_are_pipelined_each_is_answered(serve: Any, any_loop: Loops) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        client.say(b"GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n" * 500)
        client.say(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n" * 500)  # answered at once
        statuses = [(await client.hear()).status for _ in range(1000)]

    assert statuses == [200] * 500 + [404] * 500


@pytest.mark.parametrize("packets", [1, 2, 3])
async def test_a_half_closed_client_hears_all_of_its_answers(
    serve: Any, hold: Any, any_loop: Loops, packets: int
) -> None:
    """All that it asked completely, pipelined or not; and then the connection ends."""
    held = hold()
    asked = [f"GET /incoming?data={n} HTTP/1.1\r\nhost: x\r\n\r\n" for n in range(3)]
    size = {1: 3, 2: 2, 3: 1}[packets]
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        for start in range(0, 3, size):
            client.say("".join(asked[start : start + size]))
            await client.writer.drain()
            await held.reached(1)
        client.writer.write_eof()
        for n in range(3):
            (await held.reached(n + 1))[n].ack()
            answer = await client.hear()
            assert answer.text == f"OK: {n}"
        assert answer.headers["connection"] == "close"
        assert await client.closed()


async def test_a_half_closed_client_hears_nothing_of_what_it_asked_by_half(
    serve: Any, any_loop: Loops
) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        for half in ("GET /incoming?data=2 HT", "POST /nowhere HTTP/1.1\r\nhost: x\r\n"):
            async with await service.connect() as client:
                client.say(f"GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n{half}")
                client.writer.write_eof()
                assert (await client.hear()).status == 200
                assert await client.closed()


async def test_a_client_that_disconnects_does_not_take_its_message_with_it(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        client = await service.connect()
        client.ask("GET", "/incoming?data=foo")
        await held.reached(1)
        client.close()
        await service.until(lambda now: now.connections == 0)
        assert service.server.statistics().in_flight == 1
        held.messages[0].ack()
        assert held.messages[0].outcome.status == "stored"

    assert service.server.statistics().in_flight == 0
    assert service.server.statistics().answers == {}


async def test_the_last_answer_to_a_client_that_has_closed_logs_nothing(
    serve: Any, hold: Any, any_loop: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    """The first bytes of the answer are met by a reset, and then there is no end to be said."""
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        client = await service.connect()
        client.ask("GET", "/incoming?data=1", connection="close")
        client.ask("GET", "/incoming?data=2")
        await held.reached(1)
        client.writer.close()
        await client.writer.wait_closed()
        held.messages.pop().ack()
        await service.until(lambda now: not now.connections)
    assert caplog.records == []


async def test_a_request_whose_client_left_before_its_turn_is_stored(serve: Any) -> None:
    """It waits for a slow channel when its client leaves, and goes on all the same."""
    stored: list[str] = []
    go_on = asyncio.Event()

    async def slow(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            await go_on.wait()
            stored.append(message.data)
            message.ack()

    async with serve(listen_http(ANY, "/incoming"), slow) as service:
        clients = [await service.connect() for _ in range(10)]
        for n, client in enumerate(clients):
            client.ask("GET", f"/incoming?data={n}")
        await service.until(lambda now: now.in_flight == 10)
        for client in clients:
            client.close()
        await service.until(lambda now: now.connections == 0)
        go_on.set()

    assert sorted(stored) == [str(n) for n in range(10)]


async def test_half_a_request_makes_no_message(serve: Any, hold: Any, any_loop: Loops) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        for said in ("GET /incoming?data=f", "POST /incoming HTTP/1.1\r\nhost: x\r\n"):
            client = await service.connect()
            client.say(said)
            await client.writer.drain()
            client.close()
        client = await service.connect()
        client.ask("POST", "/incoming", content_type=FORM, content_length="9")
        client.say("data=foo")
        await service.until(lambda now: now.body_bytes)
        client.close()
        await service.until(lambda now: now.connections == 0)
        assert service.server.statistics().in_flight == 0

    assert held.messages == []


async def test_expect_100_continue_is_answered_before_the_body(serve: Any) -> None:
    listener = listen_http(ANY, "/incoming", max_body=100)
    async with serve(listener) as service:
        async with await service.connect() as client:
            client.ask(
                "POST", "/incoming", content_type=FORM, content_length="8", expect="100-continue"
            )
            assert (await client.hear()).status == 100
            client.say("data=foo")
            assert (await client.hear()).status == 200
        async with await service.connect() as client:
            client.ask(
                "POST", "/incoming", content_type=FORM, content_length="800", expect="100-continue"
            )
            assert (await client.hear()).status == 413


async def test_head_has_no_body(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        client.ask("HEAD", "/incoming?data=foo")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405")
        assert (await client.get("/incoming?data=foo")).status == 200


async def test_http_1_0_is_answered_and_closed_or_kept(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        async with await service.connect() as client:
            client.say("GET /incoming?data=foo HTTP/1.0\r\n\r\n")
            assert (await client.hear()).headers["connection"] == "close"
            assert await client.closed()
        async with await service.connect() as client:
            for _ in range(2):
                client.say("GET /incoming?data=foo HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
                assert (await client.hear()).headers["connection"] == "keep-alive"


async def test_connection_close_is_kept(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        answer = await client.get("/incoming?data=foo", connection="close")
        assert answer.headers["connection"] == "close"
        assert await client.closed()


@pytest.mark.parametrize(
    "upgrade",
    [
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAA\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n",
        "connection: Keep-Alive, Upgrade\r\nupgrade: TLS/1.0, h2c\r\n",
        "upgrade: h2c\r\n",
        "connection: upgrade\r\n",
    ],
)
async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_taken(
    serve: Any, any_loop: Loops, upgrade: str
) -> None:
    head = f"host: x\r\n{upgrade}content-type: {FORM}\r\n"
    chunked = "transfer-encoding: chunked"
    asked = [
        f"GET /incoming?data=1 HTTP/1.1\r\n{head}\r\n",
        f"POST /incoming HTTP/1.1\r\n{head}content-length: 6\r\n\r\ndata=2",
        f"POST /incoming HTTP/1.1\r\n{head}{chunked}\r\n\r\n6\r\ndata=3\r\n0\r\n\r\n",
        f"PUT /incoming HTTP/1.1\r\n{head}content-length: 6\r\n\r\ndata=4",
        f"GET /incoming?data=5 HTTP/1.1\r\n{head}\r\n",
    ]
    right = [200, 200, 200, 405, 200]
    async with serve(listen_http(ANY, "/incoming")) as service:
        async with await service.connect() as client:
            for said, status in zip(asked, right, strict=True):  # each in two packets
                for part in said.partition("\r\n\r\n"):
                    client.say(part)
                    await asyncio.sleep(0)
                answer = await client.hear()
                assert (answer.status, answer.headers.get("connection")) == (status, None)
        async with await service.connect() as client:
            client.say(*asked)  # pipelined
            assert [(await client.hear()).status for _ in asked] == right

    assert service.server.statistics().answers == {200: 8, 405: 2}


@pytest.mark.parametrize("more", ["", "connection: upgrade\r\nupgrade: h2c\r\n"])
async def test_connect_is_refused_and_ends_the_connection(serve: Any, more: str) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        client.say(f"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n{more}\r\n")
        assert (await client.hear()).status in (404, 405)
        client.say("GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await client.closed()


@pytest.mark.parametrize(
    "target", ["/incoming?data=foo", "http://test/incoming?data=foo", "/inc%6fming?data=foo"]
)
async def test_each_form_of_target_is_understood(serve: Any, target: str) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        assert (await service.get(target)).text == "OK: ☆ foo ☆"


async def test_garbage_after_a_request_is_answered_after_it(serve: Any, hold: Any) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        client.say("GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n\x00garbage\r\n\r\n")
        (await held.reached(1))[0].ack()
        assert (await client.hear()).status == 200
        answer = await client.hear()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.closed()


async def test_of_pipelined_requests_before_garbage_each_is_answered(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        asked = "".join(f"GET /incoming?data={n} HTTP/1.1\r\nhost: x\r\n\r\n" for n in range(4))
        client.say(asked, "\x00garbage\r\n\r\n", asked)
        for n in range(4):
            (await held.reached(n + 1))[n].ack()
            assert (await client.hear()).text == f"OK: {n}"
        assert (await client.hear()).status == 400
        assert await client.closed()

    assert len(held.messages) == 4


async def test_a_client_that_takes_its_answers_in_late_gets_all_of_them(
    serve: Any, any_loop: Loops
) -> None:
    listener = listen_http(ANY, "/incoming", max_body=1 << 20)
    async with serve(listener) as service, await service.connect() as client:
        transport: Any = client.writer.transport
        transport.pause_reading()
        body = b"data=" + b"x" * 1_000_000
        for _ in range(20):  # far more than the sockets hold
            client.ask("POST", "/incoming", body, content_type=FORM)
        await service.until(lambda now: now.answers.get(200))
        await asyncio.sleep(0.05)  # and now it can write no more
        transport.resume_reading()
        lengths = [len((await client.hear()).body) for _ in range(20)]

    assert lengths == [len("OK: ☆  ☆".encode()) + 1_000_000] * 20


async def test_a_pipelined_body_that_comes_in_pieces_is_put_together(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    listener = HttpServer(ANY, receive_timeout=0.2).listen("/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        head = f"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\n"
        client.say("GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        client.say(head, "content-length: 8\r\n\r\ndata")
        (await held.reached(1))[0].ack()
        assert (await client.hear()).status == 200
        client.say("=foo")
        (await held.reached(2))[1].ack()
        assert (await client.hear()).text == "OK: foo"
        client.say("GET /incoming?data=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        client.say(head, "content-length: 8\r\n\r\ndata")  # and no more
        (await held.reached(3))[2].ack()
        assert (await client.hear()).status == 200
        assert (await client.hear()).status == 408


async def test_a_large_answer_that_ends_the_connection_ends_it_once(
    serve: Any, any_loop: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    """It is taken in late, so the connection is closed when the client has caught up."""
    listener = listen_http(ANY, "/incoming", max_body=1 << 23)
    async with serve(listener) as service, await service.connect() as client:
        transport: Any = client.writer.transport
        transport.pause_reading()
        body = b"data=" + b"x" * 8_000_000
        client.ask("POST", "/incoming", body, content_type=FORM, connection="close")
        await service.until(lambda now: now.answers.get(200))
        await asyncio.sleep(0.02)
        transport.resume_reading()
        answer = await client.hear()
        assert len(answer.body) > 8_000_000
        assert await client.closed()
        await service.until(lambda now: now.connections == 0)
        await asyncio.sleep(0.01)

    assert "Error" not in caplog.text


async def test_a_failure_of_ours_ends_one_connection_and_is_logged(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listen_http(ANY, "/incoming")
    async with serve(listener) as service:
        with monkeypatch.context() as broken:
            broken.setattr("tailrace.listen.http.route.Route.open", lambda *_: 1 / 0)
            async with await service.connect() as client:
                client.ask("GET", "/incoming?data=foo")
                assert await client.closed()
        assert (await service.get("/incoming?data=foo")).status == 200

    assert "ZeroDivisionError" in caplog.text


def stream_of_requests(random: Random) -> tuple[bytes, list[int]]:
    """Requests of all kinds, one after the other, and the status that each must get."""
    head = b"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-type: " + FORM.encode() + b"\r\n"
    kinds = [
        (b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"GET /incoming HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (head + b"content-length: 8\r\n\r\ndata=foo", 200),
        (head + b"content-length: 50005\r\n\r\ndata=" + b"x" * 50_000, 200),
        (head + b"transfer-encoding: chunked\r\n\r\n5\r\ndata=\r\n3;x=y\r\nfoo\r\n0\r\n\r\n", 200),
        (head.replace(b"incoming", b"nowhere") + b"content-length: 9\r\n\r\n" + b"x" * 9, 404),
        (head.replace(b"POST", b"PUT") + b"content-length: 0\r\n\r\n", 405),
    ]
    chosen = [random.choice(kinds) for _ in range(random.randint(1, 40))]
    return b"".join(said for said, _ in chosen), [status for _, status in chosen]


@pytest.mark.parametrize("seed", range(10))
async def test_however_requests_are_cut_into_packets_each_is_answered_in_turn(
    serve: Any, any_loop: Loops, seed: int
) -> None:
    random = Random(seed)
    async with serve(listen_http(ANY, "/incoming")) as service:
        for _ in range(5):
            stream, statuses = stream_of_requests(random)
            largest = random.choice([3_000, 30_000, 300_000])
            async with await service.connect() as client:

                async def say(
                    client: Any = client, stream: bytes = stream, largest: int = largest
                ) -> None:
                    start = 0
                    while start < len(stream):
                        end = start + random.randint(1, largest)
                        client.say(stream[start:end])
                        start = end
                        if random.random() < 0.5:
                            await asyncio.sleep(0)

                saying = asyncio.ensure_future(say())
                assert [(await client.hear()).status for _ in statuses] == statuses
                await saying
    assert service.server.statistics().in_flight == 0
