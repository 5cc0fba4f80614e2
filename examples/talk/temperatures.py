"""Distinct types: the type checker refuses to compare degrees Celsius with degrees Fahrenheit.

In Go this program does not compile. In Python it runs, so have it checked first: without the
comment on that line ``mypy --strict`` ends with *Non-overlapping equality check*.
"""

from typing import NewType

Celsius = NewType("Celsius", float)
Fahrenheit = NewType("Fahrenheit", float)


def main() -> None:
    c = Celsius(-40.0)
    f = Fahrenheit(-40.0)

    if c == f:  # type: ignore[comparison-overlap]  # the error that the talk shows
        print("It's cold!")


if __name__ == "__main__":
    main()
