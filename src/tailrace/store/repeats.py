"""Which rows of a batch are new, which repeat rows that are there, and which are refused.

A row with the key of a row that is there is a repeat if both are the same. If a client chose the
message's id, they are the same if the client sent the same: the columns may differ, as a stage may
have added the time. If the id says where the data are (a line of a file), the id alone makes them
the same. Otherwise they are the same if all columns are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.errors import Reject
from tailrace.store.table import Row

OTHER_DATA: Final = "a row of the same {} is there already, with other data; it was left as it is"


@dataclass(frozen=True, slots=True)
class Judged:
    """`new` rows are to be inserted, `repeats` are there already. `refused` has the errors of rows
    whose keys are taken, by place in the batch.
    """

    new: list[Row] = field(default_factory=list[Row])
    repeats: list[Row] = field(default_factory=list[Row])
    refused: dict[int, Exception] = field(default_factory=dict[int, Exception])


def judge(
    rows: Sequence[Row],
    there: Mapping[Any, tuple[Any, ...]],
    digests: Mapping[Any, bytes],
    *,
    key_is_id: bool,
) -> Judged:
    """Judge `rows`, given the values and digests of the rows that are there, by key."""
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
        elif is_repeat(row, row.values == found, sent.get(row.key), key_is_id=key_is_id):
            judged.repeats.append(row)
        else:
            judged.refused[row.position] = other_data(key_is_id=key_is_id)
    return judged


def is_repeat(row: Row, equal: bool, sent: bytes | None, *, key_is_id: bool) -> bool:
    """Whether `row` repeats the row of its key that is there. `equal`: all columns are equal;
    `sent`: the digest of what the client sent then.
    """
    if row.known and key_is_id:
        return True
    if row.digest is not None and sent is not None:
        if row.digest == sent:
            return True
        if key_is_id:
            return False  # even if all columns are equal
    return equal


def other_data(*, key_is_id: bool) -> Reject:
    """The error for a row whose key is taken by a row that is not the same."""
    return Reject(OTHER_DATA.format("id" if key_is_id else "key"))
