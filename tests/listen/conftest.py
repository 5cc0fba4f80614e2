"""A served pipeline, and a client that says exactly the bytes that a test wants said."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpStatistics, ListenHttp

Work = Callable[[Receiver[Message[Any]]], Awaitable[None]]


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Vanish: with a reset, since to the server an orderly end may be a half-closed client."""
        endpoint = self.writer.get_extra_info("socket")
        if endpoint is not None and not self.writer.transport.is_closing():
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def say(self, *parts: bytes | str) -> None:
        for part in parts:
            self.writer.write(part.encode() if isinstance(part, str) else part)

    def ask(
        self, method: str, target: str, body: bytes | None = None, **headers: str | None
    ) -> None:
        """Send a request; ``content_type="x"`` is the header ``content-type: x``."""
        fields = {"host": "test", **headers}
        if body is not None:
            fields.setdefault("content_length", str(len(body)))
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
        self.say("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]), body or b"")

    async def hear(self) -> Response:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name] = value
        status = int(status_line.split(" ")[1])
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Response(status, headers, body)

    async def get(self, target: str, **headers: str | None) -> Response:
        self.ask("GET", target, None, **headers)
        return await self.hear()

    async def post(self, target: str, body: bytes, **headers: str | None) -> Response:
        self.ask("POST", target, body, **headers)
        return await self.hear()

    async def closed(self) -> bool:
        """Wait for the end of the connection; whether nothing more was said."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


class Service:
    """A program that is being served."""

    def __init__(self, listener: ListenHttp[Any], go: Group) -> None:
        self.listener = listener
        self.server = listener.server
        self.go = go

    async def connect(self) -> Client:
        at = urlsplit(f"http://{self.server.address}")
        return Client(*await asyncio.open_connection(at.hostname, at.port))

    async def until(self, right: Callable[[HttpStatistics], object]) -> None:
        """Wait until the server's statistics are as they should be."""
        while not right(self.server.statistics()):
            await asyncio.sleep(0)

    async def get(self, target: str, **headers: str | None) -> Response:
        async with await self.connect() as client:
            return await client.get(target, **headers)

    async def post(self, target: str, body: bytes, **headers: str | None) -> Response:
        async with await self.connect() as client:
            return await client.post(target, body, **headers)


class Hold:
    """An actor that takes messages and keeps them; the test settles them."""

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []
        self._more = asyncio.Event()

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            self.messages.append(message)
            self._more.set()

    async def reached(self, n: int) -> list[Message[Any]]:
        while len(self.messages) < n:
            self._more.clear()
            await self._more.wait()
        return self.messages


async def store(inbox: Receiver[Message[Any]]) -> None:
    """The talk's pipeline in one actor."""
    async for message in inbox:
        if message.data == "bar":
            message.abort("filtered")
        else:
            message.data = f"☆ {message.data} ☆"
            message.ack()


@asynccontextmanager
async def serving(listener: ListenHttp[Any], work: Work = store) -> AsyncIterator[Service]:
    channel = Channel[Message[Any]](name="to_work")
    async with Group() as go:
        go(listener, channel)
        go(work, channel)
        await listener.server.ready()
        yield Service(listener, go)
        go.drain()


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[Service]]:
    """``async with serve(listener, work) as service:`` runs both in a group, then drains it."""
    return serving


@pytest.fixture
def hold() -> type[Hold]:
    return Hold


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Any, ssl.SSLContext]:
    """Server's files and client's context."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return (certificate, key), context
