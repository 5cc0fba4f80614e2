"""`Hedged`: several backends that know the same, as one, for little more than the load of one."""

from __future__ import annotations

import functools
import inspect
import random as _random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from tailrace.arguments import check_count, check_number, check_seconds
from tailrace.gather.backends import Backend, backend, check, label
from tailrace.gather.hedging.copies import HedgedRace
from tailrace.gather.hedging.pool import Pool
from tailrace.gather.hedging.replica import BALANCERS, Balance, Eject
from tailrace.gather.hedging.statistics import HedgedStatistics, snapshot
from tailrace.gather.race import close

__all__ = ["Hedged", "HedgedFunction", "hedged"]

Q = TypeVar("Q")
R = TypeVar("R")
Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_DEFAULT = Eject()


class Hedged(Generic[Q_contra, R_co]):
    """Several backends that know the same, as one: one is asked, and another one when that pays.

    The first answer wins; the losers are cancelled and awaited before `query` returns. A `Hedged`
    is a `Backend` itself, so it nests; with one backend, all copies go to that one. It works on one
    event loop at a time.

    - `target`, `budget`: another copy is sent when that lowers the `target` quantile of the latency
      most, with at most `budget` more copies per query (0: none, `math.inf`: any number). The delay
      is learnt from the latencies; before some hundreds of answers nothing is hedged.
    - `delay`: instead, seconds after which another copy is sent, if the budget allows. 0: all at
      once; `math.inf`: only when a copy fails.
    - `max_copies`: at most so many for one query, failed ones included. A copy that fails is
      replaced at once, outside the budget, by one to another backend.
    - `balance`: "p2c", the less loaded of two at random; "random"; "in_order", as listed.
    - `eject`: when a backend that fails is left alone (`Eject`); None: never.
    - `limit`: concurrent queries per backend. More wait in a queue. When one copy of a query gets a
      slot, the other copies of that query leave their queues.
    - `fatal(error)`: whether a failure is the answer. Then it ends the query and is raised as it
      is.
    - `dispose(result)`, plain or async: called with each answer that is not returned. By default an
      answer is closed if it has an ``aclose()`` or ``close()``.
    - `random`: a generator, to repeat a run.

    When all copies fail: ExceptionGroup of the failures, each with a note that names its backend.
    Cancelled: as for `query_all`.
    """

    def __init__(
        self,
        *backends: Backend[Q_contra, R_co],
        target: float = 0.99,
        budget: float = 0.05,
        max_copies: int = 2,
        delay: float | None = None,
        balance: Balance = "p2c",
        eject: Eject | None = _DEFAULT,
        limit: int | None = None,
        fatal: Callable[[Exception], bool] | None = None,
        dispose: Callable[[R_co], object] = close,
        random: _random.Random | None = None,
        name: str = "",
    ) -> None:
        check("Hedged", backends)
        _check_numbers(
            target=target, budget=budget, max_copies=max_copies, delay=delay, limit=limit
        )
        _check_parts(balance, eject, fatal, dispose, random)
        self.backends = backends
        self.name = name
        self._pool = Pool(
            backends,
            target=target,
            budget=budget,
            max_copies=max_copies,
            delay=delay,
            balance=balance,
            eject=eject,
            limit=limit,
            fatal=fatal,
            dispose=dispose,
            rng=random or _random.Random(),
        )

    async def query(self, query: Q_contra, /) -> R_co:
        """The first answer."""
        race: HedgedRace[Q_contra, R_co] = HedgedRace(self._pool, query)
        try:
            await race.run()
        finally:
            race.copies.clear()  # they refer to the race
        if race.winner is not None:
            return race.winner.result()
        if race.fatal_error is not None:
            raise race.fatal_error
        errors = race.errors()
        raise ExceptionGroup(f"Hedged: all {len(errors)} copies failed", errors)

    def statistics(self) -> HedgedStatistics:
        """A snapshot of the counters, and of the delay in use."""
        return snapshot(self._pool)

    def __repr__(self) -> str:
        names = ", ".join(label(b) for b in self.backends)
        return f"Hedged({names}{f', name={self.name!r}' if self.name else ''})"


class HedgedFunction(Hedged[Q_contra, R_co]):
    """An async function, hedged: see `hedged`."""

    def __call__(self, query: Q_contra, /) -> Coroutine[Any, Any, R_co]:
        """As `query`."""
        return self.query(query)


def hedged(
    *,
    target: float = 0.99,
    budget: float = 0.05,
    max_copies: int = 2,
    delay: float | None = None,
    limit: int | None = None,
    fatal: Callable[[Exception], bool] | None = None,
    dispose: Callable[[Any], object] = close,
    random: _random.Random | None = None,
) -> Callable[[Callable[[Q], Awaitable[R]]], HedgedFunction[Q, R]]:
    """Hedge an async function of one argument, such as a request to a balanced URL.

    The hedged function is called as before, and is a `Backend` too. Arguments as for `Hedged`.
    """

    def decorate(fn: Callable[[Q], Awaitable[R]]) -> HedgedFunction[Q, R]:
        one = backend(fn)
        function: HedgedFunction[Q, R] = HedgedFunction(
            one,
            target=target,
            budget=budget,
            max_copies=max_copies,
            delay=delay,
            limit=limit,
            fatal=fatal,
            dispose=dispose,
            random=random,
            name=one.name,
        )
        functools.update_wrapper(function, fn)
        return function

    return decorate


# --- arguments


def _check_numbers(
    *, target: float, budget: float, max_copies: int, delay: float | None, limit: int | None
) -> None:
    check_number("Hedged: target", target, "a number between 0 and 1", lambda x: 0 < x < 1)
    check_number("Hedged: budget", budget, "a number of 0 or more", lambda x: x >= 0)
    check_count("Hedged: max_copies", max_copies)
    if delay is not None:
        check_seconds("Hedged: delay", delay, endless=True)
    if limit is not None:
        check_count("Hedged: limit", limit)


def _check_parts(
    balance: object, eject: object, fatal: object, dispose: object, rng: object
) -> None:
    if balance not in BALANCERS:
        raise ValueError(f"Hedged: balance={balance!r} is none of {', '.join(BALANCERS)}")
    if not isinstance(eject, Eject | None):
        raise TypeError(f"Hedged: eject={eject!r} is neither an Eject nor None")
    if fatal is not None and not callable(fatal):
        raise TypeError(f"Hedged: fatal={fatal!r} cannot be called")
    if inspect.iscoroutinefunction(fatal):
        raise TypeError(
            f"Hedged: fatal={fatal!r} is async: give a plain function that says yes or no"
        )
    if not callable(dispose):
        raise TypeError(f"Hedged: dispose={dispose!r} cannot be called")
    if not isinstance(rng, _random.Random | None):
        raise TypeError(f"Hedged: random={rng!r} is not a random.Random")
