"""How the package is built and installed, with and without a C compiler, and how a core is chosen.

Nothing here needs the network: the build backend is the one of the environment of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; print(build_meta.build_{}('dist'))"
CHOSEN = """
import sys
class Recorder:
    names = set()
    def find_spec(self, name, path, target=None):
        self.names.add(name)
sys.meta_path.insert(0, Recorder())
from tailrace import _core
print(_core.active, "tailrace._core.native" in Recorder.names)
"""

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.platform == "win32", reason="compiles with cc"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the package is built from, with nothing built in it."""
    tree = tmp_path / "tree"
    built = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=built)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def python(
    tree: Path, *arguments: str, succeeds: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in `tree`; what it must not do is succeed (or fail) against our word."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=ours | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done


def chosen(tree: Path, where: str, succeeds: bool = True, **environment: str) -> str:
    """The core that an interpreter takes from `where`, and whether it looked for the native one."""
    done = python(tree, "-c", CHOSEN, PYTHONPATH=where, succeeds=succeeds, **environment)
    return done.stdout.strip() if succeeds else done.stderr.strip().splitlines()[-1]


def test_without_a_compiler_the_python_core_is_installed_and_says_so(tree: Path) -> None:
    python(
        tree,
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--disable-pip-version-check", "--target", "installed", "."),
        CC="/nonexistent",
    )
    assert not list(tree.glob("installed/**/_engine*.so"))
    assert chosen(tree, "installed").startswith("python")
    version = python(tree, "-m", "tailrace", "--version", PYTHONPATH="installed").stdout
    assert "(python core: the native one was not built" in version


def test_with_a_compiler_the_wheel_has_the_engine_and_not_its_source(tree: Path) -> None:
    built = python(tree, "-c", BUILD.format("wheel"), TAILRACE_NATIVE="yes", TAILRACE_CFLAGS="-O0")
    with zipfile.ZipFile(tree / "dist" / built.stdout.splitlines()[-1]) as wheel:
        names = wheel.namelist()
        wheel.extractall(tree / "installed")
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert chosen(tree, "installed") == "native True"


def test_the_source_distribution_has_the_engine_even_where_it_cannot_be_built(tree: Path) -> None:
    built = python(tree, "-c", BUILD.format("sdist"), CC="/nonexistent")
    with tarfile.open(tree / "dist" / built.stdout.splitlines()[-1]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("src/**/*.[ch]")}
    assert sources
    assert sources | {"setup.py"} <= packed


def test_a_compiler_that_is_asked_for_and_missing_fails_the_build(tree: Path) -> None:
    done = python(
        tree, "setup.py", "build_ext", CC="/nonexistent", TAILRACE_NATIVE="yes", succeeds=False
    )
    assert "TAILRACE_NATIVE=yes, but there is no C compiler (/nonexistent)" in done.stderr


def test_a_way_to_build_that_is_none_is_refused(tree: Path) -> None:
    done = python(tree, "setup.py", "build_ext", TAILRACE_NATIVE="maybe", succeeds=False)
    assert "TAILRACE_NATIVE must be auto, yes or no, not 'maybe'" in done.stderr


def test_c_that_does_not_compile_fails_the_build_although_nobody_asked_for_it(tree: Path) -> None:
    with (tree / "src/tailrace/_core/native/parking.c").open("a", encoding="utf-8") as source:
        source.write("this is no C;\n")
    done = python(tree, "setup.py", "build_ext", TAILRACE_NATIVE="auto", succeeds=False)
    assert "parking.c" in done.stdout + done.stderr


def test_the_core_that_is_wanted_by_name_is_never_replaced_by_another(tree: Path) -> None:
    assert chosen(tree, "src") == "python True"  # it was looked for
    assert chosen(tree, "src", TAILRACE_CORE="auto") == "python True"
    assert chosen(tree, "src", TAILRACE_CORE="python") == "python False"
    missing = chosen(tree, "src", TAILRACE_CORE="native", succeeds=False)
    assert missing == "ModuleNotFoundError: No module named 'tailrace._core.native._engine'"
    wrong = chosen(tree, "src", TAILRACE_CORE="rust", succeeds=False)
    assert wrong == "ImportError: TAILRACE_CORE must be auto, native or python, not 'rust'"


def test_an_engine_that_is_there_but_broken_is_no_reason_to_take_the_python_core(
    tree: Path,
) -> None:
    engine = tree / "src/tailrace/_core/native/_engine.py"
    engine.write_text("raise ImportError('undefined symbol')\n", encoding="utf-8")
    assert chosen(tree, "src", succeeds=False) == "ImportError: undefined symbol"
