"""Ends under load: whatever way a program stops, each request gets a full answer, and what a
client was told is true."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tailrace import Channel, Closed, Group, Message, Receiver, Sender
from tailrace.listen import ListenHttp, Request, listen_http

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"
CLIENTS = 64


class Load:
    """64 clients who ask on and on, each on a connection that it keeps while it may, until the
    server is gone. Answers are counted; an answer that is not complete is a failure."""

    def __init__(self, listener: ListenHttp[str], *, keep: bool = True) -> None:
        self.answers: Counter[int] = Counter()
        self.stored: list[str] = []  # what was answered 200 "OK"
        self.torn: list[str] = []
        self.refused = 0
        self._listener = listener
        self._keep = keep
        self._tasks: list[asyncio.Task[None]] = []
        self._warm = asyncio.Event()

    async def start(self) -> None:
        url = await self._listener.server.ready()
        host, _, port = url.removeprefix("http://").partition(":")
        self._at = host, int(port)
        self._tasks = [asyncio.ensure_future(self._client(n)) for n in range(CLIENTS)]
        await self._warm.wait()

    async def end(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    async def _client(self, n: int) -> None:
        serial = 0
        while True:
            try:
                reader, writer = await asyncio.open_connection(*self._at)
            except ConnectionRefusedError:
                self.refused += 1
                return
            try:
                close = False
                while not close:
                    serial += 1
                    close = await self._request(reader, writer, f"{n}.{serial}")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.torn.append(f"{n}.{serial}: {error!r}")
                return
            finally:
                writer.close()

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: str
    ) -> bool:
        """Whether the server closes, or we do."""
        keep = "keep-alive" if self._keep else "close"
        ask = f"GET /incoming?data={data} HTTP/1.1\r\nhost: x\r\nconnection: {keep}\r\n\r\n"
        writer.write(ask.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        status = int(head.split(" ")[1])
        self.answers[status] += 1
        if status == 200:
            self.stored.append(body.removeprefix("OK: "))
        if self.answers.total() >= 5 * CLIENTS:
            self._warm.set()
        return "connection: close" in head


class Store:
    """Acks in batches, a little later, as a database would."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    async def __call__(self, inbox: Receiver[Message[str]]) -> None:
        while True:
            batch = await inbox.recv_many(100)
            await asyncio.sleep(0.002)
            for message in batch:
                self.rows.append(message.data)
                message.ack(message.data)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for message in inbox:
        await out.send(message)


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "closed"])
async def test_a_drain_answers_every_request_in_full(any_loop: Loops, keep: bool) -> None:
    listener = listen_http(ANY, "/incoming")
    store, load = Store(), Load(listener, keep=keep)
    to_enrich, to_store = Channel[Message[str]](), Channel[Message[str]]()
    async with Group() as go:
        go(listener, to_enrich)
        go(enrich, to_enrich, to_store, actors=3)
        go(store, to_store)
        await load.start()
        go.drain()
    await load.end()

    assert load.torn == []
    assert set(load.answers) <= {200, 503}
    assert load.answers[200] >= 4 * CLIENTS
    assert sorted(load.stored) == sorted(store.rows)
    assert load.refused + load.answers[503] > 0


