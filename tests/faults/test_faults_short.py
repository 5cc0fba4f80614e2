"""The scenarios of `make faults`, each with few runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.__main__ import SCENARIOS
from faults.report import Row, as_table, measured

RUNS = {"kill, SQLite": 3, "kill, PostgreSQL": 3}


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_breaks_under_this_fault(name: str, tmp_path: Path) -> None:
    scenario, _ = SCENARIOS[name]
    row = measured(name, lambda row: scenario(row, runs=RUNS.get(name, 1), folder=tmp_path))
    print(as_table([row]))
    assert row.verdict() != "FAILED", as_table([row])


def test_a_broken_promise_is_a_failure() -> None:
    def breaks(row: Row) -> None:
        row.missing = 1

    def raises(row: Row) -> None:
        raise OSError("no such thing")

    assert measured("a", breaks).verdict() == "FAILED"
    assert "OSError: no such thing" in as_table([measured("b", raises)])
    assert measured("c", lambda row: None).verdict() == "ok"
