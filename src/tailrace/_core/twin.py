"""What a core must give to the Python that both cores share, as protocols.

Each primitive takes and releases the core's lock by itself (the native core's is the GIL), runs no
user code under it, and has applied its effects when it returns.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol, TypeVar

from tailrace._core.common import Claim, Wait

T_co = TypeVar("T_co", covariant=True)


class OperationLike(Protocol[T_co]):
    """An operation, as a thread drives it: see `threads.block`."""

    @property
    def method(self) -> str:
        """``"Channel.send"``: what messages call it."""
        ...

    @property
    def channel(self) -> Any:
        """What it works on."""
        ...

    @property
    def receives(self) -> bool:
        """Whether it is a receive."""
        ...

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What it waits for while it is parked."""
        ...

    @property
    def parked(self) -> bool:
        """Whether a task or thread is parked in it, and nothing has claimed it."""
        ...

    @property
    def _claim(self) -> int:
        """A `Claim`: why it was woken."""
        ...

    def _begin(self) -> None:
        """Mark it used. RuntimeError if it was used."""
        ...

    def _attempt(self, lock: threading.Lock | None, /) -> bool:
        """True: it happened. False: with a lock it is parked, and a claim releases the lock;
        without one nothing has changed. Raises `Closed`."""
        ...

    def _wake(self, claim: Claim, /) -> bool:
        """Claim it. False, and unchanged, if it is not parked or was claimed. From any thread."""
        ...

    def take_value(self) -> T_co:
        """Its value, once, after it happened."""
        ...

    def _give_up(self) -> None:
        """Leave the queue. A receive that happened gives its value back."""
        ...


class ChannelLike(Protocol):
    """A channel, as `base.ChannelBase` uses it."""

    def _close(self, cause: BaseException | None, /) -> bool:
        """Close it. False if it was closed."""
        ...

    def _values(self) -> list[Any]:
        """What can be received without a sender, at one instant, in order; nothing is taken."""
        ...

    def _counts(self) -> tuple[int, int, int, int, int]:
        """Buffered, sent, dropped, parked senders and parked receivers, at one instant."""
        ...
