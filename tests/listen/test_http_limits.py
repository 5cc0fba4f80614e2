"""What a client may not do: too much, too slowly, or what is not HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.listen import HttpServer, ListenHttp, listen_http

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"
FORM = "application/x-www-form-urlencoded"


def limited(path: str = "/incoming", *, max_body: int = 1000, **limits: Any) -> ListenHttp[str]:
    return HttpServer(ANY, **limits).listen(path, max_body=max_body)


async def test_a_body_announced_too_large_is_refused_before_it_is_sent(
    serve: Any, any_loop: Loops
) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, content_length="100001")
        answer = await client.hear()
        assert await client.closed()

    assert (answer.status, answer.text) == (413, "too large: the body is larger than 1000 bytes")
    assert answer.headers["connection"] == "close"


async def test_a_body_without_length_is_refused_while_it_streams(
    serve: Any, any_loop: Loops
) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, transfer_encoding="chunked")
        chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
        for _ in range(11):  # and no end
            client.say(chunk)
        answer = await client.hear()
        client.say(chunk)

    assert answer.status == 413
    assert service.server.statistics().body_bytes == 0


async def test_a_client_that_sends_on_after_a_refusal_hears_it_all_the_same(
    serve: Any, any_loop: Loops
) -> None:
    """Closed at once, the connection would be reset, and the answer with it."""
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, content_length="800000")
        client.say(b"x" * 400_000)
        await client.writer.drain()
        answer = await client.hear()
        client.say(b"x" * 400_000)
        await client.writer.drain()

    assert answer.status == 413


async def test_a_body_just_small_enough_is_taken(serve: Any) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        body = b"data=" + b"x" * 995
        assert (await client.post("/incoming", body, content_type=FORM)).status == 200
        client.ask("POST", "/incoming", content_type=FORM, transfer_encoding="chunked")
        client.say(b"3e8;extension=1\r\n" + body + b"\r\n0\r\ntrailer: x\r\n\r\n")
        assert (await client.hear()).status == 200


async def test_chunks_of_a_byte_each_cannot_carry_a_body_for_ever(serve: Any) -> None:
    async with serve(limited(max_body=100)) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, transfer_encoding="chunked")
        client.say(b"1;" + b"e" * 200_000)
        answer = await client.hear()

    assert answer.status in (400, 413)


async def test_bodies_together_are_bounded(serve: Any) -> None:
    listener = limited(body_memory=1500)
    async with serve(listener) as service:
        first, second = await service.connect(), await service.connect()
        first.ask("POST", "/incoming", content_type=FORM, content_length="1000")
        first.say(b"data=" + b"x" * 990)
        await service.until(lambda now: now.body_bytes == 995)
        second.ask("POST", "/incoming", b"data=" + b"x" * 900, content_type=FORM)
        refused = await second.hear()
        first.say(b"x" * 5)
        taken = await first.hear()
        again = await service.post("/incoming", b"data=" + b"x" * 900, content_type=FORM)
        first.close()
        second.close()

    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert (taken.status, again.status) == (200, 200)
    assert service.server.statistics().body_bytes == 0


async def test_a_head_too_large_is_refused(serve: Any, any_loop: Loops) -> None:
    async with serve(limited(max_head=1000)) as service:
        for header in ("x" * 1000, "x" * 100_000):
            answer = await service.get("/incoming?data=foo", x_large=header)
            assert answer.status == 431
            assert answer.text == "too large: request line and headers are larger than 1000 bytes"
        assert (await service.get("/incoming?data=" + "x" * 2000)).status == 414
        assert (await service.get("/incoming?data=" + "x" * 800)).status == 200


@pytest.mark.parametrize("packets", [1, 2])
async def test_a_head_may_be_just_as_large_as_the_limit(serve: Any, packets: int) -> None:
    async with serve(limited(max_head=1000)) as service:
        for size, status in ((999, 200), (1000, 200), (1001, 431)):
            head = b"GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\nx-more: "
            head += b"x" * (size - len(head) - 4) + b"\r\n\r\n"
            async with await service.connect() as client:
                if packets == 2:
                    client.say(head[:-1])
                    await asyncio.sleep(0.01)
                client.say(head[-1:] if packets == 2 else head)
                assert (await client.hear()).status == status


async def test_a_head_that_never_ends_is_refused(serve: Any) -> None:
    async with serve(limited(max_head=1000)) as service, await service.connect() as client:
        client.say("GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n")
        answers = asyncio.ensure_future(client.hear())
        while not answers.done():
            client.say("x-more: and more\r\n")
            await asyncio.sleep(0)
        assert answers.result().status == 431


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n",
        b"GET /inco ming HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET /incoming HTTP/1.1\r\nhost: x\r\nbad\x00name: x\r\n\r\n",
        b"GET /incoming?data=foo HTTP/1.1\r\n\r\n",  # no Host
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a port without
        b"POST /incoming HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_hears_400(serve: Any, said: bytes) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        client.say(said)
        answer = await client.hear()
        assert (await service.get("/incoming?data=foo")).status == 200

    assert answer.status == 400
    assert service.server.statistics().in_flight == 0


async def test_an_expectation_that_nobody_knows_hears_417(serve: Any) -> None:
    async with serve(limited()) as service:
        answer = await service.post("/incoming", b"data=foo", content_type=FORM, expect="miracles")
    assert answer.status == 417


@pytest.mark.parametrize(
    ("target", "expect", "status"),
    [
        ("/incoming", "miracles", 417),
        ("/nowhere", "miracles", 417),
        ("/nowhere", "100-continue", 404),
        ("/incoming", "100-continue, miracles", 417),
    ],
)
async def test_a_client_that_expects_an_answer_before_its_body_hears_a_refusal_at_once(
    serve: Any, target: str, expect: str, status: int
) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", target, content_type=FORM, content_length="7", expect=expect)
        answer = await client.hear()
        assert await client.closed()  # the body, if it comes, must not be read as a request

    assert (answer.status, answer.headers["connection"]) == (status, "close")


async def test_a_refused_request_whose_body_stalls_hears_why_it_was_refused(
    serve: Any, any_loop: Loops
) -> None:
    listener = limited(receive_timeout=0.1)
    async with serve(listener) as service, await service.connect() as client:
        client.ask("POST", "/nowhere", content_type=FORM, content_length="7")
        client.say("data")
        assert (await client.hear()).status == 404
        assert await client.closed()


async def test_a_client_that_stalls_in_its_head_is_let_go(serve: Any, any_loop: Loops) -> None:
    async with serve(limited(receive_timeout=0.1)) as service:
        async with await service.connect() as client:
            client.say("GET /incoming?da")
            answer = await client.hear()
            client.close()
        assert answer.status == 408


async def test_a_client_that_stalls_in_its_body_is_let_go(serve: Any, any_loop: Loops) -> None:
    async with serve(limited(receive_timeout=0.1)) as service:
        async with await service.connect() as client:
            client.ask("POST", "/incoming", content_type=FORM, content_length="100")
            client.say("data=")
            answer = await client.hear()
        assert answer.status == 408
        assert service.server.statistics().in_flight == 0


async def test_a_client_that_drips_is_let_go(serve: Any) -> None:
    """A byte now and then does not start the clock anew."""
    listener = limited(receive_timeout=0.2)
    async with serve(listener) as service, await service.connect() as client:
        answers = asyncio.ensure_future(client.hear())
        for byte in b"GET /incoming?data=foo HTTP/1.1\r\nhost: " + b"x" * 1000:
            client.say(bytes([byte]))
            await asyncio.sleep(0.01)
            if answers.done():
                break
        assert answers.result().status == 408


async def test_empty_lines_begin_no_request(serve: Any, any_loop: Loops) -> None:
    listener = limited(receive_timeout=0.1, keep_alive=0.4)
    async with serve(listener) as service, await service.connect() as client:
        client.say("\r\n")
        assert await client.closed()  # without a 408


@pytest.mark.parametrize("size", [b"5\rx", b"5\n", b"x", b"5;a\rb"])
async def test_the_size_of_a_chunk_is_refused_before_its_line_ends(serve: Any, size: bytes) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        client.ask("POST", "/incoming", content_type=FORM, transfer_encoding="chunked")
        client.say(size)
        assert (await client.hear()).status == 400


async def test_a_client_that_says_nothing_is_let_go(serve: Any) -> None:
    async with serve(limited(keep_alive=0.1)) as service:
        async with await service.connect() as client:
            assert await client.closed()
        async with await service.connect() as client:
            assert (await client.get("/incoming?data=foo")).status == 200
            assert await client.closed()


async def test_a_client_that_takes_in_no_answers_is_let_go(serve: Any, any_loop: Loops) -> None:
    listener = HttpServer(ANY, receive_timeout=0.2).listen("/incoming", max_body=1 << 20)
    async with serve(listener) as service, await service.connect() as client:
        body = b"data=" + b"x" * 1_000_000
        transport: Any = client.writer.transport
        transport.pause_reading()
        for _ in range(50):
            if client.writer.transport.is_closing():
                break
            client.ask("POST", "/incoming", body, content_type=FORM)
            await asyncio.sleep(0.01)
        await service.until(lambda now: now.connections == 0)
        assert service.server.statistics().body_bytes == 0


async def test_too_many_connections_hear_503(serve: Any) -> None:
    async with serve(limited(connections=2)) as service:
        inside = [await service.connect() for _ in range(2)]
        for client in inside:
            assert (await client.get("/incoming?data=foo")).status == 200
        async with await service.connect() as client:
            refused = await client.hear()
        inside[0].close()
        await service.until(lambda now: now.connections == 1)
        again = await service.get("/incoming?data=foo")
        inside[1].close()

    assert (refused.status, again.status) == (503, 200)


async def test_a_refused_request_with_a_small_body_keeps_its_connection(serve: Any) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        unknown = await client.post("/elsewhere", b"x" * 5000, content_type=FORM)
        known = await client.post("/incoming", b"data=foo", content_type=FORM)

    assert (unknown.status, known.status) == (404, 200)
    assert "connection" not in unknown.headers


@pytest.mark.parametrize(("size", "kept"), [(64 * 1024, True), (64 * 1024 + 1, False)])
async def test_a_refused_body_is_read_up_to_64_kib(serve: Any, size: int, kept: bool) -> None:
    async with serve(limited()) as service, await service.connect() as client:
        answer = await client.post("/elsewhere", b"x" * size, content_type=FORM)

    assert (answer.status, "connection" not in answer.headers) == (404, kept)


async def test_the_limits_are_each_listeners_own(serve: Any) -> None:
    listener = listen_http(ANY, "/incoming", max_body=10)
    async with serve(listener) as service:
        assert (await service.post("/incoming", b"data=12345", content_type=FORM)).status == 200
        assert (await service.post("/incoming", b"data=123456", content_type=FORM)).status == 413


async def test_a_client_that_takes_in_no_answers_is_not_served_on(
    serve: Any, any_loop: Loops
) -> None:
    """What it pipelines waits until it has taken in the answers before."""
    listener = HttpServer(ANY).listen("/incoming", max_body=1 << 20)
    async with serve(listener) as service, await service.connect() as client:
        transport: Any = client.writer.transport
        transport.pause_reading()
        body = b"data=" + b"x" * 1_000_000
        for _ in range(40):
            client.ask("POST", "/incoming", body, content_type=FORM)
        before = -1
        while before != (served := service.server.statistics().answers.get(200, 0)) or not served:
            before = served
            await asyncio.sleep(0.05)
        assert served < 40
        transport.resume_reading()
        assert [(await client.hear()).status for _ in range(40)] == [200] * 40


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("path", ["/incoming?data=1", "/nowhere"])
async def test_a_head_that_has_begun_has_its_time_whatever_was_answered_before(
    serve: Any, any_loop: Loops, path: str, apart: bool
) -> None:
    async with serve(limited(receive_timeout=0.1)) as service, await service.connect() as client:
        client.ask("GET", path)
        if apart:
            await client.hear()
        client.say("GET /inco")
        if not apart:
            await client.hear()
        assert (await client.hear()).status == 408
        assert await client.closed()


async def test_a_stop_that_is_cancelled_cuts_connections_off(serve: Any, any_loop: Loops) -> None:
    """An orderly stop waits a moment for clients that may be about to ask again."""
    connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def program() -> None:
        async with serve(limited()) as service:
            client = await service.connect()
            assert (await client.get("/incoming?data=1")).status == 200
            connected.set_result(client)

    running = asyncio.ensure_future(program())
    client = await connected
    await asyncio.sleep(0.05)  # the stop waits for this client
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    async with asyncio.timeout(0.3):
        assert await client.closed()
    client.close()
