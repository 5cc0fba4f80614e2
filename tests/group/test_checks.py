"""Group rule 3, further: what cannot be right is said when the stage is started."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tailrace import (
    Channel,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    collect,
    each,
    emit,
)
from tailrace.listen import listen_http
from tailrace.store import store_sqlite

pytestmark = pytest.mark.virtual_time


async def forward(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value)


def in_thread(inbox: SyncReceiver[int], out: SyncSender[int]) -> None: ...


def plain(inbox: Receiver[int]) -> None: ...


async def blocking(inbox: SyncReceiver[int]) -> None: ...


async def maybe(out: Sender[int] | None) -> None: ...


async def several(*outs: Sender[int]) -> None: ...


async def by_hand(channel: Channel[int]) -> None: ...


async def bare(channel) -> None: ...  # type: ignore[no-untyped-def]


class Actor:
    async def __call__(self, out: Sender[int]) -> None: ...


def makes() -> Actor:
    return Actor()


def not_async(fn: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Awaitable[None]:
        return fn(*args)

    return wrapper


a, b = Channel[int](name="a"), Channel[int](name="b")


@pytest.mark.parametrize(
    ("fn", "args", "said"),
    [
        (plain, (a,), r"'inbox'.*plain function.*async def.*SyncReceiver\[.*channel.sync"),
        (not_async(forward), (a, b), r"forward.*plain function"),
        (blocking, (a.sync,), r"'inbox'.*blocks.*event loop.*Receiver\[\.\.\.\]"),
        (forward, (a.sync, b), r"'inbox'.*awaited.*view for threads of `a`.*without \.sync"),
        (in_thread, (a, b), r"'inbox'.*blocks.*`a` is awaited: pass channel\.sync"),
        (forward, (a.sender, b), r"'inbox' takes the receiving end.*given the sending end of `a`"),
        (forward, (a, b.receiver), r"'out' takes the sending end.*given the receiving end of `b`"),
        (in_thread, (a.sync, b.sync.receiver), r"'out' takes the sending end.*the receiving end"),
        (forward, (a, 5), r"'out' takes the sending end of a channel, not 5"),
        (forward, (a, None), r"'out' takes the sending end of a channel, not None"),
        (forward, (Channel, b), r"'inbox' was given the type Channel, not a channel: make one"),
        (forward, (a, Channel[int]), r"'out' was given the type Channel, not a channel: make one"),
        (forward, (a, Sender[int]), r"'out' was given the type Sender, not a channel"),
        (by_hand, (Channel[int],), r"'channel' was given the type Channel, not a channel"),
        (bare, (Channel[int],), r"'channel' was given the type Channel, not a channel"),
        (each, (len, a, b), r"each returns an actor, and is none: call it .* as in go\(each\("),
        (functools.partial(each, timeout=1), (len, a, b), r"each returns an actor, and is none"),
        (store_sqlite, (a,), r"store_sqlite returns an actor, and is none: call it"),
        (listen_http, ("127.0.0.1:0", "/"), r"listen_http returns an actor, and is none: call it"),
        (makes, (), r"makes returns an actor, and is none: call it"),
        (forward, ([a], b), r"'inbox' takes the receiving end of a channel, not \[<Channel a"),
        (functools.partial(forward, out=7), (a,), r"'out' takes the sending end.*not 7"),
        (maybe, ("a",), r"'out' takes the sending end of a channel, not 'a'"),
        (several, (a, 1), r"'outs' takes the sending end of a channel, not 1"),
        (forward, (a,), r"forward\(inbox.*missing a required argument: 'out'"),
        (forward, (a, b, a), r"too many positional arguments"),
        (emit, ([1], a), r"emit is a class.*go\(emit\(\.\.\.\), inbox, out\)"),
    ],
)  # fmt: skip
async def test_an_argument_that_cannot_be_right_is_refused_by_name(
    fn: Any, args: tuple[Any, ...], said: str
) -> None:
    async with Group() as go:
        for _ in range(2):  # the second time what is known of the function must not let it pass
            with pytest.raises(TypeError, match=said):
                go(fn, *args)
    assert not a.closed
    assert not b.closed


async def test_a_function_that_was_wired_well_before_is_still_checked() -> None:
    x = Channel[int]()
    async with Group() as go:
        go(emit([1]), x)
        go(maybe, None)
        go(maybe, Channel[int]())
        with pytest.raises(TypeError, match=r"'out' takes the sending end of a channel, not \[\]"):
            go(maybe, [])  # type: ignore[arg-type]  # on purpose
        with pytest.raises(TypeError, match="given the receiving end"):
            go(maybe, x.receiver)  # type: ignore[arg-type]  # on purpose
        assert await collect(x) == [1]


async def test_what_only_behaves_like_an_end_is_one() -> None:
    class Kept(list[int]):
        async def send(self, value: int) -> None:
            self.append(value)

    async def sends(out: Sender[int]) -> None:
        await out.send(1)

    kept = Kept()
    async with Group() as go:
        go(sends, kept)  # type: ignore[arg-type]  # not all of the methods
    assert kept == [1]


async def test_the_default_of_a_parameter_is_taken_as_it_is() -> None:
    async def quiet(out: Sender[int] = None) -> None:  # type: ignore[assignment]  # as many write it
        assert out is None

    async with Group() as go:
        go(quiet)


async def listed(outs: list[Sender[int]]) -> None: ...
async def mapped(outs: dict[str, Sender[int]]) -> None: ...
async def paired(outs: tuple[tuple[str, Channel[int]], ...]) -> None: ...
async def keyword(*, outs: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (listed, ([a, b],)),
        (mapped, ({"a": a.sender},)),
        (paired, ((("a", a), ("b", b)),)),
        (functools.partial(keyword, outs={a}), ()),
    ],
)
async def test_ends_inside_a_container_warn_once(fn: Any, args: tuple[Any, ...]) -> None:
    async with Group() as go:
        with pytest.warns(
            RuntimeWarning, match=r"'outs' was given channels inside a .*\*outs"
        ) as w:
            go(fn, *args)
            go(fn, *args)
    assert len(w) == 1
    assert w[0].filename == __file__


async def test_containers_of_something_else_pass_without_a_word() -> None:
    async def work(numbers: list[int], names: dict[str, int], out: Sender[int]) -> None: ...

    async with Group() as go:
        for _ in range(2):
            go(work, [1, 2], {"a": 1}, Channel[int]())


async def test_a_keyword_that_go_does_not_have_says_where_it_belongs() -> None:
    async def work(out: Sender[int], *, times: int) -> None: ...

    async with Group() as go:
        with pytest.raises(TypeError, match=r"no keyword 'times'.*partial\(work, times="):
            go(work, Channel[int](), times=3)  # type: ignore[arg-type]  # on purpose


async def test_the_result_of_a_call_is_told_from_the_function() -> None:
    async with Group() as go:
        with pytest.raises(TypeError, match=r"go\(forward, .* not .* go\(forward\("):
            go(forward(a, b))  # type: ignore[arg-type]  # on purpose


async def test_a_channel_that_was_closed_by_hand_is_not_sent_to() -> None:
    closed = Channel[int](3, name="shut")
    closed.send_nowait(1)
    closed.close()
    async with Group() as go:
        with pytest.raises(ValueError, match=r"`shut`, which is closed.*channel.sending\("):
            go(emit([2]), closed)
        got: list[int] = []

        async def drain(inbox: Receiver[int]) -> None:
            got.extend([value async for value in inbox])

        go(drain, closed)
    assert got == [1]


async def test_a_channel_that_its_owners_have_closed_says_how_to_keep_it_open() -> None:
    ended = Channel[int](3, name="ended")
    async with Group() as go:
        go(emit([1]), ended)
        await go.idle()
        with pytest.raises(ValueError, match=r"the sending end of ended.*channel\.sending\("):
            go(emit([2]), ended)


class Stage:
    async def __call__(self, inbox: Receiver[int]) -> None: ...
    async def method(self, inbox: Receiver[int]) -> None: ...
    @staticmethod
    async def static(inbox: Receiver[int]) -> None: ...
    @classmethod
    async def of_class(cls, inbox: Receiver[int]) -> None: ...


@pytest.mark.parametrize(
    "fn", [Stage(), Stage().method, Stage.static, Stage.of_class, functools.partial(Stage())]
)
async def test_whatever_is_called_as_a_coroutine_function_may_be_a_stage(fn: Any) -> None:
    inbox = Channel[int](1)
    async with Group() as go:
        go(fn, inbox)
    assert inbox.closed


async def test_a_mock_may_be_a_stage() -> None:
    mock = AsyncMock()
    async with Group() as go:
        go(mock, Channel[int]().sender)
    mock.assert_awaited_once()


async def test_a_stage_that_takes_a_type_is_given_one() -> None:
    async def makes_channels(kind: type[Channel[int]]) -> None:
        kind()

    async with Group() as go:
        go(makes_channels, Channel[int])
        go(makes_channels, Channel)
