"""The matrix of hedging's peers in docs/performance.md: tailrace's column says what runs."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
try:
    from benchmarks.hedging_peers import DELAY, OURS, SCENARIOS, Ask, Library, judge
finally:
    sys.path.remove(str(ROOT))


@pytest.mark.parametrize("name", SCENARIOS)
def test_hedged_is_judged_as_the_docs_say(name: str) -> None:
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    row = re.search(rf"^\| {re.escape(name)} \| ([^|]+) \|", page, re.MULTILINE)
    assert row is not None
    verdict = judge(OURS, SCENARIOS[name])
    assert verdict.ok
    assert str(verdict) == row[1]


@asynccontextmanager
async def by_hand(ask: Ask) -> AsyncGenerator[Any]:
    """What is written without a library."""

    async def query() -> Any:
        copies = {asyncio.ensure_future(ask())}
        done, _ = await asyncio.wait(copies, timeout=DELAY)
        if not done:
            copies.add(asyncio.ensure_future(ask()))
            done, others = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
        return done.pop().result()

    yield query


def test_hedging_by_hand_fails_wherever_something_goes_wrong() -> None:
    library = Library("by hand", by_hand)
    passed = [name for name, scenario in SCENARIOS.items() if judge(library, scenario).ok]
    # It has returned by then, and waits for nobody.
    assert passed == ["winner of a cancelled query", "loser never ends"]
