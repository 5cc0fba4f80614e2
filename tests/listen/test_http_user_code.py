"""User code that raises, hangs or answers nonsense ends its own request and nothing else."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from tailrace import Message, Receiver
from tailrace.group.runner import GRACE_OVER
from tailrace.listen import Request, listen_http
from tailrace.listen.http import access as access_module
from tailrace.listen.http import exchange as exchange_module
from tailrace.listen.http import text as text_module
from tailrace.usercode import log_error

ANY = "127.0.0.1:0"
RATES = {"EUR": 1.0}
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NDJSON = "application/x-ndjson"


class Stop(BaseException):
    """What no `except Exception` catches."""


RAISED: list[Callable[[], BaseException]] = [
    lambda: KeyError("secret"),
    lambda: asyncio.CancelledError("secret"),
    lambda: SystemExit("secret"),
    lambda: Stop("secret"),
    lambda: MemoryError("secret"),
]


@dataclass
class Payment:
    currency: str

    def __post_init__(self) -> None:
        if self.currency == "ZZZ":
            raise ValueError("nobody pays in ZZZ")
        if self.currency.isdigit():
            raised = RAISED[int(self.currency)]()
            raise raised
        RATES[self.currency]


class Colour(enum.Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Colour | None:
        if value == "none":
            return None
        raise LookupError("secret")


async def ack(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack("stored it")
        del message


def money(currency: str) -> bytes:
    return json.dumps({"currency": currency}).encode()


# --- while decoding -------------------------------------------------------------------------


@pytest.mark.parametrize("raised", range(len(RAISED)))
@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_what_a_type_raises_is_answered_500_and_the_listener_goes_on(
    serve: Any, caplog: pytest.LogCaptureFixture, kind: str, raised: int
) -> None:
    body = money(str(raised)) if kind == JSON else b"data=" + money(str(raised))
    async with (
        serve(listen_http(ANY, "/pay", type=Payment), ack) as service,
        await service.connect() as client,
    ):
        answer = await client.post("/pay", body, content_type=kind, idempotency_key='pay-"7')
        left = service.server.statistics().in_flight
        after = await client.post("/pay", money("EUR"), content_type=JSON)

    assert (answer.status, answer.text) == (500, "failed: an internal error")
    assert (left, after.status) == (0, 200)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "/pay" in record.getMessage()
    assert '(id pay-\\"7)' in record.getMessage()
    assert record.exc_info is not None
    assert type(record.exc_info[1]) is type(RAISED[raised]())


async def test_a_value_error_of_a_type_is_the_senders_fault(serve: Any) -> None:
    async with serve(listen_http(ANY, "/pay", type=Payment), ack) as service:
        answer = await service.post("/pay", money("ZZZ"), content_type=JSON)

    assert (answer.status, answer.text.partition(" - ")[0]) == (422, "rejected: nobody pays in ZZZ")


async def test_a_line_whose_type_raises_is_reported_and_the_others_are_stored(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lines = b"\n".join(map(money, ["EUR", "XXX", "0", "1", "2", "3", "ZZZ", "EUR"]))
    async with serve(listen_http(ANY, "/pay", type=Payment), ack) as service:
        answer = await service.post("/pay", lines, content_type=NDJSON)
        left = service.server.statistics().in_flight
        after = await service.post("/pay", money("EUR"), content_type=JSON)

    reports = [json.loads(line) for line in answer.text.splitlines()]
    assert [r["code"] for r in reports] == [200, 500, 500, 500, 500, 500, 422, 200]
    assert "secret" not in answer.text
    assert (left, after.status) == (0, 200)
    # The first of them only: a request may have very many lines.
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "line 2" in record.getMessage()


async def test_an_attrs_class_is_a_type_and_its_validators_are_the_senders_affair(
    serve: Any,
) -> None:
    attrs = pytest.importorskip("attrs")

    def positive(instance: object, attribute: Any, value: int) -> None:
        if value < 0:
            raise ValueError("it is negative")
        if value > 100:
            raise LookupError("secret")

    made = attrs.make_class(
        "Order",
        {"item": attrs.field(type=str), "n": attrs.field(type=int, default=1, validator=positive)},
    )
    async with serve(listen_http(ANY, "/in", type=made, answer="id"), ack) as service:
        answers = [
            await service.post("/in", body, content_type=JSON)
            for body in (b'{"item":"a"}', b'{"item":"a","n":-1}', b'{"item":"a","n":101}', b"{}")
        ]

    assert [answer.status for answer in answers] == [200, 422, 500, 422]


async def test_what_an_enum_raises_is_answered(serve: Any) -> None:
    async with serve(listen_http(ANY, "/", type=Colour), ack) as service:
        answers = [await service.get(f"/?data={colour}") for colour in ("red", "none", "blue")]

    assert [answer.status for answer in answers] == [200, 422, 422]


# --- authorize ------------------------------------------------------------------------------


class Unreadable:
    def __repr__(self) -> str:
        raise SystemExit("secret")

    @property
    def __class__(self) -> Any:
        raise SystemExit("secret")


class Unusable(Mapping[str, str]):
    def __getitem__(self, name: str) -> str:
        raise SystemExit("secret")

    def __iter__(self) -> Any:
        raise Stop

    def __len__(self) -> int:
        return 1


NONSENSE: list[Any] = [None, 1, "yes", Unreadable(), Unusable(), {"user": 7}, {7: "user"}, [True]]


def raising(raised: Callable[[], BaseException]) -> Callable[[Request], Any]:
    def authorize(request: Request) -> bool:
        error = raised()
        raise error

    return authorize


def answering(nonsense: Any) -> Callable[[Request], Any]:
    return lambda request: nonsense


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(
    "authorize", [*map(raising, RAISED), *map(answering, NONSENSE)], ids=lambda _: ""
)
async def test_an_authorize_that_breaks_lets_nobody_in_and_the_listener_goes_on(
    serve: Any, caplog: pytest.LogCaptureFixture, authorize: Callable[[Request], Any], later: bool
) -> None:
    async def eventually(request: Request) -> Any:
        await asyncio.sleep(0)
        return True if request.query == "data=good" else authorize(request)

    def at_once(request: Request) -> Any:
        return True if request.query == "data=good" else authorize(request)

    listener = listen_http(ANY, "/in", authorize=eventually if later else at_once)
    async with serve(listener, ack) as service, await service.connect() as client:
        bad = await client.get("/in?data=bad", idempotency_key="k7")
        left = service.server.statistics().in_flight
        good = await client.get("/in?data=good")

    assert (bad.status, bad.text) == (500, "failed: an internal error")
    assert (left, good.status) == (0, 200)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "/in" in record.getMessage()
    assert "k7" in record.getMessage()


async def test_lines_that_were_authorized_later_are_sent_although_one_place_is_all_there_is(
    serve: Any,
) -> None:
    async def later(request: Request) -> bool:
        await asyncio.sleep(0)
        return True

    listener = listen_http(ANY, "/in", authorize=later, in_flight=1, timeout=2)
    async with serve(listener, ack) as service:
        answer = await service.post("/in", b'"a"\n"b"\n', content_type=NDJSON)

    assert answer.status == 200


@pytest.mark.parametrize("kind", [JSON, NDJSON])
async def test_an_authorize_that_hangs_is_cancelled_when_its_request_is_answered(
    serve: Any, kind: str
) -> None:
    ended = asyncio.Event()

    async def hangs(request: Request) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return True

    async with serve(listen_http(ANY, "/in", authorize=hangs, timeout=0.05), ack) as service:
        answer = await service.post("/in", b'"foo"', content_type=kind)
        await ended.wait()
        await service.until(lambda statistics: not statistics.in_flight)

    assert answer.status == 504
    assert answer.text == "timed out: not authorized within 0.05 s; nothing was stored"


@pytest.mark.parametrize("kind", [JSON, NDJSON])
@pytest.mark.parametrize("ignored", [asyncio.CancelledError, BaseException])
async def test_an_authorize_that_ignores_its_cancellation_is_named_and_keeps_no_place(
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    ignored: type[BaseException],
) -> None:
    monkeypatch.setattr(exchange_module, "CHECK_ENDS", 0.05)
    let_go = asyncio.Event()
    ended = []

    async def stubborn(request: Request) -> bool:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except ignored:
                pass
            finally:
                ended.append(let_go.is_set())
        return True

    listener = listen_http(ANY, "/in", authorize=stubborn, timeout=0.05, in_flight=1)
    async with serve(listener, ack) as service:
        answers = []
        for key in ("k1", "k2"):
            answers.append(
                await service.post("/in", b'"foo"', content_type=kind, idempotency_key=key)
            )
            await service.until(lambda statistics: not statistics.in_flight)
        assert service.server.statistics().body_bytes == 0
        let_go.set()
        await asyncio.sleep(0.01)
        assert service.server.statistics().in_flight == 0  # its place is given back once

    assert [answer.status for answer in answers] == [504, 504]
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    if ignored is asyncio.CancelledError:  # it was closed
        assert ended == [False] * 4
    else:  # there is no way to end it
        assert ended[-2:] == [True, True]
        assert all("nor when it was closed; it is left behind" in text for text in texts)
    assert len(texts) == 2
    for text, key in zip(texts, ("k1", "k2"), strict=True):
        assert text.startswith(f"POST /in (id {key}): authorize did not end when it was cancelled")


STUBBORN = """
import asyncio, os, signal
from tailrace import Channel, Group, Message, Receiver, run
from tailrace.listen import HttpServer, Request
from tailrace.listen.http import exchange

