"""Run a program's own ``main(go)`` in a test, with stand-ins for some of its stages.

    async with pipeline(main, replace={"listen_http": source(), "store_sqlite": sink()}) as p:
        outcome = await p.send("foo")
        assert outcome.status == "stored"
        assert p.stored == ["☆ foo ☆"]

A stand-in gets the stage's name, its number of actors, and the channel ends that the replaced
function would have held, in the same order. It is given the ends themselves (`channel.sender`,
`channel.receiver`), so it needs no annotations. The rest of the program is unchanged. It runs in
the test's own event loop, on virtual time or real time.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Never, TypeAlias, TypeVar, TypeVarTuple

from tailrace import _core
from tailrace.account import Account
from tailrace.channel import Channel
from tailrace.group import Group, Restart
from tailrace.group.internals import activity_of, stage_name, waits_for, wire
from tailrace.message import Outcome
from tailrace.testing.clock import VirtualClockLoop
from tailrace.testing.standins import Sink, Source, sink, source
from tailrace.usercode import is_async

K = TypeVar("K", "Source", "Sink")
Ts = TypeVarTuple("Ts")
PATIENCE: Final = 100
"""On real time, how many turns of the loop an async `main` may take before the block begins."""
StandIn: TypeAlias = Callable[..., Awaitable[None] | None]


class Pipeline:
    """A program that runs with stand-ins. Made by `pipeline`."""

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
        """Call `Source.send` of the only source. LookupError unless there is exactly one.

        With several sources, use ``p.source(name).send(…)``.
        """
        sources = self._of_kind(Source)
        if len(sources) != 1:
            found = ", ".join(map(repr, sources)) or "none"
            raise LookupError(f"send needs exactly one testing.source() in replace, found {found}")
        (only,) = sources.values()
        return await only.send(data, id=id, headers=headers, timeout=timeout)

    @property
    def account(self) -> Account:
        """What became of the messages so far: `Group.account`."""
        return self.go.account()

    @property
    def stored(self) -> list[Any]:
        """The data that the sinks have stored, in order, sink after sink."""
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

    `replace` maps names of stages to `source()`, `sink()`, or any actor that `go` takes.
    LookupError, with the names of the stages, if one is not among them; TypeError if a stand-in
    does not fit its stage.

    Leaving the block drains the group, then raises the failures of its actors as an
    `ExceptionGroup`. An exception in the block, or a cancellation, cancels all actors; when they
    have ended it is raised as it is, with the failures of actors as its cause.

    The block begins when `main` has returned or, if it is async, waits for something. An async
    `main` that has not returned is cancelled at the end of the block: RuntimeError if it has not
    started each stage in `replace` by then. If it waits in `Group.wait`, that is a LookupError as
    soon as the block begins.
    """
    if inspect.iscoroutine(main):
        main.close()
        raise TypeError(f"pipeline takes the function itself: pipeline({main.__name__}, ...)")
    stand_ins = {} if replace is None else dict(replace)
    for name, stand_in in stand_ins.items():
        _check_stand_in(name, stand_in)
    return _Block(_run(main, stand_ins))


def _check_stand_in(name: str, stand_in: object) -> None:
    """TypeError unless `stand_in` can be an actor."""
    for make in (source, sink):
        if stand_in is make:
            called = f"testing.{make.__name__}"
            raise TypeError(f"replace: for {name!r}, call the function: {called}()")
    if isinstance(stand_in, type):
        raise TypeError(f"replace: for {name!r}, {stand_in.__name__} is a class: give an instance")
    if not callable(stand_in):
        raise TypeError(
            f"replace: for {name!r}, {stand_in!r} is no actor: give testing.source(), "
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
    """An async context manager made of a generator with one `yield`.

    Not contextlib's: that sets attributes on exceptions, and a user's exception may refuse them.
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
    """A group that starts stand-ins in place of some stages."""

    def __init__(self, replace: dict[str, StandIn]) -> None:
        # On virtual time a deadlock raises, so no watch for stalls is needed.
        virtual = isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        super().__init__(stall_after=None if virtual else 30.0)
        self.replace = replace
        self._replaced: Counter[str] = Counter()
        self._main_task: asyncio.Task[Any] | None = None  # an async `main` that has not returned
        self._main_is_stage = False  # the stage "main" is `main` itself
        self._entered = False  # the block has begun

    def begin(self, main: Callable[[Group], Awaitable[None] | None]) -> None:
        """Call `main`. An async one runs as an actor, since it may never return."""
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
        if self._entered:  # else `begun` checks, whose error is no actor's failure
            self._check_all_replaced()

    async def begun(self) -> None:
        """Return when an async `main` has returned, or waits for something.

        LookupError if `main` will start no more stages, and one in `replace` was not started.
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
        in_wait = [task for task, where in self._waiting.items() if where == "wait"]
        if main is None or waits_for(main, in_wait):
            self._check_all_replaced()

    def check_begun(self) -> None:
        """RuntimeError if an async `main` waits and has not started each stage in `replace`."""
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
        restart: Restart | None = None,
        **unknown: Never,
    ) -> None:
        """As `Group`'s, but start a stand-in if `replace` has one for this stage."""
        known_as = stage_name(fn) if name is None else name
        stand_in = self.replace.get(known_as)
        if stand_in is None:
            super().__call__(
                fn,
                *args,
                actors=actors,
                name=name,
                source=source,
                background=background,
                restart=restart,
                **unknown,
            )
            return
        self._replaced[known_as] += 1
        times = self._replaced[known_as]
        if name is None:  # `Group` would take the stand-in's own name
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
            restart=restart,
            **unknown,
        )


def _ends(name: str, fn: Callable[..., Any], args: tuple[Any, ...], *, on_loop: bool) -> list[Any]:
    """The arguments of a stand-in: the ends that ``fn(*args)`` would hold, in order.

    After them, the channels among `args` of which it would hold no end.
    """
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
    """TypeError unless `ends` is the one end that a `Source` or `Sink` uses."""
    method, verb = (
        ("send", "sends to") if isinstance(stand_in, Source) else ("recv", "receives from")
    )
    if len(ends) != 1 or not hasattr(ends[0], method):
        raise TypeError(
            f"testing.{type(stand_in).__name__.lower()}() stands in for a stage that {verb} one "
            f"channel and has no other; {name!r} has {ends}: replace it by an async function"
        )
