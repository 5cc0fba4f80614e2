"""Run the test suites of other projects with asyncio's tasks and with `tailrace.task_factory`.

    python tools/foreign.py [--seconds 600] [--keep] [PROJECT ...]

Prints, project by project, the tests that end differently. A task factory is right if none do, but
for tests that depend on timing: run those again, on an idle machine, before believing them.

Each project comes as the source distribution that pip finds under its name, with the tests in it,
and gets a virtual environment of its own under build/foreign. One that cannot be had, built or run
is named and passed over, as is one for which pip takes longer than PIP_SECONDS. A suite that takes
longer than `--seconds` is ended, and compared as far as it came. Exits with 1 if a test that passes
with asyncio's tasks does not with ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import session

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "foreign"
PIP_SECONDS: Final = 300.0  # for one call of pip: a package may have to be compiled


@dataclass(frozen=True, slots=True)
class Project:
    """What else its tests need, by pip's names, and what pytest is told."""

    needs: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests",)


PYTEST_ASYNCIO = "pytest-asyncio"
PROJECTS = {
    "aiohttp": Project(
        (
            *(PYTEST_ASYNCIO, "pytest-aiohttp", "pytest-mock", "pytest-cov", "pytest-xdist"),
            *("pytest-codspeed", "proxy.py", "re-assert", "freezegun", "trustme", "blockbuster"),
            *("python-on-whales", "isal", "zlib-ng", "uvloop"),
        )
    ),
    "aiosqlite": Project(tests=("aiosqlite/tests/smoke.py",)),
    "anyio": Project(
        ("anyio[trio]", "psutil", "trustme", "hypothesis", "pytest-mock", "exceptiongroup")
    ),
    "asyncpg": Project(),  # needs a Postgres server on the machine
    "janus": Project((PYTEST_ASYNCIO, "pytest-codspeed")),
    "starlette": Project(("starlette[full]", "trio", "pytest-timeout")),
    "tornado": Project(tests=("tornado/test",)),
    "uvicorn": Project(("uvicorn[standard]", "a2wsgi", "trustme", "cryptography", "pytest-mock")),
    "websockets": Project(("mitmproxy", "python-socks[asyncio]", "werkzeug")),
}

# What makes every loop of a process one of actors. Found by each process of the suite, as its
# folder is on PYTHONPATH.
SITE = """
import asyncio.base_events
import tailrace

begin = asyncio.base_events.BaseEventLoop.__init__

def __init__(self, *args, **options):
    begin(self, *args, **options)
    self.set_task_factory(tailrace.task_factory)

asyncio.base_events.BaseEventLoop.__init__ = __init__
"""


# A pytest plugin that writes how each test ended as soon as it has: a suite that is ended early has
# told what it knew.
CONCLUDE = """
import os

path = os.environ["FOREIGN_REPORT"]
worst = {}
RANKS = ["passed", "skipped", "failed"]

def pytest_runtest_logreport(report):
    ended = max(worst.get(report.nodeid, "passed"), report.outcome, key=RANKS.index)
    worst[report.nodeid] = ended
    if report.when == "teardown":
        with open(path, "a") as file:
            print(ascii(report.nodeid), ended, file=file)
"""


class PassedOver(Exception):
    """This project cannot be tried here; why, in one line."""


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command. PassedOver if it fails, with the last line that it printed, or takes longer
    than PIP_SECONDS."""
    shown = " ".join(map(str, (Path(command[0]).name, *command[1:])))
    ended = session.run(command, cwd=cwd, seconds=PIP_SECONDS)
    if ended.code is None:
        raise PassedOver(f"{shown}: not done within {PIP_SECONDS:g} s")
    if ended.code:
        last = (ended.output.strip().splitlines() or ["no output"])[-1]
        raise PassedOver(f"{shown}: {last}")


def prepare(name: str, project: Project) -> tuple[Path, Path]:
    """Download, unpack and install a project: its folder, and the interpreter that runs it."""
    place = WORK / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    # pytest looks for its configuration in the folders above, and those lead to this project's.
    (place / "pytest.ini").write_text("[pytest]\n")
    call(sys.executable, "-m", "venv", place / "venv")
    python = place / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input")
    call(*pip, "download", "--no-deps", "--no-binary", name, "--dest", place, name)
    archives = list(place.glob("*.tar.gz"))
    if not archives:
        raise PassedOver("it has no source distribution")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(place, filter="data")
    (source,) = (each for each in place.iterdir() if each.is_dir() and each.name != "venv")
    if not (source / project.tests[0]).exists():
        raise PassedOver(f"its source distribution has no {project.tests[0]}")
    call(*pip, "install", ROOT, "pytest", "pytest-timeout", *project.needs)
    call(*pip, "install", "--editable", source)
    return source, python


def outcomes(
    source: Path, python: Path, project: Project, seconds: float, *, actors: bool
) -> dict[str, str]:
    """How each test ended: passed, skipped or failed. PassedOver if none did."""
    kind = "actors" if actors else "tasks"
    site, report = source.parent / kind, source.parent / f"{kind}.txt"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE if actors else "")
    (site / "conclude.py").write_text(CONCLUDE)
    environment = {**os.environ, "PYTHONPATH": str(site), "FOREIGN_REPORT": str(report)}
    environment.pop("PYTHONASYNCIODEBUG", None)
    report.unlink(missing_ok=True)
    command: list[str | Path] = [python, "-m", "pytest", "-q"]
    command += ["-p", "conclude", "-p", "no:cacheprovider"]
    command += ["-W", "ignore:Module already imported", "-p", "no:tailrace"]
    command += ["-o", "addopts="]  # coverage, several processes: what is asked for there
    log = source.parent / f"{kind}.log"
    command += project.tests
    if session.run(command, cwd=source, seconds=seconds, env=environment, log=log).code is None:
        print(f"  {kind}: ended after {seconds:g} s; see {log}")
    ended = dict(line.rsplit(" ", 1) for line in lines_of(report))
    if not ended:
        raise PassedOver(f"no test ran with {kind}; see {log}")
    return ended


def lines_of(path: Path) -> list[str]:
    """The lines of a file that need not be there."""
    return path.read_text().splitlines() if path.exists() else []


def compare(name: str, project: Project, seconds: float) -> bool:
    """Run one suite in both ways and print what differs: whether nothing got worse."""
    source, python = prepare(name, project)
    stock = outcomes(source, python, project, seconds, actors=False)
    ours = outcomes(source, python, project, seconds, actors=True)
    both = stock.keys() & ours.keys()
    differ = sorted(test for test in both if stock[test] != ours[test])
    passed = sum(ours[test] == "passed" for test in both)
    print(f"  {source.name}: {len(both)} tests, {passed} pass with actors, {len(differ)} differ")
    for test in differ:
        print(f"    {test}: {stock[test]} with tasks, {ours[test]} with actors")
    for test in sorted(stock.keys() - ours.keys())[:10]:
        print(f"    {test}: did not end with actors")
    return not any(stock[test] == "passed" for test in differ)


def main() -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("projects", nargs="*", metavar="PROJECT", help=", ".join(PROJECTS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for one suite, once")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    given = parser.parse_args()
    good = True
    for name in given.projects or PROJECTS:
        print(f"== {name}", flush=True)
        try:
            good = compare(name, PROJECTS.get(name, Project()), given.seconds) and good
        except PassedOver as why:
            print(f"  passed over: {why}")
        finally:
            if not given.keep:
                shutil.rmtree(WORK / name / "venv", ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
