"""Where the whole lines, records or members of gzip in a file end: beyond is what a kill left."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Final

CHUNK: Final = 1 << 20
GZIP: Final = 31  # zlib's window bits: the largest window, with gzip's header


def chunks_of(file: int) -> Iterator[bytes]:
    """The content of a file, from its beginning."""
    offset = 0
    while chunk := os.pread(file, CHUNK, offset):
        yield chunk
        offset += len(chunk)


def lines_end(file: int, size: int) -> int:
    """Where the last whole line ends, from the end of the file backwards."""
    while size:
        start = max(0, size - CHUNK)
        found = os.pread(file, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def line_end(text: bytes) -> int:
    """The end of the first record of CSV in `text`; 0 if it is not whole."""
    end = 0
    while end := text.find(b"\n", end) + 1:
        if text.count(b'"', 0, end) % 2 == 0:
            return end
    return 0


def whole_records(file: int) -> Iterator[bytes]:
    """The content of a file of CSV up to the last line break that is not in double quotes."""
    kept = b""
    inside = False  # double quotes, where `kept` begins
    for chunk in chunks_of(file):
        kept += chunk
        end = _last_end(kept, inside)
        if end:
            inside = False
            yield kept[:end]
            kept = kept[end:]


def _last_end(text: bytes, inside: bool) -> int:
    end = len(text)
    quotes = text.count(b'"') + inside
    while end:
        before = text.rfind(b"\n", 0, end) + 1
        quotes -= text.count(b'"', before, end)
        if not before or quotes % 2 == 0:
            return before
        end = before - 1
    return 0


def members_end(file: int) -> int:
    """Where the last whole member of gzip ends."""
    whole = read = 0
    decompressor = zlib.decompressobj(GZIP)
    for chunk in chunks_of(file):
        read += len(chunk)
        while chunk:
            try:
                decompressor.decompress(chunk, CHUNK)
            except zlib.error:
                return whole
            chunk = decompressor.unconsumed_tail
            if decompressor.eof:
                chunk = decompressor.unused_data
                whole = read - len(chunk)
                decompressor = zlib.decompressobj(GZIP)
    return whole
