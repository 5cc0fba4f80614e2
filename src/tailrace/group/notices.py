"""What is logged when one stage ends another, or leaves values behind; and notes on failures.

A stage that returns while its inbox is open stops the stages that feed the inbox. The warning
names both, and comes only once a stage has ended because of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

from tailrace._core import holders_of
from tailrace.channel import Channel
from tailrace.group.parent import Parent
from tailrace.group.stage import Stage
from tailrace.group.topology import Topology
from tailrace.usercode import is_a

_log = logging.getLogger("tailrace")


class Notices:
    """The notices of one group."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        # By channel that was closed by its last receiver: the receiver, and the stages that fed it.
        self._cut_off: dict[Channel[Any], tuple[str, set[str]]] = {}
        self._warned: set[str] = set()  # live stages that a warning has named as stopped

    def __repr__(self) -> str:
        return f"<Notices: {len(self._cut_off)} channels cut off>"

    def let_go(self, stage: Stage) -> None:
        """Have `stage` let go of its ends, and warn if it stops others or leaves values behind."""
        left = [
            (channel, values)
            for channel, end, _ in stage.wiring.holds
            if end == "receive" and (values := len(channel))
        ]
        closed = stage.let_go()
        if self._cut_off:
            self._warn_if_stopped(stage)
        for channel, end, _ in closed:
            if end == "receive":
                self._note_cut_off(stage, channel)
        for channel, values in left:
            self._warn_if_left(stage, channel, values)

    def _note_cut_off(self, stage: Stage, channel: Channel[Any]) -> None:
        """`stage` has closed its inbox `channel`: stages that feed it will be stopped."""
        feeders = self._topology.feeding(channel)
        if feeders and stage.name not in self._warned:
            self._cut_off[channel] = (stage.name, feeders)

    def _warn_if_stopped(self, stage: Stage) -> None:
        """Warn, once, if `stage` has ended because the receiver of its channel has returned."""
        for channel in stage.wiring.channels("send"):
            if channel is stage.closed_by and channel in self._cut_off:
                receiver, stopped = self._cut_off.pop(channel)
                self._warned |= stopped  # all of these end for the same reason
                _log.warning(
                    "`%s` returned while its inbox `%s` was open; stopped %s",
                    receiver,
                    self._topology.label(channel),
                    ", ".join(f"`{name}`" for name in sorted(stopped)),
                )

    def _warn_if_left(self, stage: Stage, channel: Channel[Any], values: int) -> None:
        """Warn if `values` stay in a channel that no other stage receives from."""
        if channel.closed and not holders_of(channel, "receive"):
            _log.warning(
                "`%s` returned with %d values left in `%s`, which nobody else receives",
                stage.name,
                values,
                self._topology.label(channel),
            )

    def forget(self, stage: Stage) -> None:
        """`stage` has ended, and the topology knows that."""
        self._warned.discard(stage.name)
        if self._cut_off:
            for channel in stage.wiring.channels("send"):
                if channel in self._cut_off and not self._topology.feeding(channel):
                    del self._cut_off[channel]

    def note_on_failure(self, stage: Stage, actor: str) -> str:
        """The note for the failure of an actor: its name, its stage, its channels."""
        label = self._topology.label
        receives = ", ".join(label(channel) for channel in stage.wiring.channels("receive"))
        sends = ", ".join(label(channel) for channel in stage.wiring.channels("send"))
        return (
            f"in actor {actor!r} of stage {stage.name!r}"
            + (f", receiving from {receives}" if receives else "")
            + (f", sending to {sends}" if sends else "")
        )


def log_hidden(failures: list[BaseException]) -> None:
    """Log failures that no caller sees: the group raises only SystemExit or KeyboardInterrupt."""
    hidden = [error for error in failures if not is_a(error, (KeyboardInterrupt, SystemExit))]
    if hidden:
        text = f"{len(hidden)} failed in the group while the program ended"
        _log.error(text, exc_info=BaseExceptionGroup(text, hidden))


def raise_failures(
    failures: list[BaseException], cancelled: asyncio.CancelledError | None, parent: Parent
) -> NoReturn:
    """Raise the failures of a group, as an ExceptionGroup, or the one that ends the process."""
    if cancelled is not None:
        # Failures come first, as in asyncio.TaskGroup. A caller that handles them must not
        # swallow the cancellation with them: it comes again at the caller's next await.
        parent.cancel_anew()
    for error in failures:
        if is_a(error, (KeyboardInterrupt, SystemExit)):
            log_hidden([other for other in failures if other is not error])
            raise error  # alone: it ends the process
    # From None: the block's exception is in the ExceptionGroup already; do not show it again as
    # context.
    raise BaseExceptionGroup(f"{len(failures)} failed in the group", failures) from None