async def test_a_drain_under_load_is_quick(any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming")
    store, load = Store(), Load(listener)
    channel = Channel[Message[str]]()
    loop = asyncio.get_running_loop()
    async with Group() as go:
        go(listener, channel)
        go(store, channel)
        await load.start()
        began = loop.time()
        go.drain()
    took = loop.time() - began
    await load.end()

    assert load.torn == []
    assert took < 5


async def test_idle_connections_do_not_hold_up_a_drain() -> None:
    listener = listen_http(ANY, "/incoming")
    channel = Channel[Message[str]]()
    loop = asyncio.get_running_loop()
    async with Group() as go:
        go(listener, channel)
        go(Store(), channel)
        url = await listener.server.ready()
        host, _, port = url.removeprefix("http://").partition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        began = loop.time()
        go.drain()
    assert loop.time() - began < 3
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()


async def test_a_stalled_client_does_not_hold_up_a_drain_for_ever() -> None:
    server = listen_http(ANY, "/incoming").server
    listener = server.listen("/slow", timeout=0.2)
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(Store(), channel)
        url = await server.ready()
        host, _, port = url.removeprefix("http://").partition(":")
        _reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /slow?da")
        await writer.drain()
        go.drain()
    writer.close()


async def test_a_request_whose_body_is_coming_is_served_by_a_drain(any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming")
    store = Store()
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(store, channel)
        url = await listener.server.ready()
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /incoming HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n"
            b"content-type: application/x-www-form-urlencoded\r\n\r\ndata"
        )
        while not listener.server.statistics().body_bytes:
            await asyncio.sleep(0)
        go.drain()
        writer.write(b"=foo")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert store.rows == ["foo"]


async def test_when_downstream_stops_each_request_is_answered(any_loop: Loops) -> None:
    """The receiving end is let go: what was not sent hears 503, and the program ends well."""
    listener = listen_http(ANY, "/incoming")
    load = Load(listener)
    channel = Channel[Message[str]]()
    rows: list[str] = []

    async def only_so_many(inbox: Receiver[Message[str]]) -> None:
        while len(rows) < 20 * CLIENTS:
            message = await inbox.recv()
            rows.append(message.data)
            message.ack(message.data)

    async with Group() as go:
        go(listener, channel)
        go(only_so_many, channel)
        await load.start()
    await load.end()

    assert load.torn == []
    assert set(load.answers) <= {200, 503}
    assert sorted(load.stored) == sorted(rows)


async def test_a_closed_channel_ends_the_actor_with_closed() -> None:
    listener = listen_http(ANY, "/incoming")
    load = Load(listener)
    channel = Channel[Message[str]]()
    listening = asyncio.ensure_future(listener(channel))
    working = asyncio.ensure_future(Store()(channel))
    await load.start()
    channel.close()
    with pytest.raises(Closed):
        await listening
    with pytest.raises(Closed):
        await working
    await load.end()

    assert load.torn == []
    assert set(load.answers) <= {200, 503}


async def test_a_failure_downstream_answers_each_request_before_all_ends(any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming")
    load = Load(listener)
    channel = Channel[Message[str]]()
    rows: list[str] = []

    async def breaks(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            if len(rows) == 20 * CLIENTS:
                raise ZeroDivisionError
            rows.append(message.data)
            message.ack(message.data)

    with pytest.raises(ExceptionGroup) as failed:
        async with Group() as go:
            go(listener, channel)
            go(breaks, channel)
            await load.start()
    await load.end()

    assert failed.group_contains(ZeroDivisionError)
    assert load.torn == []
    assert set(load.answers) <= {200, 500, 503, 504}
    assert sorted(load.stored) == sorted(rows)


async def test_a_cancelled_program_answers_what_it_can(any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming", in_flight=10)
    load = Load(listener)
    channel = Channel[Message[str]]()
    held: list[Message[str]] = []

    async def never(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            held.append(message)
            if len(held) == 5:
                await asyncio.Event().wait()

    async with Group() as go:
        go(listener, channel)
        go(never, channel)
        await load.start()
        go.cancel()
    await load.end()

    assert load.torn == []
    assert load.answers[504] == 5  # with `never`, so nobody knows
    assert set(load.answers) == {503, 504}


async def test_after_a_drain_the_same_address_can_be_listened_on_again(any_loop: Loops) -> None:
    listener = listen_http(ANY, "/incoming")
    for _ in range(3):
        load, store = Load(listener), Store()
        channel = Channel[Message[str]]()
        async with Group() as go:
            go(listener, channel)
            go(store, channel)
            await load.start()
            address = listener.server.address
            go.drain()
        await load.end()
        assert load.torn == []
        assert sorted(load.stored) == sorted(store.rows)
        listener = listen_http(address, "/incoming")


async def post_lines(address: str, lines: bytes) -> tuple[int, list[dict[str, Any]]]:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        headers = {"content-type": "application/x-ndjson"}
        answer = await client.post("/incoming", content=lines, headers=headers)
    return answer.status_code, [json.loads(line) for line in answer.text.splitlines()]


async def test_many_messages_in_a_request_are_reported_when_downstream_stops() -> None:
    listener = listen_http(ANY, "/incoming")
    channel = Channel[Message[str]]()

    async def two_only(inbox: Receiver[Message[str]]) -> None:
        for _ in range(2):
            (await inbox.recv()).ack()

    async with Group() as go:
        go(listener, channel)
        go(two_only, channel)
        await listener.server.ready()
        status, reports = await post_lines(listener.server.address, b'"1"\n"2"\n"3"\n"4"\n')

    assert status == 207
    assert [report["code"] for report in reports] == [200, 200, 503, 503]


async def test_many_messages_in_a_request_are_reported_when_all_is_cancelled() -> None:
    listener = listen_http(ANY, "/incoming")
    channel = Channel[Message[str]]()
    held: list[Message[str]] = []

    async def first_only(inbox: Receiver[Message[str]]) -> None:
        held.append(await inbox.recv())
        await asyncio.Event().wait()

    async with Group() as go:
        go(listener, channel)
        go(first_only, channel)
        await listener.server.ready()
        address = listener.server.address
        posting = asyncio.ensure_future(post_lines(address, b'"1"\n"2"\n"3"\n'))
        while not held:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.cancel()
    status, reports = await posting

    assert status == 207
    assert [report["code"] for report in reports] == [504, 503, 503]


async def test_who_waits_to_be_authorized_is_answered_by_a_drain_and_by_a_cancel() -> None:
    for end in (Group.drain, Group.cancel):
        let_in = asyncio.Event()
        asked = asyncio.Event()

        async def authorize(
            request: Request, asked: asyncio.Event = asked, let_in: asyncio.Event = let_in
        ) -> bool:
            asked.set()
            await let_in.wait()
            return True

        listener = listen_http(ANY, "/incoming", authorize=authorize)
        channel = Channel[Message[str]]()
        async with Group() as go:
            go(listener, channel)
            go(Store(), channel)
            await listener.server.ready()
            async with httpx.AsyncClient(base_url=listener.server.url) as client:
                getting = asyncio.ensure_future(client.get("/incoming?data=foo"))
                await asked.wait()
                end(go)
                if end is Group.drain:
                    await asyncio.sleep(0)
                    let_in.set()
                    assert (await getting).status_code == 200
                else:
                    await asyncio.wait([getting])
        if end is Group.cancel:
            assert getting.result().status_code in (503, 504)
        assert listener.server.statistics().in_flight == 0
