"""Checks of the arguments of `HttpServer` and its `listen`. Each error names the argument."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable
from typing import cast

__all__ = ["TlsFiles", "header", "headers", "param", "path", "tls", "token"]

TlsFiles = tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""The paths of a certificate chain and of its key, in PEM."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[^?#%\s\x00-\x1f]*")


def path(given: object) -> str:
    """The path of a URL."""
    if not isinstance(given, str) or not _PATH.fullmatch(given):
        raise ValueError(f"path must begin with '/' and have no query, not {given!r}")
    return given


def param(given: object) -> str:
    """The name of a field."""
    if not isinstance(given, str) or not given:
        raise ValueError(f"param must be the name of a field, not {given!r}")
    return given


def token(given: object) -> bytes | None:
    """The value of `Authorization` that gives a bearer token, or None."""
    if given is None or (isinstance(given, str) and given.isascii() and given.isprintable()):
        if given == "" or (given is not None and " " in given):
            raise ValueError("token must not be empty, nor have spaces")
        return None if given is None else b"Bearer " + given.encode()
    raise ValueError("token must be printable ASCII text")


def header(argument: str, name: object) -> bytes:
    """The name of a header, in lower case."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must name a header, not {name!r}")
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{argument} must be the name of a header, not {name!r}")
    return name.lower().encode()


def headers(argument: str, names: object) -> frozenset[bytes]:
    """The names of several headers, in lower case."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be several names of headers, not {names!r}")
    return frozenset(header(argument, name) for name in cast("Iterable[object]", names))


def tls(given: object) -> ssl.SSLContext | None:
    """An SSLContext: `given` itself, or one made of the certificate file and the key file."""
    if given is None or isinstance(given, ssl.SSLContext):
        return given
    if not isinstance(given, tuple) or len(cast(tuple[object, ...], given)) != 2:
        raise TypeError(f"tls must be an SSLContext or (certificate file, key file), not {given!r}")
    certificate, key = (os.fspath(path) for path in cast(TlsFiles, given))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or str(error)
        raise OSError(error.errno, f"tls: cannot load {certificate!r}, {key!r}: {why}") from error
    return context
