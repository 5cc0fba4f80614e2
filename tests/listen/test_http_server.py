"""The server as an object: what it accepts, when it listens, how it shows itself."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpServer, listen_http
from tailrace.listen.http.sockets import Address, open_sockets

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        (":8080", "127.0.0.1:8080"),
        ("localhost:8080", "localhost:8080"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:8080", "[::1]:8080"),
    ],
)
def test_the_loopback_is_meant_unless_a_host_is_given(bind: str, address: str) -> None:
    assert HttpServer(bind).address == address


@pytest.mark.parametrize("bind", ["", "8080", "127.0.0.1", "::1:80", "a b:80", "x:99999", "x:-1"])
def test_a_bind_that_is_none_is_named(bind: str) -> None:
    with pytest.raises(ValueError, match="bind"):
        HttpServer(bind)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("in_flight", 0, ValueError),
        ("in_flight", 1.5, TypeError),
        ("in_flight", True, TypeError),
        ("body_memory", -1, ValueError),
        ("connections", "many", TypeError),
        ("max_head", 0, ValueError),
        ("receive_timeout", 0, ValueError),
        ("receive_timeout", math.nan, ValueError),
        ("keep_alive", math.inf, ValueError),
    ],
)
def test_a_limit_that_is_none_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        HttpServer(ANY, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("param", "", ValueError),
        ("timeout", 0, ValueError),
        ("timeout", "1", TypeError),
        ("max_body", 0, ValueError),
        ("max_body", 1 << 40, ValueError),
        ("authorize", "yes", TypeError),
        ("token", "", ValueError),
        ("token", "two words", ValueError),
        ("token", "ü", ValueError),
        ("token", 7, ValueError),
    ],
)
def test_an_argument_that_cannot_work_is_named(
    name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        listen_http(ANY, "/incoming", **{name: value})


@pytest.mark.parametrize("path", ["", "incoming", "/a?b", "/a#b", "/a b", "/a%20b", "/a\n", None])
def test_a_path_that_is_none_is_named(path: Any) -> None:
    with pytest.raises(ValueError, match="path"):
        HttpServer(ANY).listen(path)


def test_a_path_is_listened_on_once() -> None:
    server = HttpServer(ANY)
    server.listen("/incoming")
    with pytest.raises(ValueError, match="'/incoming' is listened on already"):
        server.listen("/incoming")


def test_reprs_say_what_matters() -> None:
    listener = listen_http(":8080", "/incoming", token="s3cret")
    assert repr(listener) == "<listen_http 127.0.0.1:8080 /incoming: not running>"
    assert repr(listener.server) == "<HttpServer 127.0.0.1:8080: /incoming, 0 in flight>"
    assert repr(HttpServer(None)) == "<HttpServer (mounted): no paths, 0 in flight>"
    assert repr(listener.server.app) == "<ASGI app of /incoming>"
    assert listener.path == "/incoming"


def test_an_address_is_not_made_up() -> None:
    with pytest.raises(RuntimeError, match="does not listen yet"):
        _ = HttpServer(ANY).address
    with pytest.raises(RuntimeError, match="mounted only"):
        _ = HttpServer(None).address


async def test_a_port_in_use_is_an_error_that_names_it(any_loop: Loops) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listener = listen_http(address, "/incoming")
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use") as caught:
            await listener(Channel[Message[str]]())
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(ExceptionGroup) as failed:
            async with Group() as go:
                go(listener, channel := Channel[Message[str]]())
                go(drop, channel)
        assert failed.group_contains(OSError, match="cannot listen on")


async def drop(inbox: Receiver[Message[str]]) -> None:
    async for message in inbox:
        message.ack()


async def test_two_servers_do_not_share_a_port(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        second = listen_http(service.server.address, "/incoming")
        with pytest.raises(OSError, match=f"cannot listen on {service.server.address}"):
            await second(Channel[Message[str]]())


async def test_a_host_that_does_not_exist_is_an_error_that_names_it() -> None:
    listener = listen_http("no-such-host.invalid:80", "/incoming")
    with pytest.raises(OSError, match=r"cannot listen on no-such-host\.invalid:80"):
        await listener(Channel[Message[str]]())


async def test_it_listens_while_its_listener_runs_and_no_longer(
    serve: Any, any_loop: Loops
) -> None:
    listener = listen_http(ANY, "/incoming")
    async with serve(listener) as service:
        address = service.server.address
        host, _, port = address.partition(":")
        assert int(port) > 0
        assert service.server.url == f"http://{address}"
        assert (await service.get("/incoming?data=foo")).status == 200
        assert "0 unanswered" in repr(listener)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    assert "not running" in repr(listener)


async def test_a_listener_is_started_once(serve: Any) -> None:
    listener = listen_http(ANY, "/incoming")
    async with serve(listener):
        with pytest.raises(RuntimeError, match="is running already"):
            await listener(Channel[Message[str]]())


async def test_ready_waits_for_the_first_listener() -> None:
    server = HttpServer(ANY)
    listener = server.listen("/incoming")
    ready = asyncio.ensure_future(server.ready())
    await asyncio.sleep(0)
    assert not ready.done()
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(drop, channel)
        assert (await ready).startswith("http://127.0.0.1:")
        go.drain()


async def test_ready_of_a_mounted_server_waits_for_its_listener_too() -> None:
    server = HttpServer(None)
    listener = server.listen("/incoming")
    ready = asyncio.ensure_future(server.ready())
    await asyncio.sleep(0)
    assert not ready.done()
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(drop, channel)
        assert await ready == await server.ready() == ""
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/incoming?data=foo")).text == "OK: foo"
        go.drain()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.ready(), 0.01)


async def test_ready_that_was_cancelled_leaves_the_server_to_start() -> None:
    server = HttpServer(ANY)
    listener = server.listen("/incoming")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.ready(), 0.01)
    channel = Channel[Message[str]]()
    async with Group() as go:
        go(listener, channel)
        go(drop, channel)
        assert await server.ready() == server.url
        go.drain()


async def test_a_server_stays_until_its_last_listener_has_ended() -> None:
    server = HttpServer(ANY)
    first, second = server.listen("/first"), server.listen("/second")
    to_first, to_second = Channel[Message[str]](), Channel[Message[str]]()
    async with Group() as go:
        for listener, channel in ((first, to_first), (second, to_second)):
            go(listener, channel)
            go(drop, channel)
        url = await server.ready()
        await first.drain()
        async with httpx.AsyncClient(base_url=url) as client:
            refused = await client.get("/first?data=foo")
            served = await client.get("/second?data=foo")
        go.drain()

    assert (refused.status_code, served.status_code) == (503, 200)


async def test_statistics_are_a_snapshot(serve: Any) -> None:
    async with serve(listen_http(ANY, "/incoming")) as service:
        before = service.server.statistics()
        async with await service.connect() as client:
            await client.get("/incoming?data=foo")
            await client.get("/incoming")
            now = service.server.statistics()
    assert (before.connections, now.connections) == (0, 1)
    assert (dict(before.answers), dict(now.answers)) == ({}, {200: 1, 400: 1})
    with pytest.raises(AttributeError):
        now.connections = 0


def certificate(directory: Path) -> tuple[tuple[Path, Path], ssl.SSLContext]:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = directory / "cert.pem", directory / "key.pem"
    issued.cert_chain_pems[0].write_to_path(files[0])
    issued.private_key_pem.write_to_path(files[1])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return files, trusting


async def test_tls_from_files(serve: Any, tmp_path: Path, any_loop: Loops) -> None:
    files, trusting = certificate(tmp_path)
    async with serve(listen_http(ANY, "/incoming", tls=files)) as service:
        assert service.server.url.startswith("https://")
        async with httpx.AsyncClient(base_url=service.server.url, verify=trusting) as client:
            large = "x" * 100_000
            answers = [await client.get("/incoming?data=foo") for _ in range(2)]
            answers.append(await client.post("/incoming", data={"data": large}))
        async with await service.connect() as plain:  # no TLS on a port with
            plain.say("GET /incoming?data=foo HTTP/1.1\r\nhost: x\r\n\r\n")
            await plain.reader.read()

    assert [answer.text for answer in answers] == ["OK: ☆ foo ☆"] * 2 + [f"OK: ☆ {large} ☆"]


async def test_tls_from_a_context_of_the_users(serve: Any, tmp_path: Path) -> None:
    files, trusting = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    async with (
        serve(listen_http(ANY, "/incoming", tls=context)) as service,
        httpx.AsyncClient(base_url=service.server.url, verify=trusting) as client,
    ):
        answer = await client.post("/incoming", content="x" * 2_000_000)
    assert answer.status_code in (413, 415)


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(FileNotFoundError, match=r"tls: cannot load .*missing\.pem"):
        HttpServer(ANY, tls=(missing, missing))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    with pytest.raises(OSError, match=r"tls: cannot load .*rubbish\.pem"):
        HttpServer(ANY, tls=(rubbish, rubbish))
    with pytest.raises(TypeError, match="tls must be"):
        wrong: Any = "cert.pem"
        HttpServer(ANY, tls=wrong)


def names(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, str]) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [
            (
                family,
                socket.SOCK_STREAM,
                6,
                "",
                (at, port) if family == socket.AF_INET else (at, port, 0, 0),
            )
            for family, at in addresses
        ]

    monkeypatch.setattr("tailrace.listen.http.sockets.socket.getaddrinfo", getaddrinfo)


needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists() and sys.platform == "linux", reason="no IPv6 here"
)
BOTH = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1"))


@needs_ipv6
async def test_a_name_of_two_families_is_listened_on_in_both(
    serve: Any, any_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        names(patched, *BOTH)
        listener = listen_http("localhost:0", "/incoming")
        async with serve(listener) as service:
            patched.undo()
            port = int(service.server.address.rpartition(":")[2])
            for host in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"GET /incoming?data=1 HTTP/1.0\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
            assert service.server.address == f"localhost:{port}"


@needs_ipv6
async def test_a_name_is_not_listened_on_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or clients of the other family would reach another program."""
    names(monkeypatch, *BOTH)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on localhost:{port}"):
            open_sockets(Address("localhost", port))
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", port))  # nothing is left open


async def test_an_address_that_this_machine_does_not_have_is_left_out(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        names(patched, (socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1"))
        opened = open_sockets(Address("somewhere", 0))
        assert [each.getsockname()[0] for each in opened] == ["127.0.0.1"]
        opened[0].close()
        names(patched, (socket.AF_INET, "192.0.2.1"))
        with pytest.raises(OSError, match="cannot listen on somewhere:0"):
            open_sockets(Address("somewhere", 0))
