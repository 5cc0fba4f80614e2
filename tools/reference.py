"""Write docs/reference.md: every public name with its signature and its docstring.

    python tools/reference.py            # writes the page
    python tools/reference.py --check    # exits with 1 if the page is not what would be written

Signatures are copied from the source of the Python core and of the modules above it, so the page
is the same with either core and on every version of Python.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import functools
import importlib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tailrace._core.python

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
MODULES = ("tailrace", "tailrace.asgi", "tailrace.listen", "tailrace.store", "tailrace.testing")
WIDTH = 88

HEAD = """\
# Reference

Every public name, with its signature and what it promises. `make reference` writes this page: edit
the docstrings, not the page. [The other pages](../README.md#the-documentation) explain when to use
what.
"""

STANDS_FOR = {
    "CoreOperation": "Operation",
    "ReceivingEnd": "Receiver",
    "SendingEnd": "Sender",
    "SyncReceivingEnd": "SyncReceiver",
    "SyncSendingEnd": "SyncSender",
}
"""The core's classes, and the public names by which users know them."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """The whole page as it should be."""
    modules = [importlib.import_module(name) for name in MODULES]
    public = {name for module in modules for name in module.__all__}
    parts = [HEAD]
    seen: Counter[str] = Counter()
    for module in modules:
        names = sorted((n for n in module.__all__ if not n.startswith("__")), key=str.lower)
        links = " · ".join(f"[{name}](#{anchor(name, module, seen)})" for name in names)
        parts += [f"## {module.__name__}\n", f"{links}\n"]
        for name in names:
            parts += entry(name, module, public)
    return "\n".join(parts)


def anchor(name: str, module: ModuleType, seen: Counter[str]) -> str:
    """What forges make of the heading; they number headings that are equal but for their case."""
    plain = title(name, module).lower().replace(".", "")
    seen[plain] += 1
    return f"{plain}-{seen[plain] - 1}" if seen[plain] > 1 else plain


def title(name: str, module: ModuleType) -> str:
    """The heading of a name: with its module, unless that is the root."""
    return name if module.__name__ == "tailrace" else f"{module.__name__}.{name}"


def entry(name: str, module: ModuleType, public: set[str]) -> Iterator[str]:
    """What is said of one public name."""
    found = getattr(tailrace._core.python, name, None) or getattr(module, name)
    yield f"### {title(name, module)}\n"
    source = Source.of(inspect.unwrap(found))
    if inspect.isclass(found):
        yield code(class_head(found, source))
        yield from described(found, source, public)
        for member, owner in members(found):
            yield from member_entry(name, member, owner, public)
    else:
        assert isinstance(source.node, Function)
        yield code(source.signature(source.node))
        yield from described(found, source, public)


def described(found: object, source: Source, public: set[str]) -> Iterator[str]:
    """The docstring, and the aliases that the signature uses."""
    text = inspect.getdoc(found)
    if text:
        yield f"{text}\n"
    aliases = source.aliases(public)
    if aliases:
        yield "\n".join(f"- `{alias}` is `{meaning}`" for alias, meaning in aliases) + "\n"


def code(text: str) -> str:
    """A block of code."""
    return f"```text\n{text}\n```\n"


def class_head(found: type, source: Source) -> str:
    """How an object of the class is made; of errors and protocols only what they are."""
    assert isinstance(source.node, ast.ClassDef)
    bases = [
        base.__name__ for base in found.__bases__ if base.__name__ not in ("object", "Generic")
    ]
    if getattr(found, "_is_protocol", False):
        return f"class {found.__name__}: a protocol"
    fields = [
        node
        for node in source.node.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    if hasattr(found, "__dataclass_fields__") or hasattr(found, "_fields"):
        return call(found.__name__, [source.text(node) for node in fields if is_public(node)])
    for owner in found.__mro__:
        init = vars(owner).get("__init__")
        if inspect.isfunction(init) and owner.__module__.startswith("tailrace"):
            made = Source.of(init)
            assert isinstance(made.node, Function)
            return call(found.__name__, made.parameters(made.node))
    return f"class {found.__name__}({', '.join(bases)})" if bases else f"class {found.__name__}"


def is_public(node: ast.AnnAssign) -> bool:
    """Whether the field is for users."""
    return isinstance(node.target, ast.Name) and not node.target.id.startswith("_")


def members(found: type) -> list[tuple[str, type]]:
    """The public methods and properties, each with the class that describes it, by name."""
    owners: dict[str, type] = {}
    for owner in found.__mro__:
        if not owner.__module__.startswith("tailrace"):
            continue
        for name, value in vars(owner).items():
            described = isinstance(value, property | staticmethod | classmethod) or (
                inspect.isfunction(value)
            )
            public = not name.startswith("_") or name in ("__call__", "__aiter__")
            if public and described and name not in owners and inspect.getdoc(value):
                owners[name] = owner
    return sorted(owners.items(), key=lambda item: (item[0].startswith("_"), item[0]))


def member_entry(name: str, member: str, owner: type, public: set[str]) -> Iterator[str]:
    """What is said of one method or property of the class `name`."""
    value = vars(owner)[member]
    is_property = isinstance(value, property)
    function = value.fget if is_property else getattr(value, "__func__", value)
    source = Source.of(inspect.unwrap(function))
    assert isinstance(source.node, Function)
    if is_property:
        returns = source.node.returns
        yield code(
            f"{name}.{member}" + (f": {source.text(returns)}" if returns is not None else "")
        )
    else:
        yield code(source.signature(source.node, f"{name}."))
    yield from described(value, source, public)


def call(name: str, parameters: list[str], tail: str = "") -> str:
    """A call on one line if it fits, else with a line for each parameter."""
    line = f"{name}({', '.join(parameters)}){tail}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in parameters), f"){tail}"])


@dataclass(frozen=True)
class Source:
    """The syntax tree of a class or function, and the text that it is of."""

    module: str
    code: str
    node: ast.stmt

    @classmethod
    def of(cls, found: Any) -> Source:
        """The source of a class or function."""
        lines, _ = inspect.getsourcelines(found)
        text = dedented(lines)
        return cls(found.__module__, text, ast.parse(text).body[0])

    def text(self, node: ast.AST) -> str:
        """What is written there, on one line."""
        found = ast.get_source_segment(self.code, node)
        assert found is not None
        return re.sub(r"\w+", lambda m: STANDS_FOR.get(m[0], m[0]), one_line(found))

    def signature(self, node: Function, owner: str = "") -> str:
        """How the function is called, a method as ``Owner.method``."""
        start = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
        tail = f" -> {self.text(node.returns)}" if node.returns is not None else ""
        if isinstance(node, ast.AsyncFunctionDef) and yields(node):
            start = "async for … in "
        return start + call(owner + node.name, self.parameters(node), tail)

    def parameters(self, node: Function) -> list[str]:
        """The parameters as they are written, without `self`."""
        given = node.args
        positional = [*given.posonlyargs, *given.args]
        missing: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
        texts = [
            self._parameter(each, default)
            for each, default in zip(positional, [*missing, *given.defaults], strict=True)
        ]
        if given.posonlyargs:
            texts.insert(len(given.posonlyargs), "/")
        if positional and positional[0].arg in ("self", "cls"):
            del texts[0]
            if texts[:1] == ["/"]:
                del texts[0]
        if given.vararg is not None:
            texts.append("*" + self._parameter(given.vararg, None))
        elif given.kwonlyargs:
            texts.append("*")
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        texts += [self._parameter(each, default) for each, default in pairs]
        if given.kwarg is not None:
            texts.append("**" + self._parameter(given.kwarg, None))
        return texts

    def _parameter(self, node: ast.arg, default: ast.expr | None) -> str:
        text = self.text(node)
        if default is None:
            return text
        return (
            f"{text} = {self.text(default)}" if node.annotation else f"{text}={self.text(default)}"
        )

    def aliases(self, public: set[str]) -> list[tuple[str, str]]:
        """The type aliases of tailrace that the signature names, with what they stand for."""
        names: list[str] = []
        head = [self.node.args, self.node.returns] if isinstance(self.node, Function) else []
        if isinstance(self.node, ast.ClassDef):
            head = [each.annotation for each in self.node.body if isinstance(each, ast.AnnAssign)]
            head += [
                each.args
                for each in self.node.body
                if isinstance(each, ast.FunctionDef) and each.name == "__init__"
            ]
        for part in head:
            for node in ast.walk(part) if part is not None else ():
                if isinstance(node, ast.Name) and node.id not in (*names, *public):
                    names.append(node.id)
        found = [(name, alias(name, self.module)) for name in names if not hasattr(builtins, name)]
        return [(name, meaning) for name, meaning in found if meaning is not None]


def yields(node: Function) -> bool:
    """Whether it is a generator function."""
    return any(isinstance(each, ast.Yield) for each in ast.walk(node))


@functools.cache
def tree(module: str) -> tuple[str, ast.Module] | None:
    """The text and the syntax tree of a module; None if it is none of tailrace's."""
    file = getattr(importlib.import_module(module), "__file__", None)
    if not module.startswith("tailrace") or file is None:
        return None
    text = Path(file).read_text("utf-8")
    return text, ast.parse(text)


def alias(name: str, module: str) -> str | None:
    """What the alias `name` of `module` stands for; None if it is none of tailrace's."""
    found = tree(module)
    if found is None:
        return None
    text, parsed = found
    for node in ast.walk(parsed):
        match node:
            case ast.AnnAssign(
                target=ast.Name(id=target), annotation=ast.Name(id="TypeAlias"), value=value
            ) if target == name and value is not None:
                return one_line(ast.get_source_segment(text, value) or "").strip("\"'")
            case ast.ImportFrom(module=str(source), names=imported) if any(
                (each.asname or each.name) == name for each in imported
            ):
                original = next(e.name for e in imported if (e.asname or e.name) == name)
                return alias(original, source) if source.startswith("tailrace") else None
            case _:
                pass
    return None


def one_line(text: str) -> str:
    """The code without its line breaks, and without the comma before a closing bracket."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r",? ([)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", text))


def dedented(lines: list[str]) -> str:
    """The lines as they would stand at the top level."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "".join(line[indent:] if line.strip() else line for line in lines)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md of the docstrings.")
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    wanted = page()
    if not parser.parse_args().check:
        PAGE.write_text(wanted, "utf-8")
    elif PAGE.read_text("utf-8") != wanted:
        sys.exit("docs/reference.md is stale: run `make reference`")


if __name__ == "__main__":
    main()
