"""Reading ends from annotations, further: the odd shapes that callables have."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import pytest

from tailrace import Channel, Group, Receiver, Sender
from tailrace.group.wiring import wire

P = ParamSpec("P")
Out = TypeVar("Out", bound=Sender[int])
Either = TypeVar("Either", Receiver[int], Receiver[str])


def ends_of(fn: Callable[..., Any], *args: Any) -> list[str]:
    return [f"{parameter}: {end}" for _, end, parameter in wire("stage", fn, args).holds]


async def plain(inbox: Receiver[int], out: Sender[int]) -> None: ...


def test_a_type_variable_stands_for_its_bound_or_constraints() -> None:
    async def bound(out: Out) -> None: ...
    async def constrained(inbox: Either) -> None: ...

    assert ends_of(bound, Channel[int]()) == ["out: send"]
    assert ends_of(constrained, Channel[int]()) == ["inbox: receive"]


def test_a_channel_that_is_a_default_argument_is_held_too() -> None:
    a = Channel[int]()

    async def work(inbox: Receiver[int], out: Sender[int] = a) -> None: ...

    assert ends_of(work, Channel[int]()) == ["inbox: receive", "out: send"]
    assert ends_of(work, Channel[int](), Channel[int]()) == ["inbox: receive", "out: send"]


def test_a_paramspec_wrapper_is_read_as_what_it_wraps() -> None:
    def logged(fn: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        @functools.wraps(fn)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
            await fn(*args, **kwargs)

        return wrapper

    assert ends_of(logged(plain), Channel[int](), Channel[int]()) == ["inbox: receive", "out: send"]


def test_a_paramspec_wrapper_that_does_not_say_what_it_wraps_warns() -> None:
    def silent(fn: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        async def silent_wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
            await fn(*args, **kwargs)

        return silent_wrapper

    with pytest.warns(RuntimeWarning, match="'args' has no annotation"):
        wiring = wire("stage", silent(plain), (Channel[int](), Channel[int]()))
    assert wiring.unclear
    assert not wiring.holds


def test_a_decorator_that_adds_an_argument_is_called_as_it_is() -> None:
    def with_database(fn: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(fn)
        async def wrapper(out: Sender[int]) -> None:
            await fn("database", out)

        return wrapper

    @with_database
    async def work(database: str, out: Sender[int]) -> None: ...

    assert ends_of(work, Channel[int]()) == ["out: send"]


def test_arguments_that_neither_a_wrapper_nor_what_it_wraps_takes_are_an_error() -> None:
    @functools.wraps(plain)
    async def wrapper(inbox: Receiver[int], out: Sender[int]) -> None: ...

    with pytest.raises(TypeError, match=r"stage\(inbox.*missing a required argument: 'out'"):
        wire("stage", wrapper, (Channel[int](),))


def test_keywords_and_repeated_arguments_are_read_one_by_one() -> None:
    async def work(*inboxes: Receiver[int], **outs: Sender[int]) -> None: ...

    a, b, c = (Channel[int]() for _ in range(3))
    wiring = wire("stage", functools.partial(work, a, x=c), (b,))
    assert wiring.channels("receive") == [a, b]
    assert wiring.channels("send") == [c]


def test_partials_of_partials_of_bound_methods_and_callable_objects_are_taken_apart() -> None:
    class Actor:
        async def __call__(self, word: str, out: Sender[int]) -> None: ...
        async def method(self, word: str, out: Sender[int]) -> None: ...

    for fn in (Actor(), Actor().method):
        twice = functools.partial(functools.partial(fn, "word"))
        assert ends_of(twice, Channel[int]()) == ["out: send"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="placeholders are new in 3.14")
def test_a_placeholder_of_a_partial_is_filled() -> None:
    hole = functools.Placeholder  # type: ignore[attr-defined]  # 3.14
    a, b = Channel[int](), Channel[int]()
    wiring = wire("stage", functools.partial(plain, hole, a), (b,))
    assert wiring.channels("receive") == [b]
    assert wiring.channels("send") == [a]


class Both(Sender[int], Receiver[int], Protocol):
    """A protocol of the user's own for somebody who has both ends."""


def test_a_protocol_of_ones_own_that_is_both_ends_holds_both() -> None:
    async def work(channel: Both) -> None: ...

    assert ends_of(work, Channel[int]()) == ["channel: receive", "channel: send"]


def test_an_annotation_that_raises_is_an_error_that_names_the_parameter() -> None:
    async def work(out: Sender[int]) -> None: ...

    work.__annotations__["out"] = "1 / 0"
    with pytest.raises(TypeError, match=r"'out'.*division by zero"):
        wire("stage", work, (Channel[int](),))


def test_a_name_local_to_a_function_that_is_not_known_at_run_time_is_an_error_that_says_so() -> (
    None
):
    LocalOut = Sender[int]  # noqa: N806  # known to checkers only: annotations are text here

    async def work(out: LocalOut) -> None: ...

    with pytest.raises(TypeError, match=r"'out'.*'LocalOut' is not defined.*at module level"):
        wire("stage", work, (Channel[int](),))


@pytest.mark.virtual_time
async def test_the_warning_points_at_the_call_of_go() -> None:
    async def bare_here(channel): ...  # type: ignore[no-untyped-def]  # on purpose

    async with Group() as go:
        with pytest.warns(RuntimeWarning) as caught:
            go(bare_here, Channel[int]())
    assert caught[0].filename == __file__


def test_a_stage_on_a_channel_of_another_loop_closes_it_there() -> None:
    a = Channel[int]()
    got: list[int] = []

    async def send(out: Sender[int]) -> None:
        for n in range(3):
            await out.send(n)

    async def sends() -> None:
        async with Group() as go:
            go(send, a)

    async def main() -> None:
        thread = asyncio.create_task(asyncio.to_thread(asyncio.run, sends()))
        got.extend([value async for value in a])
        await thread

    asyncio.run(main())
    assert got == [0, 1, 2]
