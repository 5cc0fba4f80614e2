"""What a store raises when it cannot work at all; of bad rows and outages the messages hear."""

from __future__ import annotations

from tailrace.errors import TailraceError


class StoreError(TailraceError):
    """A store cannot work as it was set up: its database cannot be opened, or is none, or its
    table does not fit the type.

    Where the type is known beforehand it is raised before anything is received; else the messages
    in hand fail with it. The text names the database, the table and the column.
    """
