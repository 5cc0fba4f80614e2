"""The parser of one connection: from bytes to turns.

llhttp (by way of httptools) calls back for each part of a request; here the parts of a head become
a `Turn`, and the connection is told of it, of its body and of its end. What is said of a request
that is not read any more (`Connection.reads`) is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from tailrace.listen._request import Request
from tailrace.listen._turn import Turn

if TYPE_CHECKING:
    from tailrace.listen._http1 import Connection

__all__ = ["Reader"]


class Reader:
    """What httptools calls."""

    __slots__ = (
        "_connection",
        "_fields",
        "_head",
        "_in_head",
        "_max_head",
        "_parser",
        "_url",
        "last",
        "midway",
    )

    def __init__(self, connection: Connection, max_head: int) -> None:
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._max_head = max_head
        self._url = b""
        self._fields: dict[bytes, bytes] = {}
        self._head = 0  # bytes of the head that is being parsed
        self._in_head = False
        self.midway = False  # the last of them is not at its end
        self.last: Turn | None = None  # the one that is being parsed, or was

    def feed(self, data: bytes) -> None:
        """Parse. Raises what httptools does."""
        self._parser.feed_data(data)

    def close(self) -> None:
        """The connection has ended, and would else be garbage that refers to itself."""
        self.last = None
        del self._parser, self._connection

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.midway = self._in_head = True
        self._url = b""
        self._fields = {}
        self._head = 0

    def on_url(self, url: bytes) -> None:
        """The request target, or a piece of it."""
        self._head += len(url)
        if self._head <= self._max_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer, which nobody needs."""
        if not self._in_head:
            return
        self._head += len(name) + len(value) + 4
        if self._head > self._max_head:
            return
        name = name.lower()
        fields = self._fields
        if name in fields:
            value = fields[name] + b", " + value
        fields[name] = value

    def on_headers_complete(self) -> None:
        """The head is complete: the request is let in or refused before its body comes."""
        self._in_head = False
        connection, parser, fields = self._connection, self._parser, self._fields
        if not connection.reads:
            return
        # Each question to the parser costs; most requests leave nothing to ask.
        plain = b"host" in fields and b"connection" not in fields
        turn = Turn(
            Request(parser.get_method().decode(), "", self._url, fields),
            keep_alive=parser.should_keep_alive() and (plain or not parser.should_upgrade()),
            old=not plain and parser.get_http_version() == "1.0",
        )
        if connection.head_came(turn, too_large=self._head > self._max_head):
            self.last = turn

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body."""
        if self.last is not None and self._connection.reads:
            self._connection.body_came(self.last, chunk)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.midway = False
        if self.last is not None and self._connection.reads:
            self._connection.end_came(self.last)
