"""Retry: how often, after which delays, and for which errors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tailrace.retry import Retry


def almost_one() -> float:
    return 1.0


def test_the_bounds_of_the_delays_double_up_to_the_cap() -> None:
    assert list(Retry(6, backoff=1, cap=5).delays(random=almost_one)) == [1, 2, 4, 5, 5]


def test_a_delay_is_anything_from_zero_to_its_bound() -> None:
    draws = iter([0.0, 0.5, 0.25])
    assert list(Retry(4, backoff=1).delays(random=lambda: next(draws))) == [0.0, 1.0, 1.0]


def test_real_delays_are_spread_over_the_whole_range() -> None:
    delays = list(itertools.islice(Retry(None, backoff=1, cap=1).delays(), 1000))
    assert min(delays) < 0.1
    assert max(delays) > 0.9
    assert all(0 <= delay < 1 for delay in delays)


def test_attempts_count_the_first_try() -> None:
    assert list(Retry(1).delays()) == []
    assert len(list(Retry(3).delays())) == 2


def test_none_tries_for_ever_and_no_delay_overflows() -> None:
    delays = Retry(None, backoff=1, cap=8).delays(random=almost_one)
    assert list(itertools.islice(delays, 5000))[-1] == 8


def test_each_run_of_delays_begins_anew() -> None:
    retry = Retry(3, backoff=1)
    assert list(retry.delays(almost_one)) == list(retry.delays(almost_one)) == [1, 2]


@pytest.mark.parametrize(
    ("on", "yes", "no"),
    [
        (None, ConnectionResetError(), ValueError()),
        (None, TimeoutError(), KeyError()),
        (KeyError, KeyError(), OSError()),
        ((KeyError, ValueError), ValueError(), OSError()),
        (lambda error: "again" in str(error), ValueError("again"), ValueError("no")),
    ],
)
def test_on_says_which_errors_are_worth_another_try(on: Any, yes: Exception, no: Exception) -> None:
    retry = Retry(on=on)
    assert retry.applies(yes)
    assert not retry.applies(no)


@pytest.mark.parametrize("also", [KeyError, (KeyError, IndexError), lambda e: type(e) is KeyError])
def test_also_adds_to_the_default_or_to_on(also: Any) -> None:
    default = Retry(also=also)
    assert default.applies(KeyError())
    assert default.applies(OSError())
    assert not default.applies(ValueError())
    chosen = Retry(on=ValueError, also=also)
    assert chosen.applies(KeyError())
    assert chosen.applies(ValueError())
    assert not chosen.applies(OSError())


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"attempts": 0}, ValueError, "attempts must be a whole number of at least 1"),
        ({"attempts": 1.5}, TypeError, "attempts .*1.5"),
        ({"attempts": True}, TypeError, "attempts"),
        ({"backoff": -1}, ValueError, "backoff .*-1"),
        ({"backoff": float("nan")}, ValueError, "backoff"),
        ({"cap": float("inf")}, ValueError, "cap"),
        ({"cap": "1"}, TypeError, "cap must be seconds"),
        ({"on": "OSError"}, TypeError, "on must be exception types"),
        ({"also": (OSError, 1)}, TypeError, "also must be exception types"),
        ({"on": int}, TypeError, "on must be exception types"),
        ({"on": (OSError, 1)}, TypeError, "on must be exception types"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Retry(**wrong)


def test_a_policy_shows_itself() -> None:
    assert repr(Retry(3)) == "Retry(attempts=3, backoff=0.05, cap=5.0, on=None, also=None)"