exchange.CHECK_ENDS = 0.05


async def stubborn(request: Request) -> bool:
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def ask(server: HttpServer) -> None:
    host, port = (await server.ready()).removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /in?data=foo HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n")
    await reader.read()


def main(go: Group) -> None:
    server = HttpServer("127.0.0.1:0")
    channel = Channel[Message[str]](name="in")
    go(server.listen("/in", authorize=stubborn), channel)
    go(ack, channel)
    go(ask, server, background=True)


async def ack(inbox: Receiver[Message[str]]) -> None:
    async for message in inbox:
        message.ack()


run(main, grace=0.1)
"""


def test_an_authorize_that_ignores_its_cancellation_does_not_keep_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == GRACE_OVER, done.stderr
    assert "authorize did not end when it was cancelled" in done.stderr
    assert "exception" not in done.stderr


async def test_an_authorize_that_ends_when_it_is_cancelled_is_not_named(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "CHECK_ENDS", 0.0)

    async def hangs(request: Request) -> bool:
        await asyncio.Event().wait()
        return True

    async with serve(listen_http(ANY, "/in", authorize=hangs, timeout=0.05), ack) as service:
        await service.get("/in?data=foo")
        await service.until(lambda statistics: not statistics.in_flight)
        await asyncio.sleep(0.01)

    assert caplog.records == []


async def test_an_authorize_that_cancels_itself_has_failed(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancels_itself(request: Request) -> bool:
        check = asyncio.current_task()
        assert check is not None
        check.cancel()
        await asyncio.sleep(0)
        return True

    async with serve(listen_http(ANY, "/in", authorize=cancels_itself), ack) as service:
        answer = await service.get("/in?data=foo")

    assert (answer.status, answer.text) == (500, "failed: an internal error")
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "authorize raised" in record.getMessage()


async def test_an_authorize_that_spoils_its_request_does_not_leave_the_client_waiting(
    serve: Any,
) -> None:
    def spoils(request: Request) -> bool:
        request.path = request.client = None  # type: ignore[assignment]  # what is to be tried
        return True

    listener = listen_http(ANY, "/in", authorize=spoils, access_log=True)
    async with serve(listener, ack) as service:
        assert (await service.get("/in?data=foo")).status == 200
        assert service.server.statistics().in_flight == 0


# --- messages that are dropped ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [JSON, NDJSON])
async def test_a_finaliser_only_posts_to_the_loop(serve: Any, kind: str) -> None:
    amid: list[tuple[int, Any]] = []

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            del message  # collected here, amid whatever this is
            statistics = listener.server.statistics()
            amid.append((statistics.in_flight, dict(statistics.answers)))

    listener = listen_http(ANY, "/in")
    async with serve(listener, work) as service:
        answer = await service.post("/in", b'"foo"', content_type=kind)
        left = service.server.statistics().in_flight

    assert (amid, answer.status, left) == ([(1, {})], 500, 0)


# --- while answering ------------------------------------------------------------------------


class Hostile:
    """A value each of whose methods raises what no `except Exception` catches."""

    def __str__(self) -> str:
        raise Stop

    __repr__ = __str__

    @property
    def __dict__(self) -> Any:
        raise Stop


class HostileText(str):
    __slots__ = ()

    def encode(self, *args: Any) -> Any:
        raise Stop

    def __str__(self) -> str:
        raise Stop

    def __format__(self, spec: str) -> str:
        raise Stop


class HostileDict(dict[str, str]):
    def items(self) -> Any:
        raise Stop


@dataclass
class HostileField:
    fine: str = "fine"

    def __getattribute__(self, name: str) -> Any:
        if name == "fine":
            raise Stop
        return object.__getattribute__(self, name)


HOSTILE: list[Callable[[], Any]] = [
    Hostile,
    lambda: [Hostile()],
    lambda: {"a": Hostile()},
    lambda: {Hostile(): "a"},
    lambda: HostileText("a"),
    lambda: HostileDict(a="b"),
    HostileField,
    lambda: float("nan"),
    lambda: 1 << 70,
    lambda: "\ud800",
    lambda: object,
]


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize("accept", [None, JSON])
@pytest.mark.parametrize(
    ("settle", "status"),
    [
        (lambda m, value: m.ack(value), 200),
        (lambda m, value: m.with_data(value).ack(), 200),
        (lambda m, value: m.with_data(value).abort("no need"), 200),
        (lambda m, value: m.abort(value), 200),
        (lambda m, value: m.reject(value), 422),
        (lambda m, value: m.fail(value), 500),
        (lambda m, value: m.fail(type("Odd", (Exception,), {"__str__": Hostile.__str__})()), 500),
    ],
    ids=["result", "data", "aborted", "reason", "rejected", "failed", "error"],
)
async def test_what_cannot_be_shown_is_answered_all_the_same(
    serve: Any, settle: Callable[..., object], status: int, accept: Any, make: Callable[[], Any]
) -> None:
    ended: list[bool] = []

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            settle(message, make())
            del message
        ended.append(True)

    async with serve(listen_http(ANY, "/in", timeout=5), work) as service:
        answer = await service.get("/in?data=foo", accept=accept)
        left = service.server.statistics().in_flight

    assert (answer.status, left, ended) == (status, 0, [True])


async def test_a_line_whose_result_cannot_be_shown_keeps_its_report(serve: Any) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            message.ack(Hostile())
            del message

    async with serve(listen_http(ANY, "/in"), work) as service:
        answer = await service.post("/in", b'"a"\n', content_type=NDJSON, idempotency_key="k")

    report = json.loads(answer.text)
    assert (report["line"], report["code"], report["status"]) == (1, 200, "stored")


async def test_a_log_shows_no_more_of_an_id_than_an_id_may_have(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(request: Any) -> bool:
        raise ValueError

    async with serve(listen_http(ANY, "/in", authorize=breaks)) as service:
        answer = await service.get("/in?data=foo", idempotency_key="k" * 300)
    assert answer.status == 500
    assert f"(id {'k' * 255}):" in caplog.text


async def test_a_logging_filter_that_raises_changes_no_answer(serve: Any) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise AttributeError("id of None")

    log = logging.getLogger("tailrace.listen")
    log.addFilter(broken)
    try:
        async with serve(listen_http(ANY, "/pay", type=Payment), ack) as service:
            answer = await service.post("/pay", money("XXX"), content_type=JSON)
            assert service.server.statistics().in_flight == 0
    finally:
        log.removeFilter(broken)

    assert answer.status == 500


class InTurn:
    """A value whose `str` does in turn what it was given: raises, or is a text."""

    def __init__(self, *does: str | type[BaseException]) -> None:
        self._does = iter(does)

    def __str__(self) -> str:
        does = next(self._does, "fine")
        if isinstance(does, str):
            return does
        raise does


@pytest.mark.parametrize(
    "make",
    [
        lambda: text_module.safe_str(InTurn(KeyboardInterrupt)),
        lambda: text_module.as_json(InTurn(KeyboardInterrupt)),
        lambda: text_module.as_json(InTurn(ValueError, KeyboardInterrupt)),
        lambda: text_module.as_json({"a": InTurn(ValueError, KeyboardInterrupt)}),
        lambda: text_module.as_json({"a": InTurn(ValueError, ValueError, KeyboardInterrupt)}),
    ],
)
def test_an_interrupt_while_a_value_is_shown_is_raised(make: Callable[[], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        make()


def test_an_interrupt_while_a_record_is_logged_is_raised() -> None:
    def interrupted(record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt

    def log_access() -> None:
        access_module.log_access(None, 400, 0, None)

    for name, write in (
        ("tailrace.listen", lambda: log_error(logging.getLogger("tailrace.listen"), "broken")),
        ("tailrace.access", log_access),
    ):
        log = logging.getLogger(name)
        level = log.level
        log.setLevel(logging.INFO)
        log.addFilter(interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                write()
        finally:
            log.removeFilter(interrupted)
            log.setLevel(level)


async def keep(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack()


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName", min_length=2)
    age: pydantic.PositiveInt
    tags: list[int] = []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ('{"fullName": "ab", "age": 1}', 200, 'OK: {"fullName":"ab","age":1,"tags":[]}'),
        ('{"fullName": "ab", "age": 0}', 422, "greater than 0 - at `$.age`"),
        ('{"fullName": "ab", "age": 1, "tags": [1, "x"]}', 422, "at `$.tags.1`"),
        ('{"fullName": "secret", "age": "secret"}', 422, "integer"),
        ('{"fullName": 1, "age": 0, "tags": ["a", "b", "c"]}', 422, "; and 2 more"),
        ("{", 400, "malformed: the JSON cannot be read: "),
        ("", 400, "malformed: the body is empty"),
    ],
)
async def test_a_pydantic_model_is_a_type_and_says_where_data_do_not_fit(
    serve: Any, body: str, status: int, said: str
) -> None:
    async with serve(listen_http(ANY, "/in", type=Customer), keep) as service:
        answer = await service.post("/in", body.encode(), content_type=JSON)
        line = await service.post("/in", body.encode() or b"-", content_type=NDJSON)
        assert f'"code":{status}' in line.text
    assert (answer.status, said in answer.text) == (status, True), answer.text
    assert "secret" not in answer.text
    assert len(answer.text) < 1000
