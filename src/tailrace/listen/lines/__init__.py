"""`read_lines`: lines of files, archives and standard input, as messages."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeVar, overload

from tailrace.listen.lines.decode import Format
from tailrace.listen.lines.meter import Style
from tailrace.listen.lines.source import ReadLines

__all__ = ["ReadLines", "read_lines"]

T = TypeVar("T")


@overload
def read_lines(
    path: str | os.PathLike[str],
    *,
    format: Literal["text"] = "text",
    checkpoint: str | os.PathLike[str] | None = None,
    follow: bool = False,
    in_flight: int = 1000,
    max_line: int = 1024 * 1024,
    progress: Style = "auto",
) -> ReadLines[str]: ...
@overload
def read_lines(
    path: str | os.PathLike[str],
    *,
    format: Literal["json"],
    checkpoint: str | os.PathLike[str] | None = None,
    follow: bool = False,
    in_flight: int = 1000,
    max_line: int = 1024 * 1024,
    progress: Style = "auto",
) -> ReadLines[dict[str, Any]]: ...
@overload
def read_lines(
    path: str | os.PathLike[str],
    *,
    format: Literal["csv"],
    checkpoint: str | os.PathLike[str] | None = None,
    follow: bool = False,
    in_flight: int = 1000,
    max_line: int = 1024 * 1024,
    progress: Style = "auto",
) -> ReadLines[dict[str, str]]: ...
@overload
def read_lines(
    path: str | os.PathLike[str],
    *,
    format: Format = "text",
    type: type[T],
    checkpoint: str | os.PathLike[str] | None = None,
    follow: bool = False,
    in_flight: int = 1000,
    max_line: int = 1024 * 1024,
    progress: Style = "auto",
) -> ReadLines[T]: ...
def read_lines(
    path: str | os.PathLike[str],
    *,
    format: Format = "text",
    type: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    follow: bool = False,
    in_flight: int = 1000,
    max_line: int = 1024 * 1024,
    progress: Style = "auto",
) -> ReadLines[Any]:
    """A source that sends a message for each line of `path`: ``go(read_lines("in.log"), out)``.

    `path` is a file, a glob pattern (its files are read in the order of their names), or "-" for
    standard input. Archives of gzip are unpacked. `format` and `type` say what a line is:

    - "text": UTF-8 without the line break; a `type` other than str or bytes is read from it.
    - "json": a value of `type` (by default a dict). Blank lines are skipped.
    - "csv": a record (RFC 4180), which may go on over several lines; the first record of each file
      names the fields. It is read as a dict of str, or as a `type` with these fields.

    A message's id is ``name#generation:offset``, its headers `file` and `line`. At most `in_flight`
    messages are unsettled. A line that cannot be decoded, or has more than `max_line` bytes (in
    bounded memory), is rejected: it is counted, and logged with its number (at once, then at most
    every 10 s with a count). The actor ends once all lines are sent; its group waits until all of
    them are settled.

    `checkpoint` names a file that keeps how far the import has come, so that the next run goes on
    from there after any kill. It repeats the lines that failed or were lost, and those that were
    unsettled (with `in_flight` failed ones the import stops); as a repeat has the id of the first
    time, a store with a key keeps one row. A file is known by its inode and its first KiB: a file
    that was renamed in its directory is read to its end first, another file under the name begins
    a new generation. Files that are copied and then truncated are not safe.

    `follow` goes on with what is written to the files, and to new files under their names, until
    the group drains.

    `progress` shows how far it is: "bar" (needs rich), "lines" (on stderr, every 10 s), "off", or
    "auto": a bar on a terminal that has rich, else lines. A file that is followed shows none.

    ValueError or TypeError for options that make no sense or a type that cannot be read. Called as
    an actor it raises FileNotFoundError if there is no such file, other OSErrors of reading, and
    `TailraceError` when too many lines have failed. Cancelled: what was sent stays so, and the
    checkpoint says what was settled.
    """
    return ReadLines(
        path,
        format=format,
        kind=type,
        checkpoint=checkpoint,
        follow=follow,
        in_flight=in_flight,
        max_line=max_line,
        progress=progress,
    )
