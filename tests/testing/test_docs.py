"""docs/testing.md says nothing that is not so: its snippets run, and print what it shows."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def snippets(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def without_line_numbers(text: str) -> str:
    return re.sub(r"\.py:\d+", ".py", text)


def test_the_snippets_of_the_page_pass_and_print_what_it_shows(
    pytester: pytest.Pytester, load: list[object]
) -> None:
    files: defaultdict[str, str] = defaultdict(str)
    for snippet in snippets("python"):
        name, _, code = snippet.removeprefix("# ").partition("\n")
        files[name] += code
    assert set(files) == {"events.py", "test_events.py"}
    for name, code in files.items():
        (pytester.path / name).write_text(code, "utf-8")
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-s", "-W", "error", plugins=load)
    result.assert_outcomes(passed=files["test_events.py"].count("def test_") + 9)  # ten seeds
    (shown,) = snippets("text")
    assert without_line_numbers(shown) in without_line_numbers(result.stdout.str())
