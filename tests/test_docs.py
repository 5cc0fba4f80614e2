"""The pages in docs say nothing that is not so: their snippets run, and print what they show.

The blocks of a page run in order, in one namespace and on the virtual clock, as they would in
`python -m asyncio`. A ``text`` block is all that the ``python`` block before it prints.
A ``console`` block is what curl hears of the program above it, with the status after the answer,
as docs/http.md says; at port 8000, of the ASGI application `app`. ``sh``, ``sql`` and ``yaml`` are
shown only. docs/testing.md has a test of its own.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import re
import shlex
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

import tailrace.listen
from tailrace import Group, testing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (
    "getting-started",
    "coming-from-queue",
    "channels",
    "pipelines",
    "stock-actors",
    "backends",
    "hedging",
    "http",
    "postgres",
    "recipes",
    "stores",
)

APP = "127.0.0.1:8000"
"""Where a page's `app` is served: by uvicorn, whose usual port that is."""

LONGEST = 300
"""Lines: a page that has more is two pages."""


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int  # where its code begins on the page


def blocks(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text("utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in fences]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """What a page's snippets define, where dataclasses and type hints look for it."""
    made = ModuleType(f"docs_{request.node.callspec.params['page']}")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_a_page_print_what_it_shows(
    page: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert {block.language for block in found} <= {"python", "text", "console", "sh", "sql", "yaml"}
    testing.run(play(page, found, module))


async def play(page: str, found: list[Block], module: ModuleType) -> None:
    port = free_port()
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "python":
            code = block.code.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            printed = await execute(page, code, block.line, module)
            shown = after.code if after is not None and after.language == "text" else ""
            assert printed == shown, f"docs/{page}.md:{block.line}"
        elif block.language == "console":
            served = serving_app(module.app) if APP in block.code else serving(module.main, port)
            async with served as client:
                assert await transcript(block.code, client) == block.code


async def execute(page: str, code: str, line: int, module: ModuleType) -> str:
    """Run one block, awaits at its top included; what it printed."""
    compiled = compile(
        "\n" * (line - 1) + code,
        str(DOCS / f"{page}.md"),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,  # the annotations here are strings, those of the pages are not
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = eval(compiled, module.__dict__)
        if isawaitable(result):
            await result
    return printed.getvalue()


# docs/http.md


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(main: Any, port: int) -> AsyncGenerator[httpx.AsyncClient]:
    """Run a program of the page for the length of the block."""
    async with Group(on_exit="drain") as go:
        main(go)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                break
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client


@contextlib.asynccontextmanager
async def serving_app(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an ASGI application of the page with uvicorn, for the length of the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    running = asyncio.ensure_future(server._serve())  # `serve` would take over the signals
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    server.should_exit = True
    await running


async def transcript(shown: str, client: httpx.AsyncClient) -> str:
    """The same commands, with what they answer now."""
    lines: list[str] = []
    for line in shown.splitlines():
        if line.startswith("$ "):
            lines += [line, *(await curl(line, client)).splitlines()]
    return "\n".join([*lines, ""])


async def curl(line: str, client: httpx.AsyncClient) -> str:
    """The few options of curl that the page uses."""
    _, program, *arguments = shlex.split(line)
    assert program == "curl"
    headers: dict[str, str] = {}
    body: bytes | None = None
    url = ""
    while arguments:
        argument = arguments.pop(0)
        if argument == "-H":
            for header in content(arguments.pop(0)).decode().splitlines():
                name, _, value = header.partition(": ")
                headers[name] = value
        elif argument in ("-d", "--data-binary"):
            body = content(arguments.pop(0))
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        else:
            url = argument
    path = url.removeprefix("127.0.0.1:8080").removeprefix(APP)
    assert path.startswith("/"), line
    method = "GET" if body is None else "POST"
    answer = await client.request(method, path, content=body, headers=headers)
    return f"{answer.text} ({answer.status_code})"


def content(argument: str) -> bytes:
    """The data of curl's option ``-d``, or of the file that it names."""
    return Path(argument[1:]).read_bytes() if argument.startswith("@") else argument.encode()


def test_the_page_on_http_lists_every_status_that_there_is() -> None:
    listen = Path(tailrace.listen.__file__).parent
    source = "".join(file.read_text("utf-8") for file in listen.rglob("*.py"))
    given = set(re.findall(r"Refusal\((\d{3}),|return (\d{3}),|else (207)\b", source))
    page = (DOCS / "http.md").read_text("utf-8")
    listed = re.findall(r"^\| (\d{3}) ", page, re.MULTILINE)
    assert set(listed) == {number for groups in given for number in groups if number}


# All pages


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: str) -> None:
    lines = (DOCS / f"{page}.md").read_text("utf-8").splitlines()
    assert len(lines) <= LONGEST or page == "recipes"  # of which one is read at a time
    assert max(map(len, lines)) <= 125  # tables may be wider than prose
