"""A hedged backend is asked what its backends are, and is no other than they."""

from tailrace import Hedged, hedged


class Search:
    async def query(self, query: str, /) -> list[int]:
        return [len(query)]


class Count:
    async def query(self, query: bytes, /) -> int:
        return len(query)


def closes(result: str) -> None: ...


async def plain(query: str) -> str:
    return query


@hedged(delay=0.1)
async def fetch(url: str) -> bytes:
    return url.encode()


async def asks() -> None:
    await Hedged(Search()).query(b"foo")  # error: not a str
    await fetch(b"url")  # error: not a str
    number: int = await Hedged(Search()).query("foo")  # error: a list
    Hedged(plain)  # error: no backend
    Hedged(Search(), balance="best")  # error: no such balance
    Hedged(Search(), fatal=closes)  # error: of an exception, to a bool
    hedged(size=3)  # error: no such argument
    print(number)
