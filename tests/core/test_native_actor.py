"""An actor of the native core is a task in all but its type: whatever a task may await, it may."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import pickle
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest

from tailrace._core import native
from tailrace._core.native import _engine

from . import actors

Actor: Any = _engine.Actor  # type: ignore[attr-defined]  # the stub keeps it to itself
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


@pytest.fixture(scope="module")
def core() -> ModuleType:
    return native


spawn = partial(actors.spawn, native)


async def a_future() -> str:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "done")
    return await future


async def returns_done() -> str:
    await asyncio.sleep(0)
    return "done"


async def a_task() -> str:
    return await asyncio.create_task(returns_done())


async def another_actor() -> str:
    return await spawn(returns_done())


async def a_task_group() -> str:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(returns_done())
    return child.result()


async def a_timeout() -> str:
    try:
        async with asyncio.timeout(0.001):
            await native.Channel[str]().recv()
    except TimeoutError:
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        return "done"
    return "not timed out"


async def a_thread() -> str:
    return await asyncio.to_thread(lambda: "done")


async def a_shield_in_wait_for() -> str:
    return await asyncio.wait_for(asyncio.shield(spawn(returns_done())), 30)


async def all_at_once() -> str:
    first, second = await asyncio.gather(spawn(returns_done()), returns_done())
    await asyncio.wait([spawn(returns_done())])
    for each in asyncio.as_completed([spawn(returns_done())]):
        assert await each == first == second
    return first


async def an_asynchronous_generator() -> str:
    async def values() -> AsyncIterator[str]:
        for _ in range(3):
            yield await returns_done()

    return {value async for value in values()}.pop()


async def a_condition() -> str:
    condition = asyncio.Condition()

    async def notify() -> None:
        async with condition:
            condition.notify_all()

    async with condition:
        notifier = spawn(notify())
        await condition.wait()
    await notifier
    return "done"


async def anyio_scopes() -> str:
    with anyio.move_on_after(0.001) as scope:
        await native.Channel[str]().recv()
    assert scope.cancelled_caught
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep_forever()
    return await anyio.to_thread.run_sync(lambda: "done")


async def a_server_over_http() -> str:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps("done").encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{host}:{port}/")
    return str(answer.json())


AWAITED = (
    *(a_future, a_task, another_actor, a_task_group, a_timeout, a_thread, a_shield_in_wait_for),
    *(all_at_once, an_asynchronous_generator, a_condition, anyio_scopes, a_server_over_http),
)


@pytest.mark.parametrize("awaited", AWAITED)
async def test_an_actor_may_await(awaited: Callable[[], Awaitable[str]], any_loop: Any) -> None:
    assert await spawn(awaited()) == "done"


async def test_an_actor_is_the_current_task_and_one_of_all(any_loop: Any) -> None:
    seen: list[Any] = []

    async def look() -> None:
        for _ in range(2):
            seen.append(asyncio.current_task())
            assert asyncio.current_task() in asyncio.all_tasks()
            await asyncio.sleep(0)

    actor = spawn(look())
    await actor
    assert seen == [actor, actor]
    assert actor not in asyncio.all_tasks()


async def test_whoever_looks_for_a_task_finds_one() -> None:
    actor = spawn(returns_done())
    assert isinstance(actor, asyncio.Task)
    assert isinstance(actor, Actor)
    assert not isinstance(asyncio.current_task(), Actor)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(actor)
    await actor


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with 3.14")
async def test_a_call_graph_names_actors_and_who_awaits_them() -> None:
    async def wait() -> None:
        await native.Channel[None]().recv()

    async def await_it(actor: Any) -> None:
        await actor

    actor = spawn(wait(), "waits")
    waiting = spawn(await_it(actor), "awaits it")
    await asyncio.sleep(0)
    graph: str = asyncio.format_call_graph(actor)  # type: ignore[attr-defined]
    assert "Task(name='waits'" in graph
    assert "Task(name='awaits it'" in graph
    assert "wait()" in graph
    actor.cancel()
    await asyncio.wait([waiting])


async def test_an_actor_has_a_context_of_its_own(any_loop: Any) -> None:
    async def change() -> str:
        variable.set("inside")
        await asyncio.sleep(0)
        return variable.get()

    actor = spawn(change())
    assert await actor == "inside"
    assert variable.get() == "outside"
    assert actor.get_context()[variable] == "inside"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("outer", ["task", "actor"])
async def test_an_eager_actor_runs_at_once_and_its_starter_goes_on_as_before(outer: str) -> None:
    channel: Any = native.Channel()

    async def receive(others: list[Any]) -> Any:
        others.append(asyncio.current_task())
        return await channel.recv()

    async def start() -> None:
        me, others = asyncio.current_task(), list[Any]()
        ended = Actor(returns_at_once(), eager_start=True)
        assert ended.done()
        assert ended.result() == "done"
        parked = Actor(receive(others), eager_start=True)
        assert others == [parked]
        assert native.parked_on(parked) is not None
        assert asyncio.current_task() is me
        await channel.send(1)
        assert await parked == 1
        assert asyncio.current_task() is me

    await (asyncio.create_task(start()) if outer == "task" else spawn(start()))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_actor_is_refused_in_a_context_that_is_entered() -> None:
    context = contextvars.copy_context()
    coroutine = returns_at_once()

    def start() -> None:
        with pytest.raises(RuntimeError, match="already entered"):
            Actor(coroutine, context=context, eager_start=True)

    context.run(start)
    coroutine.close()


async def returns_at_once() -> str:
    return "done"


async def test_in_debug_mode_an_actor_says_which_line_asked_for_it() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.set_task_factory(native.task_factory)
    actor: Any = asyncio.create_task(returns_at_once())
    loop.set_task_factory(None)
    loop.set_debug(False)
    assert actor._source_traceback[-1].filename == __file__
    await actor


async def test_what_is_no_context_is_refused_at_once() -> None:
    coroutine = returns_done()
    with pytest.raises(TypeError, match=r"context must be a contextvars\.Context or None"):
        Actor(coroutine, context="x")
    coroutine.close()


async def test_what_ends_an_actor_at_once_is_as_for_a_task() -> None:
    async def wait() -> None:
        await native.Channel[None]().recv()

    actor = spawn(wait())
    await asyncio.sleep(0)
    assert (actor.cancel("why"), actor.cancelling()) == (True, 1)
    assert (actor.uncancel(), actor.uncancel()) == (0, 0)
    with pytest.raises(asyncio.CancelledError, match="why"):
        await actor
    assert actor.cancelled()
    assert not actor.cancel()


async def test_taking_back_a_cancellation_that_was_not_heard_undoes_it(any_loop: Any) -> None:
    async def run() -> str:
        return await returns_done()

    actor = spawn(run())
    actor.cancel()
    assert actor._must_cancel
    actor.uncancel()
    assert not actor._must_cancel
    assert await actor == "done"


async def test_an_actor_says_where_it_is() -> None:
    async def wait() -> None:
        await native.Channel[None](name="numbers").recv()

    actor = spawn(wait())
    await asyncio.sleep(0)
    assert repr(actor).startswith("<Task pending name='an actor' coro=<")
    assert "Channel.recv on numbers" in repr(actor._fut_waiter)
    text = io.StringIO()
    actor.print_stack(file=text)
    assert "in wait" in text.getvalue()
    assert actor.get_stack()[-1].f_code is wait.__code__
    actor.cancel()
    await asyncio.wait([actor])


async def test_a_failure_that_nobody_asked_for_is_reported() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(said["message"]))

    async def fail() -> None:
        raise ValueError

    spawn(fail())
    await asyncio.sleep(0.001)
    assert [message.split(" exc")[1] for message in told] == ["eption was never retrieved"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_loop_and_leaves_the_others_their_turn(
    interrupt: type[BaseException], any_loop: Any
) -> None:
    loop, actors = any_loop(), []

    async def fail() -> None:
        raise interrupt

    async def start() -> None:
        actors.extend([spawn(fail()), spawn(returns_done())])
        await asyncio.sleep(0.01)

    main = loop.create_task(start())
    with pytest.raises(interrupt):
        loop.run_until_complete(main)
    assert isinstance(actors[0].exception(), interrupt)
    loop.run_until_complete(main)
    assert actors[1].result() == "done"
    assert asyncio.current_task(loop) is None
    loop.close()


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="no task can be made anew from 3.15 on")
async def test_an_actor_that_is_made_anew_runs_anew() -> None:
    actor = Actor(returns_done())
    assert await actor == "done"
    actor.__init__(returns_done())
    done, _ = await asyncio.wait([actor], timeout=1)
    assert done
    assert actor.result() == "done"


async def test_what_was_started_before_a_sleep_has_begun_after_it(any_loop: Any) -> None:
    """However long the step is that starts it."""
    begun: list[int] = []

    async def begin(number: int) -> None:
        begun.append(number)

    async def start() -> list[int]:
        waiting = [spawn(begin(number)) for number in range(3)]
        ends = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < ends:
            pass
        await asyncio.sleep(0)
        seen = begun.copy()
        await asyncio.gather(*waiting)
        return seen

    assert await spawn(start()) == [0, 1, 2]


async def test_a_cancellation_takes_a_message_and_nothing_else() -> None:
    channel: Any = native.Channel()

    async def receive() -> None:
        await channel.recv()

    actor = spawn(receive())
    await asyncio.sleep(0)
    for cancelled in actor, native.parked_on(actor):
        with pytest.raises(TypeError, match=r"cancel\(\)"):
            cancelled.cancel(message="twice")
        with pytest.raises(TypeError, match=r"cancel\(\)"):
            cancelled.cancel("once", msg="twice")
    assert not actor.cancelling()
    actor.cancel(msg="once")
    with pytest.raises(asyncio.CancelledError, match="once"):
        await actor


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="no task can be made anew from 3.15 on")
async def test_what_an_actor_lets_go_of_when_it_is_made_anew_may_cancel_it() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made: list[Any] = []

    async def old() -> None:
        try:
            await future
        finally:
            made[0].cancel("too late")

    async def new() -> int:
        return 7

    actor: Any = Actor(old())
    made.append(actor)
    await asyncio.sleep(0)
    actor.__init__(new())
    assert await actor == 7
