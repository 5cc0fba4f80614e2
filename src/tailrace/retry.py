"""Layer 1: `Retry`: what is tried again, how often, and after which delays.

The delays are exponential with *full jitter*: each is drawn uniformly between 0 and the bound
that doubles. (Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015: of the
schemes compared there it ends contention with the least work.) A policy has no state: `delays` is
a fresh iterator each time.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

from tailrace.arguments import check_count, check_seconds

__all__ = ["Retry"]

_On: TypeAlias = (
    "type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]"
)


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often to try again.

    `attempts` counts all tries, the first one included; None means for ever. The n-th delay is
    random between 0 and ``backoff * 2**(n-1)`` seconds, at most `cap`. `on` says which errors are
    worth another try: an exception type, a tuple of them, or a predicate. None means the default of
    what the policy is given to, mostly `OSError` (with `ConnectionError` and `TimeoutError`).
    `also`, of the same kinds, adds errors to those of `on`, or of the default.

    TypeError or ValueError for arguments that make no sense.
    """

    attempts: int | None = 10
    backoff: float = 0.05
    cap: float = 5.0
    on: _On | None = None
    also: _On | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            check_count("attempts", self.attempts)
        check_seconds("backoff", self.backoff)
        check_seconds("cap", self.cap)
        _check_errors("on", self.on)
        _check_errors("also", self.also)

    def applies(self, error: BaseException) -> bool:
        """Whether `error` is worth another try, however many are left."""
        if _is_one_of(error, OSError if self.on is None else self.on):
            return True
        return self.also is not None and _is_one_of(error, self.also)

    def delays(self, random: Callable[[], float] = _random.random) -> Iterator[float]:
        """The seconds to wait before each further try; ends when the attempts are used up.

        `random` returns numbers from 0 to below 1; a test may give its own.
        """
        bound = min(self.backoff, self.cap)
        tries = 1
        while self.attempts is None or tries < self.attempts:
            yield random() * bound
            bound = min(bound * 2, self.cap)
            tries += 1


def _check_errors(name: str, on: object) -> None:
    kinds = cast("tuple[object, ...]", on) if isinstance(on, tuple) else (on,)
    are_types = all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    is_predicate = not isinstance(on, (type, tuple)) and callable(on)
    if on is not None and not are_types and not is_predicate:
        raise TypeError(f"{name} must be exception types, a predicate, or None, not {on!r}")


def _is_one_of(error: BaseException, on: _On) -> bool:
    if isinstance(on, (type, tuple)):
        return issubclass(type(error), on)
    return bool(on(error))
