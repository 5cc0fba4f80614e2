"""Files of lines as a store, with nothing but the standard library."""

from __future__ import annotations

from tailrace.store.lines.store import write_lines

__all__ = ["write_lines"]
