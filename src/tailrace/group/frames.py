"""The frames to which an exception refers, and how to have them let go of their variables.

An exception that somebody keeps (a log handler, a variable, a task group) keeps the frames that it
went through, and so every message in a variable of theirs.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, TypeVar

from tailrace.usercode import is_a

__all__ = ["OURS", "clear", "frames_of", "once"]

_RESUMABLE: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_CLEARS_SUSPENDED: Final = sys.version_info < (3, 13)
"""Whether `frame.clear` closes a suspended coroutine, perhaps of another actor; later it raises."""

# The attributes themselves: an exception of user code may have properties of these names.
_traceback: Final[Any] = BaseException.__dict__["__traceback__"]
_cause: Final[Any] = BaseException.__dict__["__cause__"]
_context: Final[Any] = BaseException.__dict__["__context__"]
_members: Final[Any] = BaseExceptionGroup.__dict__["exceptions"]

T = TypeVar("T")


def _references_of_ours() -> int:
    """What `sys.getrefcount` returns below for an object to which only the list refers."""
    unique = [object()]
    (count,) = [sys.getrefcount(each) for each in unique]
    return count


# Measured, as interpreters differ: from 3.14 on a call adds no reference for its argument.
OURS: Final = _references_of_ours()
"""What a list and a comprehension over it add to `sys.getrefcount` of a member."""


def once(objects: Iterable[T]) -> list[T]:
    """Each object once."""
    return list({id(each): each for each in objects}.values())


def frames_of(error: BaseException) -> list[FrameType]:
    """The frames of `error`, of its causes and contexts, and of the members of groups among them.

    A frame is listed as often as tracebacks refer to it.
    """
    return [frame for each in _tree(error) for frame in _frames(each)]


def _tree(error: BaseException) -> list[BaseException]:
    tree = {id(error): error}
    near = [error]
    while near:
        each = near.pop()
        members = _members.__get__(each) if is_a(each, BaseExceptionGroup) else ()
        for other in (_cause.__get__(each), _context.__get__(each), *members):
            if other is not None and id(other) not in tree:
                tree[id(other)] = other
                near.append(other)
    return list(tree.values())


def _frames(error: BaseException) -> Iterator[FrameType]:
    traceback = _traceback.__get__(error)
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def clear(frames: list[FrameType]) -> list[FrameType]:
    """Clear the variables of the frames that have ended. Returns those that have not.

    A coroutine or generator that is suspended is left alone: another actor may run it. If only
    cleared frames referred to it, it has been closed by this, and is cleared too.
    """
    left = frames
    while left:
        before, left = left, _cleared(left)
        if len(left) == len(before):
            break
    return left


def _cleared(frames: list[FrameType]) -> list[FrameType]:
    suspended = _suspended(frames) if _CLEARS_SUSPENDED else set[int]()
    left: list[FrameType] = []
    for frame in once(frames):
        if id(frame) in suspended:
            left.append(frame)
            continue
        try:
            frame.clear()
        except RuntimeError:  # it runs, or is suspended
            left.append(frame)
        else:
            if _CLEARS_SUSPENDED:
                _ = frame.f_locals  # brings a dict of the variables up to date, if there is one
    return left


def _suspended(frames: list[FrameType]) -> set[int]:
    """The frames, by `id`, that a suspended coroutine or generator still has.

    It refers to its frame, but no frame to it. Only if there are more references to a frame than
    are known, all objects are searched for it, which takes time.
    """
    # Each place of the list stands for a traceback: both refer to the frame.
    known = Counter({each: 2 * times for each, times in Counter(map(id, frames)).items()})
    unique = once(frames)
    known.update(id(each.f_back) for each in unique)
    doubtful = [
        each
        for each in unique
        if each.f_code.co_flags & _RESUMABLE and sys.getrefcount(each) > known[id(each)] + OURS
    ]
    if not doubtful:
        return set()
    found: set[int] = set()
    for each in gc.get_referrers(*doubtful):
        own: object = None
        if type(each) is CoroutineType:
            own = each.cr_frame
        elif type(each) is GeneratorType:
            own = each.gi_frame
        elif type(each) is AsyncGeneratorType:
            own = each.ag_frame
        if own is not None:
            found.add(id(own))
    return found & set(map(id, doubtful))
