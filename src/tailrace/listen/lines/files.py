"""Files as lines with their places: by chunks, from an offset on, and known again under any name.

Everything here blocks, and is called in a worker thread.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

__all__ = ["Identity", "Line", "LineFile"]

CHUNK: Final = 256 * 1024
HEAD: Final = 1024  # bytes by which a file is known, beside device and inode
GZIP_MAGIC: Final = b"\x1f\x8b"
STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is, whatever its name: device, inode, and a digest of its first bytes.

    An inode is used again once its file is deleted; the digest tells a new file from the old.
    """

    device: int
    inode: int
    length: int  # of the head that `digest` is of: a file that was short may have grown
    digest: str

    @classmethod
    def of(cls, file: IO[bytes], length: int = HEAD) -> Identity:
        """The identity of an open file by at most `length` bytes of its head."""
        status = os.fstat(file.fileno())
        head = os.pread(file.fileno(), length, 0)
        digest = hashlib.blake2b(head, digest_size=16).hexdigest()
        return cls(status.st_dev, status.st_ino, len(head), digest)

    def is_of(self, path: Path) -> bool:
        """Whether `path` is this file, perhaps grown."""
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                return False
            with path.open("rb") as file:
                return Identity.of(file, self.length) == self
        except OSError:
            return False

    def find(self, path: Path) -> Path | None:
        """Where this file is: at `path`, or beside it under another name."""
        if self.is_of(path):
            return path
        try:
            beside = sorted(path.parent.iterdir())
        except OSError:
            return None
        return next((other for other in beside if self.is_of(other)), None)


class Line(NamedTuple):
    """One line: where it begins and ends (in bytes, unpacked), its number and the next one's, and
    its bytes without the line break; None if it is too long."""

    offset: int
    end: int
    number: int
    next_number: int
    data: bytes | None


_new_line: Callable[[Iterable[object]], Line] = functools.partial(cast(Any, tuple).__new__, Line)
"""As `Line._make`, which is no function in C."""


