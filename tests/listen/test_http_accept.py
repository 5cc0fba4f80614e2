"""Connections count from the first, and leave descriptors to the rest of the program."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tailrace.listen import HttpServer, ListenHttp
from tailrace.listen.http import accept as accept_module
from tailrace.listen.http.accept import (
    Acceptor,
    ThrottledLog,
    connections_allowed,
    descriptor_limit,
)
from tailrace.listen.http.sockets import block_new_clients

resource = pytest.importorskip("resource")

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"
_SO_DETACH_FILTER = 27  # not in `socket`


def limited(**options: Any) -> ListenHttp[str]:
    return HttpServer(ANY, **options).listen("/incoming")


def at(listener: ListenHttp[str]) -> tuple[str, int]:
    host, _, port = listener.server.address.rpartition(":")
    return host, int(port)


def connect(where: tuple[str, int]) -> socket.socket:
    """Connect without a turn of the loop: the system does it."""
    client = socket.create_connection(where, timeout=5)
    client.setblocking(False)
    return client


async def heard(client: socket.socket) -> bytes:
    """All that the server says, until it ends the connection."""
    loop, said = asyncio.get_running_loop(), b""
    try:
        while more := await loop.sock_recv(client, 65536):
            said += more
    except ConnectionError:
        pass
    return said


def opened() -> set[int]:
    """The descriptors that this process has open."""
    found: set[int] = set()
    for number in range(2048):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.add(number)
    return found


@pytest.fixture
def few_files() -> Iterator[int]:
    """Allow forty descriptors more than are open, and a third of that as headroom."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = (len(opened()) + 40) * 4 // 3 + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_stalled_handshake_is_a_connection(serve: Any, tls: Any, any_loop: Loops) -> None:
    files, context = tls
    listener = limited(tls=files, connections=3)
    async with serve(listener) as service:
        with ExitStack() as stack:
            stalled = [stack.enter_context(connect(at(listener))) for _ in range(3)]
            stalled[1].send(b"\x16\x03\x01")
            await service.until(lambda now: now.connections == 3)
            beyond = stack.enter_context(connect(at(listener)))
            assert await heard(beyond) == b""
            assert listener.server.statistics().connections == 3
            assert listener.server.statistics().answers == {}, "it was told nothing"
        await service.until(lambda now: now.connections == 0)
        _, writer = await asyncio.open_connection(*at(listener), ssl=context)
        assert listener.server.statistics().connections == 1
        writer.transport.abort()


async def test_a_drain_does_not_wait_for_stalled_handshakes(serve: Any, tls: Any) -> None:
    files, _ = tls
    listener = limited(tls=files)
    loop = asyncio.get_running_loop()
    async with serve(listener) as service:
        stalled = connect(at(listener))
        await service.until(lambda now: now.connections == 1)
        began = loop.time()
    assert loop.time() - began < 5  # a handshake may take twice that
    assert await heard(stalled) == b""
    stalled.close()


