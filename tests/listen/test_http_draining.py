"""A drained listener ends its stream before its requests are answered.

A stage below may hold messages until end-of-stream: a batcher, a sort. It hears of the end once no
request can make a message any more, not once all of them are answered.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tailrace import Channel, Group, Message, Receiver, Sender, collect
from tailrace.listen import HttpServer, Request, listen_http

ANY = "127.0.0.1:0"
NDJSON = "application/x-ndjson"


pytestmark = pytest.mark.timeout(20)  # far less than the requests' own


class UntilTheEnd:
    """An actor that settles its messages at end-of-stream."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        messages: list[Message[Any]] = []
        async for message in inbox:
            self.data.append(message.data)
            messages.append(message)
        for message in messages:
            message.ack()

    async def reached(self, n: int) -> None:
        while len(self.data) < n:
            await asyncio.sleep(0)


async def test_what_is_held_until_the_end_is_answered_in_a_drain(serve: Any) -> None:
    batch = UntilTheEnd()
    async with serve(listen_http(ANY, "/in", timeout=60), batch) as service:
        asking = [asyncio.create_task(service.get(f"/in?data={n}")) for n in range(3)]
        await batch.reached(3)
        service.go.drain()
        answers = await asyncio.gather(*asking)
    assert [answer.text for answer in answers] == ["OK: 0", "OK: 1", "OK: 2"]
    assert service.server.statistics().in_flight == 0


@pytest.mark.parametrize("lines", [1, 2, 3])
async def test_lines_that_are_held_until_the_end_are_answered(serve: Any, lines: int) -> None:
    batch = UntilTheEnd()
    listener = HttpServer(ANY, in_flight=3).listen("/in", type=int, timeout=60)
    async with serve(listener, batch) as service:
        body = b"".join(b"%d\n" % n for n in range(lines))
        asking = asyncio.create_task(service.post("/in", body, content_type=NDJSON))
        await batch.reached(lines)
        service.go.drain()
        answer = await asking
    assert [json.loads(line)["code"] for line in answer.body.splitlines()] == [200] * lines


async def test_lines_that_wait_for_others_are_sent_before_the_stream_ends(
    serve: Any, hold: Any
) -> None:
    held = hold()
    listener = HttpServer(ANY, in_flight=1).listen("/in", type=int, timeout=60)
    async with serve(listener, held) as service:
        asking = asyncio.create_task(service.post("/in", b"1\n2\n3\n", content_type=NDJSON))
        await held.reached(1)
        service.go.drain()
        for _ in range(3):
            (message,) = await held.reached(1)
            held.messages.clear()
            message.ack()
            del message
        answer = await asking
    assert [json.loads(line)["code"] for line in answer.body.splitlines()] == [200] * 3


async def test_a_request_that_is_being_authorized_makes_its_message_in_a_drain(serve: Any) -> None:
    asked, allow, batch = asyncio.Event(), asyncio.Event(), UntilTheEnd()

    async def authorize(request: Request) -> bool:
        asked.set()
        await allow.wait()
        return True

    listener = listen_http(ANY, "/in", timeout=60, authorize=authorize)
    async with serve(listener, batch) as service:
        asking = asyncio.create_task(service.get("/in?data=foo"))
        await asked.wait()
        service.go.drain()
        await asyncio.sleep(0)
        allow.set()
        answer = await asking
    assert answer.text == "OK: foo"


async def test_a_body_that_is_incomplete_makes_its_message_in_a_drain(serve: Any) -> None:
    batch = UntilTheEnd()
    listener = listen_http(ANY, "/in", timeout=60, type=int)
    async with serve(listener, batch) as service, await service.connect() as client:
        client.ask("POST", "/in", content_type="application/json", content_length="2")
        client.say(b"4")
        await service.until(lambda now: now.body_bytes == 1)
        service.go.drain()
        await asyncio.sleep(0)
        client.say(b"2")
        answer = await client.hear()
    assert answer.text == "OK: 42"


async def test_a_refused_request_does_not_keep_the_stream_open(serve: Any, hold: Any) -> None:
    batch = UntilTheEnd()
    listener = listen_http(ANY, "/in", timeout=60, type=int)
    async with serve(listener, batch) as service:
        asking = asyncio.create_task(service.get("/in?data=1"))
        await batch.reached(1)
        for data in ("one", ""):
            assert (await service.get(f"/in?data={data}")).status in (400, 422)
        async with await service.connect() as client:
            client.ask("POST", "/in", content_type="application/json", content_length="2")
            await service.until(lambda now: now.in_flight == 2)
        service.go.drain()
        assert (await asking).status == 200


async def test_listeners_of_one_server_that_share_a_channel_end_it_together() -> None:
    server, batch = HttpServer(ANY), UntilTheEnd()
    first, second = (server.listen(path, timeout=60) for path in ("/first", "/second"))
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(first, channel)
        go(second, channel)
        go(batch, channel)
        async with httpx.AsyncClient(base_url=await server.ready()) as client:
            asking = [
                asyncio.create_task(client.get(f"/{path}?data={path}"))
                for path in ("first", "second")
            ]
            await batch.reached(2)
            await first.drain()
            assert (await client.get("/first?data=late")).status_code == 503
            assert not channel.closed
            assert not any(each.done() for each in asking)
            go.drain()
            answers = [await each for each in asking]
    assert [answer.text for answer in answers] == ["OK: first", "OK: second"]


