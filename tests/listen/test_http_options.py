"""What a listener can be asked to read, to pass on and to say."""

from __future__ import annotations

import gzip
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from tailrace import Message, Receiver
from tailrace.listen import HttpServer, Request, listen_http
from tailrace.listen.http.gzip import MAX_MEMBERS, gunzip
from tailrace.listen.http.request import Refusal

ANY = "127.0.0.1:0"
JSON = "application/json"
NDJSON = "application/x-ndjson"
FORM = "application/x-www-form-urlencoded"


class Seen:
    """An actor that acks, and remembers the headers and ids of what it got."""

    def __init__(self) -> None:
        self.headers: list[Mapping[str, str]] = []
        self.ids: list[str] = []

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            self.headers.append(message.headers)
            self.ids.append(message.id)
            message.ack()
            del message


# --- headers --------------------------------------------------------------------------------


async def test_the_headers_of_a_request_reach_its_message_but_for_secrets(serve: Any) -> None:
    seen = Seen()
    async with serve(listen_http(ANY, "/in"), seen) as service:
        await service.get(
            "/in?data=foo",
            x_github_event="push",
            X_Mixed="Case",
            authorization="Bearer s3cret",
            proxy_authorization="Basic s3cret",
            cookie="session=s3cret",
            x_name="Jürgen".encode().decode("latin-1"),
        )

    (headers,) = seen.headers
    assert headers["x-github-event"] == headers["X-GitHub-Event"] == "push"
    assert headers["x-mixed"] == "Case"
    assert set(headers) == {"host", "x-github-event", "x-mixed", "x-name"}
    assert len(headers) == 4
    assert headers.get("cookie") is None
    assert "s3cret" not in f"{dict(headers)}"
    assert "push" not in repr(headers)
    with pytest.raises(TypeError):
        headers["x"] = "y"  # type: ignore[index]


async def test_a_listener_may_ask_for_the_secret_headers(serve: Any) -> None:
    seen = Seen()
    listener = listen_http(ANY, "/in", keep_headers=["Cookie"])
    async with serve(listener, seen) as service:
        await service.get("/in?data=foo", cookie="a=b", authorization="Bearer s3cret")

    assert seen.headers[0]["cookie"] == "a=b"
    assert "authorization" not in seen.headers[0]


async def test_the_headers_go_with_every_line_and_with_what_becomes_of_a_message(
    serve: Any,
) -> None:
    heard: list[str] = []

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            for part in message.with_data(7).split(2):
                heard.append(part.headers["x-trace"])
                part.ack()
            del message

    async with serve(listen_http(ANY, "/in"), work) as service:
        await service.post("/in", b'"a"\n"b"\n', content_type=NDJSON, x_trace="t1")

    assert heard == ["t1"] * 4


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
async def test_what_authorize_returns_as_a_mapping_are_headers_that_no_client_can_set(
    serve: Any, later: bool
) -> None:
    seen = Seen()

    def who(request: Request) -> bool | Mapping[str, str]:
        return {"User": "ann"} if request.headers.get("X-Key") == "1" else False

    async def who_later(request: Request) -> bool | Mapping[str, str]:
        return who(request)

    async with serve(listen_http(ANY, "/in", authorize=who_later if later else who), seen) as s:
        right = await s.get("/in?data=foo", x_key="1", user="root")
        lines = await s.post("/in", b'"a"\n', content_type=NDJSON, x_key="1", USER="root")
        wrong = await s.get("/in?data=foo", user="root")

    assert (right.status, lines.status, wrong.status) == (200, 200, 403)
    assert [headers["user"] for headers in seen.headers] == ["ann", "ann"]


async def test_a_mapping_of_nothing_lets_in(serve: Any) -> None:
    async with serve(listen_http(ANY, "/in", authorize=lambda request: {})) as service:
        assert (await service.get("/in?data=foo")).status == 200


async def test_a_signature_that_is_no_ascii_is_merely_wrong(serve: Any) -> None:
    def signed(request: Request) -> bool:
        wanted = hmac.new(b"secret", request.body, "sha256").hexdigest()
        given = request.headers.get("x-signature", "")
        return hmac.compare_digest(given.encode(), wanted.encode())

    listener = listen_http(ANY, "/in", authorize=signed)
    async with serve(listener) as service, await service.connect() as client:
        client.say(b"GET /in?data=x HTTP/1.1\r\nhost: x\r\nx-signature: \xfc\xff\r\n\r\n")
        answer = await client.hear()

    assert answer.status == 403