async def test_a_client_that_the_loop_cannot_take_over_is_let_go(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[socket.socket] = []

    async def refuse(factory: object, accepted: socket.socket, **options: object) -> None:
        refused.append(accepted)
        raise ConnectionResetError

    listener = limited()
    async with serve(listener) as service:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", refuse)
            client = connect(at(listener))
            assert await heard(client) == b""
            client.close()
        (accepted,) = refused
        assert accepted.fileno() == -1
        assert service.server.statistics().connections == 0
        assert (await service.get("/incoming?data=foo")).status == 200


async def test_clients_beyond_the_limit_hear_503_and_take_nothing(
    serve: Any, any_loop: Loops
) -> None:
    listener = limited(connections=2)
    async with serve(listener) as service:
        with ExitStack() as stack:
            inside = [stack.enter_context(connect(at(listener))) for _ in range(2)]
            await service.until(lambda now: now.connections == 2)
            before = len(opened())
            beyond = [stack.enter_context(connect(at(listener))) for _ in range(100)]
            for client in beyond:
                assert (await heard(client)).startswith(b"HTTP/1.1 503 ")
            now = listener.server.statistics()
            assert (now.connections, now.answers) == (2, {503: 100})
            assert len(opened()) - before - 100 <= 20
            inside.pop().close()
            await service.until(lambda now: now.connections == 1)
            assert (await service.get("/incoming?data=foo")).status == 200


async def test_connections_leave_descriptors_to_the_rest_of_the_program(
    serve: Any, any_loop: Loops, few_files: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = limited()
    async with serve(listener) as service:
        with ExitStack() as stack:
            for _ in range(25):  # each takes two
                stack.enter_context(connect(at(listener)))
            await service.until(lambda now: now.answers.get(503))
            now = listener.server.statistics()
            assert now.connections < 20
            for _ in range(few_files // 4 - 20):  # those that are left
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
    assert caplog.text.count("all that the limit of open files allows") == 1


def test_the_limit_of_connections_is_below_that_of_descriptors(
    few_files: int, caplog: pytest.LogCaptureFixture
) -> None:
    most = descriptor_limit()
    assert most == few_files - few_files // 4
    assert connections_allowed(None) == most
    assert not caplog.records
    assert connections_allowed(most - 1) == most - 1
    assert connections_allowed(10_000) == most
    assert f"connections=10000, but the limit of open files allows {most}" in caplog.text


@pytest.mark.parametrize("soft", [1024, 1_000_000])
def test_headroom_is_a_quarter_and_at_most_256(soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert descriptor_limit() == soft - 256
    assert connections_allowed(None) == min(4096, soft - 256)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, soft))
    assert connections_allowed(None) == 4096
    assert connections_allowed(10_000) == 10_000


def test_a_warning_is_repeated_after_ten_seconds_and_not_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    seldom = ThrottledLog(lambda: now)
    for now in (100.0, 101.0, 109.9, 110.0, 110.1, 200.0):
        seldom.warn("at %s", now)
    assert [record.getMessage() for record in caplog.records] == [
        "at 100.0",
        "at 110.0",
        "at 200.0",
    ]


async def test_connections_that_were_turned_away_end_with_the_server(
    serve: Any, any_loop: Loops
) -> None:
    listener = limited(connections=1)
    with ExitStack() as stack:
        async with serve(listener) as service:
            for _ in range(3):
                stack.enter_context(connect(at(listener)))
            await service.until(lambda now: now.answers.get(503) == 2)
            connections: Any = listener.server._server._connections
            kept = [accepted for _, accepted in connections._turned_away]
            assert len(kept) == 2
        assert [accepted.fileno() for accepted in kept] == [-1, -1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such filters")
def test_a_socket_that_lets_nobody_in_has_those_who_came_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:  # there is none yet
                pytest.skip("this system forbids filters")
        with connect(listening.getsockname()):
            block_new_clients(listening)
            with socket.socket() as late:
                late.setblocking(False)
                late.connect_ex(listening.getsockname())
                assert select.select([], [late], [], 0.1)[1] == []
            listening.settimeout(5)
            listening.accept()[0].close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow the descriptors of some hundred clients, whatever limit the shell has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1024:
        pytest.skip("needs a hard limit of 1024 open files (ulimit -Hn)")
    if 0 <= soft < 1024:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_clients_connect_while_the_loop_is_busy(
    serve: Any, any_loop: Loops, many_files: None
) -> None:
    """The system completes as many connections as the server asked for."""
    listener = limited()
    async with serve(listener) as service:
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(at(listener)))
            await service.until(lambda now: now.connections == 300)


class Short(socket.socket):
    """A listening socket whose system refuses or whose clients vanish, as often as `errors` say."""

    errors: list[int]

    def accept(self) -> Any:
        if self.errors:
            raise OSError(self.errors.pop(), "as the test wants it")
        return super().accept()


async def test_where_descriptors_run_out_accepting_pauses(
    any_loop: Loops, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accept_module, "PAUSE", 0.01)
    admitted: asyncio.Queue[socket.socket] = asyncio.Queue()
    with Short() as listening:
        listening.errors = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EMFILE]
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        acceptor = Acceptor([listening], admitted.put_nowait)
        began = asyncio.get_running_loop().time()
        with connect(listening.getsockname()), await admitted.get() as accepted:
            # A clock that counts whole milliseconds may be one short.
            assert asyncio.get_running_loop().time() - began >= 3 * 0.01 - 0.002
            assert accepted.getblocking() is False
        acceptor.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no connection can be accepted for now" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_loop_without_readers_accepts_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the proactor of Windows."""
    loop = asyncio.get_running_loop()

    def refuse(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(accept_module, "PAUSE", 0.01)
    admitted: asyncio.Queue[socket.socket] = asyncio.Queue()
    listening = Short()
    listening.errors = [errno.EMFILE, errno.ECONNABORTED]  # the last one first
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "add_reader", refuse)
        acceptor = Acceptor([listening], admitted.put_nowait)
    with connect(listening.getsockname()), await admitted.get():
        pass
    acceptor.close()
    await asyncio.sleep(0)
    assert listening.fileno() == -1
    (record,) = caplog.records
    assert f"[Errno {errno.EMFILE}]" in record.getMessage()
