"""`go` itself: what it accepts, what a refusal leaves behind, and what it costs."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tailrace import Channel, Group, Receiver, Sender, SyncSender, emit

pytestmark = pytest.mark.virtual_time


async def test_a_refused_stage_holds_nothing_closes_nothing_and_leaves_its_name_free() -> None:
    fresh, closed = Channel[int](4), Channel[int](4)

    async def both(one: Sender[int], other: Sender[int]) -> None: ...

    async with Group() as go:
        go(emit([1]), closed)
        await asyncio.sleep(1)  # its only holder has ended
        with pytest.raises(ValueError, match="was closed when the last"):
            go(both, fresh, closed, actors=3, name="both")
        assert not fresh.closed
        assert [stage.name for stage in go.graph().stages] == ["emit"]
        go(emit([2]), fresh, name="both")
        assert await fresh.recv() == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="marked functions are new in 3.12")
@pytest.mark.parametrize("good", [0, 1])
async def test_a_function_that_raises_when_called_starts_nothing_and_holds_nothing(
    good: int,
) -> None:
    import inspect

    ran: list[int] = []
    calls = iter(range(10))

    async def work(out: Sender[int]) -> None:
        ran.append(1)

    def makes(out: Sender[int]) -> Any:
        if next(calls) >= good:
            raise ZeroDivisionError
        return work(out)

    inspect.markcoroutinefunction(makes)  # type: ignore[attr-defined]  # 3.12
    a = Channel[int]()
    async with Group() as go:
        with pytest.raises(ZeroDivisionError):
            go(makes, a, actors=3)
        assert go.actors() == []
    assert not ran
    assert not a.closed


async def test_a_thread_that_cannot_be_started_is_a_failure_and_no_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def work(out: SyncSender[int]) -> None: ...

    a = Channel[int]()
    with pytest.raises(ExceptionGroup, match="1 failed") as caught:
        async with Group() as go:
            go(work, a.sync)
            monkeypatch.setattr(threading.Thread, "start", refuse)
    assert "can't start new thread" in str(caught.value.exceptions[0])
    assert a.closed


async def test_a_thread_cancelled_before_it_began_never_does() -> None:
    ran: list[int] = []

    def work(out: SyncSender[int]) -> None:
        ran.append(1)

    async with Group() as go:
        go(work, Channel[int]().sync)
        go.cancel()
    assert not ran


async def test_a_generator_function_is_refused_instead_of_never_run() -> None:
    async def asynchronous(out: Sender[int]) -> AsyncIterator[int]:
        yield 1

    def plain(out: SyncSender[int]) -> Iterator[int]:
        yield 1

    async with Group() as go:
        for function in (asynchronous, plain):
            with pytest.raises(TypeError, match=r"is a generator function.*emit"):
                go(function, Channel[int]())  # type: ignore[arg-type]  # on purpose


async def test_an_inherited_call_makes_an_actor_and_so_does_a_builtin_on_a_thread() -> None:
    ran: list[str] = []

    class Base:
        async def __call__(self, out: Sender[int]) -> None:
            ran.append(type(self).__name__)

    class Derived(Base): ...

    a = Channel[int]()
    async with Group() as go:
        go(Derived(), a)
        go(time.sleep, 0)  # tells nothing of its parameters
    assert ran == ["Derived"]
    assert a.closed


async def test_a_number_never_makes_two_stages_of_one_name() -> None:
    async def work() -> None:
        await asyncio.sleep(1)

    async def other() -> None:
        await asyncio.sleep(5)

    async with Group() as go:
        go(work)
        go(work)
        with pytest.raises(ValueError, match="'work-2' already"):
            go(other, name="work-2")
        go(other, name="work-3")
        go(work)
        assert [stage.name for stage in go.graph().stages] == ["work", "work-2", "work-3", "work-4"]


async def test_go_from_another_thread_or_loop_is_an_error() -> None:
    def elsewhere(go: Group) -> list[str]:
        said: list[str] = []

        def call() -> None:
            try:
                go(emit([1]), Channel[int]())
            except RuntimeError as error:
                said.append(str(error))

        async def call_there() -> None:
            call()

        call()
        asyncio.run(call_there())
        return said

    async with Group() as go:
        said = await asyncio.to_thread(elsewhere, go)
    assert len(said) == 2
    assert all("from another thread or event loop than its group's" in text for text in said)


async def test_an_actor_may_start_stages_while_the_block_is_being_left() -> None:
    ran: list[int] = []

    async def late() -> None:
        ran.append(1)

    async def first(go: Group) -> None:
        await asyncio.sleep(1)
        go(late)

    async with Group() as go:
        go(first, go)
    assert ran == [1]


# What it costs: counted in calls, so that a busy machine changes nothing.


def calls_of(run: Callable[[], None]) -> int:
    """How many functions of Python `run` calls."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


async def same(n: int) -> None:
    async def work() -> None: ...

    async with Group() as go:
        go(work, actors=n)


async def many(n: int) -> None:
    async def work() -> None: ...

    async with Group() as go:
        for _ in range(n):
            go(work)


async def cut_short(n: int) -> None:
    async def one(inbox: Receiver[int]) -> None:
        await inbox.recv()

    async with Group() as go:
        for _ in range(n):
            a = Channel[int]()
            go(emit([1, 2, 3]), a)
            go(one, a)


async def all_fail(n: int) -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup):
        async with Group() as go:
            for _ in range(n):
                go(fails)
            go.loop.call_later(1, go.cancel)


@pytest.mark.parametrize("program", [same, many, cut_short, all_fail])
def test_a_stage_costs_no_more_where_there_are_many(program: Any) -> None:
    from tailrace.testing import run

    run(program(100))  # what happens only once
    few, more = (calls_of(lambda n=n: run(program(n))) for n in (100, 400))  # type: ignore[misc]
    assert more < 6 * few


async def test_ten_thousand_actors_start_and_end() -> None:
    ended: list[int] = []

    async def work() -> None:
        await asyncio.sleep(1)
        ended.append(1)

    async with Group() as go:
        go(work, actors=10_000)
        await asyncio.sleep(0)
        assert len(go.actors()) == 10_000
    assert len(ended) == 10_000
