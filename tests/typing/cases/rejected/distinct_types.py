"""Degrees of one scale do not pass for those of another, nor a bare number for either."""

from typing import NewType

from tailrace import Channel, Group, Receiver, Sender

Celsius = NewType("Celsius", float)
Fahrenheit = NewType("Fahrenheit", float)


async def convert(inbox: Receiver[Celsius], out: Sender[Fahrenheit]) -> None:
    async for celsius in inbox:
        await out.send(celsius)  # error: not converted


async def measure(out: Sender[Celsius]) -> None:
    await out.send(37.0)  # error: a number has no scale
    await out.send(Fahrenheit(98.6))  # error: the other scale


def main(go: Group) -> None:
    celsius = Channel[Celsius](name="celsius")
    fahrenheit = Channel[Fahrenheit](name="fahrenheit")
    go(measure, fahrenheit)  # error: measured in Celsius
    go(convert, fahrenheit, celsius)  # error: the wrong way round
