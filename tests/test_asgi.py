"""`lifespan`: a pipeline within FastAPI and Starlette, served by uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from tailrace import Channel, Group, Message, Receiver, Sender, each, submit
from tailrace.asgi import lifespan
from tailrace.listen import HttpServer

Orders = Channel[Message[str]]


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncGenerator[httpx.AsyncClient]:
    """The application on a loopback port, by uvicorn, which starts and ends its lifespan."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve())  # `serve` would take over the signals
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def take_order(request: Request) -> PlainTextResponse:
    """Answer with the outcome of an order."""
    body = (await request.body()).decode()
    outcome = await submit(request.state.orders, body)
    return PlainTextResponse(outcome.status)


async def drop_order(request: Request) -> PlainTextResponse:
    """Send an order, and wait for nothing."""
    await request.state.orders.send(Message((await request.body()).decode()))
    return PlainTextResponse("accepted", 202)


async def fine(request: Request) -> PlainTextResponse:
    """Needs no pipeline."""
    return PlainTextResponse("fine")


ROUTES = [
    Route("/orders", take_order, methods=["POST"]),
    Route("/later", drop_order, methods=["POST"]),
    Route("/fine", fine),
]


class Store:
    """Keeps what it is told to, and fails at "boom"."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def __call__(self, inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            if message.data == "boom":
                raise OSError("the disk is gone")
            self.stored.append(message.data)
            message.ack()


def pipeline(store: Store) -> Callable[[Group], Mapping[str, object]]:
    def main(go: Group) -> Mapping[str, object]:
        orders = Orders(10, name="orders")
        go(store, orders)
        return {"orders": orders}

    return main


def app_of(main: Any, *routes: Any, **options: Any) -> Starlette:
    return Starlette(routes=[*ROUTES, *routes], lifespan=lifespan(main, **options))


async def test_a_route_submits_to_the_pipeline_and_hears_the_outcome() -> None:
    store = Store()
    async with served(app_of(pipeline(store))) as client:
        answers = [await client.post("/orders", content="tea"), await client.get("/readyz")]
    assert [(answer.status_code, answer.text) for answer in answers] == [
        (200, "stored"),
        (200, "ready"),
    ]
    assert store.stored == ["tea"]


async def test_in_fastapi_with_typed_routes() -> None:
    store = Store()
    app = FastAPI(lifespan=lifespan(pipeline(store)))

    @app.post("/orders/{name}")
    async def order(name: str, request: Request) -> str:
        outcome = await submit(request.state.orders, name)
        return outcome.status

    # FastAPI finds the annotations of a local function in its module.
    async with served(app) as client:
        assert (await client.post("/orders/tea")).json() == "stored"
    assert store.stored == ["tea"]


async def test_the_end_of_the_application_drains_the_pipeline() -> None:
    taken = asyncio.Event()
    go_on = asyncio.Event()
    store = Store()

    async def slowly(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
        async for message in inbox:
            taken.set()
            await go_on.wait()
            await out.send(message)

    async def main(go: Group) -> AsyncIterator[Mapping[str, object]]:
        orders, kept = Orders(10, name="orders"), Orders(name="kept")
        go(slowly, orders, kept)
        go(store, kept)
        yield {"orders": orders}
        assert store.stored == ["a", "b", "c"]  # all actors have ended
        store.stored.append("closed")

    async with served(app_of(main)) as client:
        for order in "abc":
            assert (await client.post("/later", content=order)).status_code == 202
        await taken.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert store.stored == ["a", "b", "c", "closed"]


async def test_a_failed_pipeline_turns_requests_into_503_and_spares_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    async with served(app_of(pipeline(store))) as client:
        boom, *others = await asyncio.gather(
            *(client.post("/orders", content=order) for order in ("boom", "b", "c"))
        )
        # It waited when the pipeline failed: its route has heard that.
        assert (boom.status_code, boom.text) == (200, "lost")
        refused = [await client.post("/orders", content="d"), await client.get("/readyz")]
        refused.append(await client.get("/fine"))
    assert {other.status_code for other in others} <= {200, 503}
    for answer in refused:
        assert (answer.status_code, answer.text) == (503, "unavailable: the pipeline has failed")
        assert answer.headers["retry-after"] == "5"
    # Among those of the messages that were lost.
    (failure,) = [
        record for record in caplog.records if record.getMessage().startswith("the pipeline has")
    ]
    assert "requests are answered 503" in failure.getMessage()
    assert failure.exc_info is not None
    assert "the disk is gone" in caplog.text


async def test_a_request_that_the_failure_catches_in_its_route_hears_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_send = asyncio.Event()

    async def send(request: Request) -> PlainTextResponse:
        in_send.set()
        await submit(request.state.orders, "a")  # raises `Closed`
        raise AssertionError

    async def breaks(orders: Receiver[Message[str]]) -> None:
        await in_send.wait()
        await asyncio.sleep(0)
        raise OSError("the disk is gone")

    def main(go: Group) -> dict[str, object]:
        orders = Orders(name="orders")
        go(breaks, orders)
        return {"orders": orders}

    async with served(app_of(main, Route("/send", send))) as client:
        answer = await client.get("/send")
    assert answer.status_code == 503
    assert "Exception in ASGI application" not in caplog.text


async def test_the_pipeline_is_out_of_order_if_it_takes_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def once(inbox: Receiver[Message[str]]) -> None:
        (await inbox.recv()).ack()

    def main(go: Group) -> dict[str, Orders]:
        orders = Orders(name="orders")
        go(once, orders)
        return {"orders": orders}

    async with served(app_of(main)) as client:
        assert (await client.post("/orders", content="a")).text == "stored"
        answer = await client.get("/readyz")
    assert answer.text == "unavailable: the pipeline takes nothing more by orders"


async def test_a_route_of_the_application_for_readyz_is_its_own() -> None:
    store = Store()
    async with served(app_of(pipeline(store), Route("/readyz", fine))) as client:
        assert (await client.get("/readyz")).text == "fine"
        await client.post("/orders", content="boom")
        assert (await client.get("/readyz")).status_code == 503


@pytest.mark.parametrize(("readyz", "asked"), [(None, "/readyz"), ("/up", "/readyz")])
async def test_the_path_of_readyz_is_chosen(readyz: str | None, asked: str) -> None:
    async with served(app_of(pipeline(Store()), readyz=readyz)) as client:
        assert (await client.get(asked)).status_code == 404
        assert readyz is None or (await client.head(readyz)).status_code == 200


async def test_a_websocket_is_refused_once_the_pipeline_has_failed() -> None:
    async def talk(socket: WebSocket) -> None:
        await socket.accept()

    app = app_of(pipeline(Store()), WebSocketRoute("/talk", talk))
    async with served(app) as client:
        await client.post("/orders", content="boom")
        answer = await client.get(
            "/talk",
            headers={
                "connection": "upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        )
        assert answer.status_code in (403, 503)


async def test_a_listener_is_mounted_beside() -> None:
    store = Store()
    server = HttpServer(None)

    def main(go: Group) -> None:
        orders = Orders(name="orders")
        go(server.listen("/orders"), orders)
        go(each(str.upper), orders, kept := Orders(name="kept"))
        go(store, kept)

    async with served(app_of(main, Mount("/in", server.app))) as client:
        answer = await client.get("/in/orders?data=tea")
    assert (answer.status_code, answer.text) == (200, "OK: TEA")
    assert store.stored == ["TEA"]


async def test_what_outlasts_the_grace_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def stuck(inbox: Receiver[Message[str]]) -> None:
        await asyncio.Event().wait()

    def main(go: Group) -> dict[str, Orders]:
        orders = Orders(1, name="orders")
        go(stuck, orders)
        return {"orders": orders}

    async with served(app_of(main, grace=0.05)) as client:
        assert (await client.post("/later", content="a")).status_code == 202
    assert "cancelled: stuck" in caplog.text


async def test_a_thread_that_does_not_end_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()
    started = threading.Event()

    def hangs() -> None:
        started.set()
        release.wait()

    def main(go: Group) -> None:
        go(hangs)

    try:
        async with served(app_of(main, grace=0.05)):
            await asyncio.to_thread(started.wait)
    finally:
        release.set()
    assert "hangs is still running in its thread" in caplog.text


async def test_the_application_starts_again_with_a_new_pipeline() -> None:
    stores: list[Store] = []

    def main(go: Group) -> Mapping[str, object]:
        stores.append(Store())
        return pipeline(stores[-1])(go)

    app = app_of(main)
    for order in ("boom", "tea"):
        async with served(app) as client:
            await client.post("/orders", content=order)
    assert [store.stored for store in stores] == [[], ["tea"]]


async def test_a_lifespan_around_it_adds_to_the_state() -> None:
    store = Store()
    inner = lifespan(pipeline(store))

    @contextlib.asynccontextmanager
    async def outer(app: Starlette) -> AsyncGenerator[dict[str, object]]:
        async with inner(app) as state:
            yield {**state, "name": "shop"}

    async def name(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.name)

    app = Starlette(routes=[*ROUTES, Route("/name", name)], lifespan=outer)
    async with served(app) as client:
        assert (await client.get("/name")).text == "shop"
        assert (await client.post("/orders", content="tea")).text == "stored"


async def started(main: Any) -> Mapping[str, object]:
    async with lifespan(main)(object()) as state:
        return state


def problem(failures: BaseExceptionGroup) -> BaseException:
    (error,) = failures.exceptions
    return error


async def test_an_error_of_main_keeps_the_application_from_starting() -> None:
    def main(go: Group) -> None:
        raise LookupError("no such table")

    with pytest.raises(ExceptionGroup) as caught:
        await started(main)
    assert isinstance(problem(caught.value), LookupError)


async def waits(go: Group) -> None:
    await go.wait()


async def idles(go: Group) -> None:
    await go.idle()


@pytest.mark.parametrize("main", [waits, idles])
async def test_main_must_not_wait_for_the_end(main: Any) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await started(main)
    assert "`yield` the state instead" in str(problem(caught.value))


@pytest.mark.parametrize("state", [["orders"], {1: "orders"}, "orders"])
async def test_the_state_is_a_mapping_of_names(state: object) -> None:
    def main(go: Group) -> Any:
        return state

    with pytest.raises(ExceptionGroup) as caught:
        await started(main)
    assert "must return a mapping from names" in str(problem(caught.value))


async def test_a_generator_yields_one_state(caplog: pytest.LogCaptureFixture) -> None:
    async def main(go: Group) -> AsyncIterator[None]:
        yield None
        yield None

    await started(main)
    assert "yields more than one state" in caplog.text


async def test_an_async_main_returns_the_state() -> None:
    async def main(go: Group) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"answer": 42}

    assert await started(main) == {"answer": 42}


async def test_cancelled_the_pipeline_has_ended() -> None:
    ended = asyncio.Event()

    async def actor() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    def main(go: Group) -> None:
        go(actor)

    async def live() -> None:
        async with lifespan(main)(object()):
            await asyncio.Event().wait()

    running = asyncio.Event()
    task = asyncio.ensure_future(live())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"grace": -1}, ValueError, "grace must be seconds of 0 or more"),
        ({"grace": "30"}, TypeError, "grace must be seconds of 0 or more"),
        ({"readyz": "ready"}, ValueError, "readyz must be a path that begins with /"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        lifespan(pipeline(Store()), **options)


def test_main_is_a_function() -> None:
    not_a_function: Any = {"orders": 1}
    with pytest.raises(TypeError, match="lifespan takes the function main"):
        lifespan(not_a_function)
