"""Distinct types, as in the talk: a NewType keeps apart what the machine cannot."""

from typing import NewType, assert_type

from tailrace import Channel, Receiver, Sender

Celsius = NewType("Celsius", float)
Fahrenheit = NewType("Fahrenheit", float)


def to_fahrenheit(celsius: Celsius) -> Fahrenheit:
    return Fahrenheit(celsius * 9 / 5 + 32)


async def convert(inbox: Receiver[Celsius], out: Sender[Fahrenheit]) -> None:
    async for celsius in inbox:
        await out.send(to_fahrenheit(celsius))


async def measure(out: Sender[Celsius]) -> None:
    await out.send(Celsius(37.0))


async def read(degrees: Channel[Fahrenheit]) -> None:
    assert_type(await degrees.recv(), Fahrenheit)
