"""Layer 0: the one place that chooses a core. Everybody else imports the core from here.

``TAILRACE_CORE=auto|native|python`` decides: ``auto`` (the default) takes the native core where
it is built, ``native`` raises its ImportError where it is not, ``python`` never looks for it.
Type checkers see the Python core, whose twin the native one is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

active: str
"""The core in use: ``"native"`` or ``"python"``."""

why: str
"""Why it is not the native one, in words for people; empty if it is."""

_wanted = os.environ.get("TAILRACE_CORE", "auto")
if _wanted not in ("auto", "native", "python"):
    raise ImportError(f"TAILRACE_CORE must be auto, native or python, not {_wanted!r}")

if TYPE_CHECKING or _wanted == "python":
    from tailrace._core.python import *

    active = "python"
    why = "asked for by TAILRACE_CORE"
else:
    try:
        from tailrace._core.native import *

        active = "native"
        why = ""
    except ModuleNotFoundError as error:
        if _wanted == "native" or error.name != "tailrace._core.native._engine":
            raise  # asked for by name, or there but broken
        from tailrace._core.python import *

        active = "python"
        why = "the native one was not built"
