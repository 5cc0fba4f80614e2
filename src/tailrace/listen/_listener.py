"""ListenHttp: the actor that puts the requests for one path into its channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from tailrace.channel import Sender
from tailrace.listen._host import Host
from tailrace.listen._intake import Intake
from tailrace.message import Message

if TYPE_CHECKING:
    from tailrace.listen.http import HttpServer

__all__ = ["ListenHttp"]

T = TypeVar("T")


class ListenHttp(Generic[T]):
    """An actor that makes a message of each request for `path`; `HttpServer.listen` makes it.

    Start it with ``go(listener, channel)``, once. It ends when it is drained, or when its
    channel is closed by those downstream. A drained listener lets go of the channel as soon as
    no request can make a message any more; its `finish` waits for the answers.
    """

    name = "listen_http"  # what graphs and test kits call this actor

    def __init__(self, server: HttpServer, host: Host, intake: Intake) -> None:
        self.server = server
        self._host = host
        self._intake = intake
        self._quiet: asyncio.Event | None = None  # while it runs: set when it sends no more
        self._conclusion: asyncio.Task[None] | None = None  # answers what it has sent

    def __repr__(self) -> str:
        intake = self._intake
        state = "not running"
        if self._quiet is not None:
            state = f"{intake.inside} in flight{', draining' if intake.draining else ''}"
        return f"<listen_http {self._host.bind} {intake.path}: {state}>"

    @property
    def path(self) -> str:
        """The path of the requests that it takes."""
        return self._intake.path

    async def __call__(self, out: Sender[Message[T]]) -> None:
        """Listen until drained; return when no request can make a message any more.

        The requests whose messages are not settled then are answered while `finish` waits.
        Raises OSError, which names the address, if that cannot be listened on; `Closed` if the
        channel is closed by those downstream, after all requests have been answered (503 where
        the message was not sent). Cancelled: what no channel took is answered 503, the rest 504.
        """
        if self._quiet is not None:
            raise RuntimeError(f"{self!r} is running already: start it once, with actors=1")
        self._quiet = quiet = asyncio.Event()
        self._conclusion = None
        try:
            self._intake.start()  # before it can be reached: nobody hears 503 for being early
            await self._host.entered(self._intake)
            await self._forward(out)
        except asyncio.CancelledError:
            self._intake.refuse_line("the server is stopping")
            self._intake.abandon()
            raise
        else:
            # A task of its own, not the body of `finish`: a group that is cancelled between the
            # end of this actor and `finish` calls no `finish`, and the socket must close.
            self._conclusion = asyncio.create_task(self._conclude(), name=f"{self.name}.answers")
        finally:
            quiet.set()
            if self._conclusion is None:  # it was cancelled, or could not listen or send
                await self._leave()

    async def _forward(self, out: Sender[Message[T]]) -> None:
        try:
            await self._intake.forward(out)
        except Exception:
            self._intake.refuse_line("the program takes no more messages")
            await self._intake.all_answered()
            raise

    async def _conclude(self) -> None:
        """Answer the requests that wait for their messages to be settled, then leave the server."""
        try:
            await self._intake.all_answered()
        except asyncio.CancelledError:
            self._intake.abandon()
            raise
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._intake.stop()
        await self._host.left(self._intake)
        self._quiet = None

    async def drain(self) -> None:
        """Take no more requests, and return when those that were taken make no more messages.

        Later requests hear 503, or find nobody. Cancelled: it takes no more requests all the same.
        """
        self._intake.drain()
        self._host.drained()
        if self._quiet is not None:
            await self._quiet.wait()

    async def finish(self) -> None:
        """Wait until all requests have been answered and their connections have ended.

        The group calls it once the listener's hold on the channel is released. Cancelled:
        requests that wait are answered 504.
        """
        if self._conclusion is not None:
            await self._conclusion
