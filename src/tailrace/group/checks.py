"""Checks of the arguments of `go`: errors and warnings that say what would be right."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from itertools import islice
from typing import Any, Final, cast, get_origin

from tailrace import _core
from tailrace._core import End, Hold, label, was_let_go
from tailrace.arguments import check_count
from tailrace.channel import SyncReceiver, SyncSender
from tailrace.group.annotations import HEADS, only_ends
from tailrace.group.restart import Restart
from tailrace.usercode import is_async, is_generator, shown, unwrapped

_BLOCKING: Final = frozenset(
    {SyncSender, SyncReceiver, _core.SyncSendingEnd, _core.SyncReceivingEnd}
)
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, deque)
_LOOKED_AT: Final = 32
"""How many members of a container are looked at. A large one is mostly of one kind."""


def check(
    name: str, parameter: inspect.Parameter, heads: Set[object], value: Any, *, on_loop: bool
) -> None:
    """TypeError if `value` cannot be right for a parameter that takes only ends of channels.

    `on_loop` says whether the stage `name` runs on the event loop, or else in threads.
    """
    check_no_type(name, parameter, heads, value)
    if not only_ends(heads) or (value is None and (None in heads or parameter.default is None)):
        return
    wanted = heads - {None}
    ends: set[End] = {HEADS[head] for head in wanted}
    blocking = wanted <= _BLOCKING
    asynchronous = not wanted & _BLOCKING
    where = f"{name}: parameter {parameter.name!r}"
    if asynchronous and not on_loop:
        raise TypeError(
            f"{where} takes an end that is awaited, but {name} is a plain function, which runs in "
            f"a thread: define it with `async def`, or annotate the parameter "
            f"{_named(ends, 'Sync')} and pass channel.sync"
        )
    if blocking and on_loop:
        raise TypeError(
            f"{where} takes an end that blocks, but {name} runs on the event loop: annotate the "
            f"parameter {_named(ends)} and pass the channel itself, or define {name} with `def`"
        )
    resolved = _core.resolve_end(value)
    if resolved is None:
        # Any object with the right methods is an end, such as a test's own class.
        iterates = "__aiter__" if asynchronous else "__iter__"
        methods = ("send",) if "send" in ends else ("recv", iterates)
        if isinstance(value, type) or not any(hasattr(value, each) for each in methods):
            raise TypeError(f"{where} takes {_in_words(ends)} of a channel, not {value!r:.200}")
        return
    channel, end = resolved
    if end is not None and end not in ends:
        raise TypeError(
            f"{where} takes {_in_words(ends)} of a channel, but was given {_in_words({end})} of "
            f"`{label(channel)}`: pass the channel, or channel.{_attribute(ends)}"
        )
    if asynchronous and isinstance(value, (_core.SyncSendingEnd, _core.SyncReceivingEnd)):
        raise TypeError(
            f"{where} takes an end that is awaited, but was given the view for threads of "
            f"`{label(channel)}`: pass it without .sync"
        )
    if blocking and not isinstance(value, (_core.SyncSendingEnd, _core.SyncReceivingEnd)):
        raise TypeError(
            f"{where} takes an end that blocks, but `{label(channel)}` is awaited: pass "
            f"channel.sync"
        )


def check_no_type(
    name: str, parameter: inspect.Parameter, heads: Set[object] | None, value: Any
) -> None:
    """TypeError if `value` is a type of channels or ends, and the parameter takes an object."""
    kind = get_origin(value) or value
    types = cast(tuple[type, ...], (_core.Channel, *HEADS))
    if not isinstance(kind, type) or not issubclass(kind, types):
        return
    annotation = str(parameter.annotation)
    wants = heads is None or only_ends(heads) or "Channel" in annotation
    if wants and "type[" not in annotation.lower():
        raise TypeError(
            f"{name}: parameter {parameter.name!r} was given the type {kind.__name__}, not a "
            f"channel: make one, `{parameter.name} = Channel[...]()`, and pass that"
        )


def check_no_factory(name: str, made: object) -> None:
    """TypeError if the plain function `name` returns an actor object, of the type `made`."""
    if isinstance(made, type) and is_async(made.__call__):
        raise TypeError(
            f"{name} returns an actor, and is none: call it with its own arguments, as in "
            f"go({name}(...), inbox, out)"
        )


def _in_words(ends: Set[End]) -> str:
    words = [f"the {'sending' if end == 'send' else 'receiving'} end" for end in sorted(ends)]
    return " and ".join(reversed(words))


def _named(ends: Set[End], prefix: str = "") -> str:
    return " and ".join(
        f"{prefix}{'Sender' if end == 'send' else 'Receiver'}[...]" for end in sorted(ends)
    )


def _attribute(ends: Set[End]) -> str:
    return "sender" if "send" in ends else "receiver"


# Warnings: what is probably wrong. One for each parameter of each function.

_warned: set[tuple[str, str, str]] = set()


def warn_bare(name: str, function: Any, parameter: str) -> None:
    """Warn that a channel was passed to a parameter without an annotation."""
    _warn(
        name,
        function,
        parameter,
        f"{name}: parameter {parameter!r} has no annotation, so the stage holds no end of the "
        f"channel, and the channel will not close by itself; annotate the parameter "
        f"Sender[...] or Receiver[...]",
    )


def warn_contained(name: str, function: Any, parameter: str, value: Any) -> None:
    """Warn if `value` is a container with channels in it."""
    if isinstance(value, _CONTAINERS) and any(map(_is_end, members(value))):
        _warn(
            name,
            function,
            parameter,
            f"{name}: parameter {parameter!r} was given channels inside a {_kind(value)}; the "
            f"stage does not hold those, and they will not close by themselves; pass them one by "
            f"one, as in `*outs: Sender[...]`, or hold them in `with channel.sending():`",
        )


def _kind(value: Any) -> str:
    return str(value.__class__.__name__)


def members(container: Any) -> Iterable[object]:
    """The first members of a container. Of a mapping: its keys and its values."""
    try:
        yield from islice(container, _LOOKED_AT)
        if isinstance(container, Mapping):
            yield from islice(container.values(), _LOOKED_AT)  # pyright: ignore[reportUnknownArgumentType]  # of any members
    except RuntimeError:  # a thread changes it meanwhile
        return


def _is_end(member: object) -> bool:
    if isinstance(member, (list, tuple)):  # such as a pair
        return any(_core.resolve_end(each) is not None for each in islice(member, _LOOKED_AT))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return _core.resolve_end(member) is not None


def _warn(name: str, function: Any, parameter: str, text: str) -> None:
    key = (
        getattr(function, "__module__", None) or "",
        getattr(function, "__qualname__", name),
        parameter,
    )
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=6)


def check_open(name: str, holds: Iterable[Hold]) -> None:
    """ValueError if a stage would send to a channel that was closed by `Channel.close`.

    If the receivers have closed it, that is no error: the stage ends at its first send. If the
    senders have closed it, `take_hold` raises.
    """
    for channel, end, parameter in holds:
        if end != "send" or not channel.closed:
            continue
        if not was_let_go(channel, "receive") and not was_let_go(channel, "send"):
            raise ValueError(
                f"{name}: parameter {parameter!r} was given `{label(channel)}`, which is closed: "
                f"nothing can be sent to it. Start the stage before it is closed, and have it "
                f"closed by its owners: `with channel.sending():`"
            )


# What can be a stage.


def stage_name(fn: Callable[..., Any]) -> str:
    """The default name of a stage: that of its function, or the `name` of its object."""
    target = unwrapped(fn)
    for attribute in ("__name__", "name"):
        name = getattr(target, attribute, None)
        if isinstance(name, str) and name:
            return "lambda" if name == "<lambda>" else name
    return type(target).__name__


def check_callable(fn: object) -> None:
    """TypeError unless `fn` can be called."""
    if callable(fn):
        return
    if inspect.iscoroutine(fn):
        fn.close()  # or it would warn that it was never awaited
        raise TypeError(
            f"go takes the function and its arguments, go({fn.__name__}, ...), not what calling "
            f"it returns, go({fn.__name__}(...))"
        )
    raise TypeError(
        f"go takes a function and its arguments, as in go(filter, inbox, out), not {fn!r}"
    )


def check_actors(name: str, fn: Callable[..., Any], actors: int) -> None:
    """ValueError for several actors of an object that says, in `one_actor`, why it has one."""
    why: object = getattr(unwrapped(fn), "one_actor", None)
    if actors > 1 and isinstance(why, str):
        raise ValueError(f"{name} runs as one actor, so leave out actors={actors}: {why}")


def check_restart(name: str, fn: Callable[..., Any], restart: object) -> None:
    """TypeError for what is no `Restart`; ValueError for an object that says, in `no_restart`, why
    it cannot be started again."""
    if restart is not None and not isinstance(restart, Restart):
        raise TypeError(f"restart takes a Restart, such as Restart(max=5), not {shown(restart)}")
    why: object = getattr(unwrapped(fn), "no_restart", None)
    if restart is not None and isinstance(why, str):
        raise ValueError(f"{name} cannot be started again, so leave out restart: {why}")


def check_options(
    fn: Callable[..., Any], actors: object, restart: object, unknown: Iterable[str]
) -> None:
    """TypeError for what is no function and for keywords that `go` does not have; also what
    `check_restart` raises, and ValueError for a wrong number of actors."""
    check_callable(fn)
    if unknown:
        name = stage_name(fn)
        given = ", ".join(f"{keyword}=..." for keyword in unknown)
        raise TypeError(
            f"go has no keyword {', '.join(map(repr, unknown))}; give {name} keywords of its "
            f"own by go(functools.partial({name}, {given}), ...)"
        )
    check_count("actors", actors)
    check_restart(stage_name(fn), fn, restart)


def check_runs(fn: Callable[..., Any]) -> None:
    """TypeError for a class or a generator function: a call of it would run nothing."""
    if isinstance(unwrapped(fn), type):
        raise TypeError(
            f"{stage_name(fn)} is a class, and making an object runs nothing: go takes the object, "
            f"as in go({stage_name(fn)}(...), inbox, out)"
        )
    if is_generator(fn):
        raise TypeError(
            f"{stage_name(fn)} is a generator function (it has a `yield`), which go cannot run: "
            f"send its values to a channel, or use go(emit({stage_name(fn)}(...)), out)"
        )


def check_loop(called: str, loop: asyncio.AbstractEventLoop) -> None:
    """RuntimeError unless the running code is on `loop`, that of the group."""
    if asyncio._get_running_loop() is not loop:
        raise RuntimeError(
            f"{called} was called from another thread or event loop than its group's; "
            f"`loop.call_soon_threadsafe` calls it there"
        )


def is_posted(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Whether the running code is not on `loop`: then that loop makes the `call`, if it is open."""
    if asyncio._get_running_loop() is loop:
        return False
    with suppress(RuntimeError):  # closed, and all actors have ended
        loop.call_soon_threadsafe(call)
    return True
