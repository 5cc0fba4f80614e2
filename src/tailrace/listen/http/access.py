"""The access log: one record for each answer, to the logger `tailrace.access`."""

from __future__ import annotations

import logging

from tailrace.listen.http.request import Request

__all__ = ["log_access", "printable"]

_log = logging.getLogger("tailrace.access")


def log_access(request: Request | None, status: int, size: int, seconds: float | None) -> None:
    """Log an answer of `size` bytes, `seconds` after the request's head.

    `request` is None if no request could be read; `seconds` is None if the request was refused at
    its head. The query is left out, since it carries the data. The values are attributes of the
    log record too.
    """
    client = method = path = ""
    took = "-" if seconds is None else f"{seconds * 1000:.1f}ms"
    try:
        if request is not None:
            client, method, path = request.client, request.method, printable(request.path)
        values = {"client": client, "method": method, "path": path, "status": status, "bytes": size}
        _log.info(
            '%s "%s %s" %d %d %s',
            client or "-",
            method or "-",
            path or "-",
            status,
            size,
            took,
            extra={**values, "seconds": seconds},
        )
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass  # user code raised: a log handler or filter; or `authorize` changed the request


def printable(text: str) -> str:
    """A client's text, escaped: in a log it can neither begin a line nor end its quotation."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode().replace('"', '\\"')