async def test_a_mounted_listener_ends_its_stream_before_its_answers(serve: Any) -> None:
    server, batch = HttpServer(None), UntilTheEnd()
    transport = httpx.ASGITransport(server.app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        serve(server.listen("/in", timeout=60), batch) as service,
    ):
        asking = asyncio.create_task(client.get("/in?data=foo"))
        await batch.reached(1)
        service.go.drain()
        answer = await asking
    assert answer.text == "OK: foo"


async def test_what_a_stage_drops_after_the_stream_has_ended_is_answered(serve: Any) -> None:
    received = asyncio.Event()

    async def drop_at_the_end(inbox: Receiver[Message[str]]) -> None:
        message = await inbox.recv()
        received.set()
        assert await collect(inbox) == []
        del message

    async with serve(listen_http(ANY, "/in", timeout=60), drop_at_the_end) as service:
        asking = asyncio.create_task(service.get("/in?data=foo"))
        await received.wait()
        service.go.drain()
        answer = await asking
    assert (answer.status, answer.text) == (500, "lost: the program dropped the message")


async def test_a_request_whose_message_a_drained_main_takes_no_more_is_to_be_sent_again() -> None:
    """A main that receives from its pipeline is a source: the drain cancels it."""
    holding = asyncio.Event()

    async def relay(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        async for message in inbox:
            await holding.wait()
            await out.send(message)

    async def main(go: Group) -> None:
        with results.receiving() as ends:
            async for message in ends:
                message.ack()

    listener = listen_http(ANY, "/in", timeout=60)
    channel, results = Channel[Message[str]](name="in"), Channel[Message[str]](name="results")
    async with Group() as go, asyncio.timeout(15):
        go(listener, channel)
        go(relay, channel, results)
        go(main, go, name="main", source=True)
        url = await listener.server.ready()
        async with httpx.AsyncClient() as client:
            asking = asyncio.create_task(client.get(f"{url}/in?data=foo"))
            while not channel.statistics().sent:
                await asyncio.sleep(0)
            go.drain()
            while not results.closed:
                await asyncio.sleep(0)
            holding.set()
            answer = await asking
    assert (answer.status_code, answer.text) == (503, "unavailable: the pipeline is draining")
    assert answer.headers["retry-after"] == "1"


async def test_a_stage_that_fails_once_the_stream_has_ended_leaves_no_request_unanswered() -> None:
    received = asyncio.Event()
    messages: list[Message[str]] = []

    async def fail_at_the_end(inbox: Receiver[Message[str]]) -> None:
        messages.append(await inbox.recv())
        received.set()
        assert await collect(inbox) == []
        raise ValueError("no space left")

    listener = listen_http(ANY, "/in", timeout=60)
    channel = Channel[Message[str]]()
    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            go(listener, channel)
            go(fail_at_the_end, channel)
            client = httpx.AsyncClient(base_url=await listener.server.ready())
            asking = asyncio.create_task(client.get("/in?data=foo"))
            await received.wait()
            go.drain()
    answer = await asking
    await client.aclose()
    assert (answer.status_code, answer.headers["connection"]) == (504, "close")
    assert listener.server.statistics().connections == 0


@pytest.mark.parametrize("turns", range(12))
async def test_a_group_that_is_cancelled_while_its_listener_ends_closes_the_socket(
    turns: int, hold: Any
) -> None:
    held = hold()
    listener = listen_http(ANY, "/in", timeout=60)
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(held, channel)
        client = httpx.AsyncClient(base_url=await listener.server.ready())
        asking = asyncio.create_task(client.get("/in?data=foo"))
        (message,) = await held.reached(1)
        go.drain()
        for _ in range(turns):
            await asyncio.sleep(0)
        go.cancel()
    message.ack()  # nobody waits for it any more, or it is what the client hears
    answer = await asking
    await client.aclose()
    assert answer.status_code in (200, 504)
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(base_url=str(client.base_url)) as other:
            await other.get("/in?data=foo")


async def test_a_listener_without_a_group_answers_what_it_has_sent() -> None:
    listener = listen_http(ANY, "/in", timeout=60)
    channel = Channel[Message[str]]()
    listening = asyncio.create_task(listener(channel.sender))
    async with httpx.AsyncClient(base_url=await listener.server.ready()) as client:
        asking = asyncio.create_task(client.get("/in?data=foo"))
        message = await channel.recv()
        await listener.drain()
        await listening
        finishing = asyncio.create_task(listener.finish())
        message.ack()
        assert (await asking).text == "OK: foo"
        await finishing
    assert listener.server.statistics().connections == 0


async def test_a_listener_whose_channel_is_closed_ends_connections_with_its_last_answers(
    serve: Any,
) -> None:
    """A server that stops although nobody asked it to drain."""

    async def first_only(inbox: Receiver[Message[Any]]) -> None:
        (await inbox.recv()).ack()

    listener = listen_http(ANY, "/in")
    async with serve(listener, first_only) as service, await service.connect() as client:
        assert (await client.get("/in?data=1")).status == 200
        not_sent = await client.get("/in?data=2")
        later = await client.get("/in?data=3")
        assert await client.closed()

    assert [not_sent.status, later.status] == [503, 503]
    assert ["connection" in not_sent.headers, later.headers["connection"]] == [False, "close"]
