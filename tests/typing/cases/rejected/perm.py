"""Go's test/chan/perm.go, the half that does not compile: what each kind of end may not do.

One line more than in Go: a sending end does not close, since its owner does that for it.
"""

from tailrace import Channel, Receiver, Sender, select, select_nowait


def an_end_is_not_the_whole_channel(cr: Receiver[int], cs: Sender[int]) -> list[Channel[int]]:
    first: Channel[int] = cr  # error: it cannot send
    second: Channel[int] = cs  # error: it cannot receive
    return [first, second]


def an_end_is_not_the_other_end(
    cr: Receiver[int], cs: Sender[int]
) -> tuple[Receiver[int], Sender[int]]:
    receiver: Receiver[int] = cs  # error: it sends
    sender: Sender[int] = cr  # error: it receives
    return receiver, sender


async def a_receiving_end_does_not_send(cr: Receiver[int]) -> None:
    await cr.send(0)  # error: it receives
    cr.send_nowait(0)  # error: it receives
    await cr.send_many([0])  # error: it receives
    await select(cr.send(0), cr.recv())  # error: nor in a select
    select_nowait(cr.send(0))  # error: nor in a select
    cr.close()  # error: nor does it close


async def a_sending_end_does_not_receive(cs: Sender[int]) -> None:
    await cs.recv()  # error: it sends
    cs.recv_nowait()  # error: it sends
    await cs.recv_many(1)  # error: it sends
    await select(cs.send(0), cs.recv())  # error: nor in a select
    select_nowait(cs.recv())  # error: nor in a select
    async for _ in cs:  # error: nor when iterated
        pass
    cs.close()  # error: that is for its owner, or for who has the channel
