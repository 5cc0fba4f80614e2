"""`write_lines`: messages into a file, a line each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, overload

from tailrace.retry import Retry
from tailrace.store.lines.encode import Format, encoder
from tailrace.store.lines.file import LineFile
from tailrace.store.lines.target import LinesTarget
from tailrace.store.store import Store, check_retry
from tailrace.store.target import Target, ThreadedTarget

__all__ = ["Format", "write_lines"]

T = TypeVar("T")


@overload
def write_lines(
    path: str | os.PathLike[str],
    *,
    format: Literal["text"],
    type: None = None,
    rotate_bytes: int | None = None,
    gzip: bool = False,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[str]: ...
@overload
def write_lines(
    path: str | os.PathLike[str],
    *,
    format: Literal["json", "csv"],
    type: None = None,
    rotate_bytes: int | None = None,
    gzip: bool = False,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]: ...
@overload
def write_lines(
    path: str | os.PathLike[str],
    *,
    format: Format,
    type: type[T],
    rotate_bytes: int | None = None,
    gzip: bool = False,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[T]: ...
def write_lines(
    path: str | os.PathLike[str],
    *,
    format: Format,
    type: type[Any] | None = None,
    rotate_bytes: int | None = None,
    gzip: bool = False,
    max_batch: int = 1000,
    retry: Retry | None = None,
) -> Store[Any]:
    """An actor that appends messages to the file at `path`, a line each, and acks what is on the
    disk.

    `format` is "text" (a str, without line breaks), "json" (a value with sorted keys) or "csv" (a
    record; the first line of a file is a header with the names of the fields, or of the keys of the
    first dict). The type of the data is `type`, or that of the channel. `read_lines` reads such
    files. A message is rejected if the format cannot hold it.

    With `gzip`, each batch is a member of a gzip file. With `rotate_bytes`, a file that would grow
    beyond that many bytes is renamed first: ``events.jsonl`` to ``events.00000001.jsonl``, the next
    one to ``…2…``, and so on. Only a file of a single batch is larger.

    What a kill or a full disk left of a line is cut off before the next line is written. A file
    that is removed, renamed or replaced while the store runs is made or opened anew. Two stores
    cannot write one file: the second ends with `StoreError`. Nothing recognises repeats: a line may
    be there twice if its sender sends it again, as after a crash between the write and the ack.

    `max_batch` and `retry` are as for `store`; by default an `OSError` is an outage, such as a full
    disk. TypeError or ValueError for arguments that make no sense. Nothing is opened before the
    actor runs.
    """
    where = os.fspath(cast("os.PathLike[Any]", path))
    if not isinstance(where, str) or not where or "\0" in where:
        raise ValueError(f"path must be that of a file, as text, not {path!r}")
    if format not in get_args(Format):
        raise ValueError(f"format must be 'text', 'json' or 'csv', not {format!r}")
    if not isinstance(gzip, bool):
        raise TypeError(f"gzip must be True or False, not {gzip!r}")
    if rotate_bytes is not None:
        if not isinstance(rotate_bytes, int) or isinstance(rotate_bytes, bool):
            raise TypeError(f"rotate_bytes must be a whole number of bytes, not {rotate_bytes!r}")
        if rotate_bytes < 1:
            raise ValueError(f"rotate_bytes must be at least 1, not {rotate_bytes!r}")
    policy = check_retry(retry)
    if type is not None:
        encoder(format, type, None)  # to hear now of a type that has no lines
    absolute = Path(where).absolute()

    def make_target() -> Target[Any]:
        file = LineFile(
            absolute, compressed=gzip, quoted=format == "csv", rotate_bytes=rotate_bytes
        )
        target = LinesTarget[Any](str(absolute), format, type, file)
        return ThreadedTarget(target, f"write_lines {where}")

    return Store(
        make_target,
        name="write_lines",
        what=repr(where),
        max_batch=max_batch,
        retry=policy,
    )
