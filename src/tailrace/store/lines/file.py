"""One file that lines are appended to, durably, by one writer.

Invariants
- `append` returns when its bytes are on the disk, in the file that is at the path, or in one that
  was renamed since: then somebody else rotates.
- The file at the path ends with a whole line, or the next `append` makes it so before it writes:
  what a kill, a full disk or an error left behind its last whole line is cut off. It was not acked.
- Whoever has the file open to write has locked it (`flock`), and has looked again, after that, that
  it is the file at the path.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tailrace.errors import StoreError
from tailrace.store.lines.ends import (
    CHUNK,
    GZIP,
    chunks_of,
    line_end,
    lines_end,
    members_end,
    whole_records,
)
from tailrace.store.lines.system import (
    identity,
    lock,
    open_or_make,
    sync,
    sync_folder,
    unlock,
)

_log = logging.getLogger("tailrace")

TRIES: Final = 5  # in one append, while the file is removed again and again
COMPRESSION: Final = 6
MAGIC: Final = b"\x1f\x8b"


class LineFile:
    """The file at `path`. `quoted`: line breaks in double quotes end no line.

    With `compressed`, each append is a member of gzip. With `rotate_bytes`, a file that would grow
    beyond that is renamed first.
    """

    def __init__(
        self, path: Path, *, compressed: bool, quoted: bool, rotate_bytes: int | None
    ) -> None:
        self._path = path
        self._compressed = compressed
        self._quoted = quoted
        self._rotate_bytes = rotate_bytes
        self._file: int | None = None
        self._real = path  # without links, as they were when the file was opened
        self._size = 0  # of the whole lines: where the next one begins
        self._in_doubt = False  # what lies beyond is of an append that failed
        self.opened = 0
        """How often the file was opened: after that, it may have another header."""

    def __repr__(self) -> str:
        return f"<LineFile {str(self._path)!r}, {'closed' if self._file is None else 'open'}>"

    def ready(self) -> int:
        """Have the file at the path open and locked, ending with a whole line; make it if there is
        none. Returns its descriptor.

        StoreError if another writer has it, or if it is none of ours. OSError if that is
        impossible now.
        """
        file = self._file
        if file is not None and identity(self._path) != identity(file):
            _log.warning("%r was removed, renamed or replaced; opening it anew", str(self._path))
            self.close()
            file = None
        if file is None:
            return self._open()
        size = os.fstat(file).st_size
        if self._in_doubt and size > self._size:
            os.ftruncate(file, self._size)
        elif size != self._size:
            self._mend(file)  # somebody else has changed it
        self._in_doubt = False
        return file

    def _open(self) -> int:
        for _ in range(TRIES):
            self._real = Path(os.path.realpath(self._path))
            file, new = open_or_make(self._real)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise StoreError(f"{str(self._path)!r} is no regular file")
                lock(file, self._path)
                if identity(self._path) == identity(file):
                    if new:
                        sync_folder(self._real.parent)
                    self._mend(file)
                    self._file = file
                    self._in_doubt = False
                    self.opened += 1
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)
        raise OSError(f"{str(self._path)!r} is replaced again and again")

    def header(self) -> str | None:
        """The first line of the file, which is open; None if there is no line."""
        assert self._file is not None
        text = b""
        for chunk in self._content(self._file):
            text += chunk
            end = line_end(text) if self._quoted else text.find(b"\n") + 1
            if end:
                return text[: end - 1].decode(errors="replace").removeprefix("\ufeff").rstrip("\r")
        return None

    def append(self, header: str | None, lines: bytes) -> None:
        """Append whole lines; in a file that is empty, after a line with `header`.

        OSError if it failed. Then nothing of it stays, once the file can be written again.
        """
        for _ in range(TRIES):
            file = self.ready()
            data = self._data(header, lines)
            most = self._rotate_bytes
            if most is not None and self._size and self._size + len(data) > most:
                self._rotate()
                file = self.ready()
                data = self._data(header, lines)
            if self._write(file, data):
                return
        raise OSError(f"{str(self._path)!r} is removed or cut again and again")

    def _data(self, header: str | None, lines: bytes) -> bytes:
        if header is not None and not self._size:
            lines = header.encode() + b"\n" + lines
        return gzip.compress(lines, COMPRESSION, mtime=0) if self._compressed else lines

    def _write(self, file: int, data: bytes) -> bool:
        """Write and sync. False if the file was removed or cut meanwhile."""
        self._in_doubt = True
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        sync(file)
        status = os.fstat(file)
        self._in_doubt = False
        if not status.st_nlink or status.st_size < self._size + len(data):
            return False
        self._size += len(data)
        return True

    def close(self) -> None:
        """Release the file and its lock."""
        file, self._file = self._file, None
        if file is None:
            return
        if self._in_doubt:
            with suppress(OSError):
                os.ftruncate(file, self._size)
        unlock(file)
        os.close(file)

    # --- rotation

    def _rotate(self) -> None:
        """Give the file its lasting name, ``name.00000001.suffix`` or the next one."""
        name, dot, suffix = self._real.name.partition(".")
        if not name:  # a hidden file
            name, dot, suffix = self._real.name, "", ""
        ours = re.compile(rf"{re.escape(name)}\.(\d{{8,}}){re.escape(dot + suffix)}")
        numbers = (ours.fullmatch(each.name) for each in self._real.parent.iterdir())
        last = max((int(found[1]) for found in numbers if found), default=0)
        self._real.rename(self._real.with_name(f"{name}.{last + 1:08}{dot}{suffix}"))
        sync_folder(self._real.parent)
        self.close()

    # --- the end of the file

    def _mend(self, file: int) -> None:
        """Cut off what follows the last whole line. StoreError if it is not a file of lines."""
        size = os.fstat(file).st_size
        compressed = os.pread(file, len(MAGIC), 0) == MAGIC
        if size >= len(MAGIC) and compressed is not self._compressed:
            is_it, option = ("is", "True") if compressed else ("is not", "False")
            raise StoreError(f"{str(self._path)!r} {is_it} compressed: say gzip={option}")
        if self._compressed:
            self._size = members_end(file)
        elif self._quoted:
            self._size = sum(map(len, whole_records(file)))
        else:
            self._size = lines_end(file, size)
        if self._size < size:
            _log.warning(
                "%r: cutting off the last %d bytes, which are not a whole line: their writer was "
                "killed or could not write on",
                str(self._path),
                size - self._size,
            )
            os.ftruncate(file, self._size)
            sync(file)

    def _content(self, file: int) -> Iterator[bytes]:
        chunks = chunks_of(file)
        if not self._compressed:
            yield from chunks
            return
        decompressor = zlib.decompressobj(GZIP)
        for chunk in chunks:
            while chunk and not decompressor.eof:
                yield decompressor.decompress(chunk, CHUNK)
                chunk = decompressor.unconsumed_tail
            if decompressor.eof:  # a header is in the first member
                return
