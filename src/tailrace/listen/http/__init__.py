"""HTTP as a source: a request becomes a message, and the message's outcome becomes the answer.

How a request travels, with the module for each step:

- `listener`: the public classes. `server`: the socket that several listeners share (`sockets` and
  `accept` open it and accept connections). `service`: what all connections use.
- `protocol`: a connection's asyncio side. `connection`: the order of requests and answers on it,
  without I/O. `parser`: bytes to requests. `asgi`: takes the place of these three behind another
  server.
- `request`: the request and the rules for its head. `sites`: the rules for Host and Origin.
- `route`: the requests of one path, from admission to the channel. `admission`: the limits.
  `exchange`: one request, from its head to its answer. `lines`: the same for NDJSON.
- `decode`, with `gzip`, `multipart` and `parameters`: from the request to the message's data.
- `answers`, with `text` and `plain`: from the outcome to the answer. `access`: the access log.
"""

from __future__ import annotations

try:
    from tailrace.listen.http.listener import HttpServer, HttpStatistics, ListenHttp, listen_http
    from tailrace.listen.http.request import Request
except ModuleNotFoundError as missing:
    if missing.name and missing.name.partition(".")[0] == "tailrace":
        raise
    package = missing.name
    text = f"listening for HTTP needs {package}: pip install 'tailrace[http]'"
    raise ModuleNotFoundError(text, name=package) from missing

__all__ = ["HttpServer", "HttpStatistics", "ListenHttp", "Request", "listen_http"]
