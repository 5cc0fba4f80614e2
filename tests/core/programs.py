"""Random programs of actors that only use channels, and what each of their operations came to.

For comparing the cores: many of these operations never park, so that budgets are spent, and in the
middle of `send_many` and `recv_many` too.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tailrace.errors import Closed, WouldBlock
from tailrace.testing import VirtualClockLoop

from .actors import spawn

CAPACITIES = [0, 0, 1, 2, 5, 200, math.inf]
TIMES = [1, 2, 3, 7, 150, 300]
REPEATED = ["send", "recv", "select", "select_nowait", "next"]
KINDS = [
    *REPEATED,
    *REPEATED,
    "send_many",
    "send_iterator",
    "recv_many",
    "send_nowait",
    "recv_nowait",
]
SETTLED = 500  # turns of the loop, of which a program needs fewer


class Program:
    """One program, by its number: the same on each core."""

    def __init__(self, core: Any, number: int) -> None:
        self.core = core
        self.number = number
        dice = random.Random(number)
        shapes = [self._shape(dice) for _ in range(dice.randint(1, 3))]
        self.channels = [
            core.Channel(capacity, name=f"c{n}", overflow=overflow)
            for n, (capacity, overflow) in enumerate(shapes)
        ]
        self.plans = [
            [self._step(dice) for _ in range(dice.randint(1, 8))] for _ in range(dice.randint(2, 7))
        ]
        self.log: list[tuple[Any, ...]] = []

    def _shape(self, dice: random.Random) -> tuple[float, str]:
        capacity = dice.choice(CAPACITIES)
        overflow = dice.choice(["block", "block", "block", "drop_newest", "drop_oldest"])
        return capacity, overflow if capacity else "block"

    def _step(self, dice: random.Random) -> tuple[str, Any, Any, int, bool]:
        kind = dice.choice(KINDS)
        times = dice.choice(TIMES)
        return (
            kind,
            dice.choice(self.channels),
            dice.choice(self.channels),
            times,
            dice.random() < 0.3,
        )

    async def _operate(
        self, kind: str, channel: Any, other: Any, times: int, priority: bool, value: Any
    ) -> Any:
        select: Callable[[], Awaitable[Any]] = lambda: self.core.select(  # noqa: E731
            channel.recv(), other.send(value), other.recv(), priority=priority
        )
        match kind:
            case "send":
                return await channel.send(value)
            case "recv":
                return await channel.recv()
            case "next":
                return await anext(channel)
            case "select":
                return await select()
            case "select_nowait":
                return self.core.select_nowait(channel.recv(), other.send(value), priority=priority)
            case "send_many":
                return await channel.send_many([(*value, n) for n in range(times)])
            case "send_iterator":
                return await channel.send_many((*value, n) for n in range(times))
            case "recv_many":
                return await channel.recv_many(times)
            case "send_nowait":
                return channel.send_nowait(value)
            case _:
                return channel.recv_nowait()

    async def _actor(self, me: int) -> None:
        number = 0
        for kind, channel, other, times, priority in self.plans[me]:
            for _ in range(times if kind in REPEATED else 1):
                number += 1
                value = (me, number)
                try:
                    came_to = await self._operate(kind, channel, other, times, priority, value)
                except (WouldBlock, Closed, StopAsyncIteration) as error:
                    came_to = type(error).__name__
                self.log.append((me, number, kind, channel.name, repr(came_to)))

    async def _close(self) -> None:
        """Another actor, that closes what the others use."""
        await self.channels[0].send_many(range(self.number % 400))
        self.channels[0].close()
        self.log.append(("closed",))

    def run(self) -> list[tuple[Any, ...]]:
        """What was done, in order: until all have ended or sleep for ever."""
        loop = VirtualClockLoop()

        async def main() -> None:
            self.core.seed(self.number)  # in here: at its start the loop seeds the active core
            coroutines = [self._actor(me) for me in range(len(self.plans))]
            if self.number % 2:
                coroutines.append(self._close())
            actors = [spawn(self.core, each, str(n)) for n, each in enumerate(coroutines)]
            for _ in range(SETTLED):
                await asyncio.sleep(0)
            self.log.append(tuple(each.done() for each in actors))
            for each in actors:
                each.cancel()
            await asyncio.wait(actors)

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())
        return self.log
