"""Numbers that callers give: an error names the argument, its range and the value."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tailrace import (
    Channel,
    Group,
    Hedged,
    Message,
    Retry,
    after,
    amap,
    backend,
    batch,
    each,
    query_all,
    query_some,
    run,
    submit,
    ticker,
    together,
)
from tailrace.arguments import check_count, check_number, check_seconds, check_timeout
from tailrace.gather import Eject
from tailrace.listen import listen_http, read_lines
from tailrace.store import store, store_sqlite

HUGE = 10**400  # an int that no float holds


def test_a_number_in_range_is_given_back_as_it_is() -> None:
    assert check_count("n", 3) == 3
    assert check_count("n", 0, least=0) == 0
    assert check_number("n", 0.5, "a number below 1", lambda x: x < 1) == 0.5
    assert check_seconds("n", 0) == 0
    assert check_seconds("n", 5e-324, positive=True) == 5e-324
    assert check_seconds("n", math.inf, endless=True) == math.inf


def test_a_timeout_may_be_over_already_and_may_have_no_bound() -> None:
    assert check_timeout(None) is None
    assert check_timeout(math.inf) is None
    assert check_timeout(-1) == -1
    assert check_timeout(1e300) == threading.TIMEOUT_MAX


WHOLE = "a whole number of at least 1"
FINITE = "seconds of 0 or more, and finite"


@pytest.mark.parametrize(
    ("check", "error", "text"),
    [
        (lambda: check_count("n", 1.0), TypeError, f"n must be {WHOLE}, not 1.0"),
        (lambda: check_count("n", True), TypeError, f"n must be {WHOLE}, not True"),
        (lambda: check_count("n", 0), ValueError, f"n must be {WHOLE}, not 0"),
        (lambda: check_seconds("n", "1"), TypeError, f"n must be {FINITE}, not '1'"),
        (lambda: check_seconds("n", -0.1), ValueError, f"n must be {FINITE}, not -0.1"),
        (lambda: check_seconds("n", math.inf), ValueError, f"n must be {FINITE}, not inf"),
        (
            lambda: check_seconds("n", 0, positive=True),
            ValueError,
            "n must be seconds above 0, and finite, not 0",
        ),
        (
            lambda: check_seconds("n", math.nan, endless=True),
            ValueError,
            "n must be seconds of 0 or more, not nan",
        ),
        (lambda: check_timeout(math.nan), ValueError, "timeout must be seconds or None, not nan"),
        (lambda: check_timeout(False, "t"), TypeError, "t must be seconds or None, not False"),
    ],
)
def test_an_error_names_the_argument_its_range_and_the_value(
    check: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        check()
    assert str(raised.value) == text


def test_an_int_that_no_float_holds_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="n must be seconds of 0 or more, and finite, not 1000"):
        check_seconds("n", HUGE)


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(TypeError, match="n must be seconds"):
        check_seconds("n", Unshowable())


async def _answer(query: str) -> str:
    return query


def _write(rows: object) -> None:
    pass


async def _query_all(timeout: Any) -> object:
    return await query_all("q", backend(_answer), timeout=timeout)


async def _together(timeout: Any) -> object:
    return await together(_answer("q"), timeout=timeout)


async def _submit(timeout: Any) -> object:
    return await submit(Channel[Message[int]](1, name="a"), 1, timeout=timeout)


async def _group(actors: Any) -> None:
    async with Group() as go:
        try:
            go(_answer, "q", actors=actors)
        except Exception as error:
            refused = error
    raise refused


COUNTS: dict[str, Callable[[Any], object]] = {
    "max_items": lambda n: batch(n),
    "concurrency": lambda n: amap(_answer, [], concurrency=n),
    "attempts": lambda n: Retry(n),
    "max_copies": lambda n: Hedged(backend(_answer), max_copies=n),
    "limit": lambda n: Hedged(backend(_answer), limit=n),
    "failures": lambda n: Eject(failures=n),
    "max_batch": lambda n: store(_write, max_batch=n),
    "in_flight": lambda n: listen_http("127.0.0.1:0", "/", in_flight=n),
    "max_line": lambda n: read_lines("-", max_line=n),
    "first": lambda n: query_some("q", backend(_answer), first=n),
    "actors": _group,
    "n": lambda n: Message(1).split(n),
}
SECONDS: dict[str, Callable[[Any], object]] = {
    "max_seconds": lambda t: batch(1, t),
    "each": lambda t: each(_answer, timeout=t),
    "stall_after": lambda t: Group(stall_after=t),
    "backoff": lambda t: Retry(backoff=t),
    "cap": lambda t: Retry(cap=t),
    "delay": lambda t: Hedged(backend(_answer), delay=t),
    "longest": lambda t: Eject(longest=t),
    "busy_timeout": lambda t: store_sqlite("a.db", busy_timeout=t),
    "listen_http": lambda t: listen_http("127.0.0.1:0", "/", timeout=t),
    "grace": lambda t: run(print, grace=t),
    "after": lambda t: after(t),
    "ticker": lambda t: ticker(t),
    "query_all": _query_all,
    "together": _together,
    "submit": _submit,
    "settled": lambda t: Message(1).settled(t),
}


async def outcome_of(call: Callable[[Any], object], value: object) -> object:
    result = call(value)
    if asyncio.iscoroutine(result):
        return await result
    return result


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    ("value", "error"), [(1.5, TypeError), ("2", TypeError), (True, TypeError), (0, ValueError)]
)
async def test_whole_numbers_are_checked_in_one_way_everywhere(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{name} must be {WHOLE}, not {value!r}"):
        await outcome_of(COUNTS[name], value)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    ("value", "error"), [("2", TypeError), (True, TypeError), (math.nan, ValueError)]
)
async def test_seconds_are_checked_in_one_way_everywhere(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"must be seconds.*, not {value!r}"):
        await outcome_of(SECONDS[name], value)
