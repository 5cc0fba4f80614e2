"""SQLite as a store, with nothing but the standard library."""

from __future__ import annotations

from tailrace.store.sqlite.store import store_sqlite

__all__ = ["store_sqlite"]
