"""`select` gives each case the type of its own operation, by its index."""

import asyncio
from typing import assert_type

from tailrace import Channel, Closed, after, done, select, select_nowait


async def the_designs_own_listing(a: Channel[int], b: Channel[str], x: str) -> None:
    match await select(a.recv(), b.send(x), timeout=0.5):
        case 0, Closed() as closed:
            assert_type(closed, Closed)
        case 0, value:
            assert_type(value, int)
        case 1, _:
            pass
        case None, nothing:
            assert_type(nothing, None)


async def nothing_else_can_come(a: Channel[int], b: Channel[str]) -> int | str:
    match await select(a.recv(), b.recv()):
        case 0, Closed():
            return "a is closed"
        case 0, number:
            return number
        case 1, Closed():
            return "b is closed"
        case 1, word:
            return word


async def a_case_may_be_none(a: Channel[int] | None, b: Channel[str]) -> None:
    match await select(a.recv() if a is not None else None, b.recv()):
        case 0, Closed():
            pass
        case 0, number:
            assert_type(number, int)
        case 1, word:
            assert_type(word, str | Closed)


async def up_to_six_cases(
    a: Channel[int], b: Channel[str], c: Channel[bytes], stop: asyncio.Event
) -> None:
    task = asyncio.ensure_future(asyncio.sleep(1, result=1.5))
    match await select(
        a.recv(), b.recv(), c.recv(), after(1.0).recv(), done(task), done(stop), timeout=None
    ):
        case 0, int() as number:
            assert_type(number, int)
        case 1, str() as word:
            assert_type(word, str)
        case 2, bytes() as raw:
            assert_type(raw, bytes)
        case 3 | 4, when:
            assert_type(when, float | Closed)
        case 5, stopped:
            assert_type(stopped, bool | Closed)
        case _:
            pass


def or_at_once(a: Channel[int], b: Channel[str]) -> None:
    match select_nowait(a.recv(), b.send("x")):
        case 0, Closed():
            pass
        case 0, value:
            assert_type(value, int)
        case 1, _:
            pass
