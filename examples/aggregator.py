"""Three services of three replicas each, and one answer in time, with the results that have come by
then.

    python examples/aggregator.py    # then: curl '127.0.0.1:8080/search?q=dubstep'

Each service is asked at one replica, and at a second one when that pays (`Hedged`). A replica that
fails or hangs is not asked for a while. The answer names the services that have not answered by the
deadline. Needs starlette, httpx and, to run by itself, uvicorn.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tailrace import Hedged, query_some, remaining

DEADLINE = 0.5  # seconds

SERVICES = {
    "web": ("http://127.0.0.1:9001", "http://127.0.0.1:9002", "http://127.0.0.1:9003"),
    "images": ("http://127.0.0.1:9011", "http://127.0.0.1:9012", "http://127.0.0.1:9013"),
    "videos": ("http://127.0.0.1:9021", "http://127.0.0.1:9022", "http://127.0.0.1:9023"),
}


class Replica:
    """One server that can be asked."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.name = url
        self._client = client

    async def query(self, q: str, /) -> Any:
        # The time left of the request's deadline: the client need not wait longer.
        answer = await self._client.get(self.name, params={"q": q}, timeout=remaining())
        answer.raise_for_status()
        return answer.json()


def our_fault(error: Exception) -> bool:
    """A query that one replica rejects need not be sent to another."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error


def application(
    services: Mapping[str, Sequence[str]] = SERVICES,
    deadline: float = DEADLINE,
    **options: Any,
) -> Starlette:
    """The server, for the URLs of the replicas by the name of their service.

    `options` are for each `Hedged`. All of them are in the list ``app.state.hedged``.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with httpx.AsyncClient() as client:
            app.state.hedged = [
                Hedged(
                    *(Replica(client, url) for url in urls), name=name, fatal=our_fault, **options
                )
                for name, urls in services.items()
            ]
            yield

    async def search(request: Request) -> JSONResponse:
        hedged: list[Hedged[str, Any]] = request.app.state.hedged
        answers = await query_some(
            request.query_params.get("q", ""), *hedged, timeout=deadline, at_least=0
        )
        found = {answer.backend.name: answer.value for answer in answers if answer.ok}
        missing = [answer.backend.name for answer in answers if not answer.ok]
        return JSONResponse(
            {"found": found, "partial": bool(missing), "missing": missing},
            status_code=200 if found else 504,
        )

    return Starlette(routes=[Route("/search", search)], lifespan=lifespan)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application(), host="127.0.0.1", port=8080)
