"""A channel is both of its ends; the ends vary as their directions say."""

import math
from collections.abc import Sequence
from typing import assert_type

from tailrace import Channel, Receiver, Sender, SyncReceiver, SyncSender


def wants_ints_to_send(out: Sender[int]) -> None: ...
def wants_ints_received(inbox: Receiver[int]) -> None: ...
def wants_ints_to_send_in_a_thread(out: SyncSender[int]) -> None: ...
def wants_ints_received_in_a_thread(inbox: SyncReceiver[int]) -> None: ...


def one_channel_is_both_ends(numbers: Channel[int]) -> None:
    wants_ints_to_send(numbers)
    wants_ints_received(numbers)
    wants_ints_to_send(numbers.sender)
    wants_ints_received(numbers.receiver)
    wants_ints_to_send_in_a_thread(numbers.sync)
    wants_ints_received_in_a_thread(numbers.sync)
    wants_ints_to_send_in_a_thread(numbers.sync.sender)
    wants_ints_received_in_a_thread(numbers.sync.receiver)


def a_sender_of_more_and_a_receiver_of_less_will_do(
    anything: Channel[object], flags: Channel[bool]
) -> None:
    wants_ints_to_send(anything)  # contravariant
    wants_ints_received(flags)  # covariant


async def operations_know_what_they_carry(numbers: Channel[int]) -> None:
    assert_type(await numbers.recv(), int)
    assert_type(await numbers.send(1), None)
    assert_type(numbers.recv_nowait(), int)
    received: Sequence[int] = await numbers.recv_many(10)
    await numbers.send_many(received)
    async for number in numbers:
        assert_type(number, int)
    with numbers.sending() as out, numbers.receiving() as inbox:
        wants_ints_to_send(out)
        wants_ints_received(inbox)


def in_threads_too(numbers: Channel[int]) -> None:
    assert_type(numbers.sync.recv(timeout=1.0), int)
    numbers.sync.send(1, timeout=None)
    for number in numbers.sync:
        assert_type(number, int)


unbounded = Channel[int](math.inf, name="crawl")
dropping = Channel[str](64, overflow="drop_oldest")
channel_of_channels = Channel[Channel[int]]()
