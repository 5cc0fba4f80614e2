"""Interfaces: any object with a `run` method is a runner. No class declares that it is one."""

import random
from dataclasses import dataclass
from typing import Protocol


class Runner(Protocol):
    def run(self, distance: int) -> None:
        """Raises RuntimeError if it does not finish."""


class Runbot9000:
    def run(self, distance: int) -> None:
        pass  # Runbot 9000 is not programmed to fail


class Baby:
    def run(self, distance: int) -> None:
        raise RuntimeError("babies can't run")


@dataclass
class Developer:
    clumsiness: float  # 0..1

    def run(self, distance: int) -> None:
        if random.random() < self.clumsiness:
            raise RuntimeError("tripped over shoelaces")


def race(distance: int, *runners: Runner) -> None:
    for i, runner in enumerate(runners):
        try:
            runner.run(distance)
        except RuntimeError as error:
            print(f"Runner {i} didn't finish: {error}")
        else:
            print(f"Runner {i} finished, hooray!")


def main() -> None:
    race(50, Developer(clumsiness=0.5), Baby(), Runbot9000())


if __name__ == "__main__":
    main()
