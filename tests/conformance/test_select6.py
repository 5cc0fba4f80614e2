"""Go's test/chan/select6.go: a select leaves the lines of its other cases in good order."""

from __future__ import annotations

import pytest

from tailrace import Channel, Group, select
from tailrace.testing import wait_all_parked

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_receivers_in_line_around_a_select_that_left_are_all_served(
    before: int, after: int
) -> None:
    crowded, other = Channel[int](), Channel[str]()
    served: list[str] = []

    async def receive(name: str) -> None:
        served.append(f"{name} got {await crowded.recv()}")

    async def choose() -> None:
        match await select(crowded.recv(), other.recv()):
            case 0, _:
                pytest.fail("nothing had been sent there")
            case 1, value:
                served.append(f"select got {value}")
        await receive("the select, again,")

    async with Group() as go:
        for i in range(before):
            go(receive, f"early {i}")
            await wait_all_parked()
        go(choose)
        await wait_all_parked()
        for i in range(after):
            go(receive, f"late {i}")
            await wait_all_parked()
        await other.send("it")
        await wait_all_parked()
        for value in range(before + 1 + after):
            await crowded.send(value)
            await wait_all_parked()

    early = [f"early {i} got {i}" for i in range(before)]
    late = [f"late {i} got {before + i}" for i in range(after)]
    assert served == ["select got it", *early, *late, f"the select, again, got {before + after}"]
    assert crowded.statistics().waiting_receivers == 0


async def test_senders_in_line_around_a_select_that_left_are_all_served() -> None:
    crowded, other = Channel[str](), Channel[None]()

    async def send(name: str) -> None:
        await crowded.send(name)

    async def choose() -> None:
        assert await select(crowded.send("of the select"), other.send(None)) == (1, None)
        await crowded.send("of the select, again")

    async with Group() as go:
        go(send, "early")
        await wait_all_parked()
        go(choose)
        await wait_all_parked()
        go(send, "late")
        await wait_all_parked()
        await other.recv()
        await wait_all_parked()
        assert [await crowded.recv() for _ in range(3)] == ["early", "late", "of the select, again"]
