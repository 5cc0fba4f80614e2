"""What a hedged query does when things go wrong, and what it costs when nothing does.

    python benchmarks/hedging_peers.py [--only NAMES] [--rounds 5] [--n 20000] [--markdown]
                                       [--json FILE]

Each cell of the matrix is what a program saw that ran, on the virtual clock, with the library in
that row: no cell is an opinion. A query's first copy goes out at once, its second 10 ms later; a
scenario says what each does. Every library is given all that it has a parameter for.

Competitors: `tailrace.Hedged`; `HedgedHttpxTransport` of hedge-python, over a transport that asks
the scenario instead of a server; `hedge` of asynchedging; `staggered_race` of aiohappyeyeballs (a
private module: what it exports connects sockets) and that of the standard library. Those that are
not installed are named and left out.

The cost is in microseconds for a query whose first copy answers at its first step, on asyncio's own
loop: the fastest of three passes, the median of the rounds; beside it an awaited `asyncio.Task`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import chosen
from benchmarks.report import load_warnings, machine, progress
from tailrace import Hedged, backend, testing

__all__ = ["LIBRARIES", "OURS", "SCENARIOS", "Library", "Verdict", "judge"]

DELAY = 0.010  # between the first copy and the second
BUDGET = 0.05  # of the queries, where a library has one


class Result:
    """What a copy brings: something that must be closed by somebody, as a response."""

    def __init__(self) -> None:
        self.open = True

    def close(self) -> None:
        self.open = False


@dataclass
class Copy:
    """What became of one copy."""

    ended: bool = False
    result: Result | None = None


Behaviour = Callable[[], Awaitable[Result]]


@dataclass
class Backend:
    """Answers the nth copy with the nth behaviour, the later ones with the last."""

    behaviours: Sequence[Behaviour]
    copies: list[Copy] = field(default_factory=list)

    async def ask(self) -> Result:
        behave = self.behaviours[min(len(self.copies), len(self.behaviours) - 1)]
        copy = Copy()
        self.copies.append(copy)
        try:
            copy.result = await behave()
            return copy.result
        finally:
            copy.ended = True

    def running(self) -> int:
        return sum(not copy.ended for copy in self.copies)

    def forgotten(self, returned: object) -> int:
        """Results that nobody has returned or closed."""
        results = [copy.result for copy in self.copies if copy.result is not None]
        return sum(result.open for result in results if result is not returned)


Ask = Callable[[], Awaitable[Result]]
Query = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Library:
    """How one library hedges what `ask` does; in a context, since some start something."""

    name: str
    opened: Callable[[Ask], AbstractAsyncContextManager[Query]]
    package: str | None = None
    module: str | None = None

    @property
    def missing(self) -> bool:
        return self.module is not None and importlib.util.find_spec(self.module) is None

    @property
    def version(self) -> str:
        if self.package is None:
            return f"Python {platform.python_version()}"
        return importlib.metadata.version(self.package)


@asynccontextmanager
async def ours(ask: Ask) -> Any:
    async def query(_: None) -> Result:
        return await ask()

    both = Hedged(backend(query), backend(query), delay=DELAY, budget=BUDGET, dispose=Result.close)
    yield lambda: both.query(None)


@asynccontextmanager
async def of_hedge_python(ask: Ask) -> Any:
    import httpx
    from hedge import HedgeConfig
    from hedge.transport import HedgedHttpxTransport

    class Inner(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, extensions={"result": await ask()})

    config = HedgeConfig(
        warmup_delay=DELAY, warmup_requests=sys.maxsize, budget_percent=100 * BUDGET
    )
    transport = HedgedHttpxTransport(Inner(), config)
    request = httpx.Request("GET", "http://backend/")

    async def query() -> Any:
        return (await transport.handle_async_request(request)).extensions["result"]

    try:
        yield query
    finally:
        await transport.aclose()


@asynccontextmanager
async def of_asynchedging(ask: Ask) -> Any:
    from asynchedging import hedge

    async def query() -> Any:
        return (await hedge(ask, delays_s=[DELAY]))[0]

    yield query


async def _staggered(race: Any, ask: Ask) -> Any:
    result, winner, exceptions = await race([ask, ask], DELAY)
    if winner is None:  # so do its callers
        raise ExceptionGroup("all failed", [e for e in exceptions if isinstance(e, Exception)])
    return result


@asynccontextmanager
async def of_aiohappyeyeballs(ask: Ask) -> Any:
    from aiohappyeyeballs._staggered import staggered_race

    yield lambda: _staggered(staggered_race, ask)


@asynccontextmanager
async def of_asyncio(ask: Ask) -> Any:
    from asyncio.staggered import staggered_race

    yield lambda: _staggered(staggered_race, ask)


OURS = Library("tailrace.Hedged", ours, "tailrace")
LIBRARIES = (
    OURS,
    Library("hedge-python", of_hedge_python, "hedge-python", "hedge"),
    Library("asynchedging", of_asynchedging, "asynchedging", "asynchedging"),
    Library("aiohappyeyeballs", of_aiohappyeyeballs, "aiohappyeyeballs", "aiohappyeyeballs"),
    Library("asyncio.staggered", of_asyncio),
)


# --- The scenarios ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What was seen, and whether it is what a caller must be able to count on."""

    ok: bool
    seen: str

    def __str__(self) -> str:
        return f"{'✓' if self.ok else '✗'} {self.seen}"


