"""The life of a pipeline within an ASGI application: a group in a task of its own.

So an actor that fails ends the pipeline, and not the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from tailrace import _core
from tailrace.arguments import check_seconds
from tailrace.asgi.guard import guarded
from tailrace.group import Group
from tailrace.group.internals import cancel_after, failure_of
from tailrace.usercode import clear_frames, log_error, shown

__all__ = ["Lifespan", "lifespan"]

_log = logging.getLogger("tailrace")

State: TypeAlias = Mapping[str, object] | None
Main: TypeAlias = Callable[[Group], State | Awaitable[State] | AsyncIterator[State]]
UNTIL: Final = "requests are answered 503 until the server is restarted"


def lifespan(main: Main, *, grace: float = 30.0, readyz: str | None = "/readyz") -> Lifespan:
    """A pipeline for FastAPI, Starlette or Litestar: ``FastAPI(lifespan=lifespan(main))``.

    ``main(go)`` starts the pipeline when the application starts, as under `run`. The mapping that
    it returns becomes the state of the lifespan: ``{"orders": orders}`` is ``request.state.orders``
    in a route, which calls ``await submit(request.state.orders, data)``. Each channel in the
    mapping, or sending end of one, is held until the application stops. `main` may be async. As an
    asynchronous generator it yields the mapping, and is resumed when all actors have ended: there
    it closes the clients and pools that the pipeline uses.

    When the application stops, the pipeline is drained; what still runs after `grace` seconds is
    cancelled.

    If an actor fails, the error is logged and the server lives on: each request is answered 503,
    and so is `readyz`, until the server is restarted. The same holds if a channel of the mapping
    has closed, so that the pipeline can take nothing more. Otherwise GET `readyz` answers 200,
    unless the application has a route of its own for that path (None: no such path).

    TypeError if `main` is no function, or does not return a mapping with names as keys. If `main`
    raises, the application does not start.
    """
    return Lifespan(main, grace, readyz)


class Lifespan:
    """What `lifespan` returns: called with the application, a context manager for its lifespan."""

    def __init__(self, main: Main, grace: float, readyz: str | None) -> None:
        if not callable(main):
            raise TypeError(f"lifespan takes the function main(go), not {main!r}")
        check_seconds("grace", grace)
        if readyz is not None and not readyz.startswith("/"):
            raise ValueError(f"readyz must be a path that begins with /, or None, not {readyz!r}")
        self._main = main
        self._grace = grace
        self._readyz = readyz

    def __repr__(self) -> str:
        return f"lifespan({self._main!r})"

    @contextlib.asynccontextmanager
    async def __call__(self, app: Any, /) -> AsyncGenerator[Mapping[str, Any], None]:
        """Run the pipeline for the length of the block, which gets the state.

        Cancelled: the pipeline is cancelled, and has ended when the block ends.
        """
        pipeline = _Pipeline(self._main, self._grace)
        state = await pipeline.start()
        with guarded(app, pipeline, self._readyz):
            try:
                yield state
            finally:
                await pipeline.end()


class _Pipeline:
    """A group in a task of its own, from the start of the application to its end."""

    def __init__(self, main: Main, grace: float) -> None:
        self._main = main
        self._grace = grace
        self._go = _Group()
        self._holds: list[_core.Hold] = []  # on the sending ends in the state
        self._failed = False
        self._stopping = asyncio.Event()
        self._grace_over: asyncio.TimerHandle | None = None
        self._started: asyncio.Future[Mapping[str, object]]
        self._task: asyncio.Task[None]

    def __repr__(self) -> str:
        return f"<pipeline of {self._main!r}: {self.trouble or 'ready'}>"

    @property
    def trouble(self) -> str | None:
        """Why the pipeline can serve no request, or None."""
        if self._stopping.is_set():
            return "the service is stopping"
        if self._failed or failure_of(self._go) is not None:
            return "the pipeline has failed"
        if self._task.done():
            return "the pipeline has ended"
        for channel, _, name in self._holds:
            if channel.closed:
                return f"the pipeline takes nothing more by {name}"
        return None

    async def start(self) -> Mapping[str, object]:
        """Start the pipeline, and return the state. Raises what `main` raises.

        Cancelled: the pipeline is cancelled, and has ended.
        """
        self._started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(), name="pipeline")
        await self._wait_for(self._task, self._started)
        if not self._started.done():
            self._task.result()  # raises
        return self._started.result()

    async def end(self) -> None:
        """Drain the pipeline. Returns when it has ended. Cancelled: the pipeline is cancelled,
        and has ended."""
        self._stopping.set()
        await self._wait_for(self._task)

    async def _wait_for(self, *futures: asyncio.Future[Any]) -> None:
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise

    async def _live(self) -> None:
        try:
            async with self._go as go, _calling(self._main, go) as state:
                self._go.starting = False
                self._hold(state)
                self._started.set_result(state)
                try:
                    await self._stopping.wait()
                finally:
                    _core.let_go(self._holds, failure_of(go))
                go.drain()
                self._grace_over = cancel_after(go, self._grace)
                await go.wait()
            if not self._stopping.is_set():
                _log.error("the pipeline was cancelled; %s", UNTIL)
        except BaseExceptionGroup as failures:
            if not self._started.done():
                raise
            self._failed = True
            log_error(_log, "the pipeline has failed; %s", UNTIL, error=failures)
            # The channels in the state keep the failures as their cause: a message that a failed
            # actor had in hand would stay open, and the request that waits for it.
            clear_frames(failures)
        finally:
            if self._grace_over is not None:
                self._grace_over.cancel()

    def _hold(self, state: Mapping[str, object]) -> None:
        for name, value in state.items():
            match _core.resolve_end(value):
                case channel, "send" | None:
                    self._holds.append((channel, "send", name))
                case _:
                    pass
        _core.take_hold(self._holds)


class _Group(Group):
    """A group that tells an async main function not to wait in it: the application waits."""

    starting = True

    async def wait(self) -> None:
        self._check_started("wait")
        await super().wait()

    async def idle(self) -> None:
        self._check_started("idle")
        await super().idle()

    def _check_started(self, method: str) -> None:
        if self.starting and asyncio.current_task() is self.parent:
            raise RuntimeError(
                f"main waits in go.{method}(), so the application would not start; to hold a "
                f"client open, `yield` the state instead"
            )


@contextlib.asynccontextmanager
async def _calling(main: Main, go: Group) -> AsyncGenerator[Mapping[str, object], None]:
    """Call `main`; the block gets the state. A generator is resumed when the block has ended."""
    made: Any = main(go)
    if isinstance(made, AsyncGenerator):
        states = cast("AsyncGenerator[Any, None]", made)
        async with contextlib.aclosing(states):
            yield _checked(await anext(states, None), main)
            async for _ in states:
                raise RuntimeError(f"{main!r} yields more than one state")
    else:
        yield _checked(await made if inspect.isawaitable(made) else made, main)


def _checked(state: Mapping[str, object] | None, main: Main) -> Mapping[str, object]:
    """TypeError unless `state`, as it is at run time, can be the state of a lifespan."""
    if state is None:
        return {}
    names: Iterable[object] = state if isinstance(state, Mapping) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{getattr(main, '__qualname__', main)} must return a mapping from names to what "
            f"routes find in request.state, or None, not {shown(state)}"
        )
    return state