async def test_authorize_sees_where_the_client_is(serve: Any) -> None:
    clients: list[str] = []

    def local(request: Request) -> bool:
        clients.append(request.client)
        return True

    async with serve(listen_http(ANY, "/in", authorize=local)) as service:
        await service.get("/in?data=foo")

    assert clients == ["127.0.0.1"]


# --- ids ------------------------------------------------------------------------------------


async def test_where_only_a_json_body_is_read_a_query_is_no_data(serve: Any) -> None:
    async with (
        serve(listen_http(ANY, "/in", body="json")) as service,
        await service.connect() as client,
    ):
        client.ask("GET", "/in?data=foo")
        got = await client.hear()
        client.ask("POST", "/in?data=foo", b"")
        empty = await client.hear()
        client.ask("POST", "/in?data=bar", b'"foo"')
        sent = await client.hear()

    assert (got.status, got.headers["allow"]) == (405, "POST")
    assert got.text == "method not allowed: use POST"
    assert empty.status == 400
    assert (sent.status, sent.text) == (200, "OK: ☆ foo ☆")


async def test_another_header_may_be_the_id(serve: Any) -> None:
    seen = Seen()
    async with serve(listen_http(ANY, "/in", id_header="X-GitHub-Delivery"), seen) as service:
        await service.get("/in?data=foo", x_github_delivery="d-1", idempotency_key="k-1")
        await service.post("/in", b'"a"\n', content_type=NDJSON, x_github_delivery="d-2")
        bad = await service.get("/in?data=foo", x_github_delivery="two words")

    assert seen.ids == ["d-1", "d-2 line 1"]
    assert bad.status == 400
    assert "X-Github-Delivery" in bad.text


# --- answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "data", "text", "told"),
    [
        ("data", "foo", "OK: big", {"status": "stored", "id": "k", "result": "big"}),
        ("id", "foo", "OK: k", {"status": "stored", "id": "k"}),
        ("empty", "foo", "", None),
        ("data", "bar", "aborted: bar", {"status": "aborted", "id": "k", "reason": "why"}),
        ("id", "bar", "aborted: k", {"status": "aborted", "id": "k", "reason": "why"}),
        ("empty", "bar", "aborted", None),
        ("id", "bad", "rejected: no", {"status": "rejected", "id": "k", "reason": "no"}),
        ("empty", "bad", "rejected: no", {"status": "rejected", "id": "k", "reason": "no"}),
    ],
)
async def test_an_answer_may_say_less(
    serve: Any, answer: Any, data: str, text: str, told: Any
) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            match message.data:
                case "bar":
                    message.abort("why")
                case "bad":
                    message.reject("no")
                case _:
                    message.ack("big")
            del message

    async with serve(listen_http(ANY, "/in", answer=answer), work) as service:
        plain = await service.get(f"/in?data={data}", idempotency_key="k")
        as_json = await service.get(f"/in?data={data}", idempotency_key="k", accept=JSON)
        line = json.dumps(data).encode()
        lines = await service.post("/in", line, content_type=NDJSON)

    assert plain.text == text
    if told is None:
        assert as_json.text == text
    else:
        said = json.loads(as_json.body)
        assert {**said, **told} == said
        assert ("result" in said) == (answer == "data" and data != "bad")
    assert ("result" in json.loads(lines.text)) == (answer == "data" and data == "foo")


# --- gzip -----------------------------------------------------------------------------------


async def test_a_body_may_come_as_gzip(serve: Any) -> None:
    raw: list[bytes] = []

    def signed(request: Request) -> bool:
        raw.append(request.body)
        return True

    packed = gzip.compress(b'"foo"')
    lines = gzip.compress(b'"a"\n') + gzip.compress(b'"b"\n')
    async with serve(listen_http(ANY, "/in", authorize=signed)) as service:
        one = await service.post("/in", packed, content_type=JSON, content_encoding="gzip")
        two = await service.post("/in", lines, content_type=NDJSON, content_encoding="X-GZIP")
        form = gzip.compress(b"data=form")
        three = await service.post("/in", form, content_type=FORM, content_encoding="gzip")
        plain = await service.post(
            "/in", b'"as is"', content_type=JSON, content_encoding="identity"
        )
        left = service.server.statistics()

    assert [a.text for a in (one, three, plain)] == ["OK: ☆ foo ☆", "OK: ☆ form ☆", "OK: ☆ as is ☆"]
    assert (two.status, len(two.text.splitlines())) == (200, 2)
    assert raw[:3] == [packed, lines, form]  # as it came: that is what is signed
    assert (left.in_flight, left.body_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no gzip", 400),
        (gzip.compress(b'"foo"')[:-1], 400),
        (gzip.compress(b'"foo"') + b"more", 400),
        (gzip.compress(b'"foo"')[:-8] + bytes(8), 400),
        (gzip.compress(b'"' + b"a" * 10_000 + b'"'), 413),
        (gzip.compress(b"") * (MAX_MEMBERS + 1), 400),
    ],
    ids=["garbage", "cut", "trailing", "check sum", "bomb", "members"],
)
async def test_gzip_that_cannot_be_unpacked_or_is_too_much_is_refused(
    serve: Any, body: bytes, status: int
) -> None:
    limit = 200 if status == 413 else 100_000
    async with serve(listen_http(ANY, "/in", max_body=limit)) as service:
        for kind in (JSON, NDJSON):
            answer = await service.post("/in", body, content_type=kind, content_encoding="gzip")
            assert answer.status == status
        assert service.server.statistics().body_bytes == 0


