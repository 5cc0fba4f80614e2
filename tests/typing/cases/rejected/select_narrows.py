"""A case's value has its own operation's type and no other; only operations are cases."""

import asyncio

from tailrace import Channel, Closed, select, select_nowait


async def takes_the_value_for_the_other_ones(a: Channel[int], b: Channel[str]) -> str:
    match await select(a.recv(), b.recv()):
        case 0, Closed():
            return "closed"
        case 0, value:
            return value  # error: case 0 is an int
        case 1, value:
            return value  # error: it may be Closed
    return "none"


async def forgets_the_timeout(a: Channel[int]) -> int:
    index, _ = await select(a.recv(), timeout=1.0)
    return index  # error: None when it timed out


async def not_cases(a: Channel[int]) -> None:
    await select(a)  # error: a channel is not an operation
    await select(asyncio.sleep(1))  # error: nor is a coroutine: done(task) is
    select_nowait(a.recv_many(2))  # error: nor is a bulk receive
