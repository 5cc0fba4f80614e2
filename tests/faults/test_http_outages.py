"""What a client hears while the database behind its listener is out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from tailrace import Channel, Group, Message, Receiver, Reject, Sender, each
from tailrace.listen import listen_http
from tailrace.retry import Retry
from tailrace.store import store


class Database:
    """Out of order until it is mended."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.broken = True

    async def write(self, rows: Sequence[str]) -> None:
        if self.broken:
            raise ConnectionRefusedError("db.internal:5432")
        if "bad" in rows:
            raise Reject("we do not keep this")
        self.rows += rows


PATIENT = Retry(attempts=1000, backoff=0.01, cap=0.01)
HASTY = Retry(attempts=2, backoff=0.01, cap=0.01)


@pytest.mark.parametrize("retry", [PATIENT, HASTY], ids=["its time runs out", "it is given up"])
@pytest.mark.parametrize("lines", [False, True], ids=["one", "lines"])
async def test_an_outage_that_outlasts_a_request_is_503_and_later_ones_are_stored(
    retry: Retry, lines: bool
) -> None:
    database = Database()
    incoming = Channel[Message[str]](name="incoming")
    to_store = Channel[Message[str]](name="to_store")
    listener = listen_http("127.0.0.1:0", "/in", timeout=0.3)

    async def post(client: httpx.AsyncClient, text: str) -> httpx.Response:
        kind = "application/x-ndjson" if lines else "application/json"
        return await client.post("/in", content=f'"{text}"', headers={"content-type": kind})

    async with Group(on_exit="drain") as go:
        go(listener, incoming)
        go(each(str.upper), incoming, to_store)
        go(store(database.write, retry=retry), to_store)
        async with httpx.AsyncClient(base_url=await listener.server.ready()) as client:
            during = await asyncio.gather(*(post(client, text) for text in "abc"))
            database.broken = False
            after = await post(client, "d")

    assert [answer.status_code for answer in during] == [503] * 3
    assert {answer.headers["retry-after"] for answer in during} == {"1"}
    assert "out of order" in during[0].text
    assert "db.internal" not in during[0].text
    assert after.status_code == 200
    assert "D" in database.rows


async def test_a_slow_pipeline_behind_a_sound_database_is_504_after_an_outage() -> None:
    database = Database()
    slow = asyncio.Event()
    incoming = Channel[Message[str]](name="incoming")
    to_store = Channel[Message[str]](name="to_store")
    listener = listen_http("127.0.0.1:0", "/in", timeout=0.2)

    async def stage(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        async for message in inbox:
            if message.data == "slow":
                await slow.wait()
            await out.send(message)

    async with Group(on_exit="drain") as go:
        go(listener, incoming)
        go(stage, incoming, to_store)
        go(store(database.write, retry=PATIENT), to_store)
        async with httpx.AsyncClient(base_url=await listener.server.ready()) as client:
            first = await client.get("/in?data=a")
            database.broken = False
            second = await client.get("/in?data=b")
            rejected = await client.get("/in?data=bad")
            third = await client.get("/in?data=slow")
            slow.set()

    statuses = [answer.status_code for answer in (first, second, rejected, third)]
    assert statuses == [503, 200, 422, 504]
    assert rejected.text == "rejected: we do not keep this"
