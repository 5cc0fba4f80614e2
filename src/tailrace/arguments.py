"""Layer 0: checks of the numbers that callers give. Each error names the argument and its range.

A value of another kind, such as a str or True, is a TypeError; a number out of range, NaN included,
is a ValueError. The `name` may begin with that of the function: ``"batch: max_items"``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from tailrace.usercode import shown

__all__ = ["check_count", "check_number", "check_seconds", "check_timeout"]


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """`value`, if it is a whole number of at least `least`."""
    wanted = f"{name} must be a whole number of at least {least}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{wanted}, not {shown(value)}")
    if value < least:
        raise ValueError(f"{wanted}, not {value!r}")
    return value


def check_number(
    name: str, value: object, wanted: str, fits: Callable[[float], bool] | None = None
) -> float:
    """`value`, if it is a number and ``fits(value)``; `wanted` is its range in words."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be {wanted}, not {shown(value)}")
    try:
        too_large = False
        float(value)
    except OverflowError:
        too_large = True
    if too_large or math.isnan(value) or (fits is not None and not fits(value)):
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}")
    return value


def check_seconds(
    name: str, value: object, *, positive: bool = False, endless: bool = False
) -> float:
    """`value`, if it is a number of seconds of 0 or more, or with `positive` above 0.

    `math.inf` is one only if it may be `endless`.
    """
    limit = "" if endless else ", and finite"
    if positive:
        wanted, lowest = f"seconds above 0{limit}", math.ulp(0.0)
    else:
        wanted, lowest = f"seconds of 0 or more{limit}", 0.0
    return check_number(
        name, value, wanted, lambda number: lowest <= number and (endless or number < math.inf)
    )


def check_timeout(timeout: object, name: str = "timeout") -> float | None:
    """`timeout`, with no bound (`math.inf`) as None. 0 and less mean not to wait."""
    if timeout is None or timeout == math.inf:
        return None
    return min(check_number(name, timeout, "seconds or None"), threading.TIMEOUT_MAX)
