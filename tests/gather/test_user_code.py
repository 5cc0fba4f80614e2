"""Code that a program gives to backends and races may raise anything, anywhere: what it raises is
its caller's, and the race's own bookkeeping is done all the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Hedged, Replicas, backend, query_all, query_some, together

virtual_time = pytest.mark.virtual_time


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class RefusesNotes(Exception):
    def add_note(self, note: str, /) -> None:
        raise RuntimeError("no notes")


class OddNotes(Exception):
    __notes__ = 5


class RaisingNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")


ERRORS: list[Callable[[], Exception]] = [lambda: Frozen(1), RefusesNotes, OddNotes, RaisingNotes]
every_error = pytest.mark.parametrize("make", ERRORS, ids=["frozen", "add_note", "odd", "property"])


def failing(error: BaseException) -> Any:
    async def fail(query: str) -> str:
        raise error

    return backend(fail)


async def anew(query: str) -> str:
    """An object of its own each time: a second success that is the winner's is not disposed of."""
    await asyncio.sleep(1)
    return "".join([*query])


async def echo(query: str) -> str:
    await asyncio.sleep(1)
    return query


@virtual_time
@every_error
async def test_a_failure_that_refuses_notes_is_raised_as_it_is(make: Callable[[], Any]) -> None:
    one, two = make(), make()
    asked: list[Callable[[], Awaitable[object]]] = [
        Hedged(failing(one), failing(two)).query,
        Replicas(failing(one), failing(two)).query,
        lambda query: query_all(query, failing(one), failing(two)),
        lambda query: query_some(query, failing(one), failing(two)),
    ]
    for ask in asked:
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(ask("foo"), 60)
        assert {id(error) for error in raised.value.exceptions} == {id(one), id(two)}


