"""Layer 1: channels, their two ends as types, and the view for threads.

`Channel` itself lives in the core (`tailrace._core`); this module is its one public home and adds
what only type checkers need: `Sender` and `Receiver` say which way a parameter may be used, and
anything with their methods is one. They are also what `Group` reads to know who owns which end.
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
    """The sending end of something that carries values: a `Channel`, or any object like it.

    A parameter annotated so makes a stage of a `Group` hold the sending end of the channel
    passed there: when the last holder ends, the channel closes.
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
    """The receiving end of something that carries values: a `Channel`, or any object like it.

    A parameter annotated so makes a stage of a `Group` hold the receiving end of the channel
    passed there: when the last holder ends, the channel closes and its senders stop.
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
    """The sending end for a thread: what ``channel.sync`` is to an actor that is a function."""

    def send(self, value: T_contra, timeout: float | None = None) -> None:
        """Send, blocking for at most `timeout` seconds."""
        ...


@runtime_checkable
class SyncReceiver(Protocol[T_co]):
    """The receiving end for a thread."""

    def recv(self, timeout: float | None = None) -> T_co:
        """Receive, blocking for at most `timeout` seconds."""
        ...

    def __iter__(self) -> Iterator[T_co]: ...
