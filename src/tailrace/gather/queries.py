"""Asking several backends at once: all of them, some, each as it comes; and plain awaitables."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, TypeVar, overload

from tailrace.arguments import check_count
from tailrace.gather.backends import Answer, Backend, check, close_unstarted
from tailrace.gather.fanout import FanOut, ask_with

__all__ = ["query_all", "query_each", "query_some", "together"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
Q = TypeVar("Q")
R = TypeVar("R")


# The overloads for `str` say nothing new. They are for pyright, which takes a literal query for the
# type of a backend that is made in the same call: query_all("dubstep", web, Replicas(a, b)).
@overload
async def query_all(
    query: str, *backends: Backend[str, R], timeout: float | None = None
) -> list[R]: ...
@overload
async def query_all(
    query: Q, *backends: Backend[Q, R], timeout: float | None = None
) -> list[R]: ...
async def query_all(query: Q, *backends: Backend[Q, R], timeout: float | None = None) -> list[R]:
    """Ask all at once; the answers, in the order of the backends. All must answer.

    The first failure cancels the rest and raises an ExceptionGroup of all failures, each with a
    note that names its backend. After `timeout` seconds: TimeoutError, which names those that had
    not answered. Cancelled: all copies are cancelled and have ended, or are left after a second.
    """
    check("query_all", backends)
    race: FanOut[Backend[Q, R], R] = FanOut(
        "query_all", backends, ask_with(query), needed=len(backends), tolerated=0, timeout=timeout
    )
    await race.run()
    if race.answered == len(backends):
        return [task.result() for task in race.tasks]
    if race.errors():
        errors = race.errors(late=True)  # also those of copies that failed while being cancelled
        raise ExceptionGroup(f"query_all: {len(errors)} of {len(backends)} backends failed", errors)
    raise TimeoutError(f"query_all: no answer within {timeout} s from {race.missing()}")


@overload
async def query_some(
    query: str,
    *backends: Backend[str, R],
    timeout: float | None = None,
    at_least: int | None = None,
    first: int | None = None,
) -> list[Answer[R]]: ...
@overload
async def query_some(
    query: Q,
    *backends: Backend[Q, R],
    timeout: float | None = None,
    at_least: int | None = None,
    first: int | None = None,
) -> list[Answer[R]]: ...
async def query_some(
    query: Q,
    *backends: Backend[Q, R],
    timeout: float | None = None,
    at_least: int | None = None,
    first: int | None = None,
) -> list[Answer[R]]:
    """Ask all at once and take what comes: an `Answer` for each backend, in their order.

    Returns when all have answered or failed, when `timeout` seconds have passed, or when `first`
    have answered (a quorum). Backends that had not answered by then are cancelled; their `Answer`
    has a TimeoutError.

    If fewer than `at_least` (`first` if that is given, else 1) have answered: TimeoutError if the
    timeout is what ended the wait (with the failures, if any, as its cause); else, as soon as too
    many have failed, an ExceptionGroup of the failures, each with a note that names its backend.
    Cancelled: as for `query_all`.
    """
    check("query_some", backends)
    asked = len(backends)
    if first is not None and check_count("query_some: first", first) > asked:
        raise ValueError(f"query_some: first={first} of {asked} backends")
    if at_least is None:
        at_least = first or 1
    elif check_count("query_some: at_least", at_least, least=0) > (first or asked):
        raise ValueError(
            f"query_some: at_least={at_least} of "
            + (f"first={first}" if first else f"{asked} backends")
        )
    race: FanOut[Backend[Q, R], R] = FanOut(
        "query_some",
        backends,
        ask_with(query),
        needed=first or asked,
        tolerated=asked - at_least,
        timeout=timeout,
    )
    await race.run()
    answered = race.answered
    if answered >= at_least:
        return race.answers(
            f"not waited for, as {answered} others had answered"
            if answered == first
            else f"no answer within {timeout} s"
        )
    errors = race.errors()
    summary = f"query_some: {answered} of {asked} answered, at least {at_least} wanted"
    if asked - len(errors) < at_least:
        raise ExceptionGroup(summary, errors)
    failures = ExceptionGroup(summary, errors) if errors else None
    missing = race.missing()
    raise TimeoutError(f"{summary}; no answer within {timeout} s from {missing}") from failures


@overload
def query_each(
    query: str, *backends: Backend[str, R], timeout: float | None = None
) -> AsyncGenerator[Answer[R], None]: ...
@overload
def query_each(
    query: Q, *backends: Backend[Q, R], timeout: float | None = None
) -> AsyncGenerator[Answer[R], None]: ...
def query_each(
    query: Q, *backends: Backend[Q, R], timeout: float | None = None
) -> AsyncGenerator[Answer[R], None]:
    """Ask all at once: ``async for answer in query_each(…)``, an `Answer` for each, as they come.

    Backends are asked when the iteration begins. Failures come as answers, and so, at the end, do
    those that had not answered after `timeout` seconds (with a TimeoutError).
    Leaving early cancels the others; to wait for that as well:
    ``async with contextlib.aclosing(query_each(…)) as answers:``.
    Cancelled: as for `query_all`.
    """
    check("query_each", backends)
    return _each_answer(query, backends, timeout)


async def _each_answer(
    query: Q, backends: Sequence[Backend[Q, R]], timeout: float | None
) -> AsyncGenerator[Answer[R], None]:
    race: FanOut[Backend[Q, R], R] = FanOut(
        "query_each", backends, ask_with(query), needed=0, tolerated=0, timeout=timeout
    )
    try:
        race.start()
        arrived = 0
        while (answer := await race.arrival(arrived)) is not None:
            arrived += 1
            yield answer
    finally:
        if race.stop():
            await race.join()
    for answer in race.late_answers(f"no answer within {timeout} s"):
        yield answer


@overload
async def together(a: Awaitable[A], /, *, timeout: float | None = None) -> tuple[Answer[A]]: ...
@overload
async def together(
    a: Awaitable[A], b: Awaitable[B], /, *, timeout: float | None = None
) -> tuple[Answer[A], Answer[B]]: ...
@overload
async def together(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /, *, timeout: float | None = None
) -> tuple[Answer[A], Answer[B], Answer[C]]: ...
@overload
async def together(
    a: Awaitable[A],
    b: Awaitable[B],
    c: Awaitable[C],
    d: Awaitable[D],
    /,
    *,
    timeout: float | None = None,
) -> tuple[Answer[A], Answer[B], Answer[C], Answer[D]]: ...
@overload
async def together(
    a: Awaitable[A],
    b: Awaitable[B],
    c: Awaitable[C],
    d: Awaitable[D],
    e: Awaitable[E],
    /,
    *,
    timeout: float | None = None,
) -> tuple[Answer[A], Answer[B], Answer[C], Answer[D], Answer[E]]: ...
@overload
async def together(
    a: Awaitable[A],
    b: Awaitable[B],
    c: Awaitable[C],
    d: Awaitable[D],
    e: Awaitable[E],
    f: Awaitable[F],
    /,
    *,
    timeout: float | None = None,
) -> tuple[Answer[A], Answer[B], Answer[C], Answer[D], Answer[E], Answer[F]]: ...
@overload
async def together(
    *awaitables: Awaitable[A], timeout: float | None = None
) -> tuple[Answer[A], ...]: ...
async def together(
    *awaitables: Awaitable[Any], timeout: float | None = None
) -> tuple[Answer[Any], ...]:
    """Await all at once: an `Answer` for each, in order, so each keeps its own type.

    A failure is an answer and disturbs no other. After `timeout` seconds those that are not done
    are cancelled, and have a TimeoutError. `Answer.backend` is the awaitable.
    Cancelled: as for `query_all`.
    """
    try:
        if not awaitables:
            raise ValueError("together: nothing to await")
        for position, awaitable in enumerate(awaitables, 1):
            if not inspect.isawaitable(awaitable):
                raise TypeError(f"together: argument {position} is not awaitable: {awaitable!r}")
        every = len(awaitables)
        race: FanOut[Awaitable[Any], Any] = FanOut(
            "together", awaitables, _itself, needed=every, tolerated=every, timeout=timeout
        )
        await race.run()
        return tuple(race.answers(f"not done within {timeout} s"))
    finally:
        # Python would warn of a coroutine that was never awaited, and nobody else can await it.
        for awaitable in awaitables:
            close_unstarted(awaitable)


def _itself(awaitable: Awaitable[A]) -> Awaitable[A]:
    return awaitable