async def test_unpacked_bodies_count_against_the_memory_of_all(serve: Any, hold: Any) -> None:
    held = hold()
    server = HttpServer(ANY, body_memory=30_000)
    packed = gzip.compress(b'"' + b"a" * 20_000 + b'"')
    async with serve(server.listen("/in", max_body=25_000), held) as service:
        async with await service.connect() as client:
            client.ask("POST", "/in", packed, content_type=JSON, content_encoding="gzip")
            (message,) = await held.reached(1)
            second = await service.post("/in", packed, content_type=JSON, content_encoding="gzip")
            taken = server.statistics().body_bytes
            message.ack()
            assert (await client.hear()).status == 200
        left = server.statistics().body_bytes

    assert (second.status, taken, left) == (503, 20_002, 0)


def test_a_body_may_have_a_thousand_members() -> None:
    assert MAX_MEMBERS == 1000
    assert gunzip(gzip.compress(b"x") + gzip.compress(b"") * 999, 1) == b"x"


def test_unpacking_stops_at_its_limit() -> None:
    whole = bytes(1000)
    packed = gzip.compress(whole[:400]) + gzip.compress(whole[400:])
    assert gunzip(packed, 1000) == whole
    with pytest.raises(Refusal) as caught:
        gunzip(packed, 999)
    assert caught.value.status == 413


# --- the access log -------------------------------------------------------------------------


async def test_the_access_log_has_a_record_for_each_answer_if_it_is_asked_for(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="tailrace.access"):
        async with serve(listen_http(ANY, "/in")) as service:
            await service.get("/in?data=foo")
        assert [r for r in caplog.records if r.name == "tailrace.access"] == []
        async with serve(listen_http(ANY, "/in", access_log=True)) as service:
            await service.get("/in?data=s3cret")
            await service.get("/%0A%22forged?data=s3cret")
            await service.get("/in")
            async with await service.connect() as client:
                client.say("this is not HTTP\r\n\r\n")
                await client.hear()

    records: list[Any] = [r for r in caplog.records if r.name == "tailrace.access"]
    assert [r.status for r in records] == [200, 404, 400, 400]
    assert [r.client for r in records] == ["127.0.0.1"] * 3 + [""]
    texts = [r.getMessage() for r in records]
    assert texts[0].startswith('127.0.0.1 "GET /in" 200 18 ')
    assert texts[1] == '127.0.0.1 "GET /\\n\\"forged" 404 38 -'
    assert records[0].seconds >= 0
    assert "s3cret" not in "".join(texts)


async def test_a_handler_of_the_access_log_that_raises_changes_no_answer(serve: Any) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise ValueError

    log = logging.getLogger("tailrace.access")
    log.addFilter(broken)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        async with serve(listen_http(ANY, "/in", access_log=True)) as service:
            answers = [await service.get("/in?data=a"), await service.get("/nowhere")]
            assert service.server.statistics().in_flight == 0
    finally:
        log.removeFilter(broken)
        log.setLevel(level)

    assert [answer.status for answer in answers] == [200, 404]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"body": "xml"}, ValueError, "body must be one of"),
        ({"answer": "all"}, ValueError, "answer must be one of"),
        ({"id_header": "two words"}, ValueError, "id_header must be the name of a header"),
        ({"id_header": None}, TypeError, "id_header must name a header"),
        ({"keep_headers": "cookie"}, TypeError, "keep_headers must be several names"),
        ({"keep_headers": ["a:b"]}, ValueError, "keep_headers must be the name of a header"),
    ],
)
def test_an_option_that_cannot_work_is_named(options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        listen_http(ANY, "/in", **options)
