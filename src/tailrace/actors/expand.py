"""`expand`: an actor that makes several messages of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar, overload

from tailrace.actors.stock import Stock, is_being_cancelled, name_of, outcome_of
from tailrace.channel import Receiver, Sender
from tailrace.message import Message
from tailrace.message.internals import STORED, Parts, current, ended, failure, make_current
from tailrace.usercode import close

__all__ = ["Expand", "expand"]

A = TypeVar("A")
B = TypeVar("B")


@overload
def expand(fn: Callable[[A], AsyncIterable[B]]) -> Expand[A, B]: ...
@overload
def expand(fn: Callable[[A], Awaitable[Iterable[B]]]) -> Expand[A, B]: ...
@overload
def expand(fn: Callable[[A], Iterable[B]]) -> Expand[A, B]: ...
def expand(fn: Callable[[A], Any]) -> Expand[A, Any]:
    """Make an actor that sends on a message for each value that ``fn(data)`` returns or yields.

    `fn` is a function that returns an iterable, async or not, or a generator function, async or
    not. It is drawn from as `out` takes the values. The message is settled when `fn` has ended and
    all its parts are settled; the worst outcome wins. The parts' ids are its id with ``.0``,
    ``.1``, … appended.

    No values: the message is aborted ("expanded to nothing"). If `fn` raises, `Abort` and `Reject`
    count as the outcome of one more part, any other exception as a failure, which is logged (at
    once, then at most every 10 s with a count); the parts that were sent go on, and so does the
    actor.

    TypeError for what is not a function. A function that returns what cannot be iterated, or a str
    or bytes, fails its message. Called as an actor it raises TypeError for a value that is no
    `Message`. Cancelled: the message in hand fails, once its parts that were sent are settled.
    """
    return Expand(fn)


class Expand(Stock, Generic[A, B]):
    """What `expand` makes. Any number of actors may share it."""

    def __init__(self, fn: Callable[[A], Any]) -> None:
        if not callable(fn):
            raise TypeError(f"expand takes a function of a message's data, not {fn!r}")
        super().__init__(f"expand({name_of(fn)})")
        self._fn = fn

    async def __call__(self, inbox: Receiver[Message[A]], out: Sender[Message[B]]) -> None:
        """The actor: until `inbox` ends. See `expand`."""
        outer_message = current.get()
        try:
            async for message in inbox:
                if self._is_open(message):
                    make_current(message)
                    await self._expand(Parts(message), out)
                del message
        finally:
            current.set(outer_message)
            self._failures.rest()

    async def _expand(self, parts: Parts, out: Sender[Message[B]]) -> None:
        """Send each value that the function gives for a message, and end its parts."""
        outcome = STORED
        try:
            async with aclosing(_values(self._fn, parts.message.data)) as values:
                while parts.message.outcome is None:
                    try:
                        value = await anext(values)
                    except StopAsyncIteration:
                        break
                    except asyncio.CancelledError as error:
                        if is_being_cancelled():
                            raise
                        outcome = failure(error)  # of something that the function awaited
                        break
                    except Exception as error:
                        outcome = outcome_of(error)
                        break
                    await self._pass_on(parts.part(value), out)
        except BaseException as error:
            outcome = self._ending(error)
            raise
        finally:
            if parts.made == 0 and outcome is STORED:
                outcome = ended("aborted", "expanded to nothing", None, None)
            if outcome.error is not None:
                self._failures.add(parts.message.id, outcome.error)
            parts.end(outcome)
            del parts, outcome  # a traceback refers to this frame


async def _values(fn: Callable[[Any], Any], data: Any) -> AsyncGenerator[Any, None]:
    """What `fn` returns or yields for `data`, one after another, however it does so."""
    result: Any = fn(data)
    if hasattr(result, "__await__"):
        result = await result
    if type(result) in (str, bytes, bytearray):
        raise TypeError(
            f"{name_of(fn)} returned a {type(result).__name__}, which expand would take apart: "
            f"return a list with it"
        )
    try:
        if hasattr(result, "__aiter__"):
            async for value in result:
                yield value
        else:
            for value in result:
                yield value
    finally:
        if hasattr(result, "aclose"):
            await result.aclose()
        else:
            close(result)
