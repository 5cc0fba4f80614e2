"""`make bench` rewrites the figures of docs/performance.md, and nothing else of the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
try:
    import figures

    from benchmarks import core, talk_http
finally:
    del sys.path[:2]

PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")
HEADER = {"python": "CPython 9.9", "go": "9.9", "machine": "a machine", "rounds": 1}


def core_document() -> dict[str, Any]:
    """One round in which each competitor takes as long as every other."""
    names = {goal.peer for goal in core.GOALS} | {goal.baseline for goal in core.GOALS}
    names = (names | {core.QUEUE}) - {f"{core.QUEUE}(1)"}
    columns = {goal.column for goal in core.GOALS} | {"2", "10", *figures.STAGES, *figures.PARKED}
    keys = {goal.benchmark for goal in core.GOALS} | {"scale_relay", "scale_parked"}
    one_round = {name: [dict.fromkeys(columns, 5.0)] for name in names}
    measured = {key: {"rounds": one_round} for key in keys}
    return {**HEADER, "tailrace core": "native (auto)", "benchmarks": measured}


def http_document() -> dict[str, Any]:
    names = [talk_http.GO, *(goal[1] for goal in talk_http.GOALS), *(g[3] for g in talk_http.GOALS)]
    one_round = {name: [{"rate": 100.0, "p50": 0.1, "p99": 0.2}] for name in names}
    return {**HEADER, "kinds": dict.fromkeys(talk_http.KINDS, one_round)}


def test_each_section_is_rewritten_and_says_at_which_commit() -> None:
    texts = figures.sections([core_document(), http_document()], "abc1234")
    assert set(texts) == set(re.findall(r"<!-- figures: (\w+) -->", PAGE))
    page = figures.rewritten(PAGE, texts)
    sections = re.findall(r"<!-- figures: \w+ -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert sections == list(texts.values())
    assert all(text.startswith("Measured at abc1234: CPython 9.9") for text in sections)
    outside = r"(?<= -->\n).*?(?=\n<!-- end)"
    assert re.sub(outside, "", page, flags=re.DOTALL) == re.sub(outside, "", PAGE, flags=re.DOTALL)


def test_a_section_that_was_not_measured_in_full_stays() -> None:
    document = core_document()
    del document["benchmarks"]["sieve"]
    assert set(figures.sections([document], "abc1234")) == {"scale"}


def test_a_missed_goal_is_called_so() -> None:
    text = figures.sections([core_document()], "abc1234")["core"]
    assert re.search(r"^\| buffered hop \(64\), .* \| 1\.00 \| met \|$", text, re.MULTILINE)
    assert re.search(
        r"^\| 100 000 actors .*: memory \| .* \| \*\*missed\*\* \|$", text, re.MULTILINE
    )


def test_a_section_that_the_page_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="no section <!-- figures: nowhere -->"):
        figures.rewritten(PAGE, {"nowhere": ""})
