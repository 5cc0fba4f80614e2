"""Unpack gzip bodies piece by piece, up to a limit of size."""

from __future__ import annotations

import zlib
from typing import Final

from tailrace.listen.http.request import Refusal

__all__ = ["gunzip"]

GZIP: Final = 31  # zlib's code for the gzip format
PIECE: Final = 64 * 1024  # zlib copies what follows a member: so give it a piece, not the body
MAX_MEMBERS: Final = 1000  # an empty member has only 20 bytes, but takes some microseconds


def gunzip(packed: bytes, most: int) -> bytes:
    """The unpacked body. Raises Refusal: 400 if it is not gzip, 413 above `most` bytes."""
    whole: list[bytes] = []
    room = most
    members = 1
    member = zlib.decompressobj(GZIP)
    for start in range(0, len(packed), PIECE):
        piece = packed[start : start + PIECE]
        while piece:
            if member.eof:
                members += 1
                if members > MAX_MEMBERS:
                    raise Refusal(400, f"the gzip body has more than {MAX_MEMBERS} members")
                member = zlib.decompressobj(GZIP)
            try:
                part = member.decompress(piece, room + 1)
            except zlib.error as error:
                raise Refusal(400, f"the gzip body cannot be read: {error}") from error
            if len(part) > room:
                raise Refusal(413, f"the body is larger than {most} bytes, unpacked")
            room -= len(part)
            if part:
                whole.append(part)
            piece = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise Refusal(400, "the gzip body is incomplete")
    return b"".join(whole)
