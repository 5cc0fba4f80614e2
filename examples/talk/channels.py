"""Channels: typed, synchronized pipes between actors.

`go` launches an actor. Here is one step beyond the talk: the sending end is owned by its producer,
so the channel closes when that has ended, and the consumer's loop ends with it.
"""

from tailrace import Channel, Group, Receiver, Sender, run


async def produce(c: Sender[int]) -> None:
    await c.send(1)  # put data onto channel
    await c.send(2)
    await c.send(3)


async def consume(c: Receiver[int]) -> None:
    async for i in c:
        print(i)


def main(go: Group) -> None:
    c = Channel[int]()
    go(produce, c)
    go(consume, c)


if __name__ == "__main__":
    run(main)
