"""What mypy --strict and pyright (strict) say of the cases beside this file.

A line of a case that must be rejected ends in ``# error: why``. Each checker is started once, for
all files, and must report exactly those lines: one that is missing is a wrong program accepted,
one too many a right one rejected.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CASES = sorted((HERE / "cases").rglob("*.py"))

Place = tuple[str, int]
Found = dict[Place, str]


def place(path: Path, line: int) -> Place:
    return path.relative_to(HERE / "cases").as_posix(), line


def expected() -> Found:
    return {
        place(path, number): match[1]
        for path in CASES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := re.search(r"# error: (.*)", line))
    }


def output_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: it found errors
    return done.stdout


def mypy() -> Found:
    found = [
        json.loads(line)
        for line in output_of("mypy", "--strict", "--output=json", *map(str, CASES)).splitlines()
    ]
    cases = HERE / "cases"
    return {
        place(path, it["line"]): it["message"]
        for it in found
        if it["severity"] == "error" and (path := ROOT / it["file"]).is_relative_to(cases)
    }


def pyright() -> Found:
    report = output_of(
        "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)
    )
    return {
        place(Path(it["file"]), it["range"]["start"]["line"] + 1): it["message"]
        for it in json.loads(report)["generalDiagnostics"]
        if it["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_wiring_is_accepted_and_wrong_wiring_rejected(checker: Callable[[], Found]) -> None:
    wanted, found = expected(), checker()
    wrong = [f"accepted {at}: {wanted[at]}" for at in sorted(wanted.keys() - found.keys())]
    wrong += [f"rejected {at}: {found[at]}" for at in sorted(found.keys() - wanted.keys())]
    if wrong:
        pytest.fail(f"{checker.__name__} wrongly\n" + "\n".join(wrong), pytrace=False)


def test_the_cases_hold_both_kinds() -> None:
    wrong = {file for file, _ in expected()}
    assert wrong == {place(path, 0)[0] for path in CASES if path.parent.name == "rejected"}
