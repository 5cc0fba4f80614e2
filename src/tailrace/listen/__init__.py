"""Layer 5: sources of messages, a package for each kind.

The public names are loaded when they are first used, so a source whose packages are not installed
costs nothing until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.listen.http import HttpServer as HttpServer
    from tailrace.listen.http import HttpStatistics as HttpStatistics
    from tailrace.listen.http import ListenHttp as ListenHttp
    from tailrace.listen.http import Request as Request
    from tailrace.listen.http import listen_http as listen_http
    from tailrace.listen.lines import ReadLines as ReadLines
    from tailrace.listen.lines import read_lines as read_lines

_HOMES = {
    "HttpServer": "http",
    "HttpStatistics": "http",
    "ListenHttp": "http",
    "ReadLines": "lines",
    "Request": "http",
    "listen_http": "http",
    "read_lines": "lines",
}

__all__ = [
    "HttpServer",
    "HttpStatistics",
    "ListenHttp",
    "ReadLines",
    "Request",
    "listen_http",
    "read_lines",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"tailrace.listen.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
