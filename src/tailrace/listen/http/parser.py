"""The parser of one connection: from bytes to requests and their bodies (RFC 9112).

It is strict. If RFC 9112 lets servers read a head in two ways, the head is refused with 400, since
a proxy in front may have read it the other way: a bare CR or LF, a folded line, white space before
a colon, a `Content-Length` that is not one number, `Transfer-Encoding` beside `Content-Length` or
in HTTP/1.0. After a refusal raised here the connection must end.

It does no I/O. One request is read at a time: `feed` keeps bytes, `head` and `body` consume them.
llhttp, as httptools exposes it, splits a head in half the time (3 µs against 6 for six headers).
But it cannot stop between requests, it loses the body of a request that offers to upgrade, and its
callbacks do not see what the rules above need.

Memory: at most `max_head` bytes, and the bytes of one read of the transport.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from tailrace.listen.http.request import (
    METHODS,
    TOKEN,
    Refusal,
    Request,
    check_host,
    expects,
    framing,
    is_host,
    is_token,
)

__all__ = ["Parser"]

KNOWN_NAMES: Final = 1024  # spellings of header names in the cache, for all connections
CHUNKS: Final = 1000  # that one call of `body` reads: more would block the event loop
CHUNK_LINE: Final = 1024  # bytes of a chunk's size and extensions

_is_version = re.compile(rb"HTTP/\d\.\d").fullmatch
_absolute = re.compile(rb"https?://([^/?@]+)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE).fullmatch
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])  # never in a line; a tab may be
_broken = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)(?!\Z)|(?<!\r)\n").search
_may_begin = re.compile(rb"\r|(?:" + TOKEN + rb"(?: [!-~]*(?: [!-~]*)?)?\r?)?").fullmatch
_EXTENSION: Final = (
    rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|\"(?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~])*\"))?"
)
_chunk = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION % (TOKEN, TOKEN) + rb")*\r\n").match
_HEX: Final = b"0123456789abcdefABCDEF"

# States of a body.
_NONE, _FIXED, _SIZE, _DATA, _DATA_END, _TRAILER = range(6)

_names: dict[bytes, bytes] = {}
"""The cache: header names as clients spell them, to lower case."""


class Parser:
    """Reads requests one after the other: `head`, then `body` until `ended`."""

    __slots__ = ("_at", "_data", "_host", "_left", "_max_head", "_seen", "_state", "ended", "more")

    def __init__(self, max_head: int) -> None:
        self._max_head = max_head
        self._data = b""
        self._at = 0  # bytes of `_data` before this index are consumed
        self._seen = 0  # no head ends before this index
        self._state = _NONE
        self._left = 0  # bytes of the body, or of its chunk, that are to come
        self._host = b""  # the last valid Host: most requests repeat it
        self.ended = True  # the last request has been read to its end
        self.more = False  # `body` stopped early: call it again, later

    def __repr__(self) -> str:
        return f"<Parser: {self.waiting} bytes wait>"

    @property
    def waiting(self) -> int:
        """The number of bytes that have come and are not consumed."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """More bytes have come."""
        at = self._at
        if at >= len(self._data):
            self._data = data
            self._seen = 0
        else:
            self._data = self._data[at:] + data
            self._seen = max(0, self._seen - at)
        self._at = 0

    def clear(self) -> None:
        """Drop the bytes that are not consumed."""
        self._data = b""
        self._at = self._seen = 0

    # --- heads ------------------------------------------------------------------------------

    def head(self) -> Request | None:
        """The next request, or None if its head is incomplete.

        Raises Refusal; then the connection must end.
        """
        data, at = self._data, self._at
        while data.startswith(b"\r\n", at):  # RFC 9112, 2.2
            at += 2
        self._at = at
        end = data.find(b"\r\n\r\n", max(at, self._seen - 3))
        if end < 0:
            self._incomplete(data, at)
            return None
        if end + 4 - at > self._max_head:
            raise self._too_large(data, at)
        block = data[at:end]
        lines = block.split(b"\r\n")
        if len(block.translate(None, _CONTROLS)) != len(block) - 2 * len(lines) + 2:
            raise Refusal(400, "there is a control character in the head")
        self._at = end + 4
        self._seen = 0
        if at and end + 4 == len(data):  # so an idle connection keeps no bytes
            self.clear()
        heading, *rest = lines
        return self._request(heading, _fields(rest))

    def _request(self, heading: bytes, fields: dict[bytes, bytes]) -> Request:
        method, target, old = _heading(heading)
        path, _, query = target.partition(b"?")
        if path[:1] != b"/" or b"#" in target:
            path, query = _other_target(method, target, fields)
        if b"%" in path:
            path = unquote_to_bytes(path)
        name = METHODS.get(method)
        request = Request(name or method.decode(), path.decode("utf-8", "replace"), query, fields)
        request.old = old
        host = fields.get(b"host")
        if host != self._host or not host:
            check_host(fields, needed=not old)
            self._host = host or b""
        if b"connection" in fields or old:
            options = [
                option.strip() for option in fields.get(b"connection", b"").lower().split(b",")
            ]
            request.keep_alive = b"close" not in options and (not old or b"keep-alive" in options)
        if b"content-length" in fields or b"transfer-encoding" in fields:
            length = framing(fields, old)
            if length:
                self._state = _SIZE if length < 0 else _FIXED
                self._left = length
                self.ended = False
        if name is None:
            request.refusal = Refusal(501, "the method is not known")
        if name is None or method == b"CONNECT":  # what follows may be no request
            request.keep_alive = False
        if not old and b"expect" in fields:
            try:
                request.expects = expects(fields)
            except Refusal as refusal:
                request.refusal = refusal
        return request

    def _incomplete(self, data: bytes, at: int) -> None:
        """The head is incomplete. Raise Refusal if it is too large or wrong already."""
        if len(data) - at > self._max_head:
            raise self._too_large(data, at)
        if _broken(data, max(at, self._seen - 1)):
            raise Refusal(400, "there is a control character in the head")
        end = data.find(b"\r\n", at)
        if end >= 0:
            if self._seen <= end + 1:
                _heading(data[at:end])
        elif self._seen < len(data) and not _may_begin(data, at):
            raise Refusal(400, "this is not HTTP/1.1")
        self._seen = len(data)

    def _too_large(self, data: bytes, at: int) -> Refusal:
        limit = self._max_head
        if not 0 <= data.find(b"\r\n", at) - at <= limit:
            return Refusal(414, f"the request line is larger than {limit} bytes")
        return Refusal(431, f"request line and headers are larger than {limit} bytes")

    # --- bodies -----------------------------------------------------------------------------

    def body(self) -> bytes:
        """The next bytes of the body. `ended`: these were the last ones.

        `more`: call it again in the next turn of the loop. Raises Refusal; then the connection must
        end.
        """
        self.more = False
        if self._state != _FIXED:
            return self._chunks()
        data, at, left = self._data, self._at, self._left
        piece = data[at : at + left] if at or len(data) > left else data
        self._at = at + len(piece)
        self._left = left = left - len(piece)
        if not left:
            self._state = _NONE
            self.ended = True
        if self._at == len(data):
            self.clear()
        return piece

    def _chunks(self) -> bytes:
        data, at, state = self._data, self._at, self._state
        pieces: list[bytes] = []
        while True:
            if state == _DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    break
                state = _DATA_END
            if state == _DATA_END:
                if not data.startswith(b"\r\n", at):
                    if data[at:] in (b"", b"\r"):
                        break
                    raise Refusal(400, "a chunk is not as long as its size says")
                at += 2
                state = _SIZE
            if state == _SIZE:
                if len(pieces) >= CHUNKS:
                    self.more = True
                    break
                match = _chunk(data, at, at + CHUNK_LINE)
                if match is None:
                    _incomplete_size(data[at : at + CHUNK_LINE + 1])
                    break
                at = match.end()
                self._left = int(match[1], 16)
                state = _DATA if self._left else _TRAILER
            if state == _TRAILER:
                end = self._trailer(data, at)
                if end < 0:
                    break
                at, state = end, _NONE
            if state == _NONE:
                break
        self._at, self._state = at, state
        self.ended = state == _NONE
        if at == len(data):
            self.clear()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _trailer(self, data: bytes, at: int) -> int:
        """The index at which the trailer ends; -1 if it is incomplete. Its fields are dropped."""
        if data.startswith(b"\r\n", at):
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(data)) - at > self._max_head:
            raise Refusal(431, f"the trailer is larger than {self._max_head} bytes")
        if _broken(data, at, len(data) if end < 0 else end):
            raise Refusal(400, "there is a control character in the trailer")
        if end < 0:
            return -1
        _fields(data[at:end].split(b"\r\n"))
        return end + 4


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    key_of = _names.get
    for line in lines:
        name, colon, value = line.partition(b": ")  # the usual form, which `strip` need not copy
        key = key_of(name)
        if key is None or not colon:
            name, colon, value = line.partition(b":")
            key = _key(name)
            if not colon:
                raise Refusal(400, "a header has no colon")
        value = value.strip()
        if key in fields:
            if key == b"host" or key == b"content-length":
                raise Refusal(400, f"the {key.decode()} header is given twice")
            value = fields[key] + b", " + value
        fields[key] = value
    return fields


def _key(name: bytes) -> bytes:
    """The name of a header in lower case."""
    if name in _names:
        return _names[name]
    if not is_token(name):
        raise Refusal(400, "the name of a header is not valid")
    key = name.lower()
    if len(_names) < KNOWN_NAMES and len(name) <= 64:
        _names[name] = key
    return key


def _heading(line: bytes) -> tuple[bytes, bytes, bool]:
    """Method, target, and whether it is HTTP/1.0, of a request line."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Refusal(400, "the request line is not `METHOD target HTTP/1.1`")
    method, target, version = parts
    if method not in METHODS and not is_token(method):
        raise Refusal(400, "the method is not valid")
    if not target.isascii() or b"\t" in target or not target:
        raise Refusal(400, "the request target is not valid: escape it")
    if version == b"HTTP/1.1":
        return method, target, False
    if not _is_version(version):
        raise Refusal(400, "the version is not like HTTP/1.1")
    if version[5:6] != b"1":
        raise Refusal(505, "use HTTP/1.1")
    return method, target, version == b"HTTP/1.0"


def _other_target(method: bytes, target: bytes, fields: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Path and query of a target that is not a path. Its authority replaces Host."""
    if b"#" in target:
        raise Refusal(400, "the request target has a fragment")
    if method == b"CONNECT":
        authority, path, query = target, b"", b""
        valid = b":" in authority
    elif target == b"*" and method == b"OPTIONS":
        return b"*", b""
    else:
        match = _absolute(target)
        authority, path, query = match.groups(b"") if match is not None else (b"", b"", b"")
        valid = match is not None
    if not valid or not is_host(authority):
        raise Refusal(400, "the request target is not valid")
    if b"host" in fields:  # Host must be valid all the same
        if not is_host(fields[b"host"]):
            raise Refusal(400, "the Host header is not valid")
        fields[b"host"] = authority
    return path or b"/", query


def _incomplete_size(line: bytes) -> None:
    """The line with a chunk's size is incomplete. Raise Refusal if it is wrong already."""
    if line[:1] not in _HEX or b"\n" in line or b"\r" in line[:-1]:
        raise Refusal(400, "the size of a chunk is not valid")
    if len(line) > CHUNK_LINE:
        raise Refusal(400, "the extensions of a chunk are too large")