class LineFile:
    """Reads the lines of one file, from `offset` on, of which the first has `number`.

    At most `max_line` bytes of a line are kept. With `table`, the file is one of CSV: a line that
    leaves a quote (``"``) open goes on in the next, and the first line is the `header`, None until
    it was read, and not among the lines.
    """

    def __init__(self, path: str, *, max_line: int, table: bool = False) -> None:
        self.path = path
        self._max_line = max_line
        self._quoted = self._headed = table
        self.header: Line | None = None
        self._raw = cast(BufferedReader, sys.stdin.buffer if path == STDIN else _open(path))
        self.identity = None if path == STDIN else Identity.of(self._raw)
        self.packed = path != STDIN and os.pread(self._raw.fileno(), 2, 0) == GZIP_MAGIC
        self._file = cast(BufferedReader, _unpacked(self._raw)) if self.packed else self._raw
        self.offset, self.number = 0, 1  # of the line that is being read
        self._parts: list[bytes] = []  # its beginning, of which the chunk is gone
        self._kept = self._dropped = 0  # how many bytes of it are in the parts, or were too many
        self._open_quote = 0

    def head(self, length: int) -> Identity:
        """Its identity by at most `length` bytes of its head."""
        return Identity.of(self._raw, length)

    @property
    def at(self) -> int:
        """How many bytes of the file were read, packed ones if it is an archive."""
        return 0 if self.path == STDIN else os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file; not standard input, which is not ours."""
        if self.path != STDIN:
            self._file.close()
            self._raw.close()

    def seek(self, offset: int, number: int) -> None:
        """Go to `offset`, where line `number` begins; in an archive by unpacking up to there."""
        if offset == self.offset and not (self._kept or self._dropped):
            return  # standard input can go nowhere else
        if self._headed and self.header is None:
            self._first_line()
        self._file.seek(offset)
        self._begin(offset, number)

    def line_at(self, offset: int, number: int) -> Line | None:
        """The line that begins at `offset`; None at the end of the file."""
        self.seek(offset, number)
        return self._first_line()

    def _first_line(self) -> Line | None:
        while (lines := self.read()) == []:
            pass
        lines = self.rest() if lines is None else lines
        return lines[0] if lines else None

    @property
    def size(self) -> int | None:
        """Bytes of the file as it is now; None where they say nothing of its lines."""
        if self.path == STDIN or self.packed:
            return None
        return os.fstat(self._raw.fileno()).st_size

    def read(self) -> list[Line] | None:
        """The lines that end in the next chunk, perhaps none; None at the end of the file."""
        chunk = self._file.read1(CHUNK)
        return self._without_header(self._split(chunk)) if chunk else None

    def rest(self) -> list[Line]:
        """At the end of the file: the last line, if it has no line break."""
        return self._without_header([self._end(0)] if self._kept or self._dropped else [])

    def _without_header(self, lines: list[Line]) -> list[Line]:
        if self._headed and self.header is None and lines:
            self.header = lines.pop(0)
        return lines

    def is_cut(self) -> bool:
        """Whether the file is shorter than what was read of it."""
        read = self.offset + self._kept + self._dropped
        return not self.packed and os.fstat(self._raw.fileno()).st_size < read

    def is_replaced(self) -> bool:
        """Whether another file has the name now."""
        try:
            status = Path(self.path).stat()
        except FileNotFoundError:
            return False  # another may come
        own = os.fstat(self._raw.fileno())
        return (status.st_dev, status.st_ino) != (own.st_dev, own.st_ino)

    def _split(self, chunk: bytes) -> list[Line]:
        *pieces, rest = chunk.split(b"\n")
        lines: list[Line] = []
        if self._quoted:
            for piece in pieces:
                self._keep(piece)
                if self._open_quote:
                    self._keep(b"\n")
                else:
                    lines.append(self._end(1))
        elif pieces:
            self._keep(pieces[0])
            lines.append(self._end(1))
            lines += self._whole(pieces[1:])
        self._keep(rest)
        return lines

    def _whole(self, pieces: list[bytes]) -> list[Line]:
        """Lines that lie in one chunk, the first of them at `offset`.

        Made by functions in C: a loop takes three times as long.
        """
        offsets = list(accumulate((len(piece) + 1 for piece in pieces), initial=self.offset))
        numbers = range(self.number, self.number + len(pieces) + 1)
        self.offset, self.number = offsets[-1], numbers[-1]
        data: Iterable[bytes | None] = pieces
        if max(map(len, pieces), default=0) > self._max_line:
            data = (piece if len(piece) <= self._max_line else None for piece in pieces)
        return list(
            map(_new_line, zip(offsets, offsets[1:], numbers, numbers[1:], data, strict=False))
        )

    def _keep(self, piece: bytes) -> None:
        """Go on with the line that is being read."""
        if self._quoted and not self._dropped:
            self._open_quote ^= piece.count(b'"') & 1
        self._kept += len(piece)
        if self._dropped or self._kept > self._max_line:
            self._dropped += self._kept
            self._parts.clear()
            self._kept = self._open_quote = 0  # a quote that nobody closes ends with its line
        else:
            self._parts.append(piece)

    def _end(self, line_break: int) -> Line:
        data = None if self._dropped else b"".join(self._parts)
        end = self.offset + self._kept + self._dropped + line_break
        next_number = self.number + 1 + (data.count(b"\n") if data else 0)
        line = Line(self.offset, end, self.number, next_number, data)
        self._begin(end, next_number)
        return line

    def _begin(self, offset: int, number: int) -> None:
        self.offset, self.number = offset, number
        self._parts.clear()
        self._kept = self._dropped = self._open_quote = 0


def _open(path: str) -> BufferedReader:
    return Path(path).open("rb")


def _unpacked(file: BufferedReader) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)
