"""Go's test/chan/powser1.go and powser2.go: power series as actors that compute on demand.

The programs come from Newsqueak and Doug McIlroy's paper *Squinting at Power Series*. A series is
two channels: on one somebody asks for the next term, on the other it comes. Nothing runs that was
not asked for, so one lost or doubled wake-up makes a wrong term or a deadlock. Actors start actors,
series are defined by themselves, and selects switch their cases on and off.

Terms are exact fractions, and what is expected is known in closed form.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from tailrace import Channel, Group, select

pytestmark = pytest.mark.virtual_time

Term = Fraction | None
"""A coefficient; None says that all further ones are 0. (A value that says nothing is a value.)"""


@dataclass(frozen=True, eq=False)
class Series:
    """Coefficients, constant term first, computed when they are asked for."""

    ask: Channel[None] = field(default_factory=Channel[None])
    term: Channel[Term] = field(default_factory=Channel[Term])

    async def get(self) -> Term:
        await self.ask.send(None)
        return await self.term.recv()

    async def put(self, term: Term) -> None:
        await self.ask.recv()
        await self.term.send(term)


async def get_both(u: Series, v: Series) -> tuple[Term, Term]:
    """A term of each, asked for and received in whatever order they are ready."""
    got: dict[int, Term] = {}
    unasked, asked = {0: u, 1: v}, dict[int, Series]()
    while len(got) < 2:
        index, value = await select(
            unasked[0].ask.send(None) if 0 in unasked else None,
            unasked[1].ask.send(None) if 1 in unasked else None,
            asked[0].term.recv() if 0 in asked else None,
            asked[1].term.recv() if 1 in asked else None,
        )
        if index < 2:
            asked[index] = unasked.pop(index)
        else:
            assert value is None or isinstance(value, Fraction)
            del asked[index - 2]
            got[index - 2] = value
    return got[0], got[1]


async def copy(source: Series, out: Series) -> None:
    while True:
        await out.ask.recv()
        await out.term.send(await source.get())


async def serve_two(source: Series, outs: tuple[Series, Series]) -> None:
    """Give each of `outs` all terms of `source`, which is asked only for what neither has had."""
    backlogs: tuple[deque[Term], deque[Term]] = (deque(), deque())
    owed = [False, False]
    wanted = asked = False
    while True:
        index, value = await select(
            None if owed[0] else outs[0].ask.recv(),
            None if owed[1] else outs[1].ask.recv(),
            outs[0].term.send(backlogs[0][0]) if owed[0] and backlogs[0] else None,
            outs[1].term.send(backlogs[1][0]) if owed[1] and backlogs[1] else None,
            source.ask.send(None) if wanted and not asked else None,
            source.term.recv() if asked else None,
        )
        if index < 2:
            owed[index] = True
        elif index < 4:
            backlogs[index - 2].popleft()
            owed[index - 2] = False
        elif index == 4:
            asked = True
        else:
            assert value is None or isinstance(value, Fraction)
            asked = False
            for backlog in backlogs:
                backlog.append(value)
        wanted = any(owes and not backlog for owes, backlog in zip(owed, backlogs, strict=True))


class Algebra:
    """Makes series of series; each call starts an actor or more in `go`."""

    def __init__(self, go: Group) -> None:
        self.go = go

    def series(self, write: Callable[[Series], Awaitable[None]]) -> Series:
        out = Series()
        self.go(write, out)
        return out

    def split(self, u: Series, outs: tuple[Series, Series] | None = None) -> tuple[Series, Series]:
        outs = outs or (Series(), Series())
        self.go(serve_two, u, outs)
        return outs

    def constant(self, c: Fraction) -> Series:
        async def write(out: Series) -> None:
            while True:
                await out.put(c)

        return self.series(write)

    def polynomial(self, *terms: int) -> Series:
        async def write(out: Series) -> None:
            for term in terms:
                await out.put(Fraction(term))
            await out.put(None)

        return self.series(write)

    def add(self, u: Series, v: Series) -> Series:
        async def write(out: Series) -> None:
            while True:
                await out.ask.recv()
                match await get_both(u, v):
                    case None, None:
                        await out.term.send(None)
                        return
                    case None, b:
                        await out.term.send(b)
                        await copy(v, out)
                    case a, None:
                        await out.term.send(a)
                        await copy(u, out)
                    case a, b:
                        await out.term.send(a + b)

        return self.series(write)

    def scale(self, c: Fraction, u: Series) -> Series:
        async def write(out: Series) -> None:
            while True:
                await out.ask.recv()
                term = await u.get()
                await out.term.send(None if term is None else c * term)
                if term is None:
                    return

        return self.series(write)

    def shift(self, c: Fraction, u: Series) -> Series:
        """c + x·u"""

        async def write(out: Series) -> None:
            await out.put(c)
            await copy(u, out)

        return self.series(write)

    def multiply(self, u: Series, v: Series) -> Series:
        """With u = a + x·u′ and v = b + x·v′: a·b + x·(a·v′ + b·u′) + x²·u′·v′"""

        async def write(out: Series) -> None:
            await out.ask.recv()
            a, b = await get_both(u, v)
            if a is None or b is None:
                await out.term.send(None)
                return
            await out.term.send(a * b)
            uu, vv = self.split(u), self.split(v)
            linear = self.add(self.scale(a, vv[0]), self.scale(b, uu[0]))
            await out.ask.recv()
            term = await linear.get()
            await out.term.send(term)
            if term is not None:
                await copy(self.add(linear, self.multiply(uu[1], vv[1])), out)

        return self.series(write)

    def differentiate(self, u: Series) -> Series:
        async def write(out: Series) -> None:
            await out.ask.recv()
            term, n = await u.get(), 0
            while term is not None:
                term, n = await u.get(), n + 1
                if term is not None:
                    await out.term.send(n * term)
                    await out.ask.recv()
            await out.term.send(None)

        return self.series(write)

    def integrate(self, c: Fraction, u: Series) -> Series:
        async def write(out: Series) -> None:
            await out.put(c)
            n = 1
            while True:
                await out.ask.recv()
                term = await u.get()
                await out.term.send(None if term is None else term / n)
                if term is None:
                    return
                n += 1

        return self.series(write)

    def reciprocal(self, u: Series) -> Series:
        """With u = a + x·u′, z = 1/a − x·u′·z/a: defined by itself."""

        async def write(out: Series) -> None:
            await out.ask.recv()
            a = await u.get()
            assert a is not None
            await out.term.send(1 / a)
            z = (Series(), Series())
            self.split(self.multiply(self.scale(-1 / a, u), self.shift(1 / a, z[0])), z)
            await copy(z[1], out)

        return self.series(write)

    def exponential(self, u: Series) -> Series:
        """For a constant term of 0: the integral of z·du/dx, defined by itself."""
        z = (Series(), Series())
        self.split(self.integrate(Fraction(1), self.multiply(z[0], self.differentiate(u))), z)
        return z[1]

    def substitute(self, u: Series, v: Series) -> Series:
        """u(v), where v has a constant term of 0: with u = a + x·u′, a + x·v′·u′(v)"""

        async def write(out: Series) -> None:
            vv = self.split(v)
            await out.ask.recv()
            a = await u.get()
            await out.term.send(a)
            if a is None:
                return
            if await vv[0].get() is None:
                await out.put(None)
            else:
                await copy(self.multiply(vv[0], self.substitute(u, vv[1])), out)

        return self.series(write)

    def substitute_monomial(self, u: Series, c: Fraction, n: int) -> Series:
        """u(c·xⁿ)"""

        async def write(out: Series) -> None:
            power = Fraction(1)
            while True:
                await out.ask.recv()
                term = await u.get()
                await out.term.send(None if term is None else power * term)
                if term is None:
                    return
                power *= c
                for _ in range(n - 1):
                    await out.put(Fraction(0))

        return self.series(write)

    def revert(self, u: Series) -> Series:
        """The z with u(z) = x, where u = x·u′: z = x / u′(z), defined by itself."""

        async def write(out: Series) -> None:
            await out.ask.recv()
            await u.get()  # 0, or it has no inverse
            z = (Series(), Series())
            self.split(self.shift(Fraction(0), self.reciprocal(self.substitute(u, z[0]))), z)
            await out.term.send(await z[1].get())
            await copy(z[1], out)

        return self.series(write)


def ones(a: Algebra) -> Series:
    return a.constant(Fraction(1))


def twos(a: Algebra) -> Series:
    return a.constant(Fraction(2))


def arc_tangent(a: Algebra) -> Series:
    return a.integrate(Fraction(0), a.substitute_monomial(ones(a), Fraction(-1), 2))


ONE, ZERO = Fraction(1), Fraction(0)

# exp(x/(1−x)): its coefficients are Σ C(n−1, k−1)/k! (it is exp of 0 + x + x² + …)
EXP = [ONE] + [
    sum((Fraction(math.comb(n - 1, k - 1), math.factorial(k)) for k in range(1, n + 1)), ZERO)
    for n in range(1, 10)
]
TAN = [Fraction(n, d) for n, d in [(1, 1), (1, 3), (2, 15), (17, 315)]]

CASES: dict[str, tuple[Callable[[Algebra], Series], list[Any]]] = {
    "1/(1-x)": (ones, [1] * 10),
    "sum": (lambda a: a.add(ones(a), twos(a)), [3] * 10),
    "sum with a shorter one": (lambda a: a.add(a.polynomial(4, 5), ones(a)), [5, 6, 1, 1, 1]),
    "sum with a longer one": (lambda a: a.add(ones(a), a.polynomial(4, 5)), [5, 6, 1, 1, 1]),
    "sum of two that end": (
        lambda a: a.add(a.polynomial(1, 2), a.polynomial(1)),
        [2, 2, None],
    ),
    "multiple": (lambda a: a.scale(Fraction(-1), twos(a)), [-2] * 10),
    "difference": (lambda a: a.add(ones(a), a.scale(Fraction(-1), twos(a))), [-1] * 10),
    "derivative": (lambda a: a.differentiate(ones(a)), [*range(1, 11)]),
    "derivative of one that ends": (
        lambda a: a.differentiate(a.polynomial(7, 2, 3)),
        [2, 6, None],
    ),
    "integral": (
        lambda a: a.integrate(ZERO, ones(a)),
        [0, *(Fraction(1, n) for n in range(1, 10))],
    ),
    "product": (lambda a: a.multiply(ones(a), ones(a)), [*range(1, 11)]),
    "reciprocal": (lambda a: a.reciprocal(ones(a)), [1, -1, 0, 0, 0, 0]),
    "reciprocal of one that ends": (
        lambda a: a.reciprocal(a.polynomial(1, -1, -1)),
        [1, 1, 2, 3, 5, 8, 13, 21],
    ),
    "exponential": (lambda a: a.exponential(a.shift(ZERO, ones(a))), EXP),
    "arc tangent": (
        arc_tangent,
        [Fraction((-1) ** (n // 2), n) if n % 2 else 0 for n in range(10)],
    ),
    "tangent": (
        lambda a: a.revert(arc_tangent(a)),
        [ZERO if n % 2 == 0 else TAN[n // 2] for n in range(8)],
    ),
}


@pytest.mark.parametrize(("make", "terms"), CASES.values(), ids=CASES.keys())
async def test_a_series_computed_by_actors_on_demand_has_the_terms_of_the_books(
    make: Callable[[Algebra], Series], terms: list[Any]
) -> None:
    async with Group(on_exit="cancel") as go:
        series = make(Algebra(go))
        assert [await series.get() for _ in terms] == terms
