"""The two cores are twins: what one shows by name, signature or docstring, the other shows."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

from tailrace._core import native, python

# What a parked operation of the native core is asked for by the task that awaits it: it is just
# enough of a future itself, where the Python core has a waiter for that.
FUTURE = {
    *("add_done_callback", "cancel", "cancelled", "close", "done", "get_loop", "result", "throw"),
}

# How operations of the Python core are driven; of the native core that is C.
DRIVING = {
    *("attempt", "closed_error", "enqueue", "forget_waiter", "gives_back", "most", "now"),
    *("priority", "queued", "selectable", "simple_value", "ticket", "timeout", "undo", "used"),
    *("value", "values", "waiter", "watch", "watches", "withdraw"),
}

MADE_BY_ITSELF = ("RecvMany", "Select", "SendMany")
"""Operations, which only a channel or `select` makes."""

NAMES = sorted(python.__all__)
CLASSES = [name for name in NAMES if isinstance(getattr(python, name), type)]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(python, name))]


@pytest.fixture(scope="module")
def core() -> ModuleType:
    return native


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any]]:
    """Names and defaults, but not whether a plain one may also be given by name."""
    given = inspect.signature(function).parameters.values()
    return [(each.name, each.default) for each in given]


def described(member: Any) -> str | None:
    """Its docstring, if it has one of its own rather than its type's."""
    return inspect.getdoc(member) if callable(member) or inspect.isdatadescriptor(member) else None


def members() -> list[tuple[str, str]]:
    return [
        (kind, name)
        for kind in CLASSES
        for name in sorted(public(getattr(python, kind)) & public(getattr(native, kind)))
    ]


def test_both_cores_have_the_same_names() -> None:
    assert sorted(native.__all__) == NAMES


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_same_public_names_in_both_cores(name: str) -> None:
    ours, theirs = getattr(python, name), getattr(native, name)
    drives, parks = (DRIVING, FUTURE) if name in MADE_BY_ITSELF else (set[str](), set[str]())
    assert public(ours) - public(theirs) - drives == set()
    assert public(theirs) - public(ours) - parks == set()


PRIMITIVES = {
    "Channel": ("_cause", "_close", "_counts", "_ends", "_values"),
    "SendMany": ("_attempt", "_begin", "_claim", "_give_up", "_wake", "take_value"),
    "RecvMany": ("_attempt", "_begin", "_claim", "_give_up", "_wake", "take_value"),
}


@pytest.mark.parametrize("twin", [python, native])
@pytest.mark.parametrize("kind", PRIMITIVES)
def test_a_core_has_the_primitives_on_which_the_shared_half_stands(
    kind: str, twin: ModuleType
) -> None:
    for name in PRIMITIVES[kind]:
        assert (
            hasattr(twin.Channel[int](), name)
            if kind == "Channel"
            else hasattr(getattr(twin, kind), name)
        )


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_described_alike_in_both_cores(name: str) -> None:
    assert inspect.getdoc(getattr(native, name)) == inspect.getdoc(getattr(python, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_the_same_parameters_in_both_cores(name: str) -> None:
    assert shape(getattr(native, name)) == shape(getattr(python, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_described_alike_in_both_cores(name: str) -> None:
    assert inspect.getdoc(getattr(native, name)) == inspect.getdoc(getattr(python, name))


def test_a_channel_is_made_of_the_same_parameters_in_both_cores() -> None:
    assert shape(native.Channel) == shape(python.Channel)


@pytest.mark.parametrize(("kind", "name"), members())
def test_a_member_is_alike_in_both_cores(kind: str, name: str) -> None:
    ours: Any = inspect.getattr_static(getattr(python, kind), name)
    theirs: Any = inspect.getattr_static(getattr(native, kind), name)
    assert callable(ours) == callable(theirs)
    if callable(ours):
        assert shape(theirs) == shape(ours)
    if described(ours) is not None and not inspect.ismemberdescriptor(ours):
        assert described(theirs) == described(ours)
