"""What a client asked for, and why it may be refused before there is a message."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["Refused", "Request", "is_host"]

is_host = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::\d{0,5})?"
).fullmatch
"""Whether bytes are a host, with or without a port, as RFC 9110 allows them in `Host`."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Refused(Exception):
    """This request gets an answer but makes no message: `status`, why, and headers to go along.

    Internal: raised by the parts that look at a request, turned into an answer in one place.
    """

    def __init__(
        self, status: int, reason: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Request:
    """A request as `authorize` sees it: method, path, query, headers and the raw body.

    `path` is decoded, `query` is the text after the ``?`` as it came, `body` the bytes as they
    came (what a webhook's signature is made of). `fields` are the raw headers, names in lower
    case, repeated ones joined by a comma; `headers` are the same as text.
    """

    __slots__ = (
        "body",
        "expects",
        "fields",
        "keep_alive",
        "method",
        "old",
        "path",
        "raw_query",
        "refused",
    )

    def __init__(
        self, method: str, path: str, raw_query: bytes, fields: Mapping[bytes, bytes]
    ) -> None:
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.fields = fields
        self.body = b""
        # What a connection of ours needs to know:
        self.old = False  # HTTP/1.0
        self.keep_alive = True
        self.expects = False  # the client waits for 100 before it sends the body
        self.refused: Refused | None = None  # its head can be read but not be served

    @property
    def query(self) -> str:
        """The text after the ``?``, not decoded."""
        return self.raw_query.decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """The headers as text, names in lower case; made anew at each call."""
        return {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.fields.items()
        }

    def __repr__(self) -> str:
        # Neither query nor headers: they may hold secrets, and this goes into logs.
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes>"

    @property
    def wants_json(self) -> bool:
        """Whether the client asks for a JSON answer (``Accept: application/json``)."""
        fields = self.fields
        return b"accept" in fields and b"application/json" in fields[b"accept"].lower()

    @property
    def idempotency_key(self) -> str | None:
        """The ``Idempotency-Key``; Refused(400) if it is not one a store could keep."""
        if b"idempotency-key" not in self.fields:
            return None
        key = self.fields[b"idempotency-key"].decode("latin-1")
        if not _KEY.fullmatch(key):
            raise Refused(400, "the Idempotency-Key must be 1 to 255 visible ASCII characters")
        return key

    @property
    def content_length(self) -> int:
        """The announced length of the body; 0 if there is no announcement."""
        raw = self.fields.get(b"content-length", b"0")
        if not raw.isdigit():
            raise Refused(400, "the Content-Length is not a number")
        return int(raw)
