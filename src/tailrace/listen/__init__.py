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

__all__ = ["HttpServer", "HttpStatistics", "ListenHttp", "Request", "listen_http"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module("tailrace.listen.http"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
