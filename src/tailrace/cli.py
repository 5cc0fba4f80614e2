"""Layer 6: the `tailrace` command.

``tailrace run FILE[:main]`` runs a program's own ``main(go)`` as `tailrace.run` does, with the
changes that options ask for. ``tailrace demo`` runs the program in `tailrace.demo`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import logging
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import tailrace
from tailrace._core import active, why
from tailrace.group import Group
from tailrace.group.internals import Main, intercepted, run_in

__all__ = ["main"]


class UsageError(Exception):
    """A wrong command line. The text says what is wrong, and what would be right."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. SystemExit: 1 if the program failed, 2 for wrong usage, or as `run`."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.command(options)
    except UsageError as error:
        print(f"tailrace: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tailrace", description=(tailrace.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a program's main(go)")
    run.set_defaults(command=_run)
    run.add_argument("program", metavar="FILE[:main]", help="a Python file or module")
    run.add_argument(
        "--actors",
        metavar="STAGE=N",
        action="append",
        default=[],
        help="number of actors of a stage, instead of the program's own (repeatable)",
    )
    _add_grace(run, None, "default: the program's own, else 30")

    demo = commands.add_parser("demo", help="the talk's pipeline: HTTP, three actors, SQLite")
    demo.set_defaults(command=_demo)
    demo.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    demo.add_argument("--database", type=Path, default=Path("events.db"), metavar="FILE")
    demo.add_argument("--no-traffic", action="store_true", help="send no requests of its own")
    demo.add_argument("--seconds", type=_seconds, metavar="N", help="drain after N seconds")
    _add_grace(demo, 30.0, "default: 30")
    return parser


def _add_grace(parser: argparse.ArgumentParser, default: float | None, says: str) -> None:
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=default,
        metavar="SECONDS",
        help=f"for how long it may drain after the first Ctrl-C ({says})",
    )


def _version() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    reason = f": {why}" if why else ""
    return f"tailrace {tailrace.__version__} ({active} core{reason}, {python})"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"wants seconds of 0 or more, not {text!r}")
    return seconds


def _run(options: argparse.Namespace) -> None:
    wanted = dict(_stage_actors(text) for text in options.actors)
    file, name = _file_and_name(options.program)
    ran = False

    def execute(main: Main, grace: float = 30.0) -> None:
        nonlocal ran
        ran = True
        _execute(main, grace if options.grace is None else options.grace, wanted)

    def program_ran(main: Main, grace: float) -> None:
        if not name:  # else another main function was asked for
            execute(main, grace)

    # If the file calls run() itself, the program runs there, as by `python FILE`.
    with intercepted(program_ran):
        module = _load_module(file)
    if not ran:
        execute(_main_of(module, file, name or "main"))


def _execute(main: Main, grace: float, wanted: dict[str, int]) -> None:
    unknown: list[str] = []

    async def main_then_check(go: Group) -> None:
        started = main(go)
        if inspect.isawaitable(started):
            await started
        stages = [stage.name for stage in go.graph().stages]
        unknown.extend(name for name in wanted if name not in stages)
        if unknown:
            unknown.append(f"its stages are {', '.join(stages) or 'none'}")
            go.cancel()

    run_in(_Rescaled(wanted), main_then_check, grace)
    if unknown:
        raise UsageError(f"--actors: the program has no stage {'; '.join(unknown)}")


def _stage_actors(text: str) -> tuple[str, int]:
    stage, _, number = text.rpartition("=")
    if not stage or not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--actors wants STAGE=N with N of at least 1, not {text!r}")
    return stage, int(number)


class _Rescaled(Group):
    """A group in which the command line sets the number of actors of some stages."""

    def __init__(self, wanted: dict[str, int]) -> None:
        super().__init__()
        self._wanted = wanted

    def _actors_of(self, stage: str, actors: int) -> int:
        return self._wanted.get(stage, actors)


def _file_and_name(program: str) -> tuple[str, str]:
    """``FILE:main`` taken apart. A colon in a path (``C:\\events.py``) is no separator."""
    file, _, name = program.rpartition(":")
    return (file, name) if file and name.isidentifier() else (program, "")


def _main_of(module: ModuleType, file: str, name: str) -> Main:
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{file} has no function {name}(go); name another one: {file}:NAME")

    def main(go: Group) -> Awaitable[None] | None:
        started: Awaitable[None] | None = found(go)
        return started

    return main


def _load_module(file: str) -> ModuleType:
    path = Path(file)
    if path.is_file():
        return _load_file(path)
    if path.suffix == ".py":
        raise UsageError(f"there is no file {file!r}")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        return importlib.import_module(file)
    except ModuleNotFoundError as error:
        if error.name and f"{file}.".startswith(f"{error.name}."):
            raise UsageError(f"there is no file and no module {file!r}") from None
        raise
    except (TypeError, ValueError):  # "./events", ".events", "" are no names of modules
        if all(part.isidentifier() for part in file.split(".")):
            raise
        raise UsageError(f"there is no file and no module {file!r}") from None


def _load_file(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.resolve().parent))  # for its imports, as `python FILE` does
    # A program may be called select.py: it must not replace the module `select` for others.
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"tailrace_program_{path.stem}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _demo(options: argparse.Namespace) -> None:
    try:
        from tailrace import demo
    except ModuleNotFoundError as error:
        raise UsageError(f"the demo needs {error.name}: pip install 'tailrace[http]'") from None
    try:
        server = demo.server_on(options.bind)
    except ValueError as error:
        raise UsageError(f"--bind: {error}") from None
    troubles: list[BaseException] = []
    try:
        demo.run_demo(
            server,
            database=options.database,
            traffic=not options.no_traffic,
            seconds=options.seconds,
            grace=options.grace,
        )
    except* (OSError, demo.StoreError) as failed:  # such as a port in use, or a missing folder
        troubles += failed.exceptions
    if troubles:
        sys.exit("\n".join(f"tailrace: {trouble}" for trouble in troubles))
