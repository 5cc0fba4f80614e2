"""Several messages in hand of one actor at once, which go on in the order of arrival, or as they
are ready.

A message in hand is with a task that handles it, or waits until `out` takes it. While there is any,
the actor waits in a select that a task can end too, so it does not look idle.

Invariants:
- `_places` has the messages whose tasks run, and those whose turn has not come, in the order of
  arrival; `_ready` has those that `out` is to take next. No message is in both.
- A message that has ended here leaves `_places` at once, and makes room for another.
- When `run` ends by an exception, every message in hand is settled and every task has ended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from tailrace.actors.calls import Caller
from tailrace.actors.handler import Dead, Handler
from tailrace.channel import Receiver, Sender
from tailrace.errors import Closed, WouldBlock
from tailrace.message import Message
from tailrace.select import done, select

__all__ = ["Several", "handle_several"]

A = TypeVar("A")
B = TypeVar("B")


async def handle_several(
    handler: Handler[A, B],
    inbox: Receiver[Message[A]],
    out: Sender[Message[B]],
    dead: Dead[A],
    limit: int,
    *,
    ordered: bool,
) -> None:
    """The actor that handles up to `limit` messages at once, in processes if there are any."""
    try:
        if not handler._processes:
            callers = [handler._caller() for _ in range(limit)]
            await Several(handler, callers, dead, ordered=ordered).run(inbox, out)
            return
        from tailrace.actors.processes import Pool  # 20 ms that other programs need not wait

        pool = Pool(handler._pickled, handler._processes, handler._timeout, handler.name)
        try:
            await pool.start()
            await Several(handler, [pool] * limit, dead, ordered=ordered).run(inbox, out)
        finally:
            await pool.end()
    finally:
        handler._failures.rest()


class Several(Generic[A, B]):
    """Handles messages for one actor, as many at once as there are callers."""

    def __init__(
        self, handler: Handler[A, B], callers: Iterable[Caller], dead: Dead[A], *, ordered: bool
    ) -> None:
        self._handler = handler
        self._callers = list(callers)
        self._free = list(self._callers)
        self._limit = len(self._callers)
        self._dead = dead
        self._ordered = ordered
        self._places: OrderedDict[asyncio.Task[Message[B] | None], Message[A]] = OrderedDict()
        self._results: dict[asyncio.Task[Message[B] | None], Message[B]] = {}
        self._ready: deque[Message[B]] = deque()
        self._error: BaseException | None = None  # that ends the actor
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        self._name = None if task is None else task.get_name()

    async def run(self, inbox: Receiver[Message[A]], out: Sender[Message[B]]) -> None:
        """Until `inbox` has ended, and all messages have gone on or are settled."""
        end: Closed | None = None
        try:
            while end is None or self._places or self._ready:
                if self._error is not None:
                    raise self._error
                if self._places or self._ready or not self._free:
                    end = await self._step(inbox, out, end)
                else:
                    try:
                        self._start(await inbox.recv())  # looks idle
                    except Closed as closed:
                        end = closed
            if end.__cause__ is not None:
                raise end
        except BaseException as error:
            await self._abandon(error)
            raise
        finally:
            for caller in self._callers:
                caller.close()
            self._error = end = None  # its traceback refers to this frame

    async def _step(
        self, inbox: Receiver[Message[A]], out: Sender[Message[B]], end: Closed | None
    ) -> Closed | None:
        """Receive a message, or send one, or learn that a task has ended: whichever comes first.

        Returns the end of `inbox` once that has come.
        """
        room = end is None and self._free and len(self._places) + len(self._ready) < self._limit
        receive = inbox.recv() if room else None
        forward = out.send(self._ready[0]) if self._ready else None
        try:
            match await select(receive, forward, done(self._changed)):
                case 0, Closed() as closed:
                    return closed
                case 0, message:
                    self._start(message)
                    del message
                case 1, _:
                    self._sent()
                case _:
                    self._changed = asyncio.get_running_loop().create_future()
        except Closed as closed:
            if self._ready:  # which channel is closed? Raises if it is `out`
                try:
                    out.send_nowait(self._ready[0])
                    self._sent()
                except WouldBlock:
                    pass
            return closed
        return end

    def _sent(self) -> None:
        self._ready.popleft()
        self._handler._passed += 1

    def _start(self, message: Message[A]) -> None:
        caller = self._free.pop()
        work = self._handler._handle(message, caller.call, self._dead)
        task = asyncio.create_task(work, name=self._name)
        self._places[task] = message
        task.add_done_callback(lambda task: self._ended(task, caller))

    def _ended(self, task: asyncio.Task[Message[B] | None], caller: Caller) -> None:
        busy = caller.busy
        if busy is None:
            self._free.append(caller)
        else:
            busy.add_done_callback(lambda _: self._freed(caller))
        passed = None
        if not task.cancelled():
            error = task.exception()
            if error is None:
                passed = task.result()
            else:
                self._error = error
        if task not in self._places:
            return  # it was abandoned
        if passed is None:
            del self._places[task]
        elif self._ordered:
            self._results[task] = passed
        else:
            del self._places[task]
            self._ready.append(passed)
        while self._places and (first := next(iter(self._places))) in self._results:
            self._ready.append(self._results.pop(first))
            del self._places[first]
        if passed is None or self._ready:
            self._wake()

    def _freed(self, caller: Caller) -> None:
        self._free.append(caller)
        self._wake()

    def _wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    async def _abandon(self, error: BaseException) -> None:
        """Settle the messages in hand, and end their tasks."""
        for message in (*self._ready, *self._places.values()):
            self._handler._not_passed(message, error)
        tasks = list(self._places)
        self._ready.clear()
        self._places.clear()
        self._results.clear()
        for task in tasks:
            task.cancel()
        if isinstance(error, GeneratorExit):
            return  # no await is allowed
        cancelled: asyncio.CancelledError | None = None
        while running := [task for task in tasks if not task.done()]:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError as again:
                cancelled = again
        if cancelled is not None:
            raise cancelled
