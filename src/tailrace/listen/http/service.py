"""Service: what all connections of one server use: routes, limits, clock, heads of answers.

It knows no connection and does no I/O, so that a connection can be tested with a clock and a wire
of the test's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from tailrace.listen.http.admission import Admission, Limits
from tailrace.listen.http.answers import Answer
from tailrace.listen.http.request import Request
from tailrace.listen.http.route import Route

__all__ = ["MOST_UNSENT", "Service", "render"]

MOST_UNSENT: Final = 64 * 1024  # bytes of answers that a transport may buffer


@dataclass(eq=False, repr=False)
class Service:
    """The routes, limits, clock and answer heads of the connections of one server.

    `time` is the clock of deadlines. `call_soon` calls a function in the next turn of the loop.
    """

    routes: Mapping[str, Route]
    admission: Admission
    limits: Limits
    _: KW_ONLY
    tls: bool
    time: Callable[[], float]
    call_soon: Callable[[Callable[[], None]], Any]
    draining: bool = field(init=False, default=False)  # each answer is the last of its connection
    heads: dict[tuple[int, bytes], bytes] = field(
        init=False, default_factory=dict[tuple[int, bytes], bytes]
    )
    """By status and content type."""

    def __post_init__(self) -> None:
        self.max_head = self.limits.max_head
        self.receive_timeout = self.limits.receive_timeout
        self.keep_alive = self.limits.keep_alive
        self.sites = self.limits.sites
        self.scheme = b"https" if self.tls else b"http"
        self.renew_date()

    def __repr__(self) -> str:
        return f"<Service of {', '.join(self.routes) or 'no paths'}>"

    def renew_date(self) -> None:
        """Set the `Date` header of answers to the present time. Call it about once a second."""
        self._date = formatdate(usegmt=True)
        self.heads.clear()

    def answer_head(self, answer: Answer) -> bytes:
        """The head of an answer, up to the value of Content-Length, which comes last."""
        head = self.heads.get((answer.status, answer.kind))
        if head is None:
            # An answer may quote what its client sent: caches must not keep it, and a browser must
            # not take it for another content type.
            head = (
                f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
                f"date: {self._date}\r\n"
                f"content-type: {answer.kind.decode()}\r\n"
                f"cache-control: no-store\r\n"
                f"x-content-type-options: nosniff\r\n"
                f"content-length: "
            ).encode()
            self.heads[answer.status, answer.kind] = head
        return head


def render(head: bytes, answer: Answer, request: Request | None, last: bool) -> bytes:
    """The bytes of an answer; `last` announces that the connection will be closed.

    `head` is from `Service.answer_head`. `request` is None if no request could be read.
    """
    body = answer.body
    length = len(body)
    more = b"".join([b"%b: %b\r\n" % header for header in answer.headers])
    if last:
        more += b"connection: close\r\n"
    elif request is not None and request.old:
        more += b"connection: keep-alive\r\n"
    if request is not None and request.method == "HEAD":
        body = b""
    return b"%b%d\r\n%b\r\n%b" % (head, length, more, body)
