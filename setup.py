"""Builds the native core, where there is a compiler; everything else is in pyproject.toml.

TAILRACE_NATIVE=auto (the default) builds it if a C compiler is found, and installs the pure Python
core alone if none is; `yes` (continuous integration, wheels) fails without one; `no` never builds.
C that does not compile fails the installation in every case.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/tailrace/_core/native")


def wanted() -> bool:
    """Whether to build. SystemExit for a value that is none of the three, or `yes` in vain."""
    how = os.environ.get("TAILRACE_NATIVE", "auto")
    if how not in ("auto", "yes", "no"):
        raise SystemExit(f"tailrace: TAILRACE_NATIVE must be auto, yes or no, not {how!r}")
    if how == "no":
        return False
    why_not = obstacle()
    if why_not is None:
        return True
    if how == "yes":
        raise SystemExit(f"tailrace: TAILRACE_NATIVE=yes, but {why_not}")
    sys.stderr.write(f"tailrace: the pure Python core alone, as {why_not}\n")
    return False


def obstacle() -> str | None:
    """Why the native core cannot be built here; None if it can."""
    if sys.implementation.name != "cpython":
        return "the native core is for CPython only"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the native core needs the GIL"
    if not has_compiler():
        return f"there is no C compiler ({' '.join(compiler())}) that finds Python.h"
    return None


def compiler() -> list[str]:
    """The command that compiles, as setuptools will choose it."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def has_compiler() -> bool:
    """Whether a program that includes Python.h compiles."""
    if os.name == "nt":
        return True  # found by setuptools itself
    include = f"-I{sysconfig.get_path('include')}"
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "try.c")
        source.write_text("#include <Python.h>\nint main(void) { return 0; }\n", encoding="utf-8")
        command = [*compiler(), include, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


def engine() -> Extension:
    """The C part of the native core."""
    flags = []
    if os.name != "nt":
        flags = ["-std=c11", "-O3", "-fvisibility=hidden"]
        if os.environ.get("TAILRACE_CFLAGS"):
            flags += os.environ["TAILRACE_CFLAGS"].split()
    return Extension(
        "tailrace._core.native._engine",
        sources=[str(NATIVE / "_engine.c")],  # which includes the others
        depends=sorted(map(str, NATIVE.glob("*.[ch]"))),
        extra_compile_args=flags,
    )


setup(ext_modules=[engine()] if wanted() else [])
