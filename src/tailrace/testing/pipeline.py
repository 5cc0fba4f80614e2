"""Run a program's own ``main(go)`` with stand-ins for some of its actors, and talk to it.

    async with pipeline(main, replace={"listen_http": source(), "store_sqlite": sink()}) as p:
        outcome = await p.send("foo")
        assert outcome.status == "stored"
        assert p.stored == ["☆ foo ☆"]

A stand-in takes a stage's place: its name, its number of actors, and the channel ends that the
replaced function would have held, in the same order. It is handed the ends themselves
(`channel.sender`, `channel.receiver`), so it needs no annotations. Everything else is the
program as it is, in the test's own event loop, on virtual time or real.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Never, TypeAlias, TypeVar, TypeVarTuple, get_args

from tailrace import _core
from tailrace.channel import Channel, Receiver, Sender
from tailrace.errors import Closed, WouldBlock
from tailrace.group import Group
from tailrace.group.internals import activity_of, stage_name, waits_for, wire
from tailrace.message import Message, Outcome
from tailrace.message.internals import Status
from tailrace.testing.clock import VirtualClockLoop
from tailrace.usercode import is_async

__all__ = ["Pipeline", "Sink", "Source", "pipeline", "sink", "source"]

K = TypeVar("K", "Source", "Sink")
Ts = TypeVarTuple("Ts")
PATIENCE: Final = 100
"""Turns of the loop for which an async `main` that does not wait keeps the block from beginning."""
StandIn: TypeAlias = Callable[..., Awaitable[None] | None]
Verdict: TypeAlias = Outcome | Status | Callable[[Any], Outcome | Status]


class Source:
    """A stand-in for a stage that only sends, such as a listener: `send` is its outside.

    Messages wait in it until the program takes them, so sends from many tasks of a test keep
    their order. Drained, it passes on what it has, then ends.
    """

    def __init__(self) -> None:
        self._waiting = Channel[Message[Any]](math.inf, name="the test")

    def __repr__(self) -> str:
        return f"<Source: {len(self._waiting)} messages waiting{', ended' * self._waiting.closed}>"

    async def send(
        self,
        data: Any,
        *,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Send a `Message` with `data` through the program and return how it ended.

        TimeoutError after `timeout` seconds; the message goes on. RuntimeError once the source
        has ended. Cancelled: nothing happens to the message.
        """
        message = Message(data, id=id, headers={} if headers is None else headers)
        settlement = message.settled(timeout)
        try:
            self._waiting.send_nowait(message)
        except Closed:
            raise RuntimeError("the pipeline's source has ended; send inside its block") from None
        del message  # or it could not be lost
        return await settlement

    async def __call__(self, out: Sender[Message[Any]]) -> None:
        """Be the stage: pass on to `out` what was sent."""
        try:
            async for message in self._waiting:
                try:
                    await out.send(message)
                except Closed as closed:
                    message.fail(closed)
                    raise
                del message
        finally:
            self._drop()

    async def drain(self) -> None:
        """End once all that was sent has been passed on."""
        self._waiting.close()

    def _drop(self) -> None:
        """Lose what nobody will take any more, so that nobody waits for it."""
        self._waiting.close()
        try:
            while True:
                self._waiting.recv_nowait()
        except (Closed, WouldBlock):
            pass


class Sink:
    """A stand-in for a stage that only receives, such as a store: it settles what it gets.

    `stored` has the data of every message that it settled as stored, in order, and every value
    that is no message. A message that was settled on its way is passed over.
    """

    def __init__(self, outcome: Verdict) -> None:
        # A status that there is not is refused now, unless a function says it later.
        self._outcome = outcome if callable(outcome) else _as_outcome(outcome)
        self.stored: list[Any] = []

    def __repr__(self) -> str:
        return f"<Sink: {len(self.stored)} stored>"

    async def __call__(self, inbox: Receiver[Any]) -> None:
        """Be the stage: settle whatever comes."""
        async for value in inbox:
            if not isinstance(value, Message):
                self.stored.append(value)
            elif value.outcome is None:
                self._settle(value)  # pyright: ignore[reportUnknownArgumentType]  # of Any

    def _settle(self, message: Message[Any]) -> None:
        verdict = self._outcome
        outcome = _as_outcome(verdict(message.data)) if callable(verdict) else verdict
        status, reason, error, result = outcome
        if status == "stored":
            self.stored.append(message.data)
            message.ack(result)
        elif status == "aborted":
            message.abort(reason)
        elif status == "rejected":
            message.reject(reason)
        elif status == "failed":
            message.fail(reason if error is None else error)
        else:
            # Dropping it is not enough: whoever sent it here may still have it in a variable.
            message._settle(outcome)


