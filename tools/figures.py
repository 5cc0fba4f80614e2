"""Write what the benchmarks measured into docs/performance.md.

    python tools/figures.py FILE.json...    # what the scripts wrote with --json

A section of the page between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is replaced: `core`
and `scale` by what relay.py to scale.py measured, `http` by talk_http.py. A section with a figure
that was not measured stays as it is. Each says at which commit it was measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(ROOT))

from benchmarks import core, talk_http  # noqa: E402  # in the folder beside this one
from benchmarks.harness import GO  # noqa: E402
from benchmarks.report import ratio  # noqa: E402

Document = Mapping[str, Any]

STAGES = ("20", "200", "2000")
PARKED = ("100", "1000", "10000", "100000")


def sections(documents: Sequence[Document], commit: str) -> dict[str, str]:
    """The text of each section of which everything was measured."""
    scripts = [document for document in documents if "benchmarks" in document]
    measured = core.rounds_of(scripts)
    served = [document for document in documents if "kinds" in document]
    made = {
        "core": core_goals(measured),
        "scale": scale(measured),
        "http": http(served[0]["kinds"]) if served else None,
    }
    return {
        name: f"{measured_at(served[0] if name == 'http' else scripts[0], commit)}\n\n{text}"
        for name, text in made.items()
        if text is not None
    }


def measured_at(document: Document, commit: str) -> str:
    """The sentence above the rows."""
    core = f", {document['tailrace core'].split()[0]} core" if "tailrace core" in document else ""
    return (
        f"Measured at {commit}: {document['python']}{core}, Go {document['go']},\n"
        f"{document['machine']}; medians of {document['rounds']} rounds."
    )


def core_goals(measured: Mapping[str, Any]) -> str | None:
    """A row for each goal of `benchmarks/core.py`."""
    rows = ["| what | goal, at most | measured | |", "|---|---|---|---|"]
    for goal in core.GOALS:
        value = core.reached(goal, measured)
        if value is None:
            return None
        verdict = "met" if value <= goal.limit else "**missed**"
        baseline = goal.baseline.removesuffix(", GOMAXPROCS=1")
        rows.append(f"| {goal.text} | {goal.limit:g} × {baseline} | {value:.2f} | {verdict} |")
    return "\n".join(rows)


def scale(measured: Mapping[str, Any]) -> str | None:
    """What a hop costs as stages and actors become more, against the smallest number."""
    rows = []
    for key, title, first, columns in (
        ("scale_relay", "stages", "2", STAGES),
        ("scale_parked", "actors parked on one channel", "10", PARKED),
    ):
        rounds = measured.get(key)
        rows += ["", f"| against {first} {title} | {' | '.join(columns)} |"]
        rows.append("|---|" + "---|" * len(columns))
        for name in (core.ACTORS, GO):
            cells = [ratio(rounds or {}, name, column, name, first) for column in columns]
            if None in cells:
                return None
            rows.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(rows[1:])


def http(kinds: talk_http.Rounds) -> str | None:
    """A row for each program, then one for each goal."""
    if set(kinds) != set(talk_http.KINDS):
        return None
    rows = [
        "| program | GET req/s | × Go | p99 ms | POST req/s | × Go | p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in kinds["get"]:
        cells: list[str] = []
        for kind in talk_http.KINDS:
            rounds = kinds[kind]
            against = talk_http.ratio(rounds, name, "rate", talk_http.GO)
            if against is None:
                return None
            rate, p99 = (median(each[f] for each in rounds[name]) for f in ("rate", "p99"))
            cells += [f"{rate:.0f}", f"{against:.2f}", f"{p99 * 1e3:.1f}"]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    rows += ["", "| goal | wanted | measured | |", "|---|---|---|---|"]
    for kind, name, figure, to, right, goal in talk_http.GOALS:
        value = talk_http.ratio(kinds[kind], name, figure, to)
        if value is None:
            return None
        verdict = "met" if right(value) else "**missed**"
        what = f"{kind.upper()}: {figure} of {name} × {to}"
        rows.append(f"| {what} | {goal} | {value:.2f} | {verdict} |")
    return "\n".join(rows)


def rewritten(page: str, texts: Mapping[str, str]) -> str:
    """The page with these sections in place of what it has. ValueError for one it does not have."""
    for name, text in texts.items():
        start, end = f"<!-- figures: {name} -->\n", "\n<!-- end -->"
        before, found, rest = page.partition(start)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"the page has no section {start.strip()} … {end.strip()}")
        page = f"{before}{start}{text}{end}{after}"
    return page


def commit() -> str:
    """The commit that is checked out, with ``-dirty`` if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Read the files and rewrite the page."""
    documents = [json.loads(Path(file).read_text("utf-8")) for file in sys.argv[1:]]
    texts = sections(documents, commit())
    PAGE.write_text(rewritten(PAGE.read_text("utf-8"), texts), "utf-8")
    print(f"docs/performance.md: wrote {', '.join(texts) or 'nothing'}")


if __name__ == "__main__":
    main()
