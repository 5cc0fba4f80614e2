"""A request of many lines takes bounded work, memory and answers, whatever its lines are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpServer, listen_http
from tailrace.listen.http import lines as lines_module

ANY = "127.0.0.1:0"
NDJSON = "application/x-ndjson"


async def test_a_body_of_more_lines_than_allowed_makes_no_message(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/in", type=int), held) as service:
        for body in (b"1\n" * 20_000, b"\n" * 1_000_000, b"x\n" * 20_000):
            answer = await service.post("/in", body, content_type=NDJSON)
            assert answer.status == 413
            assert "more than 16384 lines" in answer.text
    assert held.messages == []


async def test_as_many_lines_as_allowed_are_taken(serve: Any) -> None:
    listener = HttpServer(ANY).listen("/in", type=int, max_body=4000)
    async with serve(listener) as service:
        answer = await service.post("/in", b"1\n" * 999 + b"1", content_type=NDJSON)
        refused = await service.post("/in", b"1\n" * 1001, content_type=NDJSON)
    assert (answer.status, refused.status) == (200, 413)


async def test_lines_that_cannot_be_decoded_leave_time_to_others(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "SLICE_SECONDS", -1.0)  # a slice is one line
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with serve(listen_http(ANY, "/in", type=int)) as service:
        others = asyncio.create_task(turn())
        answer = await service.post("/in", b"x\n" * 1000, content_type=NDJSON)
        others.cancel()

    assert answer.status == 400
    assert turns >= 1000


async def test_unsettled_lines_are_at_most_in_flight_and_are_counted(serve: Any, hold: Any) -> None:
    held = hold()
    server = HttpServer(ANY, in_flight=3)
    listener = server.listen("/in", type=int)
    channel = Channel[Message[int]](100)  # has room for all of them
    async with Group() as go:
        go(listener, channel)
        go(held, channel)
        url = await server.ready()
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b"1\n" * 10
        head = f"POST /in HTTP/1.0\r\ncontent-type: {NDJSON}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        for settled in range(10):
            messages = await held.reached(min(settled + 3, 10))
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(messages) == min(settled + 3, 10)
            if settled == 0:
                assert server.statistics().body_bytes == len(body) + 3 * lines_module.LINE_COST
            messages[settled].ack()
        answer = await reader.read()
        writer.close()
        go.drain()

    assert answer.count(b'"status":"stored"') == 10
    assert server.statistics().body_bytes == 0
    assert server.statistics().in_flight == 0


async def test_lines_wait_while_the_memory_of_bodies_is_taken(serve: Any, hold: Any) -> None:
    held = hold()
    server = HttpServer(ANY, body_memory=2000)
    async with serve(server.listen("/in", type=int, max_body=1000), held) as service:
        answers = asyncio.create_task(service.post("/in", b"1\n" * 6, content_type=NDJSON))
        for _ in range(3):
            messages = await held.reached(2)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(messages) == 2
            for message in messages:
                message.ack()
            messages.clear()
        assert (await answers).status == 200
    assert server.statistics().body_bytes == 0


async def test_lines_that_wait_when_the_pipeline_ends_are_reported(serve: Any) -> None:
    first: list[Message[int]] = []

    async def take_one(inbox: Receiver[Message[int]]) -> None:
        first.append(await inbox.recv())

    server = HttpServer(ANY, in_flight=1)
    channel = Channel[Message[int]]()
    async with Group() as go:
        go(server.listen("/in", type=int), channel)
        go(take_one, channel)
        port = int((await server.ready()).rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /in HTTP/1.0\r\ncontent-type: {NDJSON}\r\ncontent-length: 6\r\n\r\n"
        writer.write(head.encode() + b"1\n2\n3\n")
        while not first:
            await asyncio.sleep(0)
        go.drain()
        first.pop().ack()
        answer = await reader.read()
        writer.close()

    reports = [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]
    assert [report["code"] for report in reports] == [200, 503, 503]


async def test_reports_do_not_grow_with_what_they_quote(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "SMALL_REPORT", 0)

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            if message.data == 0:
                message.reject("no" * 10_000)
            else:
                message.ack({"result": "x" * 1000})

    listener = HttpServer(ANY).listen("/in", type=int, max_body=1000)
    async with serve(listener, work) as service:
        answer = await service.post("/in", b"0\n" + b"1\n" * 6, content_type=NDJSON)

    reports = [json.loads(line) for line in answer.text.splitlines()]
    assert len(reports[0]["reason"]) == 201
    assert [report["status"] for report in reports] == ["rejected", *["stored"] * 6]
    # The fourth result exceeds four times `max_body`.
    assert ["result" in report for report in reports] == [False, *[True] * 4, *[False] * 2]


@pytest.mark.parametrize("length", [200, 201])
async def test_a_reason_in_a_report_is_cut_where_it_exceeds_200_characters(
    serve: Any, length: int
) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            message.reject("x" * length)

    async with serve(HttpServer(ANY).listen("/in", type=int), work) as service:
        answer = await service.post("/in", b"1\n", content_type=NDJSON)

    whole = "x" * 200
    assert json.loads(answer.text)["reason"] == (whole if length == 200 else f"{whole}…")
