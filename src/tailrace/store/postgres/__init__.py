"""PostgreSQL as a store, by asyncpg (the extra `postgres`)."""

from __future__ import annotations

from tailrace.store.postgres.store import store_postgres

__all__ = ["store_postgres"]
