"""`examples/aggregator.py` over real HTTP: nine servers and the aggregator on the loopback, while
some straggle, one is killed and one wedged."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import socket
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tailrace import amap

DEADLINE = 1.5
SLACK = 10.0  # seconds that a busy machine may take beyond the deadline
STRAGGLE = 0.2
NAMES = ("web", "images", "videos")


def load_aggregator() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "aggregator.py"
    spec = importlib.util.spec_from_file_location("aggregator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Serving(uvicorn.Server):
    """A server on a free port of the loopback, in a task of this loop."""

    def __init__(self, app: Any, lifespan: str = "off") -> None:
        config = uvicorn.Config(app, log_config=None, lifespan=lifespan, access_log=False)  # type: ignore[arg-type]
        super().__init__(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield  # they are the tests'

    async def start(self) -> None:
        self.task = asyncio.create_task(self.serve([self.socket]))
        while not self.started:
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Answer nobody any more, those who wait for an answer included."""
        assert self.task is not None
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        self.should_exit = self.force_exit = True
        await self.task
        self.socket.close()


class Shard:
    """A replica of a service: answers, straggles now and then, or is wedged."""

    def __init__(self, service: str, dice: random.Random) -> None:
        self.service = service
        self.dice = dice
        self.asked = 0
        self.wedged = asyncio.Event()
        self.released = asyncio.Event()  # ends what a wedged one still has in hand
        self.server = Serving(Starlette(routes=[Route("/", self.answer)]))

    async def answer(self, request: Request) -> JSONResponse:
        self.asked += 1
        q = request.query_params["q"]
        if q == "nonsense":
            return JSONResponse({"error": "nonsense"}, status_code=422)
        if self.wedged.is_set():
            await self.released.wait()
        elif self.dice.random() < 0.1:
            await asyncio.sleep(STRAGGLE)
        return JSONResponse({"service": self.service, "q": q})


@contextlib.asynccontextmanager
async def shards() -> AsyncGenerator[dict[str, list[Shard]]]:
    dice = random.Random(4)
    made = {name: [Shard(name, dice) for _ in range(3)] for name in NAMES}
    everyone = [shard for group in made.values() for shard in group]
    await asyncio.gather(*(shard.server.start() for shard in everyone))
    try:
        yield made
    finally:
        for shard in everyone:
            shard.released.set()
        alive = (shard.server for shard in everyone if not shard.server.should_exit)
        await asyncio.gather(*(server.kill() for server in alive))


@contextlib.asynccontextmanager
async def aggregating(
    services: dict[str, list[Shard]], **options: Any
) -> AsyncGenerator[tuple[httpx.AsyncClient, Any]]:
    urls = {name: [shard.server.url for shard in group] for name, group in services.items()}
    app = load_aggregator().application(urls, deadline=DEADLINE, **options)
    server = Serving(app, lifespan="on")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            yield client, app
    finally:
        server.should_exit = True
        assert server.task is not None
        await server.task


async def search(client: httpx.AsyncClient, q: str) -> Any:
    began = time.monotonic()
    answer = await client.get("/search", params={"q": q})
    assert time.monotonic() - began < DEADLINE + SLACK
    body = answer.json()
    for name, found in body["found"].items():
        assert found == {"service": name, "q": q}  # its own answer to its own question
    assert sorted([*body["found"], *body["missing"]]) == sorted(NAMES)
    assert body["partial"] is bool(body["missing"])
    assert answer.status_code == (200 if body["found"] else 504)
    return body


@pytest.mark.timeout(60)
async def test_answers_stay_whole_with_stragglers_one_replica_killed_and_one_wedged() -> None:
    async with shards() as services, aggregating(services, delay=0.05, budget=1.0) as (client, app):

        async def load(name: str, queries: int) -> list[Any]:
            texts = [f"{name} {number}" for number in range(queries)]
            return [body async for body in amap(partial(search, client), texts, concurrency=4)]

        found = await load("warm", 20)
        before, _ = await asyncio.gather(load("killed", 20), services["web"][0].server.kill())
        services["images"][1].wedged.set()
        after = await load("wedged", 30)
        assert not [body["missing"] for body in (*found, *before, *after) if body["partial"]]
        web, images, _videos = (each.statistics() for each in app.state.hedged)
        assert web.failovers  # the dead one was tried, and another asked in its place
        assert images.wins[1]  # and a second copy answered for the wedged one
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.timeout(60)
async def test_what_cannot_answer_by_the_deadline_is_missing_and_said_to_be() -> None:
    async with shards() as services, aggregating(services) as (client, _):
        for shard in services["videos"]:
            shard.wedged.set()
        bodies = await asyncio.gather(*(search(client, f"q{number}") for number in range(5)))
        assert [body["missing"] for body in bodies] == [["videos"]] * 5
        await asyncio.gather(*(shard.server.kill() for shard in services["web"]))
        assert (await search(client, "less"))["missing"] == ["web", "videos"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.timeout(60)
async def test_a_query_that_one_replica_rejects_is_not_sent_to_another() -> None:
    async with shards() as services, aggregating(services) as (client, _):
        body = await search(client, "nonsense")
        assert body["missing"] == list(NAMES)
        assert [sum(shard.asked for shard in group) for group in services.values()] == [1, 1, 1]
    assert asyncio.all_tasks() == {asyncio.current_task()}