def source() -> Source:
    """A stand-in that sends what `Pipeline.send` is given."""
    return Source()


def sink(outcome: Verdict = "stored") -> Sink:
    """A stand-in that settles every message with `outcome` and keeps the stored data.

    `outcome` is a status, an `Outcome`, or a function that returns either for a message's data.
    For what takes time or goes wrong in another way, give `replace` an async function.
    """
    return Sink(outcome)


class Pipeline:
    """A program that runs with stand-ins; `pipeline` makes it."""

    def __init__(self, go: Group, replace: Mapping[str, StandIn]) -> None:
        self.go = go
        self._replace = replace

    def __repr__(self) -> str:
        return f"<Pipeline with {', '.join(self._replace) or 'nothing'} replaced: {self.go!r}>"

    async def send(
        self,
        data: Any,
        *,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """As `Source.send` of the one source among the stand-ins; LookupError if there is not
        exactly one: then ``p.source(name).send(…)``."""
        sources = self._of_kind(Source)
        if len(sources) != 1:
            found = ", ".join(map(repr, sources)) or "none"
            raise LookupError(f"send needs exactly one testing.source() in replace, found {found}")
        (only,) = sources.values()
        return await only.send(data, id=id, headers=headers, timeout=timeout)

    @property
    def stored(self) -> list[Any]:
        """What the sinks have stored: in order, sink after sink."""
        return [data for each in self._of_kind(Sink).values() for data in each.stored]

    def source(self, name: str) -> Source:
        """The source that stands in for the stage `name`. LookupError if none does."""
        return self._one(Source, name)

    def sink(self, name: str) -> Sink:
        """The sink that stands in for the stage `name`. LookupError if none does."""
        return self._one(Sink, name)

    def _one(self, kind: type[K], name: str) -> K:
        of_kind = self._of_kind(kind)
        if name not in of_kind:
            known = ", ".join(map(repr, of_kind)) or "none"
            raise LookupError(
                f"no testing.{kind.__name__.lower()}() stands in for {name!r}: {known}"
            )
        return of_kind[name]

    def _of_kind(self, kind: type[K]) -> dict[str, K]:
        return {name: actor for name, actor in self._replace.items() if isinstance(actor, kind)}


def pipeline(
    main: Callable[[Group], Awaitable[None] | None],
    *,
    replace: Mapping[str, StandIn] | None = None,
) -> AbstractAsyncContextManager[Pipeline]:
    """Run `main` in a group of its own, with the stages named in `replace` replaced.

    `replace` maps names of stages to `source()`, `sink()`, or any actor: a function or an object
    as `go` takes it. LookupError names the stages there are when a name fits none; TypeError
    when a stand-in does not fit its stage.

    Leaving the block drains the group, then raises the failures of its actors as an
    `ExceptionGroup`. An exception in the block is raised as it is (because of theirs, if there
    are any too) once all actors have been cancelled and have ended. Cancelled: so are they.

    The block begins when `main` has returned or, if it is async, waits for something. One that
    has not returned is cancelled when the block is left; RuntimeError if it had not started
    every stage that `replace` names by then, LookupError at once if it waits in `Group.wait`.
    """
    if inspect.iscoroutine(main):
        main.close()
        raise TypeError(f"pipeline takes the function itself: pipeline({main.__name__}, ...)")
    stand_ins = {} if replace is None else dict(replace)
    for name, stand_in in stand_ins.items():
        _check_stand_in(name, stand_in)
    return _Block(_run(main, stand_ins))


def _check_stand_in(name: str, stand_in: object) -> None:
    """TypeError for what cannot be an actor."""
    for make in (source, sink):
        if stand_in is make:
            called = f"testing.{make.__name__}"
            raise TypeError(f"replace: of {name!r}, {called} is not called: write {called}()")
    if isinstance(stand_in, type):
        raise TypeError(f"replace: of {name!r}, {stand_in.__name__} is a class: give an instance")
    if not callable(stand_in):
        raise TypeError(
            f"replace: of {name!r}, {stand_in!r} is no actor: give testing.source(), "
            f"testing.sink(), or an async function"
        )


async def _run(
    main: Callable[[Group], Awaitable[None] | None], replace: dict[str, StandIn]
) -> AsyncGenerator[Pipeline]:
    rig = _Rig(replace)
    failure: Exception | None = None
    try:
        async with rig:
            try:
                rig.begin(main)
                await rig.begun()
                yield Pipeline(rig, rig.replace)
                rig.check_begun()
            except Exception as error:
                failure = error
                rig.cancel()
            else:
                rig.drain()
    except BaseExceptionGroup as failures:
        if failure is None:
            raise
        raise failure from failures
    if failure is not None:
        raise failure


class _Block:
    """The block around the one `yield` of a generator.

    As contextlib's, which sets attributes on the exceptions that pass; they may refuse them.
    """

    def __init__(self, block: AsyncGenerator[Pipeline]) -> None:
        self._block = block

    async def __aenter__(self) -> Pipeline:
        return await anext(self._block)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await anext(self._block, None)
            else:
                await self._block.athrow(error)
        except BaseException as raised:
            stopped = isinstance(error, (StopIteration, StopAsyncIteration))
            if raised is not error and not (stopped and raised.__cause__ is error):
                raise


class _Rig(Group):
    """A group that starts stand-ins instead of the stages they replace."""

    def __init__(self, replace: dict[str, StandIn]) -> None:
        # On virtual time a deadlock raises, and a watch for stalls would only hide it.
        virtual = isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        super().__init__(stall_after=None if virtual else 30.0)
        self.replace = replace
        self._replaced: Counter[str] = Counter()
        self._main_task: asyncio.Task[Any] | None = None  # an async `main` that has not returned
        self._main_is_stage = False  # the stage "main" is `main` itself
        self._entered = False  # the block has begun
        self._is_waited_for: set[asyncio.Task[Any] | None] = set()  # by these tasks, in `wait`

    def begin(self, main: Callable[[Group], Awaitable[None] | None]) -> None:
        """Call `main`; an async one runs on as an actor, since it may never return."""
        started = main(self)
        if started is None:
            self._check_all_replaced()
        else:
            self._main_is_stage = "main" not in self._stages()
            super().__call__(self._finish, started, name="main", background=True)

    async def _finish(self, started: Awaitable[None]) -> None:
        self._main_task = asyncio.current_task()
        await started
        self._main_task = None
        if self._entered:  # else `begun` checks, and its error is raised as it is
            self._check_all_replaced()

    async def begun(self) -> None:
        """Return when an async `main` has returned, or waits for something that is yet to come.

        LookupError if it will start no more stages, and `replace` names one that it has not.
        """
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualClockLoop):
            await loop.wait_all_parked()
        else:
            for _ in range(PATIENCE):
                await asyncio.sleep(0)
                if self._main_task is None or activity_of(self._main_task).verb != "run":
                    break
        self._entered = True
        main = self._main_task
        if main is None or waits_for(main, self._is_waited_for):
            self._check_all_replaced()

    async def wait(self) -> None:
        """As `Group`'s."""
        me = asyncio.current_task()
        self._is_waited_for.add(me)
        try:
            await super().wait()
        finally:
            self._is_waited_for.discard(me)

    def check_begun(self) -> None:
        """RuntimeError if an async `main` is about to be cancelled before it has started it all."""
        missing = self._missing()
        if self._main_task is None or self._main_task.done() or not missing:
            return
        later = "await something in the block that needs them, such as p.send(...)"
        if self._stages():
            raise RuntimeError(
                f"{self._unnamed(missing)}, and main still waits at the end of the block: if it "
                f"starts more stages later, {later}"
            )
        raise RuntimeError(
            f"the block of pipeline() has ended while main still waits, before it has started "
            f"{' and '.join(map(repr, missing))}: {later}, or let main start its stages before it "
            f"waits"
        )

    def _missing(self) -> list[str]:
        return [name for name in self.replace if name not in self._replaced]

    def _check_all_replaced(self) -> None:
        missing = self._missing()
        if missing:
            raise LookupError(self._unnamed(missing))

    def _unnamed(self, missing: list[str]) -> str:
        stages = ", ".join(map(repr, self._stages())) or "none"
        return f"no stage is named {' or '.join(map(repr, missing))}; the stages are {stages}"

    def _stages(self) -> list[str]:
        """The names of the stages that `main` has started."""
        names = [stage.name for stage in self.graph().stages]
        return [name for name in names if name != "main" or not self._main_is_stage]

    def __call__(
        self,
        fn: Callable[[*Ts], Awaitable[None] | None],
        /,
        *args: *Ts,
        actors: int = 1,
        name: str | None = None,
        source: bool | None = None,
        background: bool = False,
        **unknown: Never,
    ) -> None:
        """As `Group`'s, but for the stages to be replaced."""
        known_as = stage_name(fn) if name is None else name
        stand_in = self.replace.get(known_as)
        if stand_in is None:
            super().__call__(
                fn, *args, actors=actors, name=name, source=source, background=background, **unknown
            )
            return
        self._replaced[known_as] += 1
        times = self._replaced[known_as]
        if name is None:  # the stand-in's own name must not count, so number them here
            name = known_as if times == 1 else f"{known_as}-{times}"
        ends = _ends(name, fn, args, on_loop=is_async(stand_in))
        if isinstance(stand_in, (Source, Sink)):
            _check_role(name, stand_in, ends)
        super().__call__(
            stand_in,
            *ends,
            actors=actors,
            name=name,
            source=source,
            background=background,
            **unknown,
        )


