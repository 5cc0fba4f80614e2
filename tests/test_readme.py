"""README.md says nothing that is not so.

Its programs are those in examples; its transcript is what happens when it is typed; a deadlock is
reported as shown; every relative link of the README and of the pages in docs leads somewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

import tailrace

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text("utf-8")
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PROGRAM_SECONDS = 20.0
"""How long a program may take to start, or to end."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    """That of these tests, in which a subprocess finds the same tailrace."""
    package = Path(tailrace.__file__).parent.parent
    return {**os.environ, "PYTHONPATH": str(package), "PYTHONUTF8": "1"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``python arguments`` says in the folder of the examples."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES,
        env=environment(),
        check=False,
        capture_output=True,
        encoding="utf-8",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Its programs


def test_its_program_is_the_example() -> None:
    assert blocks("python")[0] == (EXAMPLES / "events.py").read_text("utf-8")


def test_its_test_is_part_of_the_example() -> None:
    assert blocks("python")[1] in (EXAMPLES / "test_events.py").read_text("utf-8")


def test_the_test_of_the_example_passes() -> None:
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", "."]
    if "tailrace" not in {plugin.name for plugin in entry_points(group="pytest11")}:
        options += ["-p", "tailrace.testing.plugin"]  # of a source tree that is not installed
    found = python("-m", "pytest", *options, "test_events.py")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed" in found.stdout


def test_a_deadlock_is_reported_as_it_shows() -> None:
    found = python("deadlock.py")
    (shown,) = blocks("text")
    assert found.returncode == 1
    assert found.stderr.endswith(shown)


# Its transcript


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The example, running in a folder of its own; and where it listens."""
    address = f"127.0.0.1:{free_port()}"
    code = (EXAMPLES / "events.py").read_text("utf-8")
    assert code.count("127.0.0.1:8080") == 1
    (tmp_path / "events.py").write_text(code.replace("127.0.0.1:8080", address), "utf-8")
    with subprocess.Popen(
        [sys.executable, "events.py"], cwd=tmp_path, env=environment()
    ) as process:
        try:
            wait_until_it_listens(process, address)
            yield process, address
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def wait_until_it_listens(process: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + PROGRAM_SECONDS
    while True:
        assert process.poll() is None, "the program has ended"
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the program does not listen"
            time.sleep(0.02)  # another process: there is nobody to signal us
        else:
            return


def get(url: str) -> str:
    with build_opener(ProxyHandler({})).open(f"http://{url}", timeout=10) as answer:
        return answer.read().decode() + "\n"


def test_its_transcript_is_what_happens(
    program: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, address = program
    (shown,) = blocks("console")
    first, *steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE)
    assert first == ("python events.py &", "")
    done: list[str] = []
    for line, answer in steps:
        command, *arguments = shlex.split(line, comments=True)
        done.append(command)
        match command:
            case "curl":
                (url,) = arguments
                assert get(url.replace("127.0.0.1:8080", address)) == answer
            case "kill":
                assert (arguments, answer) == (["-9", "%1"], "")
                process.kill()
                process.wait(PROGRAM_SECONDS)
            case "sqlite3":
                database, query = arguments
                with contextlib.closing(sqlite3.connect(tmp_path / database)) as connection:
                    rows = [f"{value}\n" for (value,) in connection.execute(query)]
                assert "".join(rows) == answer
            case _:
                pytest.fail(f"nobody knows how to {command}")
    assert done == ["curl", "curl", "kill", "sqlite3"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGINT for another process")
def test_ctrl_c_ends_it_by_itself(program: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = program
    assert get(f"{address}/incoming?data=foo") == "OK: ☆ foo ☆\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(PROGRAM_SECONDS) == 0


# Its links


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+)[^`]+\1", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, fragment = target.partition("#")
        aim = page.parent / file if file else page
        assert aim.exists(), target
        if fragment:
            assert fragment in anchors(aim), target


def anchors(page: Path) -> set[str]:
    """The headings of a page, as forges make links of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    numbered = (
        (each, plain[:place].count(each)) for place, each in enumerate(plain)
    )  # a heading that was there before gets a number
    return {f"{each}-{before}" if before else each for each, before in numbered}
