"""The parameters of a header's value: ``multipart/form-data; boundary="x"`` (RFC 9110, 5.6.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tailrace.listen.http.request import Refusal

__all__ = ["check_charset", "parameters", "quoted"]

MOST: Final = 32
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_parameter = re.compile(
    rb"[ \t]*;[ \t]*(?:(%b)=(?:\"((?:[^\"\\]|\\.)*)\"|([^;\"\s]*)))?" % _TOKEN, re.DOTALL
).match
_escaped = re.compile(rb"\\(.)", re.DOTALL)


def parameters(value: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """The text before the first ``;`` in lower case, and the parameters by lower-case name.

    If a name is given twice, its first value counts. None if the parameters cannot be read. The
    cost is linear in the length of `value`.
    """
    kind, _, _ = value.partition(b";")
    at, end = len(kind), len(value.rstrip())
    found: dict[bytes, bytes] = {}
    if value.count(b";") > MOST:
        return None
    while at < end:
        match = _parameter(value, at)
        if match is None:
            return None
        at = match.end()
        name, quoted, plain = match.groups()
        if name is not None:
            text = plain if quoted is None else _escaped.sub(rb"\1", quoted)
            found.setdefault(name.lower(), text)
    return kind.strip().lower(), found


def check_charset(options: Mapping[bytes, bytes]) -> None:
    """Raise Refusal(415) if the parameters of a Content-Type name a charset other than UTF-8."""
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8", b"us-ascii"):
        raise Refusal(415, f"charset {quoted(charset)} is not supported, only UTF-8")


def quoted(raw: bytes) -> str:
    """A client's bytes as they are quoted in an error text: short and printable."""
    return repr(raw[:60].decode("latin-1"))
