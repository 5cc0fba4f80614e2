"""Forms of multipart/form-data (RFC 7578), read from a body that has come as a whole.

The body is searched for its boundary, so the cost is that of the search, whatever is in it: a
parser that steps through the bytes in Python took a second for a megabyte of headers. Parts, and
the header of each, are limited in number and size.
"""

from __future__ import annotations

from typing import Final

from tailrace.listen._parameters import parameters
from tailrace.listen._request import Refused

__all__ = ["MAX_FIELDS", "multipart_values"]

MAX_FIELDS: Final = 1000
MAX_PART_HEAD: Final = 8 * 1024  # bytes of a part's headers
MAX_PART_HEADERS: Final = 32  # forms have two or three


def multipart_values(body: bytes, boundary: bytes, name: bytes) -> list[bytes]:
    """The values of the field `name`; other parts are skipped, files included. Refused(400) for
    what cannot be read."""
    values: list[bytes] = []
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        at = len(delimiter) - 2
    else:  # after a preamble, which is to be ignored
        at = body.find(delimiter) + len(delimiter)
        if at < len(delimiter):
            raise _incomplete()
    parts = 0
    while not body.startswith(b"--", at):
        begin = body.find(b"\r\n", at, at + MAX_PART_HEAD)
        if begin < 0 and len(body) - at < MAX_PART_HEAD:
            raise _incomplete()
        if begin < 0 or body[at:begin].strip(b" \t"):
            raise Refused(400, "the multipart form cannot be read: a boundary is not alone")
        parts += 1
        if parts > MAX_FIELDS:
            raise Refused(400, f"there are more than {MAX_FIELDS} fields")
        end = body.find(b"\r\n\r\n", begin, begin + MAX_PART_HEAD)
        next_at = body.find(delimiter, begin)
        if next_at < 0:
            raise _incomplete()
        if end < 0 or end + 4 > next_at:
            raise Refused(
                400,
                f"the multipart form cannot be read: the headers of part {parts} do not end"
                f" within {MAX_PART_HEAD} bytes",
            )
        if _field(body[begin + 2 : end]) == name:
            values.append(body[end + 4 : next_at])
        at = next_at + len(delimiter)
    return values


def _field(head: bytes) -> bytes | None:
    """The name of the field that a part with these headers is."""
    if not head:
        return None
    lines = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n")
    if len(lines) > MAX_PART_HEADERS:
        raise Refused(400, f"a part of the form has more than {MAX_PART_HEADERS} headers")
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon or not key or key != key.strip():
            raise Refused(400, "the multipart form cannot be read: a part's header has no name")
        if key.lower() == b"content-disposition":
            read = parameters(value)
            if read is None:
                raise Refused(400, "the multipart form cannot be read: a Content-Disposition")
            return read[1].get(b"name")
    return None


def _incomplete() -> Refused:
    return Refused(400, "the multipart form is incomplete")
