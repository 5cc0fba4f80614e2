"""Sites: the hosts that a server answers for, and the sites whose pages may send to it.

A page of any site can make a visitor's browser send requests to a server on the visitor's machine
or network, with the visitor's address and cookies. The browser adds where the page came from:
`Origin` and `Sec-Fetch-Site`, which a page cannot forge. If an attacker's name resolves to this
server (DNS rebinding), the attacker's page has the same origin as the server: only `Host` shows the
foreign name.

Programs other than browsers send neither header, and are not affected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from tailrace.listen.http.request import Refusal, is_host

__all__ = ["Sites"]

_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
_origin = re.compile(rb"([a-z][a-z0-9+.\-]*)://([^/?#@]+)").fullmatch
_split = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::(\d*))?").fullmatch

_FOREIGN: Final = "a page of another site may not send to this server"


class Sites:
    """The hosts that a server answers for, and the origins that it allows besides its own.

    `hosts` None: any. `origins` "*": any. TypeError or ValueError, which name the argument.
    """

    def __init__(self, hosts: object = None, origins: object = ()) -> None:
        self._hosts = None if hosts is None else _names("hosts", hosts)
        self._origins = _names("origins", origins)
        for name in self._hosts or ():
            if not is_host(name) or b"*" in name:
                raise ValueError(
                    f"hosts must be names like 'example.com', not {name.decode()!r}{_hint(name)}"
                )
        for name in self._origins or ():
            match = _origin(name)
            authority = name if match is None else match[2]
            if name != b"null" and (not is_host(authority) or b"*" in authority):
                raise ValueError(
                    f"origins must be like 'https://example.com', 'example.com' or '*', not "
                    f"{name.decode()!r}{_hint(name)}"
                )
        self.restricted = self._hosts is not None  # whether each request must be checked

    def __repr__(self) -> str:
        return f"<Sites: hosts {self._hosts}, origins {self._origins}>"

    def check(self, fields: Mapping[bytes, bytes], scheme: bytes) -> None:
        """Raise Refusal(403) for another host's request, or one of a foreign site's page."""
        host = fields.get(b"host", b"").lower()
        if self._hosts is not None:
            name, port = _with_port(host, scheme)
            if self._hosts.isdisjoint((name, name + b":" + port)):
                raise Refusal(403, "this server does not answer for that Host")
        if self._origins is None:
            return
        site = fields.get(b"sec-fetch-site", b"").strip().lower()
        origin = fields.get(b"origin")
        if origin is None:
            if site == b"cross-site":
                raise Refusal(403, _FOREIGN)
            return
        origin = origin.strip().lower()
        if not self._allowed(origin) and not _same(origin, scheme, host, site):
            raise Refusal(403, _FOREIGN)

    def _allowed(self, origin: bytes) -> bool:
        if not self._origins:
            return False
        match = _origin(origin)
        names = {origin}
        if match is not None:
            name, port = _name_and_port(match[2])
            names |= {match[2], name if port in (None, _DEFAULT_PORTS.get(match[1])) else b""}
            if port is not None and port == _DEFAULT_PORTS.get(match[1]):
                names.add(match[1] + b"://" + name)
        return not names.isdisjoint(self._origins)


def _hint(name: bytes) -> str:
    return "; there are no patterns: name each site" if b"*" in name else ""


def _same(origin: bytes, scheme: bytes, host: bytes, site: bytes) -> bool:
    """Whether `origin` is this server, which the client called `host`."""
    match = _origin(origin)
    if match is None or not host:
        return False
    theirs = match[1]
    if theirs != scheme:
        # A proxy may have ended TLS. Then the browser, which sees https, must say "same-origin".
        if (theirs, scheme) != (b"https", b"http") or site != b"same-origin":
            return False
        scheme = theirs
    return _with_port(match[2], scheme) == _with_port(host, scheme)


def _with_port(authority: bytes, scheme: bytes) -> tuple[bytes, bytes]:
    name, port = _name_and_port(authority)
    return name, port or _DEFAULT_PORTS.get(scheme, b"")


def _name_and_port(authority: bytes) -> tuple[bytes, bytes | None]:
    match = _split(authority)
    if match is None:
        return authority, None
    return match[1], match[2] and (match[2].lstrip(b"0") or b"0")


def _names(argument: str, given: object) -> frozenset[bytes] | None:
    """The names in lower case; None for "*"."""
    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise TypeError(f"{argument} must be names like ['example.com'], or '*', not {given!r}")
    names = set[bytes]()
    for name in cast("Iterable[object]", given):
        if not isinstance(name, str) or not name.isascii() or not name:
            raise TypeError(f"{argument} must be names in ASCII, not {name!r}")
        names.add(name.lower().removesuffix("/").encode())
    return None if b"*" in names else frozenset(names)
