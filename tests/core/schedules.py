"""One random schedule: a few workers on a few channels, and somebody who disturbs them.

Every value is sent once, under a number of its own, and each worker writes down what its awaits
said. Afterwards the books must agree: what was sent was received once or is still in a channel,
and what raised was not delivered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import anyio

from tailrace import Group
from tailrace.errors import Closed, WouldBlock

TURNS = 2000
"""Turns of the loop in which whoever was cancelled must have ended. Few are needed; but a turn has
a bound in time, and on a slow machine not everybody who is ready has a step in each."""

T = TypeVar("T")


def weighted(text: str) -> list[str]:
    """``"a*2 b"`` is ``["a", "a", "b"]``."""
    pairs = [word.partition("*") for word in text.split()]
    return [word for word, _, times in pairs for _ in range(int(times or 1))]


OVERFLOWS = weighted("block*8 drop_newest drop_oldest")
WORKS = weighted("send*4 recv*4 send_many*2 recv_many*2 select*4 iterate")
DISTURBANCES = weighted("cancel*15 expire*10 scope*3 send*10 recv*10 select*5 close")


class Worker:
    """What the schedule knows of one task, to disturb it and to judge what it heard."""

    task: asyncio.Task[Any] | None = None
    deadline: asyncio.Timeout | None = None
    scope: anyio.CancelScope | None = None
    asked = 0  # cancellations asked for and not heard yet
    done = False


class Schedule:
    def __init__(self, core: Any, seed: str) -> None:
        self.core = core
        self.seed = seed
        self.random = random.Random(seed).random
        self.channels = [self.channel() for _ in range(self.pick((1, 1, 2)))]
        self.workers = [Worker() for _ in range(self.pick((3, 4, 5, 6)))]
        self.numbers = itertools.count(1)
        self.sent: list[int] = []
        self.received: list[int] = []
        self.over = False
        self.wrong: list[str] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]  # several times as fast as `choice`

    def channel(self) -> Any:
        capacity = self.pick((0, 0, 1, 2))
        overflow = self.pick(OVERFLOWS)
        if capacity == 0 and overflow == "drop_oldest":
            overflow = "block"
        return self.core.Channel(capacity, overflow=overflow)

    # What workers do, and write down.

    async def send(self) -> None:
        value = next(self.numbers)
        await self.pick(self.channels).send(value)
        self.sent.append(value)

    async def recv(self) -> None:
        self.received.append(await self.pick(self.channels).recv())

    async def send_many(self) -> None:
        values = [next(self.numbers) for _ in range(self.pick((1, 2, 3, 4)))]
        form: Callable[..., Any] = self.pick((list, iter))
        sending = self.pick(self.channels).send_many(form(values))
        try:
            await sending
        finally:
            self.sent += values[: sending.sent]

    async def recv_many(self) -> None:
        self.received += await self.pick(self.channels).recv_many(self.pick((1, 2, 3, 4)))

    async def iterate(self) -> None:
        left = self.pick((1, 2, 3))
        async for value in self.pick(self.channels):
            self.received.append(value)
            left -= 1
            if not left:
                break

    def cases(self) -> tuple[list[Any], list[int]]:
        cases, values = [], []
        for _ in range(self.pick((1, 2, 3))):
            channel, value = self.pick(self.channels), 0
            if self.random() < 0.5:
                value = next(self.numbers)
            cases.append(channel.send(value) if value else channel.recv())
            values.append(value)
        return cases, values

    def chosen(self, values: list[int], index: int | None, value: Any) -> None:
        if index is None or isinstance(value, Closed):
            return
        if values[index]:
            self.sent.append(values[index])
        else:
            self.received.append(value)

    async def select(self) -> None:
        cases, values = self.cases()
        timeout = self.pick((None, None, None, 0, 0.0001))
        self.chosen(values, *await self.core.select(*cases, timeout=timeout))

    # How they wait.

    async def bare(self, me: Worker, work: Callable[[], Awaitable[None]]) -> None:
        await work()

    async def within_timeout(self, me: Worker, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self.pick((None, None, None, 0))) as me.deadline:
                await work()
        except TimeoutError:
            pass
        finally:
            me.deadline = None

    async def within_scope(self, me: Worker, work: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope() as me.scope:
            await work()
        me.scope = None

    async def work(self, me: Worker) -> None:
        me.task = asyncio.current_task()
        assert me.task is not None
        for _ in range(self.pick((1, 2, 3, 4))):
            wait = self.pick(WAITS)
            if me.task.cancelling():
                # Put off by a send that had happened, and about to come. A timeout block entered
                # now would count it as an old one: asyncio's own limit, not ours to test.
                wait = Schedule.bare
            try:
                await wait(self, me, getattr(self, self.pick(WORKS)))
                for _ in range(self.pick((0, 0, 1, 2))):
                    await asyncio.sleep(0)
            except Closed:
                pass
            except asyncio.CancelledError:
                if not me.asked:
                    self.wrong.append("a cancellation that nobody asked for")
                    break
                me.asked = 0
                me.scope = None
                if self.over or self.random() < 0.5:
                    break
                while me.task.cancelling():
                    me.task.uncancel()
            except BaseException as error:
                self.wrong.append(repr(error))
        me.done = True

    # What disturbs them.

    def disturb(self) -> None:
        what = self.pick(DISTURBANCES)
        channel, worker = self.pick(self.channels), self.pick(self.workers)
        try:
            if what == "cancel":
                self.cancel(worker)
            elif what == "expire" and worker.deadline is not None and not expiring(worker.deadline):
                worker.deadline.reschedule(asyncio.get_running_loop().time() - 1)
                worker.deadline = None
            elif what == "scope" and worker.scope is not None:
                worker.scope.cancel()
            elif what == "send":
                value = next(self.numbers)
                channel.send_nowait(value)
                self.sent.append(value)
            elif what == "recv":
                self.received.append(channel.recv_nowait())
            elif what == "select":
                cases, values = self.cases()
                self.chosen(values, *self.core.select_nowait(*cases))
            elif what == "close":
                channel.close()
        except (WouldBlock, Closed):
            pass

    def cancel(self, worker: Worker) -> None:
        if worker.task is not None and not worker.done and worker.task.cancel():
            worker.asked += 1

    async def run(self) -> None:
        """Once the workers are running: disturb them, end them, check the books."""
        while any(worker.task is None for worker in self.workers):
            await asyncio.sleep(0)
        for _ in range(self.pick((4, 5, 6, 7, 8, 9))):
            for _ in range(self.pick((0, 0, 1, 1, 2, 3))):
                self.disturb()
            await asyncio.sleep(0)
        self.over = True
        for worker in self.workers:
            self.cancel(worker)
        for _ in range(TURNS):
            if all(worker.done for worker in self.workers):
                break
            await asyncio.sleep(0)
        else:
            self.wrong.append("a cancellation was not heard")
            for worker in self.workers:
                self.cancel(worker)
        self.check()

    def check(self) -> None:
        dropped = 0
        for channel in self.channels:
            statistics = channel.statistics()
            dropped += statistics.dropped
            if statistics.waiting_senders or statistics.waiting_receivers:
                self.wrong.append(f"somebody was left behind in {channel!r}")
            if statistics.sent != statistics.received + statistics.buffered + statistics.dropped:
                self.wrong.append(f"the counters do not add up: {statistics}")
            while len(channel):
                self.received.append(channel.recv_nowait())
        received = Counter(self.received)
        if len(received) != len(self.received):
            self.wrong.append(f"received twice: {[v for v, n in received.items() if n > 1]}")
        if received.keys() - set(self.sent):
            self.wrong.append(f"not sent, but received: {received.keys() - set(self.sent)}")
        lost = set(self.sent) - received.keys()
        if len(lost) != dropped:
            self.wrong.append(f"{dropped} dropped, but sent and not received: {lost}")


WAITS = [Schedule.bare] * 5 + [Schedule.within_timeout] * 4 + [Schedule.within_scope]


async def in_tasks(schedule: Schedule) -> None:
    """Its workers are plain tasks."""
    tasks = [asyncio.create_task(schedule.work(worker)) for worker in schedule.workers]
    await asyncio.sleep(0)
    await schedule.run()
    await asyncio.wait(tasks)


async def work_as_actor(schedule: Schedule, worker: Worker) -> None:
    await schedule.work(worker)


async def in_actors(schedule: Schedule) -> None:
    """Its workers are actors of a Group."""
    async with Group() as go:
        for worker in schedule.workers:
            go(work_as_actor, schedule, worker)
        await asyncio.sleep(0)
        await schedule.run()


async def run_schedules(
    core: Any, name: str, count: int, how: Callable[[Schedule], Coroutine[Any, Any, None]]
) -> int:
    """Run so many schedules, a few at a time in one loop; returns how many there were."""
    core.seed(hash_of(name))
    numbers = iter(range(count))
    ran = 0

    async def some() -> None:
        nonlocal ran
        for n in numbers:
            schedule = Schedule(core, f"{name}/{n}")
            await how(schedule)
            assert not schedule.wrong, f"schedule {schedule.seed!r}: {schedule.wrong}"
            ran += 1

    await asyncio.gather(*[some() for _ in range(16)])
    return ran


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "little") & 0xFFFFFFFF


def expiring(deadline: asyncio.Timeout) -> bool:
    """Whether it has struck already, in this very turn, and may not be moved any more."""
    return deadline.expired() or "expiring" in repr(deadline)
