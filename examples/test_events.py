import pytest
from events import main

from tailrace import testing


@pytest.mark.virtual_time
async def test_enriched_events_are_stored() -> None:
    async with testing.pipeline(
        main, replace={"listen_http": testing.source(), "store_sqlite": testing.sink()}
    ) as p:
        assert (await p.send("foo")).status == "stored"
        assert (await p.send("bar")).status == "aborted"
    assert p.stored == ["☆ foo ☆"]
