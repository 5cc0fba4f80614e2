"""One request on a connection: what HTTP itself asks of it, and how its answer is written."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

from tailrace.listen._answers import Answer
from tailrace.listen._exchange import Exchange
from tailrace.listen._request import Refused, Request

__all__ = ["SMALL_BODY", "Turn", "render"]

SMALL_BODY: Final = 64 * 1024  # a refused body up to here is read, to keep the connection


class Turn:
    """One request on a connection, until its answer is written."""

    __slots__ = (
        "answered",
        "complete",
        "exchange",
        "held",
        "keep_alive",
        "old",
        "refusal",
        "request",
    )

    def __init__(self, request: Request, keep_alive: bool, old: bool) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.old = old  # HTTP/1.0
        self.complete = False
        self.answered = False
        self.exchange: Exchange | None = None
        self.refusal: Answer | None = None  # to be given when the body has come
        self.held: list[bytes] | None = None  # the body of one that waits its turn

    def __repr__(self) -> str:
        return f"<Turn of {self.request!r}>"

    def hold(self, chunk: bytes) -> None:
        """Keep a piece of the body until it is this request's turn."""
        if self.held is None:
            self.held = []
        self.held.append(chunk)

    def understand(self) -> None:
        """Split the request target; Refused for what HTTP/1.1 does not allow."""
        request = self.request
        target = request.raw_query
        path, _, query = target.partition(b"?")
        if target[:1] != b"/":
            path, query = _absolute(target)
        if b"%" in path:
            path = unquote_to_bytes(path)
        request.path, request.raw_query = path.decode("utf-8", "replace"), query
        fields = request.fields
        if b"host" not in fields and not self.old:
            raise Refused(400, "the Host header is missing")
        if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
            raise Refused(417, "nothing is expected but 100-continue")

    @property
    def body_is_large(self) -> bool:
        """Whether a body may come that is not worth reading when the request is refused."""
        fields = self.request.fields
        length = fields.get(b"content-length", b"0")
        small = length.isdigit() and len(length) < 10 and int(length) <= SMALL_BODY
        return not small or b"transfer-encoding" in fields or b"expect" in fields


def render(start: bytes, answer: Answer, turn: Turn | None) -> bytes:
    """The bytes of an answer. `start` is its head up to the value of Content-Length; `turn` is
    None for the answer to what never became a request."""
    body = answer.body
    length = len(body)
    more = b""
    for name, value in answer.headers:
        more += b"%b: %b\r\n" % (name, value)
    if turn is None or not turn.keep_alive:
        more += b"connection: close\r\n"
    elif turn.old:
        more += b"connection: keep-alive\r\n"
    if turn is not None and turn.request.method == "HEAD":
        body = b""
    return b"%b%d\r\n%b\r\n%b" % (start, length, more, body)


def _absolute(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a target like ``http://host/path?query``, as to a proxy, or ``*``."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "the request target cannot be read") from None
    return url.path or b"/", url.query or b""
