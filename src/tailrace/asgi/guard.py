"""What stands before the middleware of an application while a pipeline serves it.

It answers 503 while the pipeline is out of order, and it serves the path by which a load balancer
asks whether it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, Final, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

RETRY_AFTER: Final = b"5"
"""Seconds that a caller who hears 503 should wait: about what a restart takes."""


class Service(Protocol):
    """What the guard asks of a pipeline."""

    @property
    def trouble(self) -> str | None:
        """Why the pipeline can serve no request, or None."""
        ...


@contextlib.contextmanager
def guarded(app: Any, pipeline: Service, readyz: str | None) -> Generator[None]:
    """Put a guard before the middleware of a Starlette application, for the length of the block.

    Starlette builds `middleware_stack` for the first call, which is that for the lifespan. An
    application of another kind is left as it is.
    """
    if not hasattr(app, "middleware_stack"):
        yield
        return
    inner = app.middleware_stack or app.build_middleware_stack()
    taken = {getattr(route, "path", None) for route in getattr(app, "routes", ())}
    app.middleware_stack = Guard(inner, pipeline, None if readyz in taken else readyz)
    try:
        yield
    finally:
        app.middleware_stack = inner


class Guard:
    """Answers 503 for an application whose pipeline is out of order."""

    def __init__(self, app: Any, pipeline: Service, readyz: str | None) -> None:
        self._app = app
        self._pipeline = pipeline
        self._readyz = readyz

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        kind = scope["type"]
        trouble = self._pipeline.trouble
        if kind == "http" and trouble is not None:
            await _refuse(trouble, scope, send)
        elif kind == "http" and scope["path"] == self._readyz:
            await _answer(200, "ready", scope, send)
        elif kind == "http":
            await self._watched(scope, receive, send)
        elif kind == "websocket" and trouble is not None:
            await send({"type": "websocket.close", "code": 1013, "reason": trouble})
        else:
            await self._app(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; if it fails because the pipeline has failed meanwhile, answer 503."""
        refused = False

        async def send_or_refuse(event: Event) -> None:
            nonlocal refused
            if event["type"] == "http.response.start" and event["status"] == 500:
                trouble = self._pipeline.trouble
                if trouble is not None:
                    refused = True
                    await _refuse(trouble, scope, send)
            if not refused:
                await send(event)

        try:
            await self._app(scope, receive, send_or_refuse)
        except Exception:
            if not refused:
                raise
            # The log has the failure of the pipeline, which is the cause.


async def _refuse(trouble: str, scope: Scope, send: Send) -> None:
    await _answer(503, f"unavailable: {trouble}", scope, send, (b"retry-after", RETRY_AFTER))


async def _answer(
    status: int, text: str, scope: Scope, send: Send, *headers: tuple[bytes, bytes]
) -> None:
    body = text.encode()
    headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *headers,
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
