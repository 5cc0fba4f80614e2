"""Mutation testing: does the suite notice when a line is changed?

Changes one small thing at a time in a package (a comparison, a constant, an operator, a statement)
and runs the tests that execute the changed line. A mutant that no test notices is printed as a
diff, any other with a test that does. The sample depends on `--seed` alone::

    make mutate PACKAGE=gather MUTATE_ARGS='--sample 60 --seed 1'

How it works
- One run of the tests under coverage says which test executes which line. A mutant that these
  tests let live meets all others too: a test may execute the line in a process of its own.
- Each worker has a copy of `src` of its own, which PYTHONPATH puts before the installed package.
- A mutant is killed if a test fails, and fails again by itself: one that fails now and then is left
  out. It is killed too if a test, or all of them, take several times as long as before; how many
  were, the last line says.
- Not changed are annotations, docstrings, texts, `__repr__`, and code for type checkers only.

Whether a mutant that lived is equivalent to the program is for a person to say: give its name,
``--equivalent gather/tuning.py:44:12:<operator>``, to leave it out of the figure.
"""

from __future__ import annotations

import argparse
import ast
import bisect
import collections
import difflib
import itertools
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import session

TEST_SECONDS: Final = 60  # for one test
NOTHING_RAN: Final = 5  # an exit code of pytest
TOO_LONG: Final = "the tests take too long"

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tailrace"

# Tests of a package beside those in its own folder, and the folders of modules that share one.
TESTS = {
    "actors": ["tests/actors"],
    "gather": ["tests/gather", "tests/test_gather.py"],
    "group": ["tests/group", "tests/test_cli.py"],
    "listen": ["tests/listen", "tests/faults/test_http_drain.py"],
    "message": ["tests/test_message.py", "tests/actors", "tests/store/test_store.py"],
    "store": [
        "tests/store",
        "tests/faults/test_store_outages.py",
        "tests/faults/test_store_replaced.py",
    ],
    "testing": ["tests/testing"],
    "_core/python": ["tests/core"],
}

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}


