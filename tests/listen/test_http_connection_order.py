"""The order of requests and answers on a connection, on a clock and a wire of the test's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.listen.http import connection as connection_module
from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.connection import BURST, LINGER, LINGER_BYTES, SMALL_BODY, Connection
from tailrace.listen.http.request import Refusal, Request
from tailrace.listen.http.route import RECEIVE_IN_DRAIN
from tailrace.listen.http.service import Service

KEEP_ALIVE, RECEIVE_TIMEOUT, MAX_HEAD, MAX_BODY = 75.0, 30.0, 1000, 100


def get(path: str = "/in", *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def post(body: bytes = b"", *fields: str, path: str = "/in", length: int | None = None) -> bytes:
    announced = f"Content-Length: {len(body) if length is None else length}"
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", announced, *fields, "", ""])
    return head.encode() + body


class FakeExchange:
    """An exchange that the test answers."""

    def __init__(self, route: FakeRoute, request: Request, respond: Callable[[Answer], None]):
        self.request = request
        self.respond = respond
        self.route = route
        self.body = b""
        self.ended = False
        self.left = False

    def feed(self, piece: bytes) -> None:
        self.body += piece

    def end(self) -> None:
        self.ended = True
        if self.route.at_once:
            self.respond(Answer(200, b"now"))

    def refuse(self, refusal: Refusal) -> None:
        self.respond(Answer(refusal.status, refusal.reason.encode()))

    def client_left(self) -> None:
        self.left = True


class FakeRoute:
    max_body = MAX_BODY

    def __init__(self) -> None:
        self.exchanges: list[FakeExchange] = []
        self.draining = False
        self.at_once = False

    def open(self, request: Request, respond: Callable[[Answer], None]) -> FakeExchange:
        self.exchanges.append(FakeExchange(self, request, respond))
        return self.exchanges[-1]


class Wired:
    """A connection, its wire, its clock, and what the wire was asked for."""

    def __init__(self, *, memory: int = 10_000, tls: bool = False) -> None:
        self.now = 1000.0
        self.calls: list[Callable[[], None]] = []
        self.sent = b""
        self.reading = True
        self.output_ended = self.closed = self.aborted = self.unsent = False
        self.route = FakeRoute()
        self.admission = Admission(10, memory)
        routes: Any = {"/in": self.route}
        self.service = Service(
            routes,
            self.admission,
            Limits(10, MAX_HEAD, RECEIVE_TIMEOUT, KEEP_ALIVE),
            tls=tls,
            time=lambda: self.now,
            call_soon=self.calls.append,
        )
        self.connection = Connection(self.service, self)
        self.connection.begin("192.0.2.7")

    # The wire

    def write(self, data: bytes, /) -> None:
        assert not self.output_ended
        assert not self.closed
        self.sent += data

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def end_output(self) -> bool:
        self.output_ended = True
        return True

    def close(self) -> bool:
        assert not self.closed
        self.closed = True
        return self.unsent

    def abort(self) -> None:
        self.aborted = True

    # What tests ask

    @property
    def exchanges(self) -> list[FakeExchange]:
        return self.route.exchanges

    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.sent.split(b"HTTP/1.1 ")[1:]]

    def remaining(self) -> float:
        """Seconds that the client has."""
        return self.connection.deadline - self.now

    def turn(self) -> None:
        """The next turn of the loop."""
        calls, self.calls[:] = list(self.calls), []
        for call in calls:
            call()


@pytest.fixture
def wired() -> Wired:
    return Wired()


def test_a_request_that_comes_byte_by_byte_is_one_request(wired: Wired) -> None:
    whole = post(b"data=1")
    for at in range(len(whole)):
        wired.connection.receive(whole[at : at + 1])
    (exchange,) = wired.exchanges
    assert exchange.ended
    assert exchange.body == b"data=1"
    assert exchange.request.client == "192.0.2.7"


def test_pipelined_requests_are_begun_one_after_the_other_and_answered_in_order(
    wired: Wired,
) -> None:
    wired.connection.receive(get("/in?1") + get("/in?2") + get("/in?3"))
    for n in range(3):
        assert [each.request.query for each in wired.exchanges] == ["1", "2", "3"][: n + 1]
        wired.exchanges[n].respond(Answer(200, b"answer %d" % n))
    assert [wired.sent.find(b"answer %d" % n) for n in range(3)] == sorted(
        wired.sent.find(b"answer %d" % n) for n in range(3)
    )
    assert wired.statuses() == [200, 200, 200]
    assert not wired.closed


def test_reading_is_paused_while_a_request_is_at_work_and_more_has_come(wired: Wired) -> None:
    wired.connection.receive(get())
    assert wired.reading
    wired.connection.receive(get("/in?next"))
    assert not wired.reading
    assert wired.admission.bytes == len(get("/in?next"))
    wired.exchanges[0].respond(Answer(200, b""))
    assert wired.reading
    assert wired.admission.bytes == 0
    assert wired.exchanges[1].request.query == "next"


def test_a_long_burst_of_requests_lets_other_connections_have_their_turn(wired: Wired) -> None:
    wired.route.at_once = True
    wired.connection.receive(get() * 100)
    assert 0 < len(wired.exchanges) <= BURST
    while wired.calls:
        wired.turn()
    assert wired.statuses() == [200] * 100
    assert wired.reading


@pytest.mark.parametrize("field", ["Connection: close", "Connection: keep-alive, close"])
def test_a_client_that_asks_for_it_gets_one_answer_and_the_end(wired: Wired, field: str) -> None:
    wired.connection.receive(get("/in", field) + get())
    wired.exchanges[0].respond(Answer(200, b""))
    assert b"connection: close\r\n" in wired.sent
    assert wired.output_ended
    assert not wired.closed
    wired.now += LINGER
    wired.connection.deadline_passed()
    assert wired.aborted
    assert len(wired.exchanges) == 1


def test_a_kept_connection_ends_when_it_is_idle_for_too_long(wired: Wired) -> None:
    wired.connection.receive(get())
    assert wired.remaining() == math.inf  # the client waits for us
    wired.exchanges[0].respond(Answer(200, b""))
    assert wired.remaining() == KEEP_ALIVE
    wired.now += KEEP_ALIVE
    wired.connection.deadline_passed()
    assert wired.closed
    assert wired.statuses() == [200]


@pytest.mark.parametrize("begun", [b"GET /in", post(length=5), post(length=5, path="/other")])
def test_a_request_that_is_begun_has_receive_timeout_from_its_first_byte(
    wired: Wired, begun: bytes
) -> None:
    wired.connection.receive(begun[:4])
    assert wired.remaining() == RECEIVE_TIMEOUT
    wired.now += 10
    wired.connection.receive(begun[4:])
    assert wired.remaining() == RECEIVE_TIMEOUT - 10
    wired.now += RECEIVE_TIMEOUT - 10
    wired.connection.deadline_passed()
    assert wired.statuses() == [404 if b"other" in begun else 408]
    assert wired.output_ended


def test_a_client_that_sends_on_after_its_last_answer_is_cut_off(wired: Wired) -> None:
    wired.connection.receive(b"nonsense\r\n\r\n")
    assert wired.statuses() == [400]
    assert wired.output_ended
    assert wired.reading
    assert wired.remaining() == LINGER
    wired.connection.receive(bytes(LINGER_BYTES))
    assert not wired.closed
    wired.connection.receive(b"x")
    assert wired.closed
    assert wired.statuses() == [400]


def test_a_small_refused_body_is_read_and_the_connection_kept(wired: Wired) -> None:
    wired.connection.receive(post(b"", path="/other", length=3))
    assert wired.sent == b""
    wired.connection.receive(b"abc" + get())
    assert wired.statuses() == [404]
    assert len(wired.exchanges) == 1
    assert not wired.output_ended


@pytest.mark.parametrize(
    "refused",
    [
        post(path="/other", length=SMALL_BODY + 1),
        post(b"", "Expect: 100-continue", path="/other", length=3),
        b"POST /other HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_refused_body_that_is_large_or_may_not_come_is_not_waited_for(
    wired: Wired, refused: bytes
) -> None:
    wired.connection.receive(refused)
    assert wired.statuses() == [404]
    assert wired.output_ended


def test_a_client_that_waits_for_100_hears_it_once_it_is_admitted(wired: Wired) -> None:
    wired.connection.receive(post(b"", "Expect: 100-continue", length=3))
    assert wired.statuses() == [100]
    wired.connection.receive(b"abc")
    assert wired.exchanges[0].ended


def test_chunks_that_cost_far_more_than_their_body_are_refused(wired: Wired) -> None:
    wired.connection.receive(b"POST /in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"1;" + b"x" * 900 + b"\r\na\r\n"
    for _ in range((MAX_HEAD + SMALL_BODY) // len(piece) + 2):
        wired.connection.receive(piece)
    assert wired.statuses() == [413]
    assert wired.output_ended


def test_requests_that_wait_are_dropped_when_memory_is_short(wired: Wired) -> None:
    wired.admission.memory = 10
    wired.connection.receive(get())
    wired.connection.receive(get("/in?dropped"))
    assert wired.admission.bytes == 0
    wired.exchanges[0].respond(Answer(200, b""))
    assert b"connection: close" in wired.sent
    assert len(wired.exchanges) == 1


def test_no_request_is_begun_while_the_client_does_not_read_its_answer(wired: Wired) -> None:
    wired.connection.receive(get())
    wired.connection.pause_writing()
    assert wired.remaining() == RECEIVE_TIMEOUT
    wired.exchanges[0].respond(Answer(200, b""))
    wired.connection.receive(get())
    assert len(wired.exchanges) == 1
    wired.connection.resume_writing()
    wired.turn()
    assert len(wired.exchanges) == 2


def test_a_client_that_does_not_read_its_answer_is_cut_off(wired: Wired) -> None:
    wired.connection.receive(get())
    wired.connection.pause_writing()
    wired.now += RECEIVE_TIMEOUT
    wired.connection.deadline_passed()
    assert wired.aborted


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_sends_no_more_hears_what_is_owed(tls: bool) -> None:
    wired = Wired(tls=tls)
    wired.connection.receive(get())
    wired.connection.receive(get())
    assert wired.connection.end_input() is not tls  # TLS has no half-closed connections
    if tls:
        return
    wired.exchanges[0].respond(Answer(200, b""))
    wired.exchanges[1].respond(Answer(200, b""))
    assert wired.statuses() == [200, 200]
    assert wired.closed


def test_a_complete_request_outlives_its_client_and_is_not_answered(wired: Wired) -> None:
    wired.connection.receive(get())
    (exchange,) = wired.exchanges
    wired.connection.lost()
    assert exchange.left
    exchange.respond(Answer(200, b""))
    assert wired.sent == b""
    assert wired.connection.closed


def test_in_a_drain_an_incomplete_request_must_come_soon_and_is_the_last(wired: Wired) -> None:
    wired.connection.receive(post(length=5))
    wired.connection.shorten_deadline()
    assert wired.remaining() == RECEIVE_TIMEOUT  # nothing drains
    wired.route.draining = wired.service.draining = True
    wired.connection.shorten_deadline()
    assert wired.remaining() == RECEIVE_IN_DRAIN
    wired.connection.receive(b"abcde")
    wired.exchanges[0].respond(Answer(200, b""))
    assert b"connection: close" in wired.sent
    assert wired.closed


def test_an_incomplete_request_that_a_drain_ends_hears_why(wired: Wired) -> None:
    wired.connection.receive(post(length=5))
    wired.route.draining = wired.service.draining = True
    wired.now += RECEIVE_IN_DRAIN
    wired.connection.deadline_passed()
    assert wired.statuses() == [503]
    assert wired.output_ended


def test_a_stop_closes_idle_connections_and_waits_for_answers(wired: Wired) -> None:
    wired.connection.receive(get())
    wired.connection.close_if_idle(since=wired.now)
    assert not wired.closed
    wired.exchanges[0].respond(Answer(200, b""))
    wired.connection.close_if_idle(since=wired.now - 1)
    assert not wired.closed  # it was answered just now
    wired.connection.close_if_idle(since=wired.now)
    assert wired.closed


def test_a_stop_waits_for_a_client_that_reads_its_answer(wired: Wired) -> None:
    wired.connection.receive(get())
    wired.connection.pause_writing()
    wired.exchanges[0].respond(Answer(200, b""))
    wired.now += 20
    wired.connection.close_if_idle(since=wired.now)
    wired.connection.close_unless_reading()
    assert wired.remaining() == RECEIVE_TIMEOUT
    assert not wired.closed
    wired.connection.resume_writing()
    wired.turn()
    assert wired.closed


@pytest.mark.parametrize(
    ("begun", "status"), [(b"GET /i", 503), (post(path="/other", length=3), 404)]
)
def test_a_stop_answers_what_is_incomplete(wired: Wired, begun: bytes, status: int) -> None:
    wired.connection.receive(begun)
    wired.connection.close_unless_reading()
    assert wired.statuses() == [status]
    assert wired.output_ended


def test_an_error_of_our_own_ends_the_connection_alone(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wired.route, "open", lambda *_: 1 / 0)
    wired.connection.receive(get())
    assert wired.aborted
    assert "failed" in caplog.text


def test_a_connection_tells_its_state_and_each_state_has_its_deadline(wired: Wired) -> None:
    def now() -> tuple[str, float]:
        return wired.connection.state, wired.remaining()

    connection = wired.connection
    assert now() == ("idle", KEEP_ALIVE)
    connection.receive(post(b"data=1")[:-1])
    assert now() == ("receiving", RECEIVE_TIMEOUT)
    connection.receive(b"1")
    assert now() == ("answering", math.inf)
    wired.exchanges[0].respond(Answer(200, b""))
    assert now() == ("idle", KEEP_ALIVE)
    connection.pause_writing()
    assert now() == ("unread", RECEIVE_TIMEOUT)
    connection.resume_writing()
    wired.turn()
    assert now() == ("idle", KEEP_ALIVE)
    connection.receive(b"no HTTP\r\n\r\n")
    assert now() == ("lingering", LINGER)
    assert repr(connection) == "<Connection lingering>"
    connection.receive(bytes(LINGER_BYTES + 1))
    assert now() == ("closed", LINGER)
    for state in ("idle", "receiving", "answering", "unread", "lingering", "closed"):
        assert f"| {state} |" in str(connection_module.__doc__)
