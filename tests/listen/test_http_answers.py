"""Each way in which a request can end, and what its client hears then."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from tailrace import Channel, Group, Message, Outage, Outcome, Receiver
from tailrace.listen import HttpServer, ListenHttp, Request, listen_http
from tailrace.message.internals import delayed_by_outage, digest_of

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"


def settle(how: Callable[[Message[Any]], object]) -> Callable[..., Any]:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            how(message)
            del message

    return work


async def test_the_talks_requests_hear_the_talks_answers(serve: Any, any_loop: Loops) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        ok = await service.get("/incoming?data=foo")
        aborted = await service.get("/incoming?data=bar")

    assert (ok.status, ok.text) == (200, "OK: ☆ foo ☆")
    assert (aborted.status, aborted.text) == (200, "aborted: bar")
    assert ok.headers["content-type"] == "text/plain; charset=utf-8"
    assert ok.headers["cache-control"] == "no-store"
    assert ok.headers["x-content-type-options"] == "nosniff"
    assert "date" in ok.headers


async def test_a_posted_form_is_heard_as_a_query_is(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        form = "application/x-www-form-urlencoded"
        ok = await service.post("/incoming", b"data=a+%26+b", content_type=form)

    assert ok.text == "OK: ☆ a & b ☆"


async def test_the_result_of_ack_is_the_answer(serve: Any) -> None:
    work = settle(lambda m: m.ack({"row": 7}))
    async with serve(listen_http(ANY, "/incoming"), work) as service:
        text = await service.get("/incoming?data=foo")
        told = await service.get("/incoming?data=foo", accept="application/json")

    assert (text.status, text.text) == (200, 'OK: {"row":7}')
    assert json.loads(told.body)["result"] == {"row": 7}
    assert told.headers["content-type"] == "application/json"


@pytest.mark.parametrize("size", [4, 1023, 1024, 1025, 65535, 65536, 65537])
async def test_an_answer_of_any_size_is_heard_whole(serve: Any, any_loop: Loops, size: int) -> None:
    said = "x" * (size - len("OK: "))
    work = settle(lambda m: m.ack(said))
    listener = listen_http(ANY, "/incoming")
    async with serve(listener, work) as service, await service.connect() as client:
        answers = [await client.get("/incoming?data=foo") for _ in range(2)]

    assert [answer.text for answer in answers] == [f"OK: {said}"] * 2


async def test_a_result_that_is_no_json_is_answered_all_the_same(serve: Any) -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd \ud800"

    work = settle(lambda m: m.ack(Odd()))
    async with serve(listen_http(ANY, "/incoming"), work) as service:
        answers = [
            await service.get("/incoming?data=foo", accept=accept)
            for accept in (None, "application/json")
        ]

    assert [answer.status for answer in answers] == [200, 200]
    assert "odd" in answers[0].text


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        (lambda m: m.ack(), 200, "OK: foo"),
        (lambda m: m.abort("no need"), 200, "aborted: foo"),
        (lambda m: m.reject("too short"), 422, "rejected: too short"),
        (lambda m: m.fail("disk full"), 500, "failed: disk full"),
        (lambda m: m.fail(ValueError("secret")), 500, "failed: an internal error"),
        (lambda m: m.fail("overflow"), 503, "unavailable: overflow"),
        (lambda m: m.fail(Outage("no mail now")), 503, "unavailable: no mail now"),
        (lambda m: m._settle(Outcome("dead", "3 tries")), 202, "dead: 3 tries"),
        (
            lambda m: m._settle(Outcome("dead", "KeyError: 7", KeyError(7))),
            202,
            "dead: it could not be handled, and is kept as a dead letter",
        ),
        (lambda m: None, 500, "lost: the program dropped the message"),
    ],
    ids=[
        "stored",
        "aborted",
        "rejected",
        "failed",
        "error",
        "overflow",
        "outage",
        "dead",
        "dead of",
        "lost",
    ],
)
async def test_each_outcome_has_its_answer(
    serve: Any, how: Callable[[Message[str]], object], status: int, text: str
) -> None:
    async with serve(listen_http(ANY, "/incoming"), settle(how)) as service:
        answer = await service.get("/incoming?data=foo")
        told = await service.get("/incoming?data=foo", accept="application/json")

    assert (answer.status, answer.text) == (status, text)
    assert told.status == status
    said = json.loads(told.body)
    assert said["status"] == text.partition(":")[0].replace("OK", "stored")
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_an_outage_whose_reason_cannot_be_read_is_answered(serve: Any) -> None:
    class Broken(Outage):
        @property
        def reason(self) -> str:  # type: ignore[override]  # wrong on purpose
            raise OSError

        def __init__(self) -> None:
            pass

    async with serve(listen_http(ANY, "/incoming"), settle(lambda m: m.fail(Broken()))) as service:
        answer = await service.get("/incoming?data=foo")
    assert (answer.status, answer.text) == (503, "unavailable: out of order")


async def test_a_message_of_other_data_answers_with_that(serve: Any) -> None:
    work = settle(lambda m: m.with_data({"n": 1}).ack())
    async with serve(listen_http(ANY, "/incoming"), work) as service:
        assert (await service.get("/incoming?data=foo")).text == 'OK: {"n":1}'


async def test_a_message_settled_in_a_thread_is_answered(serve: Any, any_loop: Loops) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            thread = threading.Thread(target=message.ack, args=("from a thread",))
            thread.start()
            await asyncio.to_thread(thread.join)

    async with serve(listen_http(ANY, "/incoming"), work) as service:
        assert (await service.get("/incoming?data=foo")).text == "OK: from a thread"


async def test_a_message_lost_in_a_cycle_is_answered_when_it_is_collected(serve: Any) -> None:
    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            cycle: list[Any] = [message]
            cycle.append(cycle)
            del message, cycle
            gc.collect()

    async with serve(listen_http(ANY, "/incoming"), work) as service:
        assert (await service.get("/incoming?data=foo")).status == 500


async def test_after_its_timeout_a_request_is_answered_504_and_its_message_goes_on(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    listener = listen_http(ANY, "/incoming", timeout=0.05)
    async with serve(listener, held) as service:
        late = await service.get("/incoming?data=foo")
        (message,) = await held.reached(1)
        still_at_work = service.server.statistics().in_flight
        assert message.outcome is None
        message.ack()

    assert late.status == 504
    assert late.text == "timed out: not settled within 0.05 s; it may still be stored"
    assert still_at_work == 1
    assert service.server.statistics().in_flight == 0


async def test_timeouts_run_from_each_request_of_its_own(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming", timeout=0.1), held) as service:
        first, second = await service.connect(), await service.connect()
        first.ask("GET", "/incoming?data=1")
        await held.reached(1)
        await asyncio.sleep(0.05)
        second.ask("GET", "/incoming?data=2")
        await held.reached(2)
        assert (await first.hear()).status == 504
        held.messages[1].ack()
        assert (await second.hear()).status == 200
        held.messages[0].ack()
        first.close()
        second.close()


async def test_too_many_in_flight_hear_503_and_later_ones_are_served(
    serve: Any, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming", in_flight=2), held) as service:
        inside = [await service.connect() for _ in range(2)]
        for client in inside:
            client.ask("GET", "/incoming?data=foo")
        await held.reached(2)
        refused = await service.get("/incoming?data=foo")
        for message in held.messages:
            message.ack()
        answered = [(await client.hear()).status for client in inside]
        inside[0].ask("GET", "/incoming?data=foo")
        (await held.reached(3))[2].ack()
        again = await inside[0].hear()
        for client in inside:
            client.close()

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.text == "unavailable: too many requests in flight"
    assert (answered, again.status) == ([200, 200], 200)
    assert dict(service.server.statistics().answers) == {200: 3, 503: 1}


async def test_idle_connections_take_no_place(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming", in_flight=1)) as service:
        clients = [await service.connect() for _ in range(5)]
        statuses = [(await client.get("/incoming?data=foo")).status for client in clients]
        for client in clients:
            client.close()

    assert statuses == [200] * 5


async def test_unknown_paths_and_methods_are_said_to_be(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        unknown = await service.get("/elsewhere?data=foo")
        async with await service.connect() as client:
            client.ask("DELETE", "/incoming?data=foo")
            deleted = await client.hear()
            client.ask("OPTIONS", "*")
            anything = await client.hear()

    assert (unknown.status, unknown.text) == (404, "not found: nobody listens on this path")
    assert (deleted.status, deleted.headers["allow"]) == (405, "GET, POST")
    assert anything.status == 404


async def test_a_token_is_asked_for(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming", token="s3cret")) as service:
        answers = [
            await service.get("/incoming?data=foo", authorization=header)
            for header in (None, "Bearer wrong", "Basic s3cret", "Bearer s3cret", "bearer  s3cret")
        ]

    assert [answer.status for answer in answers] == [401, 401, 401, 200, 200]
    assert answers[0].headers["www-authenticate"] == "Bearer"


async def test_authorize_sees_the_request_and_decides(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Request] = []

    def authorize(request: Request) -> bool:
        seen.append(request)
        return request.headers.get("x-signature") == "right" and request.body == b"data=foo"

    async with serve(listen_http(ANY, "/incoming", authorize=authorize)) as service:
        form = "application/x-www-form-urlencoded"
        wrong = await service.post("/incoming?a=1", b"data=foo", content_type=form)
        right = await service.post("/incoming", b"data=foo", content_type=form, x_signature="right")

    assert (wrong.status, wrong.text) == (403, "forbidden: not allowed")
    assert right.status == 200
    assert (seen[0].method, seen[0].path, seen[0].query) == ("POST", "/incoming", "a=1")
    assert repr(seen[0]) == "<Request POST /incoming, 8 bytes>"
    assert caplog.messages == []  # to let nobody in is no failure of the program


async def test_authorize_may_be_async(serve: Any) -> None:
    async def authorize(request: Request) -> bool:
        await asyncio.sleep(0)
        return request.query == "data=foo"

    async with serve(listen_http(ANY, "/incoming", authorize=authorize)) as service:
        right = await service.get("/incoming?data=foo")
        wrong = await service.get("/incoming?data=bar")

    assert (right.status, wrong.status) == (200, 403)
    assert service.server.statistics().in_flight == 0


async def test_an_authorize_that_fails_lets_nobody_in(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Request) -> bool:
        raise KeyError("secret")

    async def broken_later(request: Request) -> bool:
        raise KeyError("secret")

    def undecided(request: Request) -> Any:
        return None

    with caplog.at_level(logging.CRITICAL, logger="tailrace.listen"):
        for authorize in (broken, broken_later, undecided):
            async with serve(listen_http(ANY, "/incoming", authorize=authorize)) as service:
                answer = await service.get("/incoming?data=foo")
            assert (answer.status, answer.text) == (500, "failed: an internal error")
            assert service.server.statistics().in_flight == 0


async def test_an_authorize_that_takes_too_long_is_answered_504(serve: Any, hold: Any) -> None:
    held = hold()

    async def never(request: Request) -> bool:
        await asyncio.Event().wait()
        return True

    async with serve(listen_http(ANY, "/incoming", authorize=never, timeout=0.05), held) as service:
        assert (await service.get("/incoming?data=foo")).status == 504

    assert held.messages == []
    assert service.server.statistics().in_flight == 0


async def test_the_idempotency_key_is_the_messages_id(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        async with await service.connect() as client:
            client.ask("GET", "/incoming?data=foo", idempotency_key="order-7")
            (message,) = await held.reached(1)
            message.ack()
            assert (await client.hear()).status == 200
        for bad in ("x" * 256, "two words", "ü"):
            assert (await service.get("/incoming?data=foo", idempotency_key=bad)).status == 400

    assert message.id == "order-7"


async def test_no_key_of_a_client_is_the_id_of_a_line(serve: Any, hold: Any) -> None:
    held = hold()
    ndjson = "application/x-ndjson"
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        async with await service.connect() as client:
            client.ask(
                "POST", "/incoming", b'"foo"\n', content_type=ndjson, idempotency_key="order-7"
            )
            (message,) = await held.reached(1)
            message.ack()
            assert (await client.hear()).status == 200
        again = await service.get("/incoming?data=foo", idempotency_key=message.id)

    assert again.status == 400


async def test_a_key_comes_with_the_digest_of_what_was_sent(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        clients = [await service.connect() for _ in range(4)]
        for client, data, key in zip(clients, "aab", ("k", "k", "k"), strict=False):
            client.ask("GET", f"/incoming?data={data}", idempotency_key=key)
        clients[3].ask("GET", "/incoming?data=a")
        messages = sorted(await held.reached(4), key=lambda m: (m.data, m.id != "k"))
        first, again, without, other = map(digest_of, messages)
        for message in messages:
            message.ack()
        for client in clients:
            assert (await client.hear()).status == 200
            client.close()

    assert first is not None
    assert first == again != other
    assert without is None


async def test_a_line_that_is_stored_ends_what_was_heard_of_an_outage_and_has_a_digest(
    serve: Any, hold: Any
) -> None:
    held = hold()
    ndjson = "application/x-ndjson"
    async with serve(listen_http(ANY, "/incoming", timeout=0.3), held) as service:
        async with await service.connect() as client:
            client.ask("POST", "/incoming", b'"a"', content_type=ndjson, idempotency_key="k")
            (message,) = await held.reached(1)
            delayed_by_outage(message)
            digest = digest_of(message)
            message.ack()
            assert (await client.hear()).status == 200
        late = await service.get("/incoming?data=foo")
        (await held.reached(2))[1].ack()

    assert digest is not None
    assert late.status == 504


async def test_a_request_whose_time_runs_out_in_an_outage_hears_503(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming", timeout=0.2), held) as service:
        lines, one = await service.connect(), await service.connect()
        lines.ask("POST", "/incoming", b'"foo"\n', content_type="application/x-ndjson")
        (message,) = await held.reached(1)
        thread = threading.Thread(target=delayed_by_outage, args=(message,))
        thread.start()
        thread.join()
        one.ask("GET", "/incoming?data=foo")
        hears = [await lines.hear(), await one.hear()]
        lines.close()
        one.close()
        for message in await held.reached(2):
            message.ack()

    assert [(answer.status, answer.headers["retry-after"]) for answer in hears] == [(503, "1")] * 2
    assert all(
        "the store is out of order; it may still be stored" in answer.text for answer in hears
    )


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json;q=0.5", True),
        ("application/json; charset=utf-8; q=1.000", True),
        ("text/html, application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json;q=0.9, */*;q=0.8", True),
        ("application/json, text/*;q=0.9", True),
        ("application/*", True),
        ("application/json;q=2", True),  # no weight at all, so as if there were none
        ("*/*", False),
        ("text/plain", False),
        ("application/json;q=0", False),
        ("application/json;q=0.000, */*", False),
        ("application/json ; Q=0", False),
        ("application/*, application/json;q=0", False),
        ("text/plain, application/json;q=0.1", False),
        ("text/*;q=0.9, application/json;q=0.8", False),
        ("application/jsonlines", False),
        ("application/json-seq, text/plain", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("", False),
        (";q=1,,", False),
    ],
)
async def test_an_answer_is_json_where_the_client_prefers_it(
    serve: Any, accept: str, json: bool
) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        answers = [
            await service.get("/incoming?data=foo", accept=accept),
            await service.get("/incoming", accept=accept),
        ]

    assert [answer.headers["content-type"] == "application/json" for answer in answers] == [
        json
    ] * 2


async def test_each_line_of_ndjson_is_a_message_with_a_report(serve: Any) -> None:
    lines = b'"foo"\n\n"bar"\nnot json\n{"data": "wrapped"}\n7'
    async with serve(listen_http(ANY, "/incoming")) as service:
        answer = await service.post(
            "/incoming", lines, content_type="application/x-ndjson", idempotency_key="k"
        )
        none = await service.post("/incoming", b"\n\n", content_type="application/x-ndjson")
        fine = await service.post("/incoming", b'"a"\n"b"\n', content_type="application/x-ndjson")

    reports = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status == 207
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [(r["line"], r["code"], r["status"]) for r in reports] == [
        (1, 200, "stored"),
        (3, 200, "aborted"),
        (4, 400, "malformed"),
        (5, 200, "stored"),
        (6, 422, "rejected"),
    ]
    assert [r.get("id") for r in reports] == ["k line 1", "k line 3", None, "k line 5", None]
    assert none.status == 400
    assert fine.status == 200


async def test_ndjson_lines_that_no_channel_takes_are_reported_503(serve: Any, hold: Any) -> None:
    held = hold()

    async def one_only(inbox: Receiver[Message[Any]]) -> None:
        held.messages.append(await inbox.recv())
        await asyncio.sleep(0.3)
        held.messages[0].ack()
        async for message in inbox:
            message.ack()

    async with serve(listen_http(ANY, "/incoming", timeout=0.1), one_only) as service:
        answer = await service.post(
            "/incoming", b'"1"\n"2"\n"3"\n"4"\n', content_type="application/x-ndjson"
        )

    reports = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status == 207
    # the second was made and waits for the channel, so it may still be stored
    assert [r["code"] for r in reports] == [504, 504, 503, 503]


async def test_long_ndjson_is_not_many_messages_in_memory(serve: Any) -> None:
    def count() -> int:
        return sum(isinstance(each, Message) for each in gc.get_objects())

    gc.collect()
    others, alive = count(), list[int]()  # other tests may have left some

    async def work(inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            message.ack()
            alive.append(count() - others)

    lines = b"".join(b'{"n":%d}\n' % n for n in range(200))
    listener = listen_http(ANY, "/incoming", type=dict)
    async with serve(listener, work) as service:
        answer = await service.post("/incoming", lines, content_type="application/x-ndjson")

    assert answer.status == 200
    assert max(alive) < 10


async def test_several_paths_share_a_server(any_loop: Loops) -> None:
    server = HttpServer(ANY)
    texts: ListenHttp[str] = server.listen("/texts")
    numbers: ListenHttp[int] = server.listen("/numbers", type=int)
    got: list[object] = []

    async def work(words: Receiver[Message[str]], counts: Receiver[Message[int]]) -> None:
        for inbox in (words, counts):
            message: Message[Any] = await inbox.recv()
            got.append(message.data)
            message.ack()

    to_words, to_counts = Channel[Message[str]](), Channel[Message[int]]()
    async with Group() as go:
        go(texts, to_words)
        go(numbers, to_counts)
        go(work, to_words, to_counts)
        url = await server.ready()
        host, _, port = url.removeprefix("http://").partition(":")
        for path, answer in (("/texts?data=1", b"OK: 1"), ("/numbers?data=2", b"OK: 2")):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert (await reader.read()).endswith(answer)
            writer.close()
        go.drain()

    assert got == ["1", 2]


@dataclass
class Line:
    name: str
    amount: int = 1


@dataclass
class Parcel:
    item: str
    amount: int = 1
    lines: list[Line] = field(default_factory=list)
    first: Line | None = None
    kind: str = field(init=False, default="plain")


@dataclass(slots=True)
class Compact:
    item: str
    amount: int = 1


class Box(msgspec.Struct):
    parcel: Parcel
    size: int = 3


WHOLE_LINE = {"name": "a", "amount": 1}
WHOLE = {
    "item": "tea",
    "amount": 1,
    "lines": [WHOLE_LINE],
    "first": WHOLE_LINE,
    "kind": "plain",
}
SENT = {"item": "tea", "lines": [{"name": "a"}], "first": {"name": "a"}}


@pytest.mark.parametrize(
    ("kind", "sent", "whole"),
    [
        (Parcel, SENT, WHOLE),
        (Compact, {"item": "tea"}, {"item": "tea", "amount": 1}),
        (list[Parcel], [SENT], [WHOLE]),
        (dict[str, Parcel], {"a": SENT}, {"a": WHOLE}),
        (tuple[Parcel, int], [SENT, 1], [WHOLE, 1]),
        (Box, {"parcel": SENT}, {"parcel": WHOLE, "size": 3}),
    ],
)
async def test_the_whole_data_is_answered_with_its_defaults(
    serve: Any, kind: Any, sent: Any, whole: Any
) -> None:
    """A decoder may leave defaults to the class, where an encoder does not look."""
    listener = listen_http(ANY, "/incoming", type=kind)
    async with serve(listener, settle(lambda m: m.ack())) as service:
        body = json.dumps(sent).encode()
        said = await service.post("/incoming", body, content_type="application/json")
        told = await service.post(
            "/incoming", body, content_type="application/json", accept="application/json"
        )

    assert said.text.startswith("OK: ")
    assert json.loads(said.text[4:]) == whole
    assert list(json.loads(said.text[4:])) == list(whole)
    assert json.loads(told.body)["result"] == whole


async def test_a_result_that_contains_itself_is_answered_all_the_same(serve: Any) -> None:
    endless: list[Any] = []
    endless.append(endless)
    async with serve(listen_http(ANY, "/incoming"), settle(lambda m: m.ack(endless))) as service:
        answer = await service.get("/incoming?data=foo")
    assert answer.status == 200
