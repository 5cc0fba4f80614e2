"""Two actors that each wait for the other to receive first: the test clock reports a deadlock.

$ python examples/deadlock.py
"""

from tailrace import Channel, Group, Receiver, Sender, testing


async def swap(inbox: Receiver[int], out: Sender[int]) -> None:
    await out.send(1)
    await inbox.recv()


def main(go: Group) -> None:
    left, right = Channel[int](name="left"), Channel[int](name="right")
    go(swap, left, right, name="alice")
    go(swap, right, left, name="bob")


if __name__ == "__main__":
    testing.run(main)
