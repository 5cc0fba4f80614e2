"""docs/reference.md is what `make reference` would write, whatever the core."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tailrace

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("core", ["python", "native"])
def test_the_reference_is_up_to_date(core: str) -> None:
    package = Path(tailrace.__file__).parent.parent
    checked = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"],
        env={**os.environ, "TAILRACE_CORE": core, "PYTHONPATH": str(package)},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert checked.returncode == 0, checked.stderr
