"""Group rule 3: ends of channels are owned, so end-of-stream flows down and stop flows up."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, Protocol, TypeAlias, Union

import pytest

import tailrace
from tailrace import (
    Channel,
    Closed,
    Group,
    Receiver,
    Sender,
    SyncReceiver,
    SyncSender,
    collect,
    emit,
)

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # on purpose: exists for checkers only

    Outbox = Sender[int]

pytestmark = pytest.mark.virtual_time

Inbox: TypeAlias = Receiver[int]


class Wanted(Sender[int], Protocol):
    """A protocol of the user's own, which is still a sender."""


async def double(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value * 2)


async def forever(inbox: Receiver[int], out: Sender[int]) -> None:
    while True:
        await out.send(await inbox.recv())


async def test_group_3_end_of_stream_flows_down_through_the_talks_endless_loops() -> None:
    a, b, c = (Channel[int](name=name) for name in "abc")
    async with Group() as go:
        go(emit(range(5)), a)
        go(double, a, b, actors=3)
        go(forever, b, c)
        assert sorted(await collect(c)) == [0, 2, 4, 6, 8]


async def test_group_3_a_channel_closes_when_the_last_of_several_stages_lets_go() -> None:
    merged = Channel[int]()
    gate = Channel[int]()

    async def late(start: Receiver[int], out: Sender[int]) -> None:
        await start.recv()
        await out.send(99)

    async with Group() as go:
        go(emit([1, 2]), merged)
        go(late, gate, merged)
        assert {await merged.recv(), await merged.recv()} == {1, 2}
        assert not merged.closed
        await gate.send(0)
        assert await merged.recv() == 99
        with pytest.raises(Closed):
            await merged.recv()


async def test_group_3_a_failure_is_the_cause_of_the_close() -> None:
    inbox, out = Channel[int](), Channel[int]()
    boom = ValueError("boom")

    async def fail(inbox: Receiver[int], out: Sender[int]) -> None:
        await out.send(await inbox.recv())
        raise boom

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(fail, inbox, out)
            await inbox.send(1)
            assert await out.recv() == 1
            await collect(out)
    assert caught.value.exceptions == (boom,)
    with pytest.raises(Closed) as closed:
        await out.recv()
    assert closed.value.__cause__ is boom


async def test_group_3_stop_flows_up_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    numbers, doubled = Channel[int](name="numbers"), Channel[int](name="doubled")

    async def tap(inbox: Receiver[int]) -> None:
        await inbox.recv()

    with caplog.at_level(logging.WARNING, "tailrace"):
        async with Group() as go:
            go(emit(range(1_000_000)), numbers)
            go(double, numbers, doubled)
            go(tap, doubled)
    assert [record.getMessage() for record in caplog.records] == [
        "`tap` returned while its inbox `doubled` was open; stopped `double`, `emit`"
    ]


async def test_group_3_a_drained_channel_stops_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = Channel[int](3)
    async with Group() as go:
        go(emit(range(3)), a)
        go(collect_into([]), a)
    assert not caplog.records


def collect_into(values: list[int]) -> Callable[[Receiver[int]], Awaitable[None]]:
    async def into(inbox: Receiver[int]) -> None:
        values.extend([value async for value in inbox])

    return into


async def test_group_3_values_that_nobody_will_receive_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = Channel[int](8, name="a")

    async def one(inbox: Receiver[int]) -> None:
        await inbox.recv()

    async with Group() as go:
        go(emit(range(3)), a)
        await tailrace.after(1).recv()  # all three are buffered and the source has ended
        go(one, a)
    assert "2 values left in `a`" in caplog.text


async def test_group_3_ends_are_read_through_every_kind_of_annotation() -> None:
    async def plain(out: Sender[int]) -> None: ...
    async def text(out: "tailrace.Sender[NotThere]") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
    async def optional(out: Optional[Sender[int]]) -> None: ...  # noqa: UP045
    async def union(out: Union[Sender[int], None]) -> None: ...  # noqa: UP007
    async def bar(out: "Sender[int] | None") -> None: ...  # noqa: UP037
    async def annotated(out: Annotated[Sender[int], "where it goes"]) -> None: ...
    async def many(*outs: Sender[int]) -> None: ...
    async def own(out: Wanted) -> None: ...

    @functools.wraps(plain)
    async def wrapped(*args: Any) -> None:
        await plain(*args)

    def threaded(out: SyncSender[int]) -> None: ...

    class Actor:
        async def __call__(self, out: Sender[int]) -> None: ...
        async def method(self, out: Sender[int]) -> None: ...

    candidates: list[Any] = [
        plain, text, optional, union, bar, annotated, many, own, wrapped, Actor(), Actor().method
    ]  # fmt: skip
    for candidate in candidates:
        channel = Channel[int]()
        async with Group() as go:
            go(candidate, channel)
        assert channel.closed, candidate
    for call in (
        functools.partial(plain, Channel[int]()),
        functools.partial(plain, out=Channel[int]()),
    ):
        async with Group() as go:
            go(call)
        bound = (*call.args, *call.keywords.values())[0]
        assert bound.closed
    channel = Channel[int]()
    async with Group() as go:
        go(threaded, channel.sync)
    assert channel.closed


