"""The one form in which each value is written, so that equal values are equal in a table.

A repeat is told from another row by comparing what would be written with what is there.
"""

from __future__ import annotations

import datetime
import decimal
from typing import Final

_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_EXACT: Final = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_LONGEST: Final = 60  # digits of a Decimal that is written without an exponent


def moment_text(moment: datetime.datetime) -> str:
    """ISO 8601, in UTC if it has a time zone; OverflowError if UTC has no such year."""
    if moment.utcoffset() is not None:
        moment = moment.astimezone(datetime.UTC)
    return moment.isoformat()


def microseconds(duration: datetime.timedelta) -> int:
    """Whole microseconds, exactly."""
    return duration // _MICROSECOND


def decimal_text(number: decimal.Decimal) -> str:
    """Without trailing zeros after the point: 1.10 as 1.1, 1E+2 as 100, -0 as 0.

    ValueError for NaN and infinity, which are not numbers.
    """
    if not number.is_finite():
        raise ValueError(f"{number} is not a number that a table could hold")
    if not number:
        return "0"
    exact = number.normalize(_EXACT)
    long = max(exact.adjusted(), -int(exact.as_tuple().exponent)) > _LONGEST
    return str(exact) if long else format(exact, "f")
