"""Wiring: which channel ends a stage holds, read from the annotations of its function."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import (
    Any,
    NamedTuple,
)
from weakref import WeakKeyDictionary

from tailrace import _core
from tailrace._core import End, Hold
from tailrace.channel import Channel
from tailrace.group.annotations import HEADS, heads_of, made_by, only_ends
from tailrace.group.checks import (
    check,
    check_no_factory,
    check_no_type,
    check_runs,
    members,
    stage_name,
    warn_bare,
    warn_contained,
)
from tailrace.usercode import is_async, unwrapped


class Wiring(NamedTuple):
    """The ends that a stage holds, each through a parameter.

    `unclear`: a channel was passed to a parameter without annotation. `unheld`: the channels that
    the stage may use without holding an end.
    """

    holds: tuple[Hold, ...]
    unclear: bool
    unheld: tuple[Channel[Any], ...] = ()

    def channels(self, end: End) -> list[Channel[Any]]:
        """The channels of which the stage holds `end`."""
        return [channel for channel, held, _ in self.holds if held == end]


class _Parameter:
    """A parameter of a function that was wired before."""

    __slots__ = ("accepted", "name", "only_ends")

    def __init__(self, name: str, only_ends: bool) -> None:
        self.name = name
        self.only_ends = only_ends
        self.accepted: dict[type, tuple[End, ...]] = {}  # by type of argument: the ends held


# The parameters of plain functions that were wired before. A program may start a thousand stages of
# one function, and to read a signature takes time.
_known: WeakKeyDictionary[Callable[..., Any], list[_Parameter]] = WeakKeyDictionary()


def wire(name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Wiring:
    """The wiring of ``fn(*args)``. `name` is that of the stage, for messages.

    TypeError if the arguments do not fit, if one cannot be right for its parameter (see `check`),
    or if a channel is passed to a parameter whose annotation cannot be resolved.
    """
    known = _known.get(fn) if type(fn) is types.FunctionType else None
    if known is not None and len(known) == len(args):
        wiring = _wire_again(name, fn, known, args)
        if wiring is not None:
            return _with_surroundings(wiring, fn)
    return _with_surroundings(_wire_anew(name, fn, args), fn)


def _with_surroundings(wiring: Wiring, fn: Callable[..., Any]) -> Wiring:
    """`wiring`, with the channels in the closure of `fn`, or on its object, as unheld ones."""
    near = [
        resolved[0]
        for each in _surroundings(fn)
        if (resolved := _core.resolve_end(each)) is not None
    ]
    if not near:
        return wiring
    held = [channel for channel, _, _ in wiring.holds]
    unheld = [channel for channel in near if not any(channel is each for each in held)]
    return wiring._replace(unheld=(*wiring.unheld, *unheld))


def _surroundings(fn: Callable[..., Any]) -> Iterator[object]:
    fn = unwrapped(fn)
    owner: object = fn
    if type(fn) is types.MethodType:
        method: Any = fn
        owner, fn = method.__self__, method.__func__
    if type(fn) is types.FunctionType:
        for cell in fn.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty one
                yield cell.cell_contents
    if owner is not fn or type(fn) is not types.FunctionType:
        yield from members(getattr(owner, "__dict__", {}))


def _wire_again(
    name: str, fn: Callable[..., Any], known: list[_Parameter], args: tuple[Any, ...]
) -> Wiring | None:
    """The wiring of a function that was wired before. None if an argument is of a new kind."""
    holds: list[Hold] = []
    unheld: list[Channel[Any]] = []
    for parameter, value in zip(known, args, strict=True):
        kind: Any = value.__class__
        ends = parameter.accepted.get(kind)
        resolved = _core.resolve_end(value)
        if ends is None:
            if parameter.only_ends or resolved is not None:
                return None
            warn_contained(name, fn, parameter.name, value)
        elif resolved is not None:
            for each in ends:
                holds.append((resolved[0], each, parameter.name))
            if not ends:
                unheld.append(resolved[0])
    return Wiring(tuple(holds), False, tuple(unheld))


def _wire_anew(name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Wiring:
    check_runs(fn)
    given, on_loop = fn, is_async(fn)
    fn, args, keywords = _unbind(fn, args)
    if not on_loop and type(fn) is types.FunctionType:
        check_no_factory(stage_name(fn), made_by(fn))
    function, bound = _bind(name, fn, args, keywords)
    holds: list[Hold] = []
    unheld: list[Channel[Any]] = []
    known: dict[str, _Parameter] = {}
    unclear = False
    for parameter, value in _values(bound):
        resolved = _core.resolve_end(value)
        unclear_end = resolved is not None and resolved[1] is None
        heads = heads_of(name, parameter, function, needed=unclear_end)
        if heads is not None:
            check(name, parameter, heads, value, on_loop=on_loop)
        else:
            check_no_type(name, parameter, heads, value)
        seen = known.setdefault(
            parameter.name, _Parameter(parameter.name, heads is not None and only_ends(heads))
        )
        if resolved is None:
            warn_contained(name, function, parameter.name, value)
            continue
        channel, end = resolved
        if end is not None:
            ends: tuple[End, ...] = (end,)
        elif heads is not None:
            ends = tuple(sorted({HEADS[head] for head in heads if head in HEADS}))
        else:
            ends, unclear = (), True
            warn_bare(name, function, parameter.name)
        seen.accepted[type(value)] = ends
        for each in ends:
            holds.append((channel, each, parameter.name))
        if not ends:
            unheld.append(channel)
    if not unclear:
        _remember(given, bound, known)
    return Wiring(tuple(dict.fromkeys(holds)), unclear, tuple(unheld))


def _remember(fn: Any, bound: inspect.BoundArguments, known: dict[str, _Parameter]) -> None:
    """Remember the parameters of a plain function, if all its arguments were positional."""
    parameters = bound.signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    plain = all(each.kind in kinds for each in parameters)
    if not plain or type(fn) is not types.FunctionType or hasattr(fn, "__wrapped__"):
        return
    for before in _known.get(fn, ()):
        known[before.name].accepted = {**before.accepted, **known[before.name].accepted}
    _known[fn] = list(known.values())


def _unbind(
    fn: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Take partials apart: the function, and all arguments that it will be called with."""
    keywords: dict[str, Any] = {}
    while isinstance(fn, functools.partial):
        rest = iter(args)
        bound = [next(rest, each) if each is _PLACEHOLDER else each for each in fn.args]
        args = (*bound, *rest)
        keywords = {**fn.keywords, **keywords}
        fn = fn.func
    return fn, args, keywords


