"""Listening on a Unix socket, on a socket that was inherited, and on a port that is shared."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailrace import Channel, Message
from tailrace.listen import HttpServer, Request, listen_http
from tailrace.listen.http import sockets as sockets_module
from tailrace.listen.http.sockets import Listening, UnixPath, listen_on

Loops = Callable[[], asyncio.AbstractEventLoop]
ANY = "127.0.0.1:0"

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a socket; short, since the system allows about a hundred characters."""
    monkeypatch.chdir(tmp_path)
    return "in.sock"


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """A listening socket, as a service manager passes one on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def next_free_descriptor() -> int:
    with Path(os.devnull).open() as file:
        return file.fileno()


async def get(path: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/in?data=foo")


# --- Unix sockets ---------------------------------------------------------------------------


async def test_a_unix_socket_is_listened_on(serve: Any, path: str, any_loop: Loops) -> None:
    seen: list[str] = []

    def authorize(request: Request) -> bool:
        seen.append(request.client)
        return True

    server = HttpServer(f"unix:{path}")
    listener = server.listen("/in", authorize=authorize)
    assert server.address == f"unix:{path}"
    async with serve(listener) as service:
        assert service.server.url == "http+unix://in.sock"
        answers = [await get(path), await get(path)]
        assert f"unix:{path}" in repr(listener)

    assert [answer.text for answer in answers] == ["OK: ☆ foo ☆"] * 2
    assert seen == ["", ""]  # a client there has no address
    assert not os.path.lexists(path)


def test_the_url_of_a_unix_socket_has_its_path_escaped() -> None:
    assert HttpServer("unix:/run/a b.sock").url == "http+unix://%2Frun%2Fa%20b.sock"


async def test_the_umask_says_who_may_connect(serve: Any, path: str) -> None:
    before = os.umask(0o027)
    try:
        async with serve(listen_http(f"unix:{path}", "/in")):
            mode = stat.S_IMODE(Path(path).stat().st_mode)
    finally:
        os.umask(before)
    assert mode == 0o750


async def test_a_socket_that_a_dead_process_left_is_replaced(serve: Any, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    async with serve(listen_http(f"unix:{path}", "/in")):
        assert (await get(path)).status_code == 200


async def test_a_socket_of_a_living_process_is_not_replaced(serve: Any, path: str) -> None:
    async with serve(listen_http(f"unix:{path}", "/in")):
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: .*in use") as caught:
            await listen_http(f"unix:{path}", "/in")(Channel[Message[str]]())
        assert caught.value.errno == errno.EADDRINUSE
        assert (await get(path)).status_code == 200


async def test_of_two_that_start_at_once_the_second_fails_and_takes_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_between, second = threading.Event(), Future[Listening]()

    def start_second() -> None:
        in_between.wait()
        try:
            second.set_result(listen_on(UnixPath(path)))
        except OSError as error:
            second.set_exception(error)

    def pause(opened: socket.socket, where: Any) -> None:
        """Bind, then let the second one look at the socket, which does not listen yet."""
        monkeypatch.setattr(sockets_module, "_listen_at", listen_at)
        opened.bind(where)
        in_between.set()
        wait([second], timeout=0.2)
        opened.listen()

    listen_at = sockets_module._listen_at
    monkeypatch.setattr(sockets_module, "_listen_at", pause)
    starting = threading.Thread(target=start_second)
    starting.start()
    first = listen_on(UnixPath(path))
    starting.join()
    try:
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: .*in use"):
            second.result()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            first.sockets[0].accept()[0].close()
    finally:
        first.close()


@pytest.mark.parametrize("dead", [False, True])
def test_a_directory_that_another_program_has_locked_keeps_no_server_from_starting(
    path: str, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    monkeypatch.setattr(sockets_module, "LOCK_SECONDS", 0.02)
    if dead:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
    directory = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if dead:  # then whether the file is dead cannot be known for sure
            with pytest.raises(OSError, match=f"cannot listen on unix:{path}: .*locked"):
                listen_on(UnixPath(path))
        else:
            listen_on(UnixPath(path)).close()
    finally:
        os.close(directory)


async def test_a_full_backlog_is_that_of_a_living_process(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(OSError, match="in use"):
            await listen_http(f"unix:{path}", "/in")(Channel[Message[str]]())


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_is_left_alone(path: str, kind: str) -> None:
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "directory":
        Path(path).mkdir()
    else:  # to a dead socket: what the link means was decided elsewhere
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind("elsewhere")
        Path(path).symlink_to("elsewhere")
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}: .*not a socket"):
        await listen_http(f"unix:{path}", "/in")(Channel[Message[str]]())
    assert os.path.lexists(path)
    assert kind != "file" or Path(path).read_text() == "precious"


async def test_the_socket_of_a_successor_is_left_alone(serve: Any, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as successor:
        async with serve(listen_http(f"unix:{path}", "/in")):
            Path(path).unlink()
            successor.bind(path)
        assert os.path.lexists(path)


async def test_a_socket_that_was_removed_ends_no_server_badly(serve: Any, path: str) -> None:
    async with serve(listen_http(f"unix:{path}", "/in")) as service:
        Path(path).unlink()
    assert service.server.statistics().connections == 0


@pytest.mark.parametrize("bad", ["nowhere/in.sock", "x" * 200])
async def test_a_path_that_cannot_be_had_is_named(path: str, bad: str) -> None:
    with pytest.raises(OSError, match=f"cannot listen on unix:{bad}: "):
        await listen_http(f"unix:{bad}", "/in")(Channel[Message[str]]())


async def test_who_has_connected_to_a_unix_socket_is_answered_in_a_drain(
    serve: Any, path: str, hold: Any, any_loop: Loops
) -> None:
    held = hold()
    async with serve(listen_http(f"unix:{path}", "/in"), held) as service:
        asked = asyncio.ensure_future(get(path))
        (message,) = await held.reached(1)
        service.go.drain()
        message.ack()
        assert (await asked).status_code == 200


async def test_the_file_is_removed_wherever_the_program_has_gone(
    serve: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(path).absolute()
    async with serve(listen_http(f"unix:{path}", "/in")):
        monkeypatch.chdir("/")
    assert not os.path.lexists(file)


# --- inherited sockets ----------------------------------------------------------------------


async def test_an_inherited_socket_is_listened_on_and_stays_open(
    inherited: socket.socket, serve: Any, any_loop: Loops
) -> None:
    bind = f"fd:{inherited.fileno()}"
    port = inherited.getsockname()[1]
    for _ in range(2):  # as the next process would
        server = HttpServer(bind)
        with pytest.raises(RuntimeError, match="does not listen yet"):
            _ = server.address
        async with serve(server.listen("/in")) as service:
            assert service.server.address == f"127.0.0.1:{port}"
            assert (await service.get("/in?data=foo")).status == 200
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass  # it waits for the next process, and is not refused


async def test_who_connects_to_an_inherited_socket_after_the_end_waits_for_the_next_server(
    inherited: socket.socket, serve: Any
) -> None:
    bind = f"fd:{inherited.fileno()}"
    async with serve(listen_http(bind, "/in")):
        pass
    with socket.create_connection(inherited.getsockname(), timeout=5) as client:
        client.sendall(b"GET /in?data=foo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        async with serve(listen_http(bind, "/in")):
            answer = await asyncio.to_thread(client.recv, 1000)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_inherited_unix_socket_keeps_its_file(serve: Any, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        async with serve(listen_http(f"fd:{listening.fileno()}", "/in")) as service:
            assert service.server.address == f"unix:{path}"
            assert (await get(path)).status_code == 200
        assert os.path.lexists(path)


async def test_a_descriptor_that_is_no_listening_socket_is_named(tmp_path: Path) -> None:
    with (
        socket.socket() as idle,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("w") as file,
    ):
        for number in (idle.fileno(), datagrams.fileno(), file.fileno(), 100_000):
            free = next_free_descriptor()
            with pytest.raises(OSError, match=f"cannot listen on fd:{number}: "):
                await listen_http(f"fd:{number}", "/in")(Channel[Message[str]]())
            assert next_free_descriptor() == free  # none is left open
        os.fstat(idle.fileno())  # and this one stays open


# --- shared ports ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports are not shared here")
async def test_a_port_may_be_shared_where_all_ask_for_it(serve: Any, any_loop: Loops) -> None:
    first = HttpServer(ANY, reuse_port=True)
    async with serve(first.listen("/in")):
        second = HttpServer(first.address, reuse_port=True)
        async with serve(second.listen("/in")) as service:
            assert second.address == first.address
            while not (first.statistics().answers and second.statistics().answers):
                assert (await service.get("/in?data=foo")).status == 200
        # What the second one has let go of goes to the first.
        for _ in range(20):
            async with httpx.AsyncClient(base_url=first.url) as client:
                assert (await client.get("/in?data=foo")).status_code == 200
        with pytest.raises(OSError, match="in use"):
            await listen_http(first.address, "/in")(Channel[Message[str]]())


@pytest.mark.parametrize("bind", ["unix:in.sock", "fd:3", None])
def test_only_a_port_can_be_shared(bind: str | None) -> None:
    with pytest.raises(ValueError, match="reuse_port is for a host and a port"):
        HttpServer(bind, reuse_port=True)


@pytest.mark.parametrize("bind", ["unix:", "fd:", "fd:-1", "fd:x", "fd:3 ", "unix:a\0b", "fd:٣"])
def test_a_socket_that_is_none_is_named(bind: str) -> None:
    with pytest.raises(ValueError, match="bind"):
        HttpServer(bind)
