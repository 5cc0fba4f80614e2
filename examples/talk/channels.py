"""Channels: typed, synchronized pipes between actors.

`go` starts an actor. One step beyond the talk: when the producer, the last sender, has ended, the
channel closes, and the consumer's loop ends.
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
