"""Go's test/chan/perm.go, the half that compiles: what each kind of end may do.

`Channel`, `Receiver` and `Sender` stand for ``chan``, ``<-chan`` and ``chan<-``.
"""

from typing import assert_type

from tailrace import Channel, Closed, Receiver, Sender, select, select_nowait


def a_channel_is_assigned_to_either_end(c: Channel[int]) -> tuple[Receiver[int], Sender[int]]:
    cr: Receiver[int] = c
    cs: Sender[int] = c
    return cr, cs


async def each_end_has_its_half_of_the_operations(
    c: Channel[int], cr: Receiver[int], cs: Sender[int]
) -> None:
    await c.send(0)
    assert_type(await c.recv(), int)
    assert_type(await cr.recv(), int)
    await cs.send(0)
    c.send_nowait(0)
    assert_type(c.recv_nowait(), int)
    assert_type(cr.recv_nowait(), int)
    cs.send_nowait(0)
    await c.send_many([0])
    await cs.send_many([0])
    assert_type([*await c.recv_many(1), *await cr.recv_many(1)], list[int])


async def each_operation_is_a_case_of_select(
    c: Channel[int], cr: Receiver[int], cs: Sender[int]
) -> None:
    match await select(c.send(0), c.recv(), cr.recv(), cs.send(0)):
        case 1, value:
            assert_type(value, int | Closed)
        case 2, value:
            assert_type(value, int | Closed)
        case _:
            pass
    select_nowait(c.send(0), c.recv(), cr.recv(), cs.send(0))


async def a_channel_and_its_receiving_end_are_iterated(c: Channel[int], cr: Receiver[int]) -> None:
    async for value in c:
        assert_type(value, int)
    async for value in cr:
        assert_type(value, int)


def a_channel_is_closed(c: Channel[int]) -> None:
    c.close()
