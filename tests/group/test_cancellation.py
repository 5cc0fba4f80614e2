"""Group rule 2 under attack: cancellation and failure in every order, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from tailrace import Channel, Closed, Group, Receiver, Sender, SyncSender, collect, emit

pytestmark = pytest.mark.virtual_time


async def sleeps() -> None:
    await asyncio.sleep(1e6)


async def fails_in_its_cleanup() -> None:
    try:
        await asyncio.sleep(1e6)
    finally:
        raise ValueError("cleanup")


def cancel_requests() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_group_used_in_the_cleanup_of_a_cancelled_task_ends_without_an_error() -> None:
    ended: list[str] = []

    async def cleans_up() -> None:
        async with Group() as go:

            async def stop() -> None:
                go.cancel()

            go(stop)
            await sleeps()
        ended.append("cleaned up")

    async def main() -> None:
        try:
            await sleeps()
        finally:
            await cleans_up()

    task = asyncio.create_task(main())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cleaned up"]


async def test_handling_a_failure_does_not_swallow_the_cancellation_that_caused_it() -> None:
    went_on: list[int] = []

    async def main() -> None:
        try:
            async with Group() as go:
                go(fails_in_its_cleanup)
        except* ValueError:
            pass
        await asyncio.sleep(1)
        went_on.append(1)

    task = asyncio.create_task(main())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on


async def test_a_timeout_around_a_group_that_fails_leaves_no_stray_cancellation() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(1), Group() as go:
            go(fails_in_its_cleanup)
    assert str(caught.value.exceptions[0]) == "cleanup"
    await asyncio.sleep(1)
    assert cancel_requests() == 0


@pytest.mark.parametrize("body_waits", [False, True])
async def test_a_timeout_and_a_failure_in_one_instant_leave_no_stray_cancellation(
    body_waits: bool,
) -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise ValueError

    try:
        async with asyncio.timeout(1), Group() as go:
            go(fails)
            if body_waits:
                await sleeps()
    except* (ValueError, TimeoutError):
        pass
    await asyncio.sleep(1)
    assert cancel_requests() == 0


async def test_a_second_cancellation_while_leaving_does_not_leave_actors_behind() -> None:
    ended: list[int] = []

    async def slow_to_end() -> None:
        try:
            await sleeps()
        finally:
            await asyncio.sleep(5)
            ended.append(1)

    async def main() -> None:
        async with Group() as go:
            go(slow_to_end)

    task = asyncio.create_task(main())
    for _ in range(2):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


async def test_a_drained_source_whose_group_is_cancelled_cleans_up_undisturbed() -> None:
    ended: list[str] = []

    async def source(out: Sender[int]) -> None:
        try:
            await out.send(1)
        finally:
            await asyncio.sleep(3)
            ended.append("cleaned up")

    async with Group() as go:
        go(source, Channel[int]())
        await asyncio.sleep(1)
        go.drain()  # its send is let finish
        await asyncio.sleep(1)
        go.cancel()  # now it is cancelled in that, and only once
    assert ended == ["cleaned up"]


@pytest.mark.parametrize("asked", ["anyio's", "the group's"])
async def test_anyio_scopes_around_and_inside_a_group_end_with_it(asked: str) -> None:
    async def uses_anyio() -> None:
        with anyio.move_on_after(1) as scope:
            await sleeps()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio.sleep, 1)
            with anyio.move_on_after(0.5) as scope:
                await Channel[int]().recv()
            assert scope.cancelled_caught

    with anyio.CancelScope() as outer:
        async with Group() as go:
            go(uses_anyio, actors=3)
            go.loop.call_later(0.7, outer.cancel if asked == "anyio's" else go.cancel)
            await sleeps()
    assert outer.cancelled_caught == (asked == "anyio's")
    assert asyncio.get_running_loop().time() == 0.7
    async with Group() as go:
        go(uses_anyio, actors=3)
    await asyncio.sleep(1)
    assert cancel_requests() == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
async def test_a_group_works_where_tasks_start_eagerly() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
    try:
        a = Channel[int]()
        async with Group() as go:
            go(emit(range(5)), a)
            assert await collect(a) == list(range(5))

        async def stop(go: Group) -> None:
            go.cancel()
            await sleeps()

        async with Group() as go:
            go(stop, go, actors=3)
            await sleeps()
        assert cancel_requests() == 0
    finally:
        loop.set_task_factory(None)


async def test_leaving_an_async_generator_early_ends_the_group_in_it() -> None:
    ended: list[int] = []

    async def count(out: Sender[int]) -> None:
        try:
            for n in range(100):
                await out.send(n)
        finally:
            ended.append(1)

    async def numbers() -> AsyncIterator[int]:
        a = Channel[int]()
        async with Group() as go:
            go(count, a)
            async for n in a:
                yield n

    async with contextlib.aclosing(numbers()) as got:  # type: ignore[type-var]  # is a generator
        async for n in got:
            if n == 3:
                break
    assert ended == [1]


async def test_draining_a_group_ends_the_groups_inside_its_sources() -> None:
    ended: list[int] = []

    async def works() -> None:
        try:
            await sleeps()
        finally:
            await asyncio.sleep(1)
            ended.append(1)

    async def has_a_group(out: Sender[int]) -> None:
        async with Group() as go:
            go(works, actors=2)

    async with Group() as go:
        go(has_a_group, Channel[int]())
        await asyncio.sleep(1)
        go.drain()
    assert ended == [1, 1]


async def test_a_drain_that_was_itself_cancelled_still_ends_its_actor() -> None:
    class Server:
        async def __call__(self, out: Sender[int]) -> None:
            await sleeps()

        async def drain(self) -> None:
            raise asyncio.CancelledError

    async with asyncio.timeout(5), Group() as go:
        go(Server(), Channel[int]())
        await asyncio.sleep(0)
        go.drain()


# Failures.


async def test_one_exception_object_raised_by_several_actors_is_one_failure() -> None:
    boom = ValueError()

    async def fails() -> None:
        raise boom

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fails, actors=3)
            raise boom
    assert caught.value.exceptions == (boom,)


async def test_a_failing_thread_actor_is_a_failure_of_the_group_and_the_cause_of_the_close() -> (
    None
):
    boom = ValueError()

    def fails(out: SyncSender[int]) -> None:
        raise boom

    a = Channel[int]()
    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fails, a.sync)
    assert caught.value.exceptions == (boom,)
    with pytest.raises(Closed) as closed:
        await a.recv()
    assert closed.value.__cause__ is boom


async def test_a_generator_exit_in_an_actor_is_a_failure_like_any_other() -> None:
    async def fails() -> None:
        raise GeneratorExit

    with pytest.raises(BaseExceptionGroup) as caught:
        async with Group() as go:
            go(fails)
    assert isinstance(caught.value.exceptions[0], GeneratorExit)


# Nothing is kept alive.


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free what is dropped here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Message:
    """Something to be freed."""


@pytest.mark.usefixtures("no_collector")
async def test_a_block_that_ended_keeps_neither_messages_nor_itself_alive() -> None:
    async def source(message: Message, out: Sender[Message]) -> None:
        await out.send(message)

    async def one(inbox: Receiver[Message]) -> None:
        await inbox.recv()

    async def block() -> list[weakref.ref[object]]:
        message, a = Message(), Channel[Message](4)
        async with Group() as go:
            go(functools.partial(source, message), a)
            go(one, a)
        return [weakref.ref(each) for each in (message, a, go)]

    assert [ref() for ref in await block()] == [None, None, None]


@pytest.mark.usefixtures("no_collector")
async def test_a_failure_that_was_handled_keeps_nothing_alive() -> None:
    class Boom(Exception):
        """Unlike the builtin ones, it can be referred to weakly."""

    async def fails() -> None:
        raise Boom

    async def block() -> list[weakref.ref[object]]:
        try:
            async with Group() as go:
                go(fails)
        except ExceptionGroup as failures:
            return [weakref.ref(go), weakref.ref(failures.exceptions[0])]
        raise AssertionError

    assert [ref() for ref in await block()] == [None, None]


@pytest.mark.usefixtures("no_collector")
async def test_a_cancelled_block_keeps_nothing_alive() -> None:
    groups: list[weakref.ref[Group]] = []

    async def block() -> None:
        async with Group() as go:
            groups.append(weakref.ref(go))
            go(sleeps)

    task = asyncio.create_task(block())
    await asyncio.sleep(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    assert groups[0]() is None


async def test_what_an_ended_stage_was_given_is_freed_while_the_group_goes_on() -> None:
    async def work(message: Message, inbox: Receiver[Message]) -> None: ...

    message, inbox = Message(), Channel[Message](1)
    refs: list[weakref.ref[object]] = [weakref.ref(message), weakref.ref(inbox)]
    async with Group() as go:
        go(functools.partial(work, message), inbox)
        del message, inbox
        await asyncio.sleep(1)
        gc.collect()
        assert [ref() for ref in refs] == [None, None]
        assert [stage.name for stage in go.graph().stages] == ["work"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
@pytest.mark.parametrize("asked", [True, False], ids=["by its drain", "by cancellation"])
async def test_a_source_that_drains_its_group_as_it_starts_eagerly_is_stopped_itself(
    asked: bool,
) -> None:
    class Source:
        def __init__(self, go: Group) -> None:
            self.go = go
            self.told = asyncio.Event()
            self.ended = False

        async def __call__(self, out: Sender[int]) -> None:
            try:
                self.go.drain()
                await self.told.wait()
            finally:
                self.ended = True

    class Asked(Source):
        async def drain(self) -> None:
            self.told.set()

    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
    try:
        channel = Channel[int]()
        async with Group() as go:
            source = Asked(go) if asked else Source(go)
            go(source, channel)
        assert source.ended
        assert channel.closed
    finally:
        loop.set_task_factory(None)


@pytest.mark.virtual_time
async def test_a_drain_that_is_cancelled_before_it_has_begun_keeps_no_group_waiting() -> None:
    class Listener:
        async def __call__(self, out: Sender[int]) -> None:
            await asyncio.sleep(1000)

        async def drain(self) -> None:
            raise AssertionError("it has no time to begin")

    async with asyncio.timeout(5), Group() as go:
        go(Listener(), Channel[int]())
        await asyncio.sleep(1)
        go.drain()
        go.cancel()


async def test_the_block_is_cancelled_once_however_many_actors_fail() -> None:
    """A second cancellation would interrupt what the block does to clean up."""
    cleaned: list[bool] = []

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            raise ValueError

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            for _ in range(3):
                go(fails_when_cancelled)
            go(fails)
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)
                cleaned.append(True)
    assert cleaned
