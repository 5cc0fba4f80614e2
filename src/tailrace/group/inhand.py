"""The messages that an ended actor had in hand: those to which only its frames refer.

They are told at once: the error that ended the actor refers to its frames, and the group keeps that
error until all actors have ended. If the actor ended well, because the channel that it sends to is
closed or because a drain stops it, the message that it could not send is nobody's bug.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections import Counter, deque
from typing import Any, Final, cast

from tailrace.group.frames import OURS, frames_of, once
from tailrace.usercode import log_error

__all__ = ["DRAINING", "ENDED", "drop_in_hand"]

DRAINING: Final = "the pipeline is draining"
ENDED: Final = "the pipeline takes no more messages"
"""Why a message that an actor could not send fails."""

_log = logging.getLogger("tailrace")

_CONTAINERS: Final = (list, tuple, dict, set, deque)


def drop_in_hand(error: BaseException, stage: str, why: str = "") -> None:
    """Call ``__dropped__(stage, why)`` of each value to which only the frames of `error` refer.

    Values whose type has no such method are left alone. The values of a container count too, if
    only those frames refer to the container.
    """
    frames = once(frames_of(error))
    containers = [each for each in _alone(_held_by(frames)) if _is_container(each)]
    for each in _alone(_held_by([*frames, *containers])):
        try:
            kind = cast("type[object]", type(each))
            dropped: Any = getattr(kind, "__dropped__", None)
            if dropped is not None:
                dropped(each, stage, why)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # of user code, such as that of a metaclass
            log_error(_log, "%s: a value in hand could not be told", stage, error=raised)


def _is_container(value: object) -> bool:
    return any(type(value) is kind for kind in _CONTAINERS)  # a metaclass may refuse to be hashed


def _held_by(owners: list[Any]) -> list[Any]:
    return [held for owner in owners for held in gc.get_referents(owner)]


def _alone(references: list[Any]) -> list[Any]:
    """The objects to which nothing refers but the places that `references` was read from.

    It empties `references`, to which no other reference may lead.
    """
    times = Counter(map(id, references))
    unique = once(references)
    del references[:]
    return [each for each in unique if sys.getrefcount(each) == times[id(each)] + OURS]
