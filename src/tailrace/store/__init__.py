"""Layer 5: where messages end. One module for each kind of store.

`store` makes a store of any function that writes rows; `store_sqlite` needs nothing but Python.
"""

from __future__ import annotations

from tailrace.errors import StoreError
from tailrace.store.commit import StoreStatistics
from tailrace.store.sqlite import store_sqlite
from tailrace.store.store import Store, store

__all__ = ["Store", "StoreError", "StoreStatistics", "store", "store_sqlite"]
