"""The layers of design, read from the code's own imports: they only go down.

`problems` reads a source tree without running it; it is tried on a small tree of wrong modules
first, so that the test of the real tree is known to be able to fail.
"""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"

# A module belongs to the longest of these names that it is or lies in.
LAYERS = {
    "tailrace.errors": 0,
    "tailrace.usercode": 0,
    "tailrace.deadline": 0,
    "tailrace.jsontext": 0,
    "tailrace.worker": 0,
    "tailrace._core": 0,
    "tailrace.channel": 1,
    "tailrace.retry": 1,
    "tailrace.clockwork": 2,
    "tailrace.select": 2,
    "tailrace.timers": 2,
    "tailrace.group": 3,
    "tailrace.actors": 4,
    "tailrace.gather": 4,
    "tailrace.message": 4,
    "tailrace.testing": 4,  # of its modules, only `pipeline` needs to be: it settles messages
    "tailrace": 4.5,  # re-exports what is below; nothing below may come back through it
    "tailrace.listen": 5,
    "tailrace.store": 5,
    "tailrace.__main__": 6,
    "tailrace.cli": 6,
    "tailrace.dashboard": 6,
    "tailrace.demo": 6,
    "tailrace.metrics": 6,
}
OUTSIDE = 5  # from here up, modules may use third-party packages
GUESTS = {  # and these may, below
    ("tailrace.group.runner", "uvloop"),  # where it is installed
    ("tailrace.jsontext", "msgspec"),  # for a Struct, so it is installed
    ("tailrace.testing.plugin", "pytest"),  # which is what loads it
}
# Of 3.14; and of 3.15's `traceback`, which does not list it.
STANDARD = sys.stdlib_module_names | {"annotationlib", "_missing_stdlib_info"}
TWINS = ("tailrace._core.python", "tailrace._core.native")
SELECTOR = "tailrace._core"


@dataclass(frozen=True)
class Import:
    """`source` imports `target` on `line`; `now` if it does so while it is itself imported."""

    source: str
    target: str
    line: int
    now: bool


def module_names(src: Path) -> dict[str, Path]:
    names = {}
    for path in sorted(src.rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    def visit(node: ast.AST, now: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(module, target, getattr(node, "lineno", 0), now)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for field, value in ast.iter_fields(node):
            # `if TYPE_CHECKING or …` may run its body, `if TYPE_CHECKING` never does
            never = isinstance(node, ast.If) and field == "body" and is_type_checking(node.test)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, now and not inside and not never)

    def targets(node: ast.AST) -> list[str]:
        match node:
            case ast.Import(names=names):
                return [alias.name for alias in names]
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    return ["." * level + (base or "")]
                inner = [f"{base}.{alias.name}" for alias in names]
                return [name if name in known else str(base) for name in inner]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                return [name]
            case _:
                return []

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def layer_of(module: str) -> float | None:
    """None for a module that the table does not place: the root's own layer is not inherited."""
    name = module
    while "." in name:
        if name in LAYERS:
            return LAYERS[name]
        name = name.rpartition(".")[0]
    return LAYERS.get(module)


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def problem_with(it: Import) -> str | None:
    source, target = layer_of(it.source), layer_of(it.target)
    top = it.target.partition(".")[0]
    if source is None:
        return None  # said once, for the module
    if it.target.startswith("."):
        return "relative import"
    if top != "tailrace":
        standard = top in STANDARD or (top == "_typeshed" and not it.now)
        if standard or source >= OUTSIDE or (it.source, top) in GUESTS:
            return None
        return "third-party import below layer 5"
    for twin in TWINS:
        shared = within(it.source, SELECTOR) and not it.now  # its types, in what both cores share
        if (
            within(it.target, twin)
            and not within(it.source, twin)
            and it.source != SELECTOR
            and not shared
        ):
            return "only the selector imports a core twin"
    if target is not None and target > source:
        return f"upward, from layer {source:g} to {target:g}"
    return None


def problems(src: Path) -> list[str]:
    """Everything wrong with the imports under `src`, one line each."""
    known = module_names(src)
    found = [f"{name}: has no layer" for name in known if layer_of(name) is None]
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for it in imports_of(name, path, known):
            if wrong := problem_with(it):
                found.append(f"{name}:{it.line}: imports {it.target}: {wrong}")
            if it.now and it.target in known and it.target != name:
                graph[name].add(it.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("cycle: " + " <- ".join(error.args[1]))
    return found


WRONG_TREE = {
    "__init__.py": "from tailrace.select import select\nimport tailrace.cli\n",
    "errors.py": "",
    "_core/__init__.py": "from tailrace._core.python import *\n",
    "_core/python/__init__.py": "from tailrace._core.python import waiter\n",
    "_core/python/waiter.py": "if TYPE_CHECKING:\n    from tailrace._core import python\n",
    "channel.py": "from tailrace import _core\nfrom tailrace._core import python\n",
    "select.py": "import asyncio\nfrom . import channel\ndef f():\n    import msgspec\n",
    "timers.py": "import importlib\nimportlib.import_module('tailrace.group')\n",
    "group.py": "if TYPE_CHECKING:\n    from tailrace.actors import each\n",
    "gather.py": "import tailrace.message\n",
    "message.py": "import tailrace.gather\nfrom tailrace import Channel\n",
    "listen/http.py": "import granian\nfrom tailrace import Channel\n",
    "testing/plugin.py": "import pytest\nimport hypothesis\n",
    "cli.py": "import msgspec\n",
    "surprise.py": "",
}


def write(tree: dict[str, str], src: Path) -> None:
    for name, text in tree.items():
        path = src / "tailrace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_each_kind_of_wrong_import_is_found(tmp_path: Path) -> None:
    write(WRONG_TREE, tmp_path)

    *found, cycle = problems(tmp_path)

    assert found == [
        "tailrace.surprise: has no layer",
        "tailrace:2: imports tailrace.cli: upward, from layer 4.5 to 6",
        "tailrace.channel:2: imports tailrace._core.python: only the selector imports a core twin",
        "tailrace.group:2: imports tailrace.actors: upward, from layer 3 to 4",
        "tailrace.message:2: imports tailrace: upward, from layer 4 to 4.5",
        "tailrace.select:2: imports .: relative import",
        "tailrace.select:4: imports msgspec: third-party import below layer 5",
        "tailrace.testing.plugin:2: imports hypothesis: third-party import below layer 5",
        "tailrace.timers:2: imports tailrace.group: upward, from layer 2 to 3",
    ]
    assert cycle in (
        "cycle: tailrace.gather <- tailrace.message <- tailrace.gather",
        "cycle: tailrace.message <- tailrace.gather <- tailrace.message",
    )


def test_imports_only_go_down() -> None:
    found = problems(SRC)
    assert not found, "\n".join(found)


def fresh_process(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", [name for name in module_names(SRC) if "__main__" not in name])
def test_each_module_imports_alone(module: str) -> None:
    fresh_process(f"import {module}")


@pytest.mark.parametrize("module", ["tailrace", "tailrace.cli"])
def test_base_install_needs_nothing_but_the_standard_library(module: str) -> None:
    loaded = json.loads(
        fresh_process(
            "import json, sys; before = set(sys.modules); "
            f"import {module}; print(json.dumps(sorted(set(sys.modules) - before)))"
        )
    )
    assert module in loaded
    tops = {name.partition(".")[0] for name in loaded}
    assert tops - STANDARD == {"tailrace"}
    if module == "tailrace":
        assert [name for name in loaded if (layer_of(name) or 0) >= OUTSIDE] == []