@dataclass(frozen=True)
class Mutant:
    """One change: bytes `start` to `end` of `path` become `text`."""

    path: Path
    line: int
    """What coverage calls the line."""
    place: str
    """Line and column of the change, as editors count them."""
    start: int
    end: int
    text: str
    operator: str
    on_import: bool
    """Whether the line is executed when its module is imported, and not when it is used."""

    @property
    def name(self) -> str:
        """What `--equivalent` calls it."""
        return f"{self.path.relative_to(PACKAGE)}:{self.place}:{self.operator}"

    def apply(self, source: bytes) -> bytes:
        """The source with this change."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self) -> str:
        """The change as a person reads it."""
        before = self.path.read_bytes()
        lines = difflib.unified_diff(
            before.decode().splitlines(), self.apply(before).decode().splitlines(), lineterm="", n=1
        )
        return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


class Finder(ast.NodeVisitor):
    """Collects the mutants of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path.read_bytes()
        self.found: list[Mutant] = []
        self._on_import = True
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _add(self, node: ast.expr | ast.stmt, text: str, operator: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._at(node.lineno, node.col_offset)
        end = self._at(node.end_lineno, node.end_col_offset)
        self._found(node.lineno, start, end, text, operator)

    def _found(self, line: int, start: int, end: int, text: str, operator: str) -> None:
        at = bisect.bisect(self._starts, start)
        place = f"{at}:{start - self._starts[at - 1] + 1}"
        self.found.append(
            Mutant(self.path, line, place, start, end, text, operator, self._on_import)
        )

    def _between(self, left: ast.expr, right: ast.expr, text: str, operator: str) -> None:
        """Replace the operator that stands between two operands."""
        assert left.end_lineno is not None
        assert left.end_col_offset is not None
        start = self._at(left.end_lineno, left.end_col_offset)
        end = self._at(right.lineno, right.col_offset)
        old = self.source[start:end]
        # Parentheses and line breaks around the operator stay as they are.
        word = old.decode().replace("(", " ").replace(")", " ").split()
        token = " ".join(part for part in word if not part.startswith("#"))
        at = old.find(token.encode())
        if not token or at < 0:
            return
        start += at
        self._found(left.end_lineno, start, start + len(token), text, operator)

    def _text(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.source.decode(), node) or ""

    # --- what is left alone

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Bodies and defaults, not annotations nor decorators."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """As for a plain function."""
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in ("__repr__", "__str__", "__dir__"):
            return
        if any("overload" in ast.dump(decorator) for decorator in node.decorator_list):
            return
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        outside, self._on_import = self._on_import, False
        for statement in node.body:
            self.visit(statement)
        self._on_import = outside

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value only."""
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts are for people."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Not the parameters of generic types."""
        self.visit(node.value)
        if not isinstance(node.value, ast.Name) or not node.value.id[:1].isupper():
            self.visit(node.slice)

    def visit_If(self, node: ast.If) -> None:
        """Not what only type checkers read."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.generic_visit(node)

    # --- what is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        """``<`` to ``<=``, ``is`` to ``is not``."""
        operands = [node.left, *node.comparators]
        for index, operator in enumerate(node.ops):
            text = COMPARISONS[type(operator)]
            self._between(operands[index], operands[index + 1], text, "compare")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """``and`` to ``or``."""
        text = "or" if isinstance(node.op, ast.And) else "and"
        for index in range(len(node.values) - 1):
            self._between(node.values[index], node.values[index + 1], text, "bool")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """``+`` to ``-``."""
        text = OPERATORS.get(type(node.op))
        if text is not None and not isinstance(node.left, ast.Constant | ast.JoinedStr):
            self._between(node.left, node.right, text, "arithmetic")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without its ``not``."""
        if isinstance(node.op, ast.Not):
            self._add(node, f"({self._text(node.operand)})", "not")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Numbers one more, truth the other way round."""
        if isinstance(node.value, bool):
            self._add(node, str(not node.value), "constant")
        elif isinstance(node.value, int | float):
            self._add(node, str(node.value + 1), "constant")

    def visit_Expr(self, node: ast.Expr) -> None:
        """A statement that calls something: without it."""
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call | ast.Await) and "_log" not in self._text(node.value):
            self._add(node, "pass", "statement")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """An assignment to an attribute: without it."""
        if any(isinstance(target, ast.Attribute) for target in node.targets):
            self._add(node, "pass", "assignment")
        if not (isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__slots__"):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """The same for ``+=``."""
        self._add(node, "pass", "assignment")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        """An early return without a value: go on instead."""
        if node.value is None:
            self._add(node, "pass", "return")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """A bare re-raise: swallow instead."""
        if node.exc is None:
            self._add(node, "pass", "raise")

    def visit_Break(self, node: ast.Break) -> None:
        """``break`` to ``continue``."""
        self._add(node, "continue", "break")

    def visit_Continue(self, node: ast.Continue) -> None:
        """``continue`` to ``break``."""
        self._add(node, "break", "break")


def mutants_of(package: str) -> Iterator[Mutant]:
    """All mutants of a package's modules that compile."""
    for path in sorted((PACKAGE / package).rglob("*.py")):
        finder = Finder(path)
        finder.visit(ast.parse(finder.source))
        for mutant in finder.found:
            try:
                compile(mutant.apply(finder.source), str(path), "exec")
            except SyntaxError:
                continue
            yield mutant


class Lines:
    """Which tests execute a line, and how long the tests take."""

    def __init__(self, tests: Sequence[str], pytest_args: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "coverage")
            options = ["--cov=tailrace", "--cov-context=test", "--cov-report="]
            started = time.monotonic()
            ended = _pytest(
                ROOT / "src", [*tests, *options, *pytest_args], {"COVERAGE_FILE": str(data)}, None
            )
            self.seconds = time.monotonic() - started
            if ended.code:
                sys.stdout.write(ended.output[-4000:])
                raise SystemExit("the tests fail without any mutant")
            with sqlite3.connect(data) as database:
                self._tests = self._read(database)
        executed = itertools.chain.from_iterable(self._tests.values())
        self._breadth = collections.Counter(executed)  # how many lines a test executes

    @staticmethod
    def _read(database: sqlite3.Connection) -> dict[tuple[str, int], set[str]]:
        tests: dict[tuple[str, int], set[str]] = {}
        rows = database.execute(
            "SELECT path, context, numbits FROM line_bits"
            " JOIN file ON file.id = file_id JOIN context ON context.id = context_id"
        )
        for path, context, bits in rows:
            test = context.rpartition("|")[0]  # then follows the phase; a test's id may have a "|"
            if not test:
                continue  # executed while modules are imported, or after the test
            for index, byte in enumerate(bits):
                for bit in range(8):
                    if byte >> bit & 1:
                        tests.setdefault((path, index * 8 + bit), set()).add(test)
        return tests

    def named(self, line: str) -> str | None:
        """The test that a line of pytest's summary, ``FAILED <test> - <why>``, is about."""
        text = line.partition(" ")[2]
        # A test's id may have " - " in it.
        return max((test for test in self._breadth if text.startswith(test)), key=len, default=None)

    def tests(self, mutant: Mutant, all_tests: Sequence[str]) -> list[str]:
        """The tests to run for a mutant: all, if its line is executed by an import or outside.

        Those that execute few lines come first: they are quick, and most likely to notice.
        """
        found = self._tests.get((str(mutant.path), mutant.line))
        if not found or mutant.on_import:
            return list(all_tests)
        return sorted(found, key=lambda test: (self._breadth[test], test))


def _pytest(
    source: Path, arguments: Sequence[str], extra: dict[str, str], seconds: float | None
) -> session.Ended:
    """Run pytest on the package in `source`, for at most `seconds`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", **extra}
    return session.run([*command, *arguments], cwd=ROOT, seconds=seconds, env=environment)


def _failure(ended: session.Ended) -> str | None:
    """What failed, in pytest's words; None if nothing did."""
    if ended.code is None or "+ Timeout +" in ended.output:
        return TOO_LONG
    if "ERROR: not found: " in ended.output:
        raise SystemExit(f"pytest does not find what it ran before:\n{ended.output}")
    if ended.code in (0, NOTHING_RAN):
        return None
    lines = ended.output.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR tests"))]
    return failed[0] if failed else f"pytest ends with {ended.code}"


class Workers:
    """Runs mutants, each in a copy of the sources that no other worker uses at the time."""

    def __init__(self, folder: Path, count: int, lines: Lines, tests: Sequence[str]) -> None:
        self._lines = lines
        self._tests = tests
        self._copies: SimpleQueue[Path] = SimpleQueue()
        for index in range(count):
            copy = folder / f"src{index}"
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
            self._copies.put(copy)

    def killed_by(self, mutant: Mutant) -> str | None:
        """The test that fails with this mutant, in pytest's words; None if the mutant lives."""
        copy = self._copies.get()
        target = copy / mutant.path.relative_to(ROOT / "src")
        before = target.read_bytes()
        try:
            target.write_bytes(mutant.apply(before))
            selected = self._lines.tests(mutant, self._tests)
            failure = self._failure(copy, selected)
            if failure is None and selected != list(self._tests):
                # What programs in processes of their own execute is not known.
                failure = self._failure(copy, list(self._tests))
            return failure
        finally:
            target.write_bytes(before)
            self._copies.put(copy)

    def _failure(self, copy: Path, selected: list[str]) -> str | None:
        seconds = 120 + 6 * self._lines.seconds
        # By a thread, which ends the process: what a mutant leaves could keep pytest from that.
        hangs = ["-o", f"timeout={TEST_SECONDS}", "-o", "timeout_method=thread"]
        while True:
            failure = _failure(_pytest(copy, [*hangs, *selected], {}, seconds))
            test = None if failure is None else self._lines.named(failure)
            if test is None or _failure(_pytest(copy, [*hangs, test], {}, seconds)) is not None:
                return failure
            print(f"passes when it is run again: {test}", flush=True)
            selected = [*selected, f"--deselect={test}"]


def main() -> int:
    """Run as the module's docstring says. Exit code 1 if fewer are killed than `--at-least`."""
    parser = argparse.ArgumentParser(description="mutation testing of one package")
    parser.add_argument("package", choices=sorted(TESTS))
    parser.add_argument("--sample", type=int, default=60, help="how many mutants (0: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=90.0, help="per cent")
    parser.add_argument("--only", default="", help="only mutants whose name contains this")
    parser.add_argument("--deselect", action="append", default=[], metavar="ID", help="of a test")
    parser.add_argument("--equivalent", action="append", default=[], metavar="NAME")
    options = parser.parse_args()

    tests = [*TESTS[options.package], *(f"--deselect={test}" for test in options.deselect)]
    mutants = [mutant for mutant in mutants_of(options.package) if options.only in mutant.name]
    count = len(mutants)
    if 0 < options.sample < count:
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    mutants = [mutant for mutant in mutants if mutant.name not in options.equivalent]
    print(f"{options.package}: {len(mutants)} of {count} mutants, seed {options.seed}")
    lines = Lines(tests, ["-n", "2", "--dist", "worksteal"])
    lived: list[Mutant] = []
    slow = 0
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder), options.workers, lines, tests)
        with ThreadPoolExecutor(options.workers) as pool:
            for mutant, test in zip(mutants, pool.map(workers.killed_by, mutants), strict=True):
                if test is None:
                    lived.append(mutant)
                    print(f"\nlived: {mutant.name}\n{mutant.diff()}\n", flush=True)
                else:
                    slow += test == TOO_LONG
                    print(f"killed: {mutant.name} by {test}"[:200], flush=True)
    killed = len(mutants) - len(lived)
    share = 100 * killed / max(1, len(mutants))
    print(
        f"\n{options.package}: {killed} of {len(mutants)} killed: {share:.0f} %"
        f" ({slow} of them as the tests took too long)"
    )
    return 0 if share >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
