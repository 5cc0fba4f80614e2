"""Where a PostgreSQL server is, from a DSN: a URI, or libpq's ``host=… dbname=…``.

The DSN is taken apart here, because asyncpg knows no keywords and shows a DSN that it cannot read,
with its password. No error of this module shows a value, only names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

_IN_A_DSN: Final = (  # asyncpg takes these from a DSN only
    "gsslib",
    "krbsrvname",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
)
_IGNORED: Final = (  # of libpq's, which asyncpg does not have
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcompression",
    "tcp_user_timeout",
)
_SETTING: Final = re.compile(r"[a-z_][a-z0-9_.]*", re.IGNORECASE)
_WORD: Final = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dsn:
    """The parts of a DSN. ``str(dsn)`` shows user, hosts and database, and never a password."""

    options: dict[str, Any] = field(repr=False)
    """Keyword arguments of ``asyncpg.connect``."""
    connect_timeout: float | None
    shown: str
    secrets: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.shown

    def is_in(self, text: str) -> bool:
        """Whether a password is in `text`."""
        return any(secret in text for secret in self.secrets)


def parsed(dsn: object) -> Dsn:
    """The parts of a DSN. TypeError or ValueError, without any value, for what is none."""
    if not isinstance(dsn, str):
        raise TypeError(f"dsn must be text such as 'postgresql://…', not {type(dsn).__name__}")
    if re.match(r"postgres(ql)?://", dsn):
        parts = _of_uri(dsn.partition("://")[2])
    elif not dsn.strip() or re.match(r"\s*\w+\s*=", dsn):
        parts = _of_keywords(dsn)
    else:
        raise ValueError(
            "dsn must be 'postgresql://user:password@host:port/database' or "
            "'host=… user=… dbname=…'; this one is neither"
        )
    return _dsn(parts)


def _of_uri(rest: str) -> dict[str, str]:
    match = re.fullmatch(r"([^/?]*)(?:/([^?]*))?(?:\?(.*))?", rest, re.DOTALL)
    assert match is not None
    authority, database, query = match.group(1), match.group(2) or "", match.group(3) or ""
    login, _, hosts = authority.rpartition("@")
    if "@" in database or ("@" in query and not login):
        raise ValueError(
            "dsn: there is a '/' or '?' before the '@': in a password write %2F for / and %3F for "
            "?, anywhere else %40 for @"
        )
    user, _, password = login.partition(":")
    parts = {"user": user, "password": password, "dbname": database}
    if hosts:
        found = [_host_and_port(each) for each in hosts.split(",")]
        parts["host"] = ",".join(host for host, _ in found)
        if any(port for _, port in found):
            parts["port"] = ",".join(port for _, port in found)
    parts = {name: unquote(value) for name, value in parts.items() if value}
    for pair in filter(None, query.split("&")):
        name, sign, value = pair.partition("=")
        if not sign or not _SETTING.fullmatch(name):
            raise ValueError("dsn: after the '?' there must be name=value, separated by '&'")
        parts[name] = unquote(value)
    return parts


def _host_and_port(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", text)
    if match is None:
        raise ValueError("dsn: an IPv6 address must be in brackets: [::1]:5432")
    return match.group(1).strip("[]"), match.group(2) or ""


def _of_keywords(dsn: str) -> dict[str, str]:
    return dict(_words(dsn))


def _words(dsn: str) -> Iterator[tuple[str, str]]:
    place, last = 0, ""
    while dsn[place:].strip():
        place += len(dsn[place:]) - len(dsn[place:].lstrip())
        match = _WORD.match(dsn, place)
        if match is None:
            after = f" after {last!r}" if last else ""
            raise ValueError(
                f"dsn: name=value expected{after}; write a value with spaces as 'in quotes'"
            )
        last, value = match.groups()
        if value.startswith("'"):
            value = value[1:-1]
        yield last, re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        place = match.end()


def _dsn(parts: dict[str, str]) -> Dsn:
    left = dict(parts)
    hosts = left.pop("host", "")
    hosts = left.pop("hostaddr", "") or hosts
    user, password = left.pop("user", None), left.pop("password", None)
    database = left.pop("database", None) or left.pop("dbname", None)
    left.pop("dbname", None)
    ports = [_number("port", each) for each in left.pop("port", "").split(",") if each]
    timeout = left.pop("connect_timeout", None)
    options: dict[str, Any] = {"user": user, "password": password, "database": database}
    options["host"] = [each for each in hosts.split(",") if each] or None
    options["port"] = (ports[0] if len(ports) == 1 else ports) or None
    options["passfile"] = left.pop("passfile", None)
    options["servicefile"] = left.pop("servicefile", None)
    if left.pop("channel_binding", "prefer") == "require":
        raise ValueError("dsn: asyncpg has no channel binding, so leave channel_binding out")
    for name in _IGNORED:
        left.pop(name, None)
    left.setdefault("service", os.environ.get("PGSERVICE", ""))
    given = {name: left.pop(name, "") for name in _IN_A_DSN}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)
    options["dsn"] = f"postgresql://?{query}" if query else None
    options["server_settings"] = left or None
    secrets = tuple(filter(None, (password, given.get("sslpassword"))))
    shown = _shown(user, options["host"], ports, database, given.get("service"))
    kept = {name: value for name, value in options.items() if value is not None}
    seconds = None if timeout is None else float(_number("connect_timeout", timeout))
    return Dsn(kept, seconds or None, shown, secrets)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(
            f"dsn: {name} must be a number; in a password write %2F for /, %3F for ?, %40 for @"
        )
    return int(text)


def _shown(
    user: str | None,
    hosts: list[str] | None,
    ports: list[int],
    database: str | None,
    service: str | None,
) -> str:
    names = [f"[{host}]" if ":" in host else host for host in hosts or ()]
    if len(ports) == len(names):
        names = [f"{name}:{port}" for name, port in zip(names, ports, strict=True)]
    elif ports:
        names = [f"{name}:{ports[0]}" for name in names or [""]]
    login = f"{user}@" if user else ""
    where = f"postgresql://{login}{','.join(names)}/{database or ''}"
    return f"{where} of service {service}" if service else where
