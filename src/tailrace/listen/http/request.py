"""A request, the rules for its head, and the refusal of a request.

The rules (RFC 9110 and 9112) hold for our own parser and for the ASGI application.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = [
    "METHODS",
    "SECRET",
    "TOKEN",
    "Headers",
    "Refusal",
    "Request",
    "check_host",
    "expects",
    "framing",
    "is_host",
    "is_token",
]

METHODS: Final = {
    name.encode(): name
    for name in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")
}
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
is_token = re.compile(TOKEN).fullmatch

is_host = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::\d{0,5})?"
).fullmatch
"""Whether bytes are a host, with or without a port, as RFC 9110 allows them in `Host`."""

_weight = re.compile(rb"(?:^|.*;)[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;|$)").match
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")

SECRET: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
"""Headers that a message does not have unless `keep_headers` names them."""


class Refusal(Exception):
    """Why a request makes no message: the `status`, `reason` and `headers` of its answer."""

    def __init__(
        self, status: int, reason: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


def _prefers_json(accept: bytes) -> bool:
    """Whether `Accept`, in lower case, weights JSON above 0 and not below plain text."""
    weights: dict[bytes, float] = {}
    for each in accept.split(b","):
        kind, _, options = each.partition(b";")
        weight = _weight(options)
        weights[kind.strip()] = 1.0 if weight is None else float(weight[1])
    json = weights.get(b"application/json", weights.get(b"application/*", 0.0))
    text = weights.get(b"text/plain", weights.get(b"text/*", weights.get(b"*/*", 0.0)))
    return json > 0 and json >= text


class Headers(Mapping[str, str]):
    """Headers as text. Read-only; names are in lower case, and are found in any case.

    They are decoded when they are first read: most programs never read them.
    """

    __slots__ = ("_fields", "_hidden", "_more", "_text")

    def __init__(
        self,
        fields: Mapping[bytes, bytes],
        hidden: frozenset[bytes] = frozenset(),
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._fields = fields
        self._hidden = hidden
        self._more = more  # an item replaces the field of its name
        self._text: dict[str, str] | None = None

    def _decoded(self) -> dict[str, str]:
        text = self._text
        if text is None:
            text = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in self._fields.items()
                if name not in self._hidden
            }
            if self._more is not None:
                text.update(self._more)
            self._text = text
        return text

    def __getitem__(self, name: str) -> str:
        return self._decoded()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"  # values may hold secrets


class Request:
    """A request as `authorize` sees it.

    - `method`; `path`, decoded; `query`, the text after the ``?``, not decoded.
    - `headers`: as text. `fields`: the same as bytes, with names in lower case, repeated headers
      joined by a comma.
    - `body`: the bytes as they came, so compressed if they came so: a webhook's signature is made
      of these.
    - `client`: the address of the connection's other end, which may be a proxy: ``"192.0.2.7"``,
      ``"2001:db8::7"``, or ``""`` if there is none (a Unix socket).
    """

    __slots__ = (
        "began",
        "body",
        "client",
        "expects",
        "fields",
        "keep_alive",
        "method",
        "old",
        "path",
        "raw_query",
        "refusal",
    )

    def __init__(
        self, method: str, path: str, raw_query: bytes, fields: Mapping[bytes, bytes]
    ) -> None:
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.fields = fields
        self.body = b""
        self.client = ""
        self.began = 0.0  # on the loop's clock; set for the access log only
        # For our own connections only:
        self.old = False  # HTTP/1.0
        self.keep_alive = True
        self.expects = False  # the client waits for 100 before it sends the body
        self.refusal: Refusal | None = None  # the head is valid HTTP, but refused all the same

    @property
    def query(self) -> str:
        """The text after the ``?``, not decoded."""
        return self.raw_query.decode("latin-1")

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text, names in lower case; all of them."""
        return Headers(self.fields)

    def __repr__(self) -> str:
        # Without query and headers: they may hold secrets, and this may be logged.
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes>"

    @property
    def wants_json(self) -> bool:
        """Whether the client asks for a JSON answer (``Accept: application/json``)."""
        accept = self.fields.get(b"accept", b"").lower()
        return b"application/" in accept and _prefers_json(accept)

    def key(self, header: bytes) -> str | None:
        """The id in `header`, or None. Raises Refusal(400) if a store could not keep the id."""
        if header not in self.fields:
            return None
        key = self.fields[header]
        if not _KEY.fullmatch(key):
            name = header.decode().title()
            raise Refusal(400, f"the {name} must be 1 to 255 visible ASCII characters")
        return key.decode()

    @property
    def content_length(self) -> int:
        """The announced length of the body; 0 if none is announced."""
        raw = self.fields.get(b"content-length", b"0")
        if not raw.isdigit():
            raise Refusal(400, "the Content-Length is not a number")
        return int(raw)


def check_host(fields: Mapping[bytes, bytes], needed: bool) -> None:
    """Raise Refusal(400) if Host is not valid, or is missing though `needed`."""
    host = fields.get(b"host")
    if host is None and needed:
        raise Refusal(400, "the Host header is missing")
    if host is not None and not is_host(host):
        raise Refusal(400, "the Host header is not valid")


def expects(fields: Mapping[bytes, bytes]) -> bool:
    """Whether the client waits for 100. Raises Refusal(417) if it expects anything else."""
    if b"expect" not in fields:
        return False
    if fields[b"expect"].lower() != b"100-continue":
        raise Refusal(417, "nothing is expected but 100-continue")
    return True


def framing(fields: Mapping[bytes, bytes], old: bool) -> int:
    """The length of the body; -1 if it comes in chunks. Raises Refusal if the head leaves doubt."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if old:
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
        if length is not None:
            raise Refusal(400, "there are both Content-Length and Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise _coding(coding.lower())
        return -1
    if length is None:
        return 0
    if not length.isdigit() or len(length) > 18:
        raise Refusal(400, "the Content-Length is not a number")
    return int(length)


def _coding(coding: bytes) -> Refusal:
    names = [name.strip() for name in coding.split(b",")]
    if all(is_token(name) for name in names) and names.count(b"chunked") < 2:
        return Refusal(501, "no Transfer-Encoding is known but chunked")
    return Refusal(400, "the Transfer-Encoding is not valid")