async def test_group_3_a_receivers_alias_holds_the_receiving_end() -> None:
    async def read(inbox: Inbox) -> None:
        await inbox.recv()

    def read_in_thread(inbox: SyncReceiver[int]) -> None:
        inbox.recv()

    for fn, end in ((read, lambda ch: ch), (read_in_thread, lambda ch: ch.sync)):
        channel = Channel[int]()
        async with Group() as go:
            go(fn, end(channel))
            await channel.send(1)
        assert channel.closed


async def test_group_3_channel_annotations_and_containers_hold_nothing() -> None:
    async def both(channel: Channel[int], others: list[Channel[int]]) -> None: ...

    a, b = Channel[int](), Channel[int]()
    async with Group() as go:
        with pytest.warns(RuntimeWarning, match=r"'others' was given channels inside a list"):
            go(both, a, [b])
    assert not a.closed
    assert not b.closed


async def test_group_3_an_explicit_end_is_held_whatever_the_annotation_says() -> None:
    async def anything(end: object) -> None: ...

    a, b = Channel[int](), Channel[int]()
    async with Group() as go:
        go(anything, a.sender)
        go(anything, b.receiver)
    assert a.closed
    assert b.closed


async def test_group_3_a_head_that_cannot_be_resolved_is_an_error_that_names_the_parameter() -> (
    None
):
    async def unclear(out: "Outbox") -> None: ...  # noqa: UP037

    channel = Channel[int]()
    async with Group() as go:
        with pytest.raises(TypeError, match=r"unclear.*'out'.*Outbox.*TYPE_CHECKING"):
            go(unclear, channel)
        go(unclear, channel.sender)  # says itself which end it is
    assert channel.closed


async def test_group_3_an_unresolvable_name_elsewhere_does_not_matter() -> None:
    async def fine(out: Sender["Missing"], other: "Missing") -> None: ...  # noqa: UP037

    channel = Channel[Any]()
    async with Group() as go:
        go(fine, channel, 3)
    assert channel.closed


async def test_group_3_a_channel_passed_to_a_bare_parameter_warns_once() -> None:
    async def bare(channel): ...  # type: ignore[no-untyped-def]  # on purpose

    a = Channel[int]()
    async with Group() as go:
        with pytest.warns(RuntimeWarning, match="bare: parameter 'channel' has no annotation"):
            go(bare, a)
        go(bare, a)  # a second warning would be an error here
    assert not a.closed


async def test_group_3_go_on_an_end_that_its_owners_closed_suggests_sending() -> None:
    a = Channel[int](4, name="a")
    async with Group() as go:
        go(emit([1]), a)
        await tailrace.after(1).recv()
        with pytest.raises(ValueError, match=r"sending end of a was closed.*channel\.sending\(\)"):
            go(emit([2]), a)
    assert await collect(a) == [1]


async def test_group_3_sending_keeps_the_end_open_for_a_later_stage() -> None:
    a = Channel[int](4)
    async with Group() as go:
        with a.sending() as out:
            go(emit([1]), a)
            await tailrace.after(1).recv()
            go(emit([2]), a)
            await out.send(3)
    assert sorted(await collect(a)) == [1, 2, 3]


async def test_group_3_receiving_keeps_senders_going_and_closes_when_left() -> None:
    a = Channel[int]()
    async with Group() as go:
        go(emit(range(100)), a)
        with a.receiving() as inbox:
            assert await inbox.recv() == 0
        assert a.closed


async def test_group_3_closing_by_hand_while_held_is_an_error() -> None:
    a, gate = Channel[int](name="a"), Channel[int]()

    async def hold(gate: Receiver[int], out: Sender[int]) -> None:
        await gate.recv()

    async with Group() as go:
        go(hold, gate, a)
        with pytest.raises(RuntimeError, match="a is closed by those who hold its sending end"):
            a.close()
        await gate.send(1)
    a.close()  # nobody holds it any more


async def test_group_3_holders_are_counted_across_groups() -> None:
    a = Channel[int](8)
    async with Group() as outer:
        outer(emit([1]), a)
        async with Group() as inner:
            inner(emit([2]), a)
            with a.sending():
                pass
    assert sorted(await collect(a)) == [1, 2]


async def test_group_3_a_cycle_never_closes_itself_and_is_marked() -> None:
    loop_back = Channel[int](10, name="loop_back")

    async def countdown(inbox: Receiver[int], out: Sender[int]) -> None:
        async for value in inbox:
            if value:
                await out.send(value - 1)

    async with Group() as go:
        go(countdown, loop_back, loop_back, actors=2)
        assert go.graph().cycles == {"countdown", "loop_back"}
        await loop_back.send(5)
        await go.idle()
        assert not loop_back.closed
        go.cancel()


async def test_group_3_a_clean_close_of_a_foreign_channel_is_a_failure() -> None:
    foreign = Channel[int]()
    foreign.close()

    async def reads_what_it_does_not_hold() -> None:
        await foreign.recv()

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(reads_what_it_does_not_hold)
    assert isinstance(caught.value.exceptions[0], Closed)
