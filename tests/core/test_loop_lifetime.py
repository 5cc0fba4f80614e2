"""A core keeps no loop alive: a closed one is freed with its last user, without the collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest

from .actors import spawn

Drive = Callable[[Any, Any], None]


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def nothing(core: Any, loop: Any) -> None:
    pass


def a_task_that_receives(core: Any, loop: Any) -> None:
    async def main() -> None:
        channel = core.Channel()
        receiver = asyncio.create_task(receive(channel))
        await channel.send(1)
        await receiver

    loop.run_until_complete(main())


def actors(core: Any, loop: Any) -> None:
    async def main() -> None:
        channel = core.Channel(1)
        receivers = [spawn(core, receive(channel)) for _ in range(3)]
        for number in range(3):
            await channel.send(number)
        await asyncio.wait(receivers)

    loop.run_until_complete(main())


def a_select_with_a_timeout(core: Any, loop: Any) -> None:
    async def main() -> None:
        await core.select(core.Channel().recv(), timeout=0.001)

    loop.run_until_complete(main())


def cancelled_ones(core: Any, loop: Any) -> None:
    async def main() -> None:
        channel = core.Channel()
        parked = [asyncio.create_task(receive(channel)), spawn(core, receive(channel))]
        await asyncio.sleep(0)
        for each in parked:
            each.cancel()
        await asyncio.wait(parked)

    loop.run_until_complete(main())


def failed_ones(core: Any, loop: Any) -> None:
    async def fail(channel: Any) -> None:
        raise LookupError(await channel.recv())

    async def main() -> None:
        channel = core.Channel()
        failing = [asyncio.create_task(fail(channel)), spawn(core, fail(channel))]
        await asyncio.sleep(0)
        for number in range(2):
            channel.send_nowait(number)
        await asyncio.wait(failing)
        assert all(isinstance(each.exception(), LookupError) for each in failing)

    loop.run_until_complete(main())


def one_whose_end_is_told_after_a_send(core: Any, loop: Any) -> None:
    async def send_and_fail(channel: Any) -> None:
        await channel.send(1)
        raise LookupError

    async def main() -> None:
        kinds = (asyncio.create_task, partial(spawn, core))
        for start, end in product(kinds, ("cancelled", "failed")):
            channel = core.Channel()
            sender = start(send_and_fail(channel))
            await asyncio.sleep(0)
            assert core.when_sent(sender, lambda: None)
            assert core.when_resumed(sender, lambda: None)
            if end == "cancelled":
                sender.cancel()
            else:
                channel.recv_nowait()
            await asyncio.wait([sender])
            assert sender.cancelled() or isinstance(sender.exception(), LookupError)

    loop.run_until_complete(main())


def a_send_that_outlasts_its_cancellation(core: Any, loop: Any) -> None:
    async def main() -> None:
        channel = core.Channel()
        sender = spawn(core, send(channel))
        await asyncio.sleep(0)
        channel.recv_nowait()
        sender.cancel()
        await asyncio.sleep(0)

    loop.run_until_complete(main())


def a_loop_of_actors_alone(core: Any, loop: Any) -> None:
    loop.set_task_factory(core.task_factory)
    actors(core, loop)


def those_cancelled_and_not_resumed(core: Any, loop: Any) -> None:
    async def main() -> None:
        channel = core.Channel()
        parked = [asyncio.create_task(receive(channel)), spawn(core, receive(channel))]
        await asyncio.sleep(0)
        for each in parked:
            each._log_destroy_pending = False
            each.cancel()

    loop.run_until_complete(main())


def those_woken_from_a_thread_too_late(core: Any, loop: Any) -> None:
    channel = core.Channel()

    async def main() -> None:
        parked = [asyncio.create_task(receive(channel)), spawn(core, receive(channel))]
        await asyncio.sleep(0)
        for each in parked:
            each._log_destroy_pending = False
        thread = threading.Thread(target=lambda: (channel.send_nowait(1), channel.send_nowait(2)))
        thread.start()
        thread.join()

    loop.run_until_complete(main())


async def receive(channel: Any) -> Any:
    return await channel.recv()


async def send(channel: Any) -> Any:
    return await channel.send("late")


USES = (
    *(nothing, a_task_that_receives, actors, a_select_with_a_timeout, cancelled_ones),
    *(failed_ones, one_whose_end_is_told_after_a_send),
    *(a_send_that_outlasts_its_cancellation, a_loop_of_actors_alone),
    *(those_cancelled_and_not_resumed, those_woken_from_a_thread_too_late),
)


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("use", USES)
def test_a_closed_loop_is_freed_at_once(core: Any, use: Drive, debug: bool, any_loop: Any) -> None:
    loop = any_loop()
    loop.set_debug(debug)
    use(core, loop)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    freed = weakref.ref(loop)
    del loop
    assert freed() is None


def test_a_loop_at_the_address_of_a_freed_one_resumes_its_own(core: Any) -> None:
    for _ in range(20):
        loop = asyncio.new_event_loop()
        those_woken_from_a_thread_too_late(core, loop)
        actors(core, loop)
        loop.close()
        del loop
