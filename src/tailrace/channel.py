"""Layer 1: the public home of `Channel`, and the types of its ends.

`Channel` itself is in the core (`tailrace._core`). `Sender` and `Receiver` are protocols: any
object with their methods is one. Type checkers read from them in which direction a parameter is
used, and `Group` reads which end a stage holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from tailrace._core import Channel, ChannelStatistics, Operation, Sending

__all__ = [
    "Channel",
    "ChannelStatistics",
    "Operation",
    "Receiver",
    "Sender",
    "Sending",
    "SyncReceiver",
    "SyncSender",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class Sender(Protocol[T_contra]):
    """The sending end of a `Channel`, or of any object with these methods.

    A stage of a `Group` holds the sending end of the channel that is passed to a parameter with
    this annotation. When the last holder ends, the channel closes.
    """

    def send(self, value: T_contra, /) -> Operation[None]:
        """As `Channel.send`."""
        ...

    def send_nowait(self, value: T_contra, /) -> None:
        """As `Channel.send_nowait`."""
        ...

    def send_many(self, values: Iterable[T_contra], /) -> Sending:
        """As `Channel.send_many`."""
        ...


@runtime_checkable
class Receiver(Protocol[T_co]):
    """The receiving end of a `Channel`, or of any object with these methods.

    A stage of a `Group` holds the receiving end of the channel that is passed to a parameter with
    this annotation. When the last holder ends, the channel closes, and its senders stop.
    """

    def recv(self) -> Operation[T_co]:
        """As `Channel.recv`."""
        ...

    def recv_nowait(self) -> T_co:
        """As `Channel.recv_nowait`."""
        ...

    def recv_many(self, n: int, /) -> Awaitable[Sequence[T_co]]:
        """As `Channel.recv_many`."""
        ...

    def __aiter__(self) -> AsyncIterator[T_co]: ...


@runtime_checkable
class SyncSender(Protocol[T_contra]):
    """The sending end for threads: the annotation for ``channel.sync`` in a plain function."""

    def send(self, value: T_contra, timeout: float | None = None) -> None:
        """Send, blocking this thread for at most `timeout` seconds (None: for ever)."""
        ...


@runtime_checkable
class SyncReceiver(Protocol[T_co]):
    """The receiving end for threads: the annotation for ``channel.sync`` in a plain function."""

    def recv(self, timeout: float | None = None) -> T_co:
        """Receive, blocking this thread for at most `timeout` seconds (None: for ever)."""
        ...

    def __iter__(self) -> Iterator[T_co]: ...
