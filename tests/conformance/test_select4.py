"""Go's test/chan/select4.go: what belongs to a case that is not chosen does not happen."""

from __future__ import annotations

import pytest

from tailrace import Channel, select, select_nowait

pytestmark = pytest.mark.virtual_time


async def test_only_the_case_that_is_ready_has_its_body_run() -> None:
    ready, silent = Channel[int](1), Channel[int]()
    await ready.send(42)
    match await select(silent.recv(), ready.recv()):
        case 0, _:
            pytest.fail("this case was not ready")
        case 1, value:
            assert value == 42


async def test_a_case_that_is_not_chosen_has_no_effect_on_its_channel() -> None:
    ready, silent, roomy = Channel[int](1), Channel[int](), Channel[int](1)
    await ready.send(42)
    before = silent.statistics(), roomy.statistics()
    assert await select(ready.recv(), silent.recv(), roomy.send(1), priority=True) == (0, 42)
    await ready.send(43)
    assert select_nowait(ready.recv(), silent.recv(), roomy.send(1), priority=True) == (0, 43)
    assert (silent.statistics(), roomy.statistics()) == before
