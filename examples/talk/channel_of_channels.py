"""Channels are first-class objects: you can have a channel of channels.

The talk has no program for this. A client sends, with its question, the channel for the answer. So
one server answers any number of clients, and each client gets its own answer.
"""

from tailrace import Channel, Group, Receiver, Sender, run

Question = tuple[int, Sender[int]]  # a number, and the channel for its square


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
