"""The `tailrace` command, as its user runs it: in a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import tailrace

Tailrace = Callable[..., "subprocess.CompletedProcess[str]"]

GREET = """
    from tailrace import Group, run

    async def greet(word: str) -> None:
        print(word, flush=True)

    def main(go: Group) -> None:
        go(greet, "main")

    def other(go: Group) -> None:
        go(greet, "other")
"""


@pytest.fixture
def run_tailrace(tmp_path: Path) -> Tailrace:
    """Run the command in a folder of its own; -P: the folder is not found by accident."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-W", "error", "-m", "tailrace", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    return write


def last_line(text: str) -> str:
    return (text.splitlines() or [""])[-1]


def test_version_says_which_core_and_which_python(run_tailrace: Tailrace) -> None:
    ended = run_tailrace("--version")
    assert ended.returncode == 0
    version = re.escape(tailrace.__version__)
    assert re.fullmatch(
        rf"tailrace {version} \((native core|python core: [^,]+), \w+ [\d.\w+]+\)\n", ended.stdout
    )


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("greet.py", "main"),
        ("greet.py:other", "other"),
        ("greet:other", "other"),  # a module of the folder
        ("package.events", "main"),
        ("select.py", "main"),  # called as a module of the standard library
    ],
)
def test_run_finds_the_main_of_a_file_or_module(
    run_tailrace: Tailrace, write: Callable[[str, str], Path], program: str, printed: str
) -> None:
    for name in ("greet.py", "select.py", "package/__init__.py"):
        write(name, GREET)
    write("package/events.py", "from . import main as main")
    ended = run_tailrace("run", program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{printed}\n", "")


def test_run_of_a_file_that_calls_run_itself_goes_as_python_would_go(
    run_tailrace: Tailrace, write: Callable[[str, str], Path]
) -> None:
    source = GREET + '    run(other, grace=5)\n    print("after")\n'
    write("greet.py", source)
    ended = run_tailrace("run", "greet.py", "--actors", "greet=2")
    assert (ended.returncode, ended.stdout) == (0, "other\nother\nafter\n")
    ended = run_tailrace("run", "greet.py:main")  # another one is asked for
    assert (ended.returncode, ended.stdout) == (0, "after\nmain\n")


def test_run_keeps_the_programs_own_grace_unless_told_otherwise(
    run_tailrace: Tailrace, write: Callable[[str, str], Path]
) -> None:
    write(
        "stubborn.py",
        """
        import asyncio, os, signal
        from tailrace import Channel, Group, Receiver, Sender, run

        async def stubborn(inbox: Receiver[int], out: Sender[int]) -> None:
            await asyncio.Event().wait()

        def main(go: Group) -> None:
            go(stubborn, Channel[int](), Channel[int]())
            go.loop.call_later(0, os.kill, os.getpid(), signal.SIGTERM)

        run(main, grace=0.125)
        """,
    )
    ended = run_tailrace("run", "stubborn.py")
    assert ended.returncode == 124
    assert "for at most 0.125 s" in ended.stderr
    ended = run_tailrace("run", "stubborn.py", "--grace", "0.25")
    assert "for at most 0.25 s" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "COMMAND"),
        (("swim",), "'swim'"),
        (("run",), "FILE[:main]"),
        (("run", "nowhere.py"), "there is no file 'nowhere.py'"),
        (("run", "no.where"), "there is no file and no module 'no.where'"),
        (("run", "./nowhere"), "there is no file and no module './nowhere'"),
        (("run", ""), "there is no file and no module ''"),
        (("run", "greet.py:swim"), "greet.py has no function swim(go)"),
        (("run", "empty.py"), "empty.py has no function main(go)"),
        (("run", "greet.py", "--actors", "greet"), "not 'greet'"),
        (("run", "greet.py", "--actors", "greet=0"), "not 'greet=0'"),
        (("run", "greet.py", "--actors", "great=2"), "no stage great; its stages are greet"),
        (("run", "greet.py", "--grace", "soon"), "not 'soon'"),
        (("run", "greet.py", "--grace", "nan"), "not 'nan'"),
        (("demo", "--bind", "here"), "'here'"),
        (("demo", "--seconds", "-1"), "not '-1'"),
    ],
)
def test_wrong_usage_exits_2_and_names_what_was_wrong(
    run_tailrace: Tailrace,
    write: Callable[[str, str], Path],
    arguments: tuple[str, ...],
    says: str,
) -> None:
    write("greet.py", GREET)
    write("empty.py", "")
    ended = run_tailrace(*arguments)
    assert ended.returncode == 2
    assert says in last_line(ended.stderr)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def main(go:", "SyntaxError"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("def main(go):\n    1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_program_with_an_error_of_its_own_shows_its_traceback_and_exits_1(
    run_tailrace: Tailrace, write: Callable[[str, str], Path], source: str, says: str
) -> None:
    write("wrong.py", source)
    for program in ("wrong.py", "wrong"):
        ended = run_tailrace("run", program)
        assert ended.returncode == 1
        assert says in ended.stderr
        assert 'wrong.py", line ' in ended.stderr


# The demo.


def test_demo_answers_as_in_the_talk_and_drains_at_ctrl_c(tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    command = [sys.executable, "-W", "error", "-m", "tailrace", "demo", "--no-traffic"]
    command += ["--bind", "127.0.0.1:0", "--database", str(database)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+/incoming", process.stdout.readline())
            assert found is not None
            assert "curl" in process.stdout.readline()
            assert [get(found[0], data) for data in ("foo", "bar", "<b>")] == [
                (200, "OK: ☆ foo ☆"),
                (200, "aborted: bar"),
                (200, "OK: ☆ <b> ☆"),
            ]
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert printed == f"drained: 2 rows added to {database}\n"
    assert errors == (
        "SIGINT: draining, for at most 30 s; press Ctrl-C again to stop at once\n"
        "3 in: 2 stored, 1 aborted\n"
    )


def get(url: str, data: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"{url}?data={urllib.parse.quote(data)}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def test_demo_with_seconds_sends_its_own_traffic_and_ends_by_itself(
    run_tailrace: Tailrace,
) -> None:
    ended = run_tailrace("demo", "--bind", "127.0.0.1:0", "--seconds", "1")
    assert ended.returncode == 0
    answers = re.findall(r"data=(foo|bar) → 200 (OK: ☆ foo ☆|aborted: bar)\n", ended.stdout)
    assert answers
    stored, aborted = (sum(data == each for data, _ in answers) for each in ("foo", "bar"))
    summary = re.fullmatch(
        r"(\d+) in(?:: (?:(\d+) stored)?(?:, )?(?:(\d+) aborted)?)\n", ended.stderr
    )
    assert summary is not None
    entered, rows, dropped = (int(number or 0) for number in summary.groups())
    assert rows + dropped == entered
    assert last_line(ended.stdout) == f"drained: {rows} rows added to events.db"
    # The last request may have been answered while its client was being told to stop.
    assert 0 <= rows - stored + dropped - aborted <= 1


def test_demo_on_a_port_in_use_says_so_in_one_line(run_tailrace: Tailrace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = run_tailrace("demo", "--bind", address, "--no-traffic")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"cannot listen on {address}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_demo_with_a_database_in_no_folder_says_so_in_one_line(run_tailrace: Tailrace) -> None:
    ended = run_tailrace(
        "demo", "--bind", "127.0.0.1:0", "--no-traffic", "--database", "no/where.db"
    )
    assert ended.returncode == 1
    assert "no/where.db" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
