"""Clients that remember what each of their requests was answered, and repeat what was not."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Answer", "Connection", "Ledger", "Lost", "load"]

STORED = ("name", "amount", "total", "stamp")


class Lost(Exception):
    """The connection ended before the answer was complete. `begun`: some bytes of it had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__(f"no answer (begun: {begun})")
        self.begun = begun


class Answer:
    """Status, head in lower case, and body."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status = status
        self.head = head
        self.body = body


class Connection(asyncio.Protocol):
    """One HTTP connection, for one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = False

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connect. OSError if nobody listens."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost(bool(self._buffer)))

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiter is None or self._waiter.done():
            return
        head = self._buffer[:end].lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(self._buffer) < end + 4 + length:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + length], b""
        if b"connection: close" in head:
            self.open = False
        self._waiter.set_result(Answer(int(head[9:12]), head, body))

    async def ask(self, request: bytes) -> Answer:
        """Send, and wait for the answer. Lost if the connection ends before."""
        if self._transport is None or not self.open:
            raise Lost(False)
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        """Close it at once."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()


def order(number: int) -> bytes:
    """The request number `number`, whole."""
    body = b'{"name": "order-%d", "amount": %d}' % (number, number)
    return (
        b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"accept: application/json\r\nidempotency-key: key-%d\r\ncontent-length: %d\r\n\r\n%b"
        % (number, len(body), body)
    )


class Ledger:
    """What became of each request.

    `stored`: the row that each request was told is stored. `pending`: requests without a final
    answer, to be repeated; they may be stored or not. `repeated`: those that were asked more than
    once. `unheard`: those whose connection ended
    without an answer since `forget`.
    """

    def __init__(self) -> None:
        self.stored: dict[int, tuple[Any, ...]] = {}
        self.aborted = 0
        self.pending: set[int] = set()
        self.repeated: set[int] = set()
        self.unheard: set[int] = set()
        self.torn = 0
        self.answers: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.latencies: list[float] = []
        self._serial = 0
        self._again: list[int] = []

    def repeat(self) -> int:
        """From now on first repeat what has no final answer; returns how many."""
        self._again = list(self.pending)
        random.shuffle(self._again)
        self.unheard.clear()
        return len(self._again)

    def next(self) -> int:
        """The number of the next request."""
        if self._again:
            self.repeated.add(again := self._again.pop())
            return again
        self._serial += 1
        return self._serial

    def finished(self) -> bool:
        """Whether nothing is left to be repeated."""
        return not self._again

    async def ask(self, connection: Connection, number: int) -> Answer:
        """Ask, and take down what is answered."""
        loop = asyncio.get_running_loop()
        self.pending.add(number)
        began = loop.time()
        try:
            answer = await connection.ask(order(number))
        except Lost as lost:
            self.torn += lost.begun
            self.unheard.add(number)
            raise
        self.latencies.append(loop.time() - began)
        self.answers[answer.status] += 1
        if answer.status == 200:
            self.pending.discard(number)
            self._heard(number, json.loads(answer.body))
        elif answer.status not in (500, 503, 504):
            self.wrong.append(f"{number}: {answer.status} {answer.body[:200]!r}")
        elif answer.status == 503 and b"retry-after" not in answer.head:
            self.wrong.append(f"{number}: 503 without Retry-After")
        return answer

    def _heard(self, number: int, report: dict[str, Any]) -> None:
        if report["status"] == "aborted":
            self.aborted += 1
            if number % 10:
                self.wrong.append(f"{number}: {report}")
            return
        row = tuple(report["result"][name] for name in STORED)
        if number % 10 == 0 or row[:3] != (f"order-{number}", number, 3 * number):
            self.wrong.append(f"{number}: {report}")
        self.stored[number] = row

    def p99(self) -> float:
        """Of the answers' latencies, in ms."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * (len(ordered) - 1))] * 1e3 if ordered else 0.0


async def load(
    ledger: Ledger,
    port: int,
    connections: int,
    on_answer: Callable[[], bool] = lambda: True,
) -> None:
    """Ask on `connections` connections until the server has gone, or `on_answer` returns False."""

    async def ask_on() -> None:
        with suppress(OSError):
            while True:
                connection = await Connection.to(port)
                with suppress(Lost):
                    while connection.open:
                        answer = await ledger.ask(connection, ledger.next())
                        if not on_answer():
                            connection.close()
                            return
                        if answer.status == 503:
                            await asyncio.sleep(0.05)
                connection.close()

    await asyncio.gather(*(ask_on() for _ in range(connections)))
