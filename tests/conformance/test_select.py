"""Go's test/chan/select.go: select in a loop, its cases switched off one by one."""

from __future__ import annotations

from itertools import count

from tailrace import Channel, WouldBlock, select_nowait


def send_each_once(numbers: count[int], a: Channel[int] | None, b: Channel[int] | None) -> int:
    """One power of two to each channel, until no case can run. How many went out."""
    sent = 0
    while True:
        value = 1 << next(numbers)
        try:
            match select_nowait(a.send(value) if a else None, b.send(value) if b else None):
                case 0, _:
                    a = None
                case 1, _:
                    b = None
        except WouldBlock:
            return sent
        sent += 1


def test_a_case_that_has_run_can_be_switched_off_and_the_others_go_on() -> None:
    numbers = count()
    a, b = Channel[int](1), Channel[int](1)
    assert send_each_once(numbers, a, b) == 2
    assert {a.recv_nowait(), b.recv_nowait()} == {1, 2}
    assert send_each_once(numbers, a, None) == 1
    assert a.recv_nowait() == 8  # the 4 was offered when nobody could take it, and never sent
    assert send_each_once(numbers, None, None) == 0
    assert len(a) == len(b) == 0


def test_a_full_channel_is_a_case_that_cannot_run() -> None:
    a, b = Channel[int](1), Channel[int](1)
    a.send_nowait(0)
    for _ in range(20):
        assert select_nowait(a.send(1), b.send(2)) == (1, None)
        assert b.recv_nowait() == 2
    assert a.statistics().sent == 1