def _ends(name: str, fn: Callable[..., Any], args: tuple[Any, ...], *, on_loop: bool) -> list[Any]:
    """What a stand-in is handed: the ends that ``fn(*args)`` would hold, in order, and the
    channels among its arguments of which it would hold none."""
    sides: dict[Channel[Any], set[str]] = {}
    for channel, end, _ in wire(name, fn, args).holds:
        sides.setdefault(channel, set()).add(end)
    for argument in args:
        resolved = _core.resolve_end(argument)
        if resolved is not None:
            sides.setdefault(resolved[0], set())
    ends: list[Any] = []
    for channel, held in sides.items():
        view: Any = channel if on_loop else channel.sync
        if held == {"send"}:
            view = view.sender
        elif held == {"receive"}:
            view = view.receiver
        ends.append(view)
    return ends


def _check_role(name: str, stand_in: Source | Sink, ends: list[Any]) -> None:
    """TypeError unless the stage is one that a `Source` or `Sink` can be."""
    method, verb = (
        ("send", "sends to") if isinstance(stand_in, Source) else ("recv", "receives from")
    )
    if len(ends) != 1 or not hasattr(ends[0], method):
        raise TypeError(
            f"testing.{type(stand_in).__name__.lower()}() stands in for a stage that {verb} one "
            f"channel and has no other; {name!r} has {ends}: replace it by an async function"
        )


def _as_outcome(said: Outcome | Status) -> Outcome:
    if isinstance(said, Outcome):
        return said
    if said not in get_args(Status):
        raise ValueError(f"an outcome is one of {', '.join(get_args(Status))}, not {said!r}")
    return Outcome(said, "" if said == "stored" else "by the test's sink")
