"""An end does only what its direction allows, and carries only what it says."""

from tailrace import Channel, Receiver, Sender


def wants_ints_to_send(out: Sender[int]) -> None: ...
def wants_objects_received(inbox: Receiver[str]) -> None: ...


async def other_values(numbers: Channel[int], words: Sender[str]) -> None:
    await numbers.send("one")  # error: not an int
    await words.send(1)  # error: not a str
    words.send_nowait(b"")  # error: not a str
    await words.send_many([1, 2])  # error: not strs
    word: str = await numbers.recv()  # error: ints come out
    print(word)


async def other_directions(inbox: Receiver[int], out: Sender[int]) -> None:
    await inbox.send(1)  # error: a receiving end does not send
    await out.recv()  # error: a sending end does not receive
    async for _ in out:  # error: nor is it iterated
        pass


def no_end_closes(inbox: Receiver[int], out: Sender[int]) -> None:
    out.close()  # error: closing is the owner's
    inbox.close()  # error: and not the receiver's either


def other_ends(numbers: Channel[int], flags: Channel[bool], words: Channel[str]) -> None:
    wants_ints_to_send(words)  # error: another element type
    wants_ints_to_send(flags)  # error: an int is no bool
    wants_ints_to_send(numbers.receiver)  # error: the other end
    wants_objects_received(numbers)  # error: another element type
    wants_objects_received(words.sender)  # error: the other end
    wants_ints_to_send(numbers.sync)  # error: that is for threads


def forgotten_await(numbers: Channel[int]) -> None:
    print(numbers.recv() + 1)  # error: an operation is not its value


not_a_policy = Channel[int](1, overflow="drop")  # error: no such policy