_PLACEHOLDER: object = getattr(functools, "Placeholder", object())  # 3.14: a hole in a partial


def _bind(
    name: str, fn: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, inspect.BoundArguments]:
    """The function whose parameters the arguments fill, and the arguments with the defaults.

    That is the function that `fn` wraps (`functools.wraps`). It is `fn` itself if only `fn` accepts
    the arguments, as for a decorator that adds arguments of its own.
    """
    refused: TypeError | None = None
    for wrapped in (True, False):
        signature = _signature(fn, wrapped)
        try:
            bound = signature.bind(*args, **keywords)
        except TypeError as error:
            refused = refused or TypeError(f"{name}{signature} cannot be called so: {error}")
        else:
            bound.apply_defaults()
            return _function(fn, wrapped), bound
    assert refused is not None
    raise refused


def _function(fn: Callable[..., Any], wrapped: bool) -> Any:
    """The function whose namespace the annotations belong to."""
    if not inspect.isroutine(fn) and not isinstance(fn, type):
        fn = type(fn).__call__
    fn = getattr(fn, "__func__", fn)
    return inspect.unwrap(fn) if wrapped else fn


_ANYTHING = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD),
    ]
)


def _signature(fn: Callable[..., Any], wrapped: bool) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            return inspect.signature(
                fn, follow_wrapped=wrapped, annotation_format=annotationlib.Format.FORWARDREF
            )
        return inspect.signature(fn, follow_wrapped=wrapped)
    except ValueError:  # a builtin without a signature: it may take anything
        return _ANYTHING


def _values(bound: inspect.BoundArguments) -> Iterator[tuple[inspect.Parameter, Any]]:
    """Each argument with its parameter. Those of ``*args`` and ``**kwargs`` come one by one."""
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield from ((parameter, each) for each in value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            yield from ((parameter, each) for each in value.values())
        else:
            yield parameter, value
