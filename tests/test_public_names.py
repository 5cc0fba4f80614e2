"""The public names: one path each, nothing missing from `__all__`, nothing undescribed.

The modules of layers 0 to 4 are the homes of what `tailrace` exports: the root's `__all__` is
exactly theirs together. What needs the world outside has a public module of its own instead, and
so has the error of stores, which stands in `errors` beside the others.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import pytest

import tailrace
import tailrace.store

ROOT = Path(__file__).parent.parent

# Modules that are public themselves, and those that are nobody's to import.
OUTER = {"asgi", "listen", "store", "testing"}
PROGRAMS = {"cli", "dashboard", "demo", "metrics"}
INSIDE = {
    "arguments",
    "classes",
    "clockwork",
    "deadline",
    "jsontext",
    "ledger",
    "usercode",
    "worker",
}  # what several packages use


def modules(short_names: set[str]) -> list[ModuleType]:
    return [importlib.import_module(f"tailrace.{name}") for name in sorted(short_names)]


CHILDREN = {info.name for info in pkgutil.iter_modules(tailrace.__path__)}
HOMES = modules({name for name in CHILDREN - OUTER - PROGRAMS - INSIDE if not name.startswith("_")})
PUBLIC = [tailrace, *modules(OUTER & CHILDREN)]
EXPORTED = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in PUBLIC
    for name in module.__all__
    if not name.startswith("__")
]


def bound_names(module: ModuleType) -> set[str]:
    """The public names that `module` defines, or takes over from its own submodules."""
    assert module.__file__ is not None
    names: set[str] = set()
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.ImportFrom(module=str(source), names=aliases) if source.startswith(
                f"{module.__name__}."
            ):
                names |= {alias.asname or alias.name for alias in aliases}
            case _:
                pass
    kinds = (TypeVar, ParamSpec, TypeVarTuple)
    public = {name for name in names if not name.startswith("_")}
    return {name for name in public if not isinstance(getattr(module, name, None), kinds)}


@pytest.mark.parametrize("module", [*PUBLIC, *HOMES], ids=lambda module: module.__name__)
def test_all_names_what_there_is_and_nothing_else(module: ModuleType) -> None:
    declared: list[str] = module.__all__
    assert [name for name, times in Counter(declared).items() if times > 1] == []
    assert [name for name in declared if not hasattr(module, name)] == []
    assert sorted(bound_names(module) - set(declared)) == [], "public, but not in __all__"


def test_root_exports_exactly_what_its_homes_declare() -> None:
    of_stores = set(tailrace.store.__all__)
    declared = Counter(name for home in HOMES for name in home.__all__ if name not in of_stores)
    assert [name for name, times in declared.items() if times > 1] == [], "in two homes"
    exported = set(tailrace.__all__) - {"__version__"}
    assert sorted(set(declared) - exported) == [], "declared by a home, not exported"
    assert sorted(exported - set(declared)) == [], "exported, declared by no home"
    for home in HOMES:
        for name in set(home.__all__) - of_stores:
            assert getattr(tailrace, name) is getattr(home, name)


def test_each_name_has_one_public_path() -> None:
    paths = Counter(name for module in PUBLIC for name in module.__all__)
    # A word may be public twice where it means two things; an object may not.
    for name in (name for name, times in paths.items() if times > 1):
        found = [getattr(module, name) for module in PUBLIC if name in module.__all__]
        assert len({id(each) for each in found}) == len(found), f"{name} has two public paths"


@pytest.mark.parametrize("exported", EXPORTED)
def test_each_public_class_and_function_says_what_it_is(exported: Any) -> None:
    if inspect.isclass(exported):
        assert vars(exported).get("__doc__"), "no docstring of its own"
    elif callable(exported):
        assert inspect.getdoc(exported), "no docstring"


@pytest.mark.parametrize(
    "exported", [param for param in EXPORTED if inspect.isclass(param.values[0])]
)
def test_each_public_class_shows_itself(exported: type) -> None:
    """Exceptions, dataclasses and tuples do; a protocol leaves it to whoever implements it."""
    shown_by: object = exported.__repr__
    assert getattr(exported, "_is_protocol", False) or shown_by is not object.__repr__


def test_version_is_the_one_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tailrace.__version__ == project["version"]