@virtual_time
@every_error
async def test_a_failure_that_refuses_notes_is_an_answer(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    error = make()
    caplog.set_level(logging.ERROR)
    first, second = await query_some("foo", failing(error), backend(echo))
    assert first.error is error
    assert second.value == "foo"
    (answer,) = await together(failing(error).query("foo"))
    assert answer.error is error
    assert len([r for r in caplog.records if "backend 1 of 2: fail" in r.getMessage()]) == 1


@virtual_time
async def test_what_a_predicate_raises_ends_the_query() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    def gives_up(error: Exception) -> bool:
        raise asyncio.CancelledError

    servers = Hedged(failing(OSError()), fatal=lambda error: Undecided())
    for expected, hedged in (
        (ZeroDivisionError, servers),
        (asyncio.CancelledError, Hedged(failing(OSError()), fatal=gives_up, limit=1)),
    ):
        for _ in range(3):  # and no slot is kept
            with pytest.raises(expected):
                await asyncio.wait_for(hedged.query("foo"), 60)
        assert [each.pending for each in hedged.statistics().backends] == [0]


@virtual_time
async def test_a_predicate_that_is_async_is_refused() -> None:
    async def fatal(error: Exception) -> bool:
        return True

    with pytest.raises(TypeError, match=r"fatal=.* is async"):
        Hedged(backend(echo), fatal=fatal)


class Untrue(Exception):
    """Which no traceback can be printed of: that asks exceptions whether they are true."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


@virtual_time
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), ZeroDivisionError(), Untrue()], ids=repr
)
async def test_what_dispose_raises_is_logged_and_the_answer_returned(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def dispose(result: str) -> None:
        raise error

    for servers in (
        Hedged(backend(anew), backend(anew), delay=0, budget=2, dispose=dispose),
        Replicas(backend(anew), backend(anew), dispose=dispose),
    ):
        for _ in range(2):
            caplog.clear()
            assert await servers.query("foo") == "foo"
            assert "a result could not be disposed of" in caplog.text


@virtual_time
async def test_what_an_async_dispose_raises_is_logged_and_the_answer_returned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def dispose(result: str) -> None:
        raise Untrue

    servers = Hedged(backend(anew), backend(anew), delay=0, budget=2, dispose=dispose)
    for _ in range(2):
        caplog.clear()
        assert await asyncio.wait_for(servers.query("foo"), 100) == "foo"
        assert "a result could not be disposed of" in caplog.text


@virtual_time
async def test_a_backend_that_raises_when_it_is_called_keeps_no_slot() -> None:
    class Cancelled:
        def query(self, query: str, /) -> Awaitable[str]:
            raise asyncio.CancelledError

    one = Hedged(Cancelled(), backend(echo), balance="in_order", limit=1, eject=None)
    for _ in range(3):
        assert await one.query("foo") == "foo"
    assert [each.pending for each in one.statistics().backends] == [0, 0]
    with pytest.raises(ExceptionGroup) as raised:
        await query_all("foo", Cancelled(), backend(echo))
    assert [type(error) for error in raised.value.exceptions] == [RuntimeError]


@virtual_time
async def test_a_backend_that_cannot_say_its_name_is_asked_all_the_same() -> None:
    class Nameless:
        @property
        def name(self) -> str:
            raise RuntimeError("no name")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        async def query(self, query: str, /) -> str:
            raise OSError(query)

    for ask in (Hedged(Nameless()).query, Replicas(Nameless()).query):
        with pytest.raises(ExceptionGroup) as raised:
            await ask("foo")
        assert {str(error) for error in raised.value.exceptions} == {"foo"}


@virtual_time
async def test_a_dispose_that_is_cancelled_disturbs_nobody() -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def dispose(result: str) -> None:
        raise asyncio.CancelledError

    for servers in (
        Hedged(backend(anew), backend(anew), delay=0, budget=2, dispose=dispose),
        Replicas(backend(anew), backend(anew), dispose=dispose),
    ):
        assert await servers.query("foo") == "foo"
    assert reported == []


@virtual_time
async def test_a_late_success_of_a_cancelled_query_is_disposed_of() -> None:
    disposed: list[str] = []

    async def stubborn(query: str) -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
        return query

    for servers in (
        Replicas(backend(stubborn), backend(stubborn), dispose=disposed.append),
        Hedged(backend(stubborn), dispose=disposed.append),
    ):
        disposed.clear()
        query = asyncio.create_task(servers.query("foo"))
        await asyncio.sleep(1)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        assert disposed == ["foo"] * len(servers.backends)


@virtual_time
async def test_a_copy_that_was_left_behind_is_let_go_of_when_it_ends() -> None:
    async def wedged(query: str) -> str:
        end = asyncio.get_running_loop().time() + 60
        while (left := end - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return query

    assert await Replicas(backend(wedged), backend(echo)).query("foo") == "foo"
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    left = weakref.ref(task)
    await task
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert left() is None


@virtual_time
@pytest.mark.parametrize("kind", [Replicas, Hedged])
async def test_a_failure_does_not_keep_its_race_alive(kind: Any) -> None:
    class Query(str):
        __slots__ = ("__weakref__",)

    async def fail(query: str) -> str:
        raise OSError

    gc.disable()
    try:
        query = Query("foo")
        asked = weakref.ref(query)
        with pytest.raises(ExceptionGroup) as raised:
            await kind(backend(fail)).query(query)
        del query, raised
        await asyncio.sleep(0)
        assert asked() is None
    finally:
        gc.enable()


@virtual_time
async def test_a_cancellation_while_the_copies_end_does_not_keep_their_race_alive() -> None:
    kept: list[weakref.ref[BaseException]] = []

    async def cleans_up(query: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
        return query

    async def ask() -> None:
        try:
            await query_all("foo", backend(cleans_up))
        except asyncio.CancelledError as cancellation:
            kept.append(weakref.ref(cancellation))

    gc.disable()
    try:
        task = asyncio.create_task(ask())
        for _ in range(2):
            await asyncio.sleep(0.1)
            task.cancel()
        await task
        assert [cancellation() for cancellation in kept] == [None]
    finally:
        gc.enable()


def test_a_long_repr_is_shortened_in_messages() -> None:
    class Long:
        def __repr__(self) -> str:
            return "long" * 100

        async def query(self, query: str, /) -> str:
            return query

    assert 60 < len(repr(Replicas(Long()))) < 80
