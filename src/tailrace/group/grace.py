"""The end of a group's patience: what still runs when the grace is over is cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tailrace.group.group import Group

_log = logging.getLogger("tailrace")

THREADS_END: Final = 0.25
"""Seconds from the cancellation until the threads that still run are left behind: a thread that was
parked on a channel ends within them."""


def cancel_after(group: Group, grace: float) -> asyncio.TimerHandle:
    """Cancel `group` in `grace` seconds, unless the handle is cancelled before. Logs each actor.

    A thread that does not end then is left behind.
    """
    return group.loop.call_later(grace, _grace_over, group)


def _grace_over(group: Group) -> None:
    for state in group.actors():
        _log.warning("cancelled: %s", state)
    group.cancel()
    group.loop.call_later(THREADS_END, group.abandon_threads)


def failure_of(group: Group) -> BaseException | None:
    """Why all actors of `group` were cancelled, if they were: the first failure."""
    return group._cause
