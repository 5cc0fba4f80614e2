"""A hundred thousand queries of which everything goes wrong that can, each wrong thing counted."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from dataclasses import dataclass, field

import pytest

from tailrace import Eject, Hedged, testing

QUERIES = 100_000
CHUNKS = 8


class Result:
    """Must be returned to somebody, or disposed of, and not both."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


@dataclass
class World:
    """Backends that answer, fail, hang and ignore; and the count of what became of it all."""

    dice: random.Random
    opened: int = 0
    returned: int = 0
    disposed: int = 0
    failed: int = 0
    cancelled: int = 0
    timeouts: int = 0
    ignored: int = 0
    wrong: list[str] = field(default_factory=list)

    async def query(self, seed: int, /) -> Result:
        dice = self.dice
        fate = dice.random()
        seconds = dice.choice((0.0, 0.001, 0.002, dice.expovariate(300)))
        if fate < 0.1:
            await asyncio.sleep(seconds)
            raise OSError("refused")
        if fate < 0.12:
            raise LookupError("fatal")
        if fate < 0.125:
            raise asyncio.CancelledError  # of nobody's doing
        try:
            await asyncio.sleep(0.5 if fate < 0.14 else seconds)
        except asyncio.CancelledError:
            if fate > 0.2:
                if fate > 0.9:
                    await asyncio.sleep(0.001)  # cleans up
                raise
            self.ignored += 1  # is wedged for a while, and answers or fails all the same
            await asyncio.sleep(dice.choice((0.0, 0.01, 3.0)))
            if fate > 0.17:
                raise OSError("too late") from None
        self.opened += 1
        return Result()

    async def dispose(self, result: Result) -> None:
        if not result.open:
            self.wrong.append("disposed of twice, or after it was returned")
        result.open = False
        if self.dice.random() < 0.3:
            await asyncio.sleep(0.001)
        self.disposed += 1

    async def ask(self, backend: Hedged[int, Result]) -> None:
        try:
            async with asyncio.timeout(0.02 if self.dice.random() < 0.1 else None) as scope:
                result = await backend.query(0)
            if not result.open:
                self.wrong.append("returned after it was disposed of")
            result.open = False
            self.returned += 1
        except TimeoutError:
            self.timeouts += 1
            if not scope.expired():
                self.wrong.append("a timeout of nobody's")
        except (ExceptionGroup, LookupError):
            self.failed += 1

    async def one(self, backend: Hedged[int, Result]) -> None:
        if self.dice.random() < 0.85:
            await self.ask(backend)
            return
        task = asyncio.create_task(self.ask(backend))
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        if self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.choice((0.001, 0.002, 0.004)))
        asked = task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self.cancelled += 1
            if not asked:
                self.wrong.append("cancelled by nobody")
        elif asked:
            self.wrong.append("swallowed a cancellation")
        elif (error := task.exception()) is not None:
            self.wrong.append(repr(error))


async def _chunk(seed: int, queries: int) -> World:
    loop = asyncio.get_running_loop()
    world = World(random.Random(seed))
    loop.set_exception_handler(lambda _, context: world.wrong.append(str(context)))
    dice = random.Random(-seed)
    hedges = [
        Hedged(
            *[world] * backends,
            delay=delay,
            budget=budget,
            max_copies=copies,
            limit=limit,
            eject=Eject(failures=2, seconds=0.01),
            fatal=lambda error: isinstance(error, LookupError),
            dispose=world.dispose,
            random=dice,
        )
        for backends, delay, budget, copies, limit in (
            (3, 0.001, 1.0, 3, None),
            (3, 0.0, 2.0, 2, 2),
            (1, 0.002, 1.0, 3, 1),
            (4, None, 0.3, 2, None),
        )
    ]
    known = asyncio.all_tasks()
    for _ in range(queries // 50):
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(world.one(dice.choice(hedges)))
    await asyncio.sleep(60)  # the wedged have woken up
    if left := asyncio.all_tasks() - known:
        world.wrong.append(f"leaked {left}")
    for hedge in hedges:
        if any(b.pending for b in hedge.statistics().backends):
            world.wrong.append("a backend with work that nobody does")
    gc.collect()
    await asyncio.sleep(0)
    return world


@pytest.mark.parametrize("seed", range(1, CHUNKS + 1))
def test_a_hundred_thousand_queries_leak_nothing(seed: int) -> None:
    logging.disable(logging.WARNING)  # the wedged are named, by the thousand
    try:
        world = testing.run(_chunk(seed, QUERIES // CHUNKS))
    finally:
        logging.disable(logging.NOTSET)
    assert world.wrong == []
    assert world.opened == world.returned + world.disposed
    assert world.returned + world.failed + world.cancelled + world.timeouts == QUERIES // CHUNKS
    assert min(world.returned, world.failed, world.cancelled, world.timeouts) > 30
    assert min(world.disposed, world.ignored) > 30
