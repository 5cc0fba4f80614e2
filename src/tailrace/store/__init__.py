"""Layer 5: stores, the actors at which messages end.

`store` makes a store of any function that writes rows; `store_sqlite` needs nothing but Python;
`store_postgres` needs asyncpg, which it imports when it is called; `write_lines` appends to a file.
`commit` is group commit, `target` the interface of a database, `fields` how rows are taken apart.
"""

from __future__ import annotations

from tailrace.errors import StoreError
from tailrace.store.commit import StoreStatistics
from tailrace.store.lines import write_lines
from tailrace.store.postgres import store_postgres
from tailrace.store.sqlite import store_sqlite
from tailrace.store.store import Store, store

__all__ = [
    "Store",
    "StoreError",
    "StoreStatistics",
    "store",
    "store_postgres",
    "store_sqlite",
    "write_lines",
]
