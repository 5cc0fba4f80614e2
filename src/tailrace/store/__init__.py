"""Layer 5: where messages end. One module for each kind of store.

`store` makes a store of any function that writes rows; `store_sqlite` needs nothing but Python.
"""

from __future__ import annotations

from tailrace.store._commit import StoreStatistics
from tailrace.store._errors import StoreError
from tailrace.store._store import Store, store
from tailrace.store.sqlite import store_sqlite

__all__ = ["Store", "StoreError", "StoreStatistics", "store", "store_sqlite"]
