"""Channels are first-class objects: you can have a channel of channels.

The talk says so without a program; this is the classic one. Whoever asks sends the channel on
which to answer, so one server answers any number of clients, and each hears its own answer.
"""

from tailrace import Channel, Group, Receiver, Sender, run

Question = tuple[int, Sender[int]]  # a number, and where its square is to be sent


async def serve(questions: Receiver[Question]) -> None:
    async for number, answer in questions:
        await answer.send(number * number)


async def ask(number: int, questions: Sender[Question]) -> None:
    answer = Channel[int]()
    await questions.send((number, answer))
    print(f"the square of {number} is {await answer.recv()}")


def main(go: Group) -> None:
    questions = Channel[Question]()
    go(serve, questions)
    for number in (1, 2, 3):
        go(ask, number, questions)


if __name__ == "__main__":
    run(main)
