"""Go's test/chan/select2.go: a hundred thousand selects leave nothing behind."""

from __future__ import annotations

import gc
import sys

import pytest

from tailrace import Channel, Group, Receiver, Sender, select

N = 100_000
ALLOWED = 2_000  # blocks of memory, whatever else the interpreter does meanwhile

pytestmark = pytest.mark.virtual_time


async def ones(out: Sender[int], n: int) -> None:
    for _ in range(n):
        await out.send(1)


async def receive(inbox: Receiver[int], dummy: Receiver[int], n: int) -> None:
    for _ in range(n):
        index, _ = await select(inbox.recv(), dummy.recv())
        assert index == 0


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


async def test_a_case_that_never_runs_collects_no_waiters_in_a_hundred_thousand_selects() -> None:
    dummy = Channel[int]()
    with dummy.receiving() as never:  # held, so that it does not close between the rounds
        before = 0
        for n in (N // 100, N):  # the first to warm up
            before = blocks()
            async with Group() as go:
                ch = Channel[int]()
                go(ones, ch, n)
                go(receive, ch, never, n)
        assert blocks() - before < ALLOWED
        assert dummy.statistics().waiting_receivers == 0
        assert dummy.statistics().sent == dummy.statistics().received == 0


async def test_a_select_that_times_out_leaves_no_waiter() -> None:
    silent, full = Channel[int](), Channel[int]()
    for _ in range(1_000):
        assert await select(silent.recv(), full.send(1), timeout=0.001) == (None, None)
    assert silent.statistics().waiting_receivers == 0
    assert full.statistics().waiting_senders == 0
