"""Many requests on one connection: what was asked before on it changes nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tailrace import Channel, Message, Receiver
from tailrace.listen import HttpServer, Request, listen_http
from tailrace.listen.http.connection import Connection

Loops = Callable[[], asyncio.AbstractEventLoop]
FORM = "application/x-www-form-urlencoded"
ANY = "127.0.0.1:0"


def get(target: str, headers: str = "host: x\r\n") -> str:
    return f"GET {target} HTTP/1.1\r\n{headers}\r\n"


async def ack(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack()


async def ask(client: Any, said: str) -> Any:
    client.say(said)
    return await client.hear()


TARGETS = [
    *["/incoming?data=foo"] * 10,
    *[f"/incoming?data={n}" for n in range(5)],
    "/incoming?data=",
    "/incoming?data",
    "/incoming?data=bar",
    "/incoming?data=a=b",
    "/incoming?data=a+b%20c",
    "/incoming?data=%zz",
    "/incoming?data=%ff",
    "/incoming?data=%",
    "/incoming?data=1&data=2",
    "/incoming?data=1&more=2",
    "/incoming?more=1&data=2",
    "/incoming?data=a?b",
    "/incoming?data=a#b",
    "/incoming?data=<a>",
    "/incoming?data=ü",
    "/incoming?data=a b",
    "/incoming?data=a\tb",
    "/incoming?data=a\x00b",
    "/incoming?data=" + "x" * 1000,
    "/incoming?data=" + "x" * 3000,
    "/incoming?datb=1",
    "/incoming",
    "/inc%6fming?data=foo",
    "/incoming/?data=foo",
    "/number?data=7",
    "/number?data=7.5",
    "http://x/incoming?data=foo",
    "*",
]
HEADERS = [
    *["host: x\r\n"] * 10,
    "",
    "host: y\r\n",
    "host: x\r\naccept: application/json\r\nidempotency-key: k\r\n",
    "host: x\r\nidempotency-key: a b\r\n",
    "host: x\r\ncontent-length: 0\r\n",
    "host: x\r\ncontent-encoding: gzip\r\n",
    "host: x\r\nconnection: keep-alive\r\n",
    "host: x\r\nexpect: miracles\r\n",
    "host: x\r\nbroken\r\n",
]


@pytest.mark.parametrize("seed", range(8))
async def test_each_answer_is_that_of_a_connection_of_its_own(
    serve: Any, any_loop: Loops, seed: int
) -> None:
    random = Random(seed)
    server = HttpServer(ANY, max_head=2500)
    number = server.listen("/number", type=int)
    async with serve(server.listen("/incoming")) as service:
        numbers = Channel[Message[int]](name="numbers")
        service.go(number, numbers)
        service.go(ack, numbers)
        for _ in range(6):
            async with await service.connect() as client:
                headers = random.choice(HEADERS)
                for _ in range(30):
                    if random.random() < 0.1:
                        headers = random.choice(HEADERS)
                    said = get(random.choice(TARGETS), headers)
                    answer = await ask(client, said)
                    async with await service.connect() as other:
                        expected = await ask(other, said)
                    answer.headers.pop("date"), expected.headers.pop("date")
                    assert answer == expected, said
                    if "connection" in answer.headers:
                        assert await client.closed()
                        break

    assert service.server.statistics().in_flight == 0


@pytest.mark.parametrize("rest", ["GE", "GET /incoming?data=", get("/incoming?data=1")[:-2]])
async def test_a_request_that_has_begun_is_not_mistaken_for_another(
    serve: Any, any_loop: Loops, rest: str
) -> None:
    """Its beginning came behind another, and is not forgotten when a whole one seems to come."""
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        for _ in range(3):
            assert (await ask(client, get("/incoming?data=1"))).status == 200
        assert (await ask(client, get("/incoming?data=1") + rest)).status == 200
        assert (await ask(client, get("/incoming?data=1"))).status in (400, 501)
        assert await client.closed()


async def test_blank_lines_between_requests_are_nothing(serve: Any, any_loop: Loops) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        for _ in range(3):
            assert (await ask(client, get("/incoming?data=1"))).status == 200
            client.say("\r\n")
            await asyncio.sleep(0.005)


async def test_in_flight_counts_them(serve: Any, hold: Any, any_loop: Loops) -> None:
    held = hold()
    listener = HttpServer(ANY, in_flight=1).listen("/incoming")
    async with serve(listener, held) as service:
        first, second = await service.connect(), await service.connect()
        for client in (first, second):
            client.say(get("/incoming?data=1"))
            (await held.reached(1)).pop().ack()
            assert (await client.hear()).status == 200
        first.say(get("/incoming?data=1"))
        await held.reached(1)
        refused = await ask(second, get("/incoming?data=2"))
        held.messages.pop().ack()
        assert (await first.hear()).text == "OK: 1"
        second.say(get("/incoming?data=2"))
        (await held.reached(1)).pop().ack()
        assert (await second.hear()).text == "OK: 2"
        first.close()
        second.close()

    assert (refused.status, refused.text) == (503, "unavailable: too many requests in flight")
    assert service.server.statistics().in_flight == 0


async def test_one_that_took_too_long_does_not_disturb_the_next(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming", timeout=0.05)
    async with serve(listener, held) as service, await service.connect() as client:
        client.say(get("/incoming?data=1"))
        (await held.reached(1)).pop().ack()
        assert (await client.hear()).status == 200
        late = []
        for n in range(3):
            answer = await ask(client, get(f"/incoming?data={n}"))
            assert (answer.status, answer.text[:12]) == (504, "timed out: n")
            late.append((await held.reached(1)).pop())
            assert service.server.statistics().in_flight == len(late)
        client.say(get("/incoming?data=3"))
        (message,) = await held.reached(1)
        for each in late:
            each.ack("late")
        message.ack("in time")
        assert (await client.hear()).text == "OK: in time"
        del late, each, message
        held.messages.clear()
        client.say(get("/incoming?data=4"))
        (await held.reached(1)).pop().ack()
        assert (await client.hear()).text == "OK: 4"

    assert service.server.statistics().in_flight == 0
    assert service.server.statistics().answers == {200: 3, 504: 3}


async def test_whose_client_is_gone_are_done_still(serve: Any, hold: Any, any_loop: Loops) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        client = await service.connect()
        client.say(get("/incoming?data=1"))
        (await held.reached(1)).pop().ack()
        await client.hear()
        client.say(get("/incoming?data=2"))
        (message,) = await held.reached(1)
        client.close()
        await service.until(lambda now: now.connections == 0)
        assert service.server.statistics().in_flight == 1
        assert message.ack()

    assert service.server.statistics().in_flight == 0
    assert service.server.statistics().answers == {200: 1}


async def test_however_their_messages_end_is_said(serve: Any, any_loop: Loops) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            match message.data:
                case "thread":
                    await asyncio.to_thread(message.ack, "from a thread")
                case "lost":
                    pass
                case "abort":
                    message.abort("filtered")
                case "reject":
                    message.reject("no")
                case "fail":
                    message.fail("broken")
                case "number":
                    message.ack(7)
                case "surrogate":
                    message.ack("\ud800")
                case "derived":
                    message.with_data("other").ack()
                case _:
                    message.ack()
            del message

    expected = {
        "thread": (200, "OK: from a thread"),
        "lost": (500, "lost: the program dropped the message"),
        "abort": (200, "aborted: abort"),
        "reject": (422, "rejected: no"),
        "fail": (500, "failed: broken"),
        "number": (200, "OK: 7"),
        "surrogate": (200, "OK: \\ud800"),
        "derived": (200, "OK: other"),
    }
    async with (
        serve(listen_http(ANY, "/incoming"), work) as service,
        await service.connect() as client,
    ):
        for data, right in expected.items():
            for _ in range(2):
                assert (await client.get("/incoming?data=plain")).text == "OK: plain"
            answer = await client.get(f"/incoming?data={data}")
            assert (answer.status, answer.text) == right

    assert service.server.statistics().in_flight == 0


async def test_a_drain_answers_those_in_flight_and_refuses_more(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        first, second = await service.connect(), await service.connect()
        for client in (first, second):
            client.say(get("/incoming?data=1"))
            (await held.reached(1)).pop().ack()
            await client.hear()
        first.say(get("/incoming?data=2"))
        (message,) = await held.reached(1)
        service.go.drain()
        await asyncio.sleep(0)
        refused = await ask(second, get("/incoming?data=2"))
        message.ack()
        answer = await first.hear()
        assert await first.closed()
        first.close()
        second.close()

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert (refused.status, refused.text) == (503, "unavailable: the server is stopping")


async def test_a_half_closed_client_hears_the_answer(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, held) as service, await service.connect() as client:
        client.say(get("/incoming?data=1"))
        (await held.reached(1)).pop().ack()
        await client.hear()
        client.say(get("/incoming?data=2"))
        (message,) = await held.reached(1)
        client.writer.write_eof()
        await asyncio.sleep(0.01)
        message.ack()
        answer = await client.hear()
        assert (answer.text, answer.headers["connection"]) == ("OK: 2", "close")
        assert await client.closed()


async def test_what_comes_behind_one_is_answered_after_it(serve: Any, any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, ack) as service, await service.connect() as client:
        await ask(client, get("/incoming?data=0"))
        for n in range(1, 9):
            client.say(get(f"/incoming?data={n}"))  # a packet each, sooner or later
            await asyncio.sleep(0)
        heard = [(await client.hear()).text for _ in range(1, 9)]

    assert heard == [f"OK: {n}" for n in range(1, 9)]


async def test_authorize_and_token_are_asked_each_time(serve: Any) -> None:
    seen: list[tuple[str, str]] = []

    def authorize(request: Request) -> bool:
        seen.append((request.query, request.headers["x-key"]))
        return request.query != "data=2"

    server = HttpServer(ANY)
    listener = server.listen("/incoming", authorize=authorize, token="secret")
    headers = "host: x\r\nx-key: k\r\nauthorization: Bearer secret\r\n"
    async with serve(listener) as service, await service.connect() as client:
        said = [get(f"/incoming?data={n}", headers) for n in range(4)]
        statuses = [(await ask(client, each)).status for each in said]
        wrong = await ask(client, get("/incoming?data=1", headers.replace("secret", "other")))

    assert statuses == [200, 200, 403, 200]
    assert wrong.status == 401
    assert seen == [(f"data={n}", "k") for n in range(4)]


async def test_connections_that_ended_leave_nothing_to_collect(serve: Any, any_loop: Loops) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        gc.collect()
        gc.disable()
        try:
            for n in range(3):
                async with await service.connect() as client:
                    for _ in range(n):
                        assert (await ask(client, get("/incoming?data=1"))).status == 200
            await service.until(lambda now: now.connections == 0)
            await asyncio.sleep(0.01)
            assert [each for each in gc.get_objects() if isinstance(each, Connection)] == []
        finally:
            gc.enable()


async def test_requests_may_each_have_other_headers(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service, await service.connect() as client:
        for n in range(40):
            answer = await client.get(f"/incoming?data={n}", x_request=str(n))
            assert answer.text == f"OK: ☆ {n} ☆"


async def test_a_refused_request_leaves_its_connection_idle(serve: Any, any_loop: Loops) -> None:
    """Not in the middle of a request, for which it would hear 408."""
    listener = HttpServer(ANY, receive_timeout=0.1).listen("/incoming")
    async with serve(listener) as service, await service.connect() as client:
        assert (await client.get("/elsewhere")).status == 404
        await asyncio.sleep(0.3)
        assert (await client.get("/incoming?data=foo")).status == 200


@pytest.mark.parametrize("path", ["/incoming", "/elsewhere"])
async def test_a_request_that_came_in_pieces_leaves_its_connection_idle(
    serve: Any, any_loop: Loops, path: str
) -> None:
    listener = HttpServer(ANY, receive_timeout=30, keep_alive=0.3).listen("/incoming")
    async with serve(listener) as service, await service.connect() as client:
        client.ask("POST", path, b"data=", content_type=FORM, content_length="8")
        await service.until(lambda now: path == "/elsewhere" or now.in_flight)
        await asyncio.sleep(0.05)  # the pieces are two packets
        client.say("foo")
        assert (await client.hear()).status == (200 if path == "/incoming" else 404)
        assert await client.closed()  # without a 408


async def test_an_answered_client_that_stalls_in_its_next_head_is_let_go(
    serve: Any, any_loop: Loops
) -> None:
    listener = HttpServer(ANY, receive_timeout=0.1).listen("/incoming")
    async with serve(listener) as service, await service.connect() as client:
        assert (await ask(client, get("/incoming?data=1") + "GET /inc")).status == 200
        assert (await client.hear()).status == 408


async def test_threads_settle_while_the_next_come(serve: Any, any_loop: Loops) -> None:
    """Messages that are settled by many threads are answered each on its own connection."""

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            threading.Thread(target=message.ack).start()
            del message

    async with serve(listen_http(ANY, "/incoming"), work) as service:
        clients = [await service.connect() for _ in range(5)]

        async def talk(number: int, client: Any) -> None:
            for n in range(20):
                answer = await ask(client, get(f"/incoming?data={number}.{n}"))
                assert answer.text == f"OK: {number}.{n}"

        await asyncio.gather(*(talk(number, client) for number, client in enumerate(clients)))
        for client in clients:
            client.close()

    assert service.server.statistics().in_flight == 0
