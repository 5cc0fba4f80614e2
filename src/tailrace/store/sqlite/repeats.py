"""Which rows of a batch are new, which are repeats of rows that are there, and which are neither.

A repeat is recognised by its key. Where a client chose the message's id, the two are the same if
the client sent the same: a stage may have added the time, or may have asked replicas of which
another one answered. Otherwise they are the same if all columns are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tailrace.errors import Reject
from tailrace.store.sqlite.table import Row
from tailrace.store.sqlite.values import Value

OTHER_DATA: Final = "a row of the same {} is there already, with other data; it was left as it is"


@dataclass(frozen=True, slots=True)
class Judged:
    """`new` rows are to be inserted, `repeats` are there already; `refused`, by their places in
    the batch, have keys that are taken.
    """

    new: list[Row] = field(default_factory=list[Row])
    repeats: list[Row] = field(default_factory=list[Row])
    refused: dict[int, Exception] = field(default_factory=dict[int, Exception])


def judge(
    rows: Sequence[Row],
    there: Mapping[Value, tuple[Value, ...]],
    digests: Mapping[Value, bytes],
    *,
    key_is_id: bool,
) -> Judged:
    """Judge `rows` by those that are there, whose values and digests are given by their keys."""
    known = dict(there)
    sent = {key: digest for key, digest in digests.items() if key in known}
    judged = Judged()
    for row in rows:
        found = known.get(row.key)
        if found is None:
            judged.new.append(row)
            known[row.key] = row.values
            if row.digest is not None:
                sent[row.key] = row.digest
        elif _same(row, found, sent.get(row.key), key_is_id):
            judged.repeats.append(row)
        else:
            reason = OTHER_DATA.format("id" if key_is_id else "key")
            judged.refused[row.position] = Reject(reason)
    return judged


def _same(row: Row, found: tuple[Value, ...], sent: bytes | None, key_is_id: bool) -> bool:
    if row.digest is not None and sent is not None:
        if row.digest == sent:
            return True
        if key_is_id:
            return False  # even if what came of it is equal
    return row.values == found
