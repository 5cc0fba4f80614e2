"""A note on an exception of any class: there, or in the log; never another exception."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import dataclass

import pytest

from tailrace.usercode import add_note, clear_frames, describe, log_error


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class RefusesNotes(Exception):
    def add_note(self, note: str, /) -> None:
        raise PermissionError(note)


class RefusesAttributes(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class NotesAreText(Exception):
    __notes__ = "of another library"  # type: ignore[assignment]


class NotesRaise(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("no notes yet")


class Speechless(RefusesNotes):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


REFUSING = [
    Frozen(3),
    RefusesNotes("x"),
    RefusesAttributes("x"),
    NotesAreText("x"),
    NotesRaise("x"),
    Speechless("x"),
]


@pytest.mark.parametrize("error", REFUSING, ids=lambda error: type(error).__name__)
def test_a_note_that_is_refused_is_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="tailrace"):
        add_note(error, "in actor 'a'")

    assert caplog.messages == [f"{describe(error)}: in actor 'a'"]


def test_a_note_is_added_once() -> None:
    error = ValueError("x")

    add_note(error, "first")
    add_note(error, "second")
    add_note(error, "first")

    assert error.__notes__ == ["first", "second"]


def test_a_note_does_not_swallow_what_ends_the_process() -> None:
    class Exits(Exception):
        def add_note(self, note: str, /) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        add_note(Exits(), "x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (Speechless(), "Speechless: (its __str__ failed)"),
    ],
)
def test_an_exception_is_described_in_one_line(error: BaseException, words: str) -> None:
    assert describe(error) == words


class Untrue(Exception):
    def __bool__(self) -> bool:
        raise ValueError("neither")


def test_an_error_that_cannot_be_logged_is_named_by_its_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_error(logging.getLogger("tailrace"), "%s failed", "a", error=Untrue())

    assert caplog.messages == ["a failed: Untrue"]


@pytest.mark.parametrize("error", [None, ValueError("x")])
def test_a_log_filter_that_raises_is_no_reason_to_raise(error: BaseException | None) -> None:
    def exits(record: logging.LogRecord) -> bool:
        raise SystemExit(3)

    log = logging.getLogger("tailrace")
    log.addFilter(exits)
    try:
        log_error(log, "%s failed", "a", error=error)
    finally:
        log.removeFilter(exits)


class Held:
    """Something that a function has in hand when it raises."""


def fails(held: list[weakref.ref[Held]], cause: BaseException | None = None) -> BaseException:
    """An exception whose traceback holds a `Held`."""

    def fail() -> None:
        in_hand = Held()
        held.append(weakref.ref(in_hand))
        raise Speechless("x") from cause

    with pytest.raises(Speechless) as caught:
        fail()
    return caught.value


def test_what_the_functions_had_in_hand_is_released_although_the_exception_is_kept() -> None:
    held: list[weakref.ref[Held]] = []
    cause = fails(held)
    context = fails(held, cause)
    context.__context__ = fails(held)
    group = BaseExceptionGroup("two", [context, fails(held)])
    gc.collect()
    assert len(held) == 4
    assert all(ref() for ref in held)
    gc.disable()
    try:
        clear_frames(group)
        assert not any(ref() for ref in held)
    finally:
        gc.enable()


def test_a_circle_of_exceptions_ends() -> None:
    held: list[weakref.ref[Held]] = []
    first = fails(held)
    first.__cause__ = fails(held, first)
    clear_frames(first)
    assert not any(ref() for ref in held)
