"""What a hedged backend answers is what its backends do."""

from typing import assert_type

from tailrace import Eject, Hedged, Replicas, backend, hedged, query_all, query_some


class Search:
    async def query(self, query: str, /) -> list[int]:
        return [len(query)]


def absent(error: Exception) -> bool:
    return isinstance(error, LookupError)


async def close(result: list[int]) -> None:
    result.clear()


pair = Hedged(Search(), Search(), target=0.999, fatal=absent, dispose=close, eject=Eject())
nested = Hedged(Replicas(Search(), Search()), pair, delay=0.1, balance="in_order", limit=3)


@backend
async def count(query: bytes) -> int:
    return len(query)


@backend(name="size")
async def size(query: bytes) -> int:
    return len(query)


@hedged(budget=0.1, dispose=lambda result: None)
async def fetch(url: str) -> bytes:
    return url.encode()


async def asks() -> None:
    assert_type(await pair.query("foo"), list[int])
    assert_type(await nested.query("foo"), list[int])
    assert_type(await query_all("foo", pair, nested), list[list[int]])
    assert_type(await Hedged(count).query(b"foo"), int)
    assert_type(await Hedged(size).query(b"foo"), int)
    assert_type(await backend(fetch, name="b").query("url"), bytes)
    assert_type(await fetch("url"), bytes)
    assert_type(await fetch.query("url"), bytes)
    assert_type(await query_all("url", fetch, fetch), list[bytes])
    (answer,) = await query_some("foo", Hedged(Search()))
    assert_type(answer.value, list[int])
    assert_type(pair.statistics().p99, float)
