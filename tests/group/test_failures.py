"""Group rule 2: whatever is raised, of whatever class, arrives; and the block ends."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import (
    Channel,
    Closed,
    Group,
    Message,
    Receiver,
    Sender,
    SyncReceiver,
    amap,
    collect,
    each,
    emit,
    run,
)

pytestmark = pytest.mark.virtual_time


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Slotted(Exception):
    __slots__ = ("code",)


class RefusesAttributes(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class RefusesNotes(Exception):
    def add_note(self, note: str, /) -> None:
        raise PermissionError(note)


class NotesAreText(Exception):
    __notes__ = "of another library"  # type: ignore[assignment]


class Speechless(RefusesNotes):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Incomparable(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    def __hash__(self) -> int:
        raise RuntimeError("not to be hashed")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


class Indivisible(ExceptionGroup[Exception]):
    def derive(self, excs: Sequence[Any], /) -> Any:
        raise RuntimeError("not to be divided")


class AlsoClosed(Closed):
    def __init__(self) -> None:
        pass


class Fundamental(BaseException):
    def add_note(self, note: str, /) -> None:
        raise type(self)


STRANGE: list[Callable[[], BaseException]] = [
    lambda: Frozen(3),
    Slotted,
    RefusesAttributes,
    RefusesNotes,
    NotesAreText,
    Speechless,
    Incomparable,
    lambda: Indivisible("x", [ValueError()]),
    AlsoClosed,
    Fundamental,
]


@pytest.fixture(params=STRANGE, ids=lambda make: type(make()).__name__)
def strange(request: pytest.FixtureRequest) -> BaseException:
    error: BaseException = request.param()
    return error


async def receive_all(inbox: Receiver[int]) -> None:
    async for _ in inbox:
        pass


async def send_nothing(out: Sender[int]) -> None:
    await asyncio.Event().wait()


async def ends_with(error: BaseException, start: Callable[[Group], object]) -> None:
    """The group ends, at once, and raises this error and no other."""
    raised: BaseException | None = None
    try:
        async with asyncio.timeout(100):
            async with Group() as go:
                channel = Channel[int](name="bystanders")
                go(receive_all, channel)
                go(send_nothing, channel)
                start(go)
    except BaseExceptionGroup as failures:
        (raised,) = failures.exceptions
    assert_same(raised, error)


def assert_same(raised: BaseException | None, error: BaseException) -> None:
    if raised is not error:  # no `assert`: pytest would ask for a repr
        pytest.fail(f"{type(raised).__name__} was raised, not {type(error).__name__}")


async def test_group_2_an_actor_may_raise_anything(strange: BaseException) -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise strange

    await ends_with(strange, lambda go: go(fails))


async def test_group_2_a_thread_may_raise_anything(strange: BaseException) -> None:
    def fails() -> None:
        raise strange

    await ends_with(strange, lambda go: go(fails))


async def test_group_2_a_background_actor_may_raise_anything(strange: BaseException) -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise strange

    await ends_with(strange, lambda go: go(fails, background=True))


async def test_group_2_an_iterable_may_raise_anything(strange: BaseException) -> None:
    def fails() -> Generator[int]:
        yield 1
        raise strange

    async def double(n: int) -> int:
        return 2 * n

    async def doubled(out: Sender[int]) -> None:
        async for n in amap(double, fails(), concurrency=3):
            await out.send(n)

    for source in (emit(fails()), doubled):
        channel = Channel[int]()

        def start(go: Group, source: Any = source, channel: Channel[int] = channel) -> None:
            go(source, channel)
            go(receive_all, channel)

        await ends_with(strange, start)


async def test_group_2_a_failure_travels_down_as_the_cause_of_the_close(
    strange: BaseException,
) -> None:
    async def fails(out: Sender[int]) -> None:
        raise strange

    channel = Channel[int]()
    await ends_with(strange, lambda go: go(fails, channel))
    try:
        await channel.recv()
    except Closed as closed:
        assert_same(closed.__cause__, strange)


async def wait_and_clean_up(cleaned: list[bool]) -> None:
    """Wait until cancelled, and say so."""
    try:
        await asyncio.Event().wait()
    finally:
        cleaned.append(True)


async def test_group_2_the_block_may_raise_anything(strange: BaseException) -> None:
    cleaned: list[bool] = []

    raised: BaseException | None = None
    try:
        async with Group() as go:
            go(wait_and_clean_up, cleaned)
            await asyncio.sleep(1)
            raise strange
    except BaseExceptionGroup as failures:
        raised = failures if failures is strange else failures.exceptions[0]
    except BaseException as error:
        raised = error
    assert_same(raised, strange)
    assert cleaned


@pytest.mark.parametrize("where", ["block", "thread"])
async def test_group_2_an_error_that_hides_its_class_leaves_no_actor_behind(where: str) -> None:
    """Of an actor on the loop not even a task of asyncio can carry one."""

    class Hidden(Exception):
        @property
        def __class__(self) -> Any:
            raise RuntimeError("not to be asked")

    cleaned: list[bool] = []

    def fails() -> None:
        raise Hidden

    raised: list[type] = []
    try:
        async with Group() as go:
            go(wait_and_clean_up, cleaned)
            await asyncio.sleep(1)
            if where == "block":
                raise Hidden
            go(fails)
    except BaseExceptionGroup as failures:
        raised = [type(each) for each in failures.exceptions]
    assert raised == [Hidden]
    assert cleaned


async def test_group_3_a_block_that_holds_an_end_may_raise_anything(strange: BaseException) -> None:
    channel = Channel[int]()
    for holding in (channel.sending, channel.receiving):
        raised: BaseException | None = None
        try:
            with holding():
                raise strange
        except BaseException as error:
            raised = error
        assert_same(raised, strange)


async def test_group_2_a_future_that_refuses_to_be_cancelled_spares_no_other_actor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuses(asyncio.Future[None]):
        def cancel(self, msg: object = None) -> bool:
            raise ValueError("no")

    future = Refuses()
    ended: list[str] = []

    async def refuses() -> None:
        await future

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")
            future.set_result(None)

    async with Group() as go:
        go(refuses)
        go(waits)
        await asyncio.sleep(1)
        go.cancel()
    assert ended == ["waits"]
    assert "refuses could not be cancelled" in caplog.messages


async def test_group_2_a_log_handler_that_raises_does_not_keep_the_block_waiting() -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    async def fails() -> None:
        raise Frozen(1)

    async def one(inbox: Receiver[int]) -> None:
        await inbox.recv()

    handler = Raises()
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    logging.getLogger("tailrace").addHandler(handler)
    try:
        async with Group() as go:  # a warning: what is sent further on is received by nobody
            channel = Channel[int](10)
            go(one, channel)
            go(emit(range(10)), channel)
        with pytest.raises(ExceptionGroup):
            async with Group() as go:
                go(fails)
    finally:
        logging.getLogger("tailrace").removeHandler(handler)
        loop.set_exception_handler(None)
    assert {type(error) for error in reported} == {OSError}


@pytest.mark.parametrize("plain", [False, True])
def test_run_raises_the_error_of_any_class(strange: BaseException, plain: bool) -> None:
    async def main(go: Group) -> None:
        await asyncio.sleep(0)
        raise strange

    def plain_main(go: Group) -> None:
        raise strange

    raised: BaseException | None = None
    try:
        run(plain_main if plain else main)
    except BaseException as error:
        raised = error
    while isinstance(raised, BaseExceptionGroup) and raised is not strange:
        (raised,) = raised.exceptions
    assert_same(raised, strange)


# A CancelledError that nobody sent.


async def cancelled_elsewhere() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, future.cancel)
    await future


async def stray(out: Sender[int]) -> None:
    await out.send(1)
    await cancelled_elsewhere()


async def raises_it(out: Sender[int]) -> None:
    await out.send(1)
    raise asyncio.CancelledError


@pytest.mark.parametrize("source", [stray, raises_it])
@pytest.mark.parametrize("background", [False, True])
async def test_group_2_a_cancellation_that_nobody_sent_is_a_failure(
    source: Callable[[Sender[int]], Any], background: bool
) -> None:
    complete: list[int] = []

    async def sink(inbox: Receiver[int]) -> None:
        complete.extend(await collect(inbox))

    channel = Channel[int](name="numbers")
    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(source, channel, background=background)
            go(sink, channel)
    (error,) = caught.value.exceptions
    assert isinstance(error, RuntimeError)
    assert "raised CancelledError, but nobody cancelled it" in str(error)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert "sending to numbers" in error.__notes__[0]
    assert not complete


async def test_group_2_in_a_thread_too() -> None:
    def sink(inbox: SyncReceiver[int]) -> None:
        for _ in inbox:
            raise asyncio.CancelledError

    channel = Channel[int]()
    with pytest.raises(ExceptionGroup, match="1 failed") as caught:
        async with Group() as go:
            go(sink, channel.sync)
            go(emit([1, 2, 3]), channel)
    assert "nobody cancelled it" in str(caught.value.exceptions[0])


async def test_group_2_an_actor_that_was_cancelled_is_no_failure() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def waits() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    async def cleans_up_under_a_timeout() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                async with asyncio.timeout(1):
                    await asyncio.Event().wait()
            except TimeoutError:
                pass

    async with Group() as go:
        go(waits, actors=2)
        await asyncio.sleep(1)
        for task in tasks:
            assert task is not None
            task.cancel()
    async with Group(on_exit="drain") as go:
        go(waits, actors=2)
        go(cleans_up_under_a_timeout)
        await asyncio.sleep(1)
    async with Group(on_exit="cancel") as go:
        go(waits)
        go(cleans_up_under_a_timeout)
        await asyncio.sleep(1)
    async with Group() as go:
        go(waits, background=True)


async def test_each_a_cancellation_that_nobody_sent_fails_its_message_alone() -> None:
    async def work(n: int) -> int:
        if n == 1:
            await cancelled_elsewhere()
        return n

    def blocking(n: int) -> int:
        if n == 1:
            raise asyncio.CancelledError
        return n

    async def ack(inbox: Receiver[Message[int]]) -> None:
        async for message in inbox:
            message.ack()

    for actor in (each(work), each(blocking), each(blocking, threads=True)):
        statuses: dict[int, str] = {}
        messages = [
            Message(n, on_settle=lambda o, n=n, s=statuses: s.__setitem__(n, o.status))  # type: ignore[misc]
            for n in range(3)
        ]
        inbox, out = Channel[Message[int]](), Channel[Message[int]]()
        async with Group() as go:
            go(emit(messages), inbox)
            go(actor, inbox, out)
            go(ack, out)
        assert statuses == {0: "stored", 1: "failed", 2: "stored"}


async def test_a_failure_of_the_block_is_shown_once() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as go:
            go(asyncio.sleep, 100)
            raise ValueError("shown once")
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("ValueError: shown once") == 1
    assert "During handling" not in text
