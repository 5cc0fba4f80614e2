"""Forms of multipart/form-data (RFC 7578), read from a complete body.

The body is searched for its boundary, so its content does not affect the cost: a parser that steps
through the bytes in Python took a second for a megabyte of headers. The number of parts is limited,
and number and size of each part's headers.
"""

from __future__ import annotations

from typing import Final

from tailrace.listen.http.parameters import check_charset, parameters, quoted
from tailrace.listen.http.request import Refusal

__all__ = ["MAX_FIELDS", "multipart_values"]

MAX_FIELDS: Final = 1000
MAX_PART_HEAD: Final = 8 * 1024  # bytes of a part's headers
MAX_PART_HEADERS: Final = 32  # forms have two or three


def multipart_values(body: bytes, boundary: bytes, name: bytes) -> list[bytes]:
    """The values of the field `name`. Other parts are skipped, files included.

    Raises Refusal: 400 if the form cannot be read, 415 if a value is not UTF-8.
    """
    values: list[bytes] = []
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        at = len(delimiter) - 2
    else:  # after a preamble, which is ignored (RFC 2046, 5.1.1)
        at = body.find(delimiter) + len(delimiter)
        if at < len(delimiter):
            raise _incomplete()
    parts = 0
    while not body.startswith(b"--", at):
        begin = body.find(b"\r\n", at, at + MAX_PART_HEAD)
        if begin < 0 and len(body) - at < MAX_PART_HEAD:
            raise _incomplete()
        if begin < 0 or body[at:begin].strip(b" \t"):
            raise Refusal(400, "the multipart form cannot be read: a boundary is not alone")
        parts += 1
        if parts > MAX_FIELDS:
            raise Refusal(400, f"there are more than {MAX_FIELDS} fields")
        end = body.find(b"\r\n\r\n", begin, begin + MAX_PART_HEAD)
        next_at = body.find(delimiter, begin)
        if next_at < 0:
            raise _incomplete()
        if end < 0 or end + 4 > next_at:
            raise Refusal(
                400,
                f"the multipart form cannot be read: the headers of part {parts} do not end"
                f" within {MAX_PART_HEAD} bytes",
            )
        headers = _headers(body[begin + 2 : end])
        if _name(headers) == name:
            _check_encoding(headers)
            values.append(body[end + 4 : next_at])
        at = next_at + len(delimiter)
    return values


def _headers(head: bytes) -> dict[bytes, bytes]:
    """The headers of a part, by their names in lower case."""
    if not head:
        return {}
    lines = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n")
    if len(lines) > MAX_PART_HEADERS:
        raise Refusal(400, f"a part of the form has more than {MAX_PART_HEADERS} headers")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon or not key or key != key.strip():
            raise Refusal(400, "the multipart form cannot be read: a part's header has no name")
        headers.setdefault(key.lower(), value)
    return headers


def _name(headers: dict[bytes, bytes]) -> bytes | None:
    """The field name of a part with these headers."""
    disposition = headers.get(b"content-disposition")
    if disposition is None:
        return None
    read = parameters(disposition)
    if read is None:
        raise Refusal(400, "the multipart form cannot be read: a Content-Disposition")
    return read[1].get(b"name")


def _check_encoding(headers: dict[bytes, bytes]) -> None:
    """Raise Refusal(415) if a part's value is not plain UTF-8: it would be stored as other text."""
    transfer = headers.get(b"content-transfer-encoding", b"").strip()
    if transfer.lower() not in (b"", b"7bit", b"8bit", b"binary"):
        raise Refusal(415, f"Content-Transfer-Encoding {quoted(transfer)} is not supported")
    read = parameters(headers.get(b"content-type", b""))
    if read is None:
        raise Refusal(400, "the multipart form cannot be read: a Content-Type")
    check_charset(read[1])


def _incomplete() -> Refusal:
    return Refusal(400, "the multipart form is incomplete")