Scenario = Callable[[Library], Awaitable[Verdict]]


def after(seconds: float) -> Behaviour:
    async def behave() -> Result:
        await asyncio.sleep(seconds)
        return Result()

    return behave


def failing_after(seconds: float) -> Behaviour:
    async def behave() -> Result:
        await asyncio.sleep(seconds)
        raise ConnectionError("no route")

    return behave


def cleaning_up(seconds: float) -> Behaviour:
    """Never answers; takes so long to end once it is cancelled."""

    async def behave() -> Result:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(seconds)
        return Result()

    return behave


async def stubborn() -> Result:
    """Answers when it is cancelled: what it did could not be undone."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        pass
    return Result()


async def outcome(task: asyncio.Task[Any]) -> str:
    """How a task ended, or that it has not."""
    await asyncio.wait([task], timeout=3600)
    if not task.done():
        task.cancel()
        return "hangs"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return "returned"
    if isinstance(error, ExceptionGroup):  # as each library says that all have failed
        return f"raised {', '.join(sorted({type(each).__name__ for each in error.exceptions}))}"
    return f"raised {type(error).__name__}"


async def cancelled_from_outside(library: Library) -> Verdict:
    """The caller is cancelled while both copies run, each of which takes 5 ms to end."""
    backend = Backend([cleaning_up(0.005)])
    async with library.opened(backend.ask) as query:
        task = asyncio.ensure_future(query())
        await asyncio.sleep(0.1)
        task.cancel()
        ended = await outcome(task)
        running = backend.running()
        await asyncio.sleep(1)
        leaked = backend.running()
    seen = f"{ended}, {running} of {len(backend.copies)} copies running"
    return Verdict(ended == "cancelled" and not running, seen + (", for good" if leaked else ""))


async def cancelled_during_the_clean_up(library: Library) -> Verdict:
    """The second copy has won; the caller is cancelled while the first cleans up."""
    backend = Backend([cleaning_up(0.1), after(0.01)])
    async with library.opened(backend.ask) as query:
        task = asyncio.ensure_future(query())
        await asyncio.sleep(0.05)
        if task.done():
            return Verdict(False, f"had returned, {backend.running()} copies running")
        task.cancel()
        ended = await outcome(task)
    return Verdict(ended == "cancelled", ended)


async def second_fails_fast(library: Library) -> Verdict:
    """The second copy fails at once; the first answers after 50 ms."""
    backend = Backend([after(0.05), failing_after(0)])
    async with library.opened(backend.ask) as query:
        ended = await outcome(asyncio.ensure_future(query()))
    return Verdict(ended == "returned", ended)


async def first_fails_fast(library: Library) -> Verdict:
    """The first copy fails after 1 ms: the second, which takes 1 ms, should not wait."""
    clock = asyncio.get_running_loop().time
    backend = Backend([failing_after(0.001), after(0.001)])
    async with library.opened(backend.ask) as query:
        began = clock()
        ended = await outcome(asyncio.ensure_future(query()))
        took = 1000 * (clock() - began)
    return Verdict(ended == "returned" and took < 5, f"{ended} after {took:.0f} ms")


async def both_win(library: Library) -> Verdict:
    """Both copies answer at the same instant: one result is not returned, and must be closed."""
    return await _second_winner(library, [after(0.05), after(0.04)])


async def loser_answers_when_cancelled(library: Library) -> Verdict:
    """The second copy wins; the first answers all the same when it is cancelled."""
    return await _second_winner(library, [stubborn, after(0.01)])


async def _second_winner(library: Library, behaviours: Sequence[Behaviour]) -> Verdict:
    backend = Backend(behaviours)
    async with library.opened(backend.ask) as query:
        task = asyncio.ensure_future(query())
        ended = await outcome(task)
        await asyncio.sleep(1)
    forgotten = backend.forgotten(task.result() if ended == "returned" else None)
    return Verdict(ended == "returned" and not forgotten, f"{ended}, {forgotten} left open")


async def winner_of_a_cancelled_query(library: Library) -> Verdict:
    """The second copy has won, the caller is cancelled while the first cleans up: it never sees
    the result, which must be closed."""
    backend = Backend([cleaning_up(0.1), after(0.01)])
    async with library.opened(backend.ask) as query:
        task = asyncio.ensure_future(query())
        await asyncio.sleep(0.05)
        task.cancel()
        ended = await outcome(task)
        await asyncio.sleep(1)
    forgotten = backend.forgotten(task.result() if ended == "returned" else None)
    return Verdict(not forgotten, f"{ended}, {forgotten} left open")


async def budget_is_exhausted(library: Library) -> Verdict:
    """2000 queries, one after the other, of which each takes 50 ms."""
    clock = asyncio.get_running_loop().time
    backend = Backend([after(0.05)])
    slowest = 0.0
    async with library.opened(backend.ask) as query:
        for _ in range(2000):
            began = clock()
            (await query()).close()
            slowest = max(slowest, 1000 * (clock() - began))
    extra = len(backend.copies) / 20 - 100
    return Verdict(
        extra <= 2 * 100 * BUDGET and slowest < 50.5, f"{extra:.3g} % extra, {slowest:.0f} ms"
    )


async def loser_cleans_up(library: Library) -> Verdict:
    """The second copy wins; the first takes 10 ms to end. Has it, when the query returns?"""
    backend = Backend([cleaning_up(0.01), after(0.01)])
    async with library.opened(backend.ask) as query:
        ended = await outcome(asyncio.ensure_future(query()))
        running = backend.running()
        await asyncio.sleep(1)
    return Verdict(ended == "returned" and not running, f"{ended}, {running} of 2 copies running")


async def loser_never_ends(library: Library) -> Verdict:
    """The same, but it takes ten minutes: the answer should not."""
    clock = asyncio.get_running_loop().time
    backend = Backend([cleaning_up(600), after(0.01)])
    async with library.opened(backend.ask) as query:
        began = clock()
        ended = await outcome(asyncio.ensure_future(query()))
        took = clock() - began
        await asyncio.sleep(1000)
    return Verdict(ended == "returned" and took < 5, f"{ended} after {took:.3g} s")


SCENARIOS: dict[str, Scenario] = {
    "cancelled from outside": cancelled_from_outside,
    "cancelled during clean-up": cancelled_during_the_clean_up,
    "second copy fails fast": second_fails_fast,
    "first copy fails fast": first_fails_fast,
    "both win": both_win,
    "loser answers when cancelled": loser_answers_when_cancelled,
    "winner of a cancelled query": winner_of_a_cancelled_query,
    "budget exhausted": budget_is_exhausted,
    "loser cleans up": loser_cleans_up,
    "loser never ends": loser_never_ends,
}


def judge(library: Library, scenario: Scenario) -> Verdict:
    """Run one scenario with one library."""
    log = logging.getLogger("tailrace")
    level = log.level

    async def run() -> Verdict:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await scenario(library)

    log.setLevel(logging.ERROR)  # a loser that never ends is a warning
    try:
        return testing.run(run())
    finally:
        log.setLevel(level)


# --- The cost -----------------------------------------------------------------------------------


async def _instant() -> Result:
    return Result()


@asynccontextmanager
async def bare(ask: Ask) -> Any:
    async def query() -> Any:
        return await asyncio.create_task(_result(ask))

    yield query


async def _result(ask: Ask) -> Result:
    return await ask()


BARE = Library("an awaited task", bare)


def cost(library: Library, n: int) -> float:
    """Microseconds for a query."""

    async def passes() -> float:
        fastest = float("inf")
        async with library.opened(_instant) as query:
            for _ in range(4):  # the first warms up
                began = time.perf_counter()
                for _ in range(n):
                    await query()
                fastest = min(fastest, time.perf_counter() - began)
        return 1e6 * fastest / n

    return asyncio.run(passes())


# --- The command --------------------------------------------------------------------------------


def _as_text(matrix: dict[str, dict[str, Verdict]], costs: dict[str, float]) -> str:
    columns = [*SCENARIOS, "cost"]
    wide = max(map(len, columns))
    lines = []
    for name, verdicts in matrix.items():
        lines.append(f"{name}")
        lines += [f"  {scenario:{wide}}  {verdict}" for scenario, verdict in verdicts.items()]
        ratio = costs[name] / costs[BARE.name]
        lines.append(f"  {'cost':{wide}}  {costs[name]:.1f} µs, {ratio:.1f} × a task")
    return "\n".join(lines)


def _as_markdown(matrix: dict[str, dict[str, Verdict]], costs: dict[str, float]) -> str:
    lines = [
        "| | " + " | ".join(matrix) + " |",
        "|---|" + "---|" * len(matrix),
    ]
    for scenario in SCENARIOS:
        cells = (str(verdicts[scenario]) for verdicts in matrix.values())
        lines.append(f"| {scenario} | " + " | ".join(cells) + " |")
    ratios = (f"{costs[name] / costs[BARE.name]:.1f} ×" for name in matrix)
    lines.append("| cost, against an awaited task | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="hedging: what peers do when things go wrong")
    parser.add_argument("--only", default="", help="parts of names, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="for the cost; default 5")
    parser.add_argument("--n", type=int, default=20_000, help="queries in each pass")
    parser.add_argument("--markdown", action="store_true", help="the table of the docs, only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    libraries = [each for each in LIBRARIES if chosen(each.name, args.only)]
    for each in libraries:
        if each.missing:
            print(f"not installed: {each.name}", file=sys.stderr)
    libraries = [each for each in libraries if not each.missing]
    matrix = {
        library.name: {name: judge(library, scenario) for name, scenario in SCENARIOS.items()}
        for library in libraries
    }
    measured: dict[str, list[float]] = {each.name: [] for each in (BARE, *libraries)}
    for number in range(args.rounds):
        for library in (BARE, *libraries):
            progress(f"round {number + 1} of {args.rounds}: {library.name}")
            measured[library.name].append(cost(library, args.n))
    progress("")
    costs = {name: median(each) for name, each in measured.items()}
    if args.markdown:
        print(_as_markdown(matrix, costs))
    else:
        packages = [each.package for each in libraries if each.package and each.module]
        for name, value in machine(packages, uvloop=False, go=None).items():
            print(f"{name:14} {value}")
        print(*load_warnings(), _as_text(matrix, costs), sep="\n")
    if args.json:
        cells = {
            name: {scenario: [each.ok, each.seen] for scenario, each in verdicts.items()}
            for name, verdicts in matrix.items()
        }
        args.json.write_text(json.dumps({"matrix": cells, "microseconds": measured}, indent=1))


if __name__ == "__main__":
    main()
