"""Which columns a type has, and what its values become on their way there."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import attrs
import msgspec
import pydantic
import pytest

from tailrace.store.columns import Layout
from tailrace.store.columns import layout_of as layout_for
from tailrace.store.sqlite.values import SQLITE

Celsius = NewType("Celsius", float)
T = TypeVar("T")


def layout_of(row_type: Any) -> Layout:
    return layout_for(row_type, SQLITE)


def values_of(layout: Layout, row: Any) -> list[Any]:
    """The values of one row."""
    return [value for (value,) in layout.values([row])]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    WORD = "word"


@dataclass
class Inner:
    when: datetime.date
    tags: set[str] = field(default_factory=set)


class Point(msgspec.Struct, tag="point"):
    x: int
    y: int


UTC = datetime.timezone.utc  # noqa: UP017  # datetime.UTC means nothing to get_type_hints on 3.11
MOMENT = datetime.datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
SOME_ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("hint", "sql_type", "value", "stored"),
    [
        (str, "TEXT", "☆", "☆"),
        (int, "INTEGER", -5, -5),
        (bool, "INTEGER", True, 1),
        (float, "REAL", 1.5, 1.5),
        (float, "REAL", 2, 2.0),
        (float, "REAL", math.inf, math.inf),
        (bytes, "BLOB", b"\0\xff", b"\0\xff"),
        (datetime.datetime, "TEXT", MOMENT, "2026-11-23T12:30:00+00:00"),
        (datetime.date, "TEXT", MOMENT.date(), "2026-11-23"),
        (datetime.time, "TEXT", MOMENT.time(), "12:30:00"),
        (datetime.timedelta, "INTEGER", datetime.timedelta(minutes=1), 60_000_000),
        (decimal.Decimal, "TEXT", decimal.Decimal("1.10"), "1.1"),
        (uuid.UUID, "TEXT", SOME_ID, str(SOME_ID)),
        (Colour, "TEXT", Colour.RED, "red"),
        (Level, "INTEGER", Level.HIGH, 2),
        (Mixed, "TEXT", Mixed.ONE, "1"),
        (Mixed, "TEXT", Mixed.WORD, '"word"'),
        (Literal["a", "b"], "TEXT", "a", "a"),
        (Literal[1, 2], "INTEGER", 1, 1),
        (Literal[1, "b"], "TEXT", "b", '"b"'),
        (Celsius, "REAL", 20.5, 20.5),
        (Annotated[int, "meta"], "INTEGER", 1, 1),
        (dict[str, int], "TEXT", {"a": 1}, '{"a":1}'),
        (list[str], "TEXT", ["☆"], '["☆"]'),
        (tuple[int, ...], "TEXT", (1, 2), "[1,2]"),
        (int | str, "TEXT", "a", '"a"'),
        (Mapping[str, Any], "TEXT", {"a": None}, '{"a":null}'),
    ],
)
def test_a_single_value_is_the_column_data(
    hint: Any, sql_type: str, value: object, stored: object
) -> None:
    layout = layout_of(hint)
    (column,) = layout.columns
    assert (column.name, column.sql_type, column.nullable) == ("data", sql_type, False)
    (found,) = values_of(layout, value)
    assert found == stored
    assert type(found) is type(stored)  # exactly: a driver asks a subclass how to store it


@dataclass
class Order:
    number: int
    customer: str
    price: float | None
    note: Annotated[str | None, "free text"]
    inner: Inner
    point: Point | None
    anything: Any


def test_a_dataclass_has_a_column_for_each_field() -> None:
    layout = layout_of(Order)
    assert layout.row_type == "Order"
    assert [(c.name, c.sql_type, c.nullable) for c in layout.columns] == [
        ("number", "INTEGER", False),
        ("customer", "TEXT", False),
        ("price", "REAL", True),
        ("note", "TEXT", True),
        ("inner", "TEXT", False),
        ("point", "TEXT", True),
        ("anything", "TEXT", True),
    ]
    inner = Inner(MOMENT.date(), {"a"})
    values = values_of(layout, Order(1, "Jónsi", None, "n", inner, Point(1, 2), [MOMENT, SOME_ID]))
    assert list(values) == [
        1,
        "Jónsi",
        None,
        "n",
        '{"tags":["a"],"when":"2026-11-23"}',
        '{"type":"point","x":1,"y":2}',
        f'["2026-11-23T12:30:00+00:00","{SOME_ID}"]',
    ]
    assert values_of(layout, Order(1, "a", 2, None, inner, None, None))[2:] == [
        2.0,
        None,
        '{"tags":["a"],"when":"2026-11-23"}',
        None,
        None,
    ]


class Pair(NamedTuple):
    left: str
    right: int


class Event(msgspec.Struct, rename="camel"):
    event_name: str
    count: int = 0


class Base(TypedDict):
    name: str


class Reading(Base, total=False):
    value: Required[float]
    unit: str


class Late(TypedDict):
    name: str
    unit: NotRequired[str]


@dataclass
class Box(Generic[T]):
    content: T
    label: Final[str] = ""  # type: ignore[misc]  # Final in a dataclass is a field all the same


@pytest.mark.parametrize(
    ("row_type", "row", "names", "values"),
    [
        (Pair, Pair("a", 1), ["left", "right"], ["a", 1]),
        (Event, Event("a", 1), ["event_name", "count"], ["a", 1]),
        (Reading, {"name": "a", "value": 1.0}, ["name", "value", "unit"], ["a", 1.0, None]),
        (Reading, {"name": "a", "value": 1, "unit": "K"}, ["name", "value", "unit"], ["a", 1, "K"]),
        (Late, {"name": "a"}, ["name", "unit"], ["a", None]),
        (Box[int], Box(5, "b"), ["content", "label"], ["5", "b"]),
    ],
)
def test_each_kind_of_class_with_fields(
    row_type: Any, row: object, names: list[str], values: list[object]
) -> None:
    layout = layout_of(row_type)
    assert [column.name for column in layout.columns] == names
    assert values_of(layout, row) == values


def test_only_what_may_be_left_out_may_be_null() -> None:
    assert {c.name: c.nullable for c in layout_of(Reading).columns} == {
        "name": False,
        "value": False,
        "unit": True,
    }
    assert [c.nullable for c in layout_of(Late).columns] == [False, True]


@pytest.mark.parametrize(
    ("hint", "value", "error", "says"),
    [
        (str, 5, TypeError, "str: expected str, not int"),
        (str, None, TypeError, "expected str, not NoneType"),
        (int, "5", TypeError, "expected int, not str"),
        (int, 5.0, TypeError, "expected int, not float"),
        (float, "5", TypeError, "expected float, not str"),
        (float, math.nan, ValueError, "SQL has no NaN"),
        (bytes, "5", TypeError, "expected bytes, not str"),
        (datetime.datetime, datetime.date(2026, 1, 2), TypeError, "expected datetime, not date"),
        (datetime.date, datetime.datetime(2026, 1, 2), TypeError, "expected date, not datetime"),
        (datetime.date, datetime.time(), TypeError, "expected date, not time"),
        (datetime.time, datetime.date(2026, 1, 2), TypeError, "expected time, not date"),
        (datetime.timedelta, 5, TypeError, "expected timedelta, not int"),
        (decimal.Decimal, "5", TypeError, "expected Decimal, not str"),
        (uuid.UUID, "5", TypeError, "expected UUID, not str"),
        (Colour, "red", TypeError, "expected Colour, not str"),
        (dict[str, Any], [1], TypeError, "expected dict, not list"),
        (dict[str, Any], {"a": object()}, TypeError, "object has no JSON form"),
        (dict[str, Any], {"a": math.nan}, ValueError, "not JSON compliant"),
        (Order, {"number": 1}, TypeError, "expected Order, not dict"),
        (Pair, Pair("a", "b"), TypeError, "Pair.right: expected int, not str"),  # type: ignore[arg-type]  # wrong on purpose
        (Reading, {"name": "a"}, TypeError, "Reading: value missing"),
        (Late, {"name": "a", "units": "K"}, TypeError, "Late has no units"),
        (Late, ["name"], TypeError, "expected Late, not list"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_shown(
    hint: Any, value: object, error: type[Exception], says: str
) -> None:
    layout = layout_of(hint)
    with pytest.raises(error, match=says):
        values_of(layout, value)


class Plain:
    pass


@dataclass
class Empty:
    pass


@dataclass
class WithPlain:
    name: str
    thing: Plain


@dataclass
class Unknown:
    thing: NotThere  # type: ignore[name-defined]  # noqa: F821  # wrong on purpose


@pytest.mark.parametrize(
    ("row_type", "says"),
    [
        (Plain, "Plain: no column for Plain; there is one for str, int"),
        (WithPlain, "WithPlain.thing: no column for Plain"),
        (Empty, "Empty has no fields"),
        (Unknown, "cannot read the field types of Unknown: name 'NotThere' is not defined"),
        (str | None, "rows of str | None cannot be stored"),
    ],
)
def test_a_type_that_has_no_columns_says_why(row_type: Any, says: str) -> None:
    with pytest.raises(TypeError) as raised:
        layout_of(row_type)
    assert says in str(raised.value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is of 3.12")
def test_an_alias_is_what_it_stands_for() -> None:
    names: dict[str, Any] = {}
    exec("type Name = str", names)
    assert layout_of(names["Name"]).columns[0].sql_type == "TEXT"
    assert values_of(layout_of(names["Name"]), "a") == ["a"]


@dataclass
class WithPlainOnes:
    name: str
    thing: list[Plain]


@pytest.mark.parametrize(
    "hint",
    [
        Plain,
        complex,
        list[Plain],
        dict[str, Plain],
        tuple[int, Plain],
        set[complex],
        list[WithPlainOnes],
        Plain | complex,
        Callable[[], int],
        list[Callable[[], int]],
        Iterator[int],
    ],
)
def test_a_type_none_of_whose_values_could_be_stored_is_refused(hint: Any) -> None:
    with pytest.raises(TypeError, match="no column for"):
        layout_of(hint)


@pytest.mark.parametrize(
    "hint",
    [
        list[Plain | None],
        int | Plain,
        dict[str, Any],
        list[Inner],
        list["Inner"],
        Sequence[object],
        list[Colour],
        dict[uuid.UUID, datetime.date],
        list[bytearray],
    ],
)
def test_a_type_some_of_whose_values_can_be_stored_has_a_column(hint: Any) -> None:
    assert len(layout_of(hint).columns) == 1


@dataclass
class Tree:
    children: list[Tree]


def test_a_type_that_refers_to_itself_has_columns() -> None:
    (values,) = values_of(layout_of(Tree), Tree([Tree([])]))
    assert values == '[{"children":[]}]'


@attrs.define
class Parcel:
    number: int
    _weight: float = 1.5
    inner: Inner | None = None


@attrs.frozen
class Labelled(Parcel):
    label: str = "fragile"


@attrs.define
class Crate:
    parcels: list[Parcel]


class Address(pydantic.BaseModel):
    street: str
    zip_code: str = pydantic.Field(alias="zipCode")
    tags: set[str] = set()


class Customer(pydantic.BaseModel):
    number: pydantic.PositiveInt
    born: datetime.date | None
    since: pydantic.AwareDatetime
    until: pydantic.NaiveDatetime | None = None
    address: Address
    known: dict[str, decimal.Decimal] = {}


class Open(pydantic.BaseModel, extra="allow"):
    name: str


class Directory(pydantic.BaseModel):
    customers: list[LaterDefined]


class LaterDefined(pydantic.BaseModel):
    name: str


def test_an_attrs_class_has_a_column_for_each_attribute() -> None:
    layout = layout_of(Labelled)
    assert [(c.name, c.sql_type, c.nullable) for c in layout.columns] == [
        ("number", "INTEGER", False),
        ("_weight", "REAL", False),
        ("inner", "TEXT", True),
        ("label", "TEXT", False),
    ]
    inner = Inner(MOMENT.date(), {"b", "a"})
    assert values_of(layout, Labelled(1, 2.0, inner, "heavy")) == [
        1,
        2.0,
        '{"tags":["a","b"],"when":"2026-11-23"}',
        "heavy",
    ]
    with pytest.raises(TypeError, match="expected Labelled, not Parcel"):
        values_of(layout, Parcel(1))


def test_attrs_objects_within_a_row_become_json() -> None:
    (value,) = values_of(layout_of(Crate), Crate([Parcel(1), Parcel(2, 3.5)]))
    assert value == (
        '[{"_weight":1.5,"inner":null,"number":1},{"_weight":3.5,"inner":null,"number":2}]'
    )


def test_a_pydantic_model_has_a_column_for_each_field() -> None:
    layout = layout_of(Customer)
    assert [(c.name, c.sql_type, c.nullable) for c in layout.columns] == [
        ("number", "INTEGER", False),
        ("born", "TEXT", True),
        ("since", "TEXT", False),
        ("until", "TEXT", True),
        ("address", "TEXT", False),
        ("known", "TEXT", False),
    ]
    customer = Customer(
        number=1,
        born=None,
        since=MOMENT.astimezone(datetime.timezone(datetime.timedelta(hours=2))),
        address=Address(street="a", zipCode="1", tags={"y", "x"}),
        known={"b": decimal.Decimal("1.10")},
    )
    assert values_of(layout, customer) == [
        1,
        None,
        "2026-11-23T12:30:00+00:00",
        None,
        '{"street":"a","tags":["x","y"],"zipCode":"1"}',
        '{"b":"1.1"}',
    ]


def test_a_row_of_a_pydantic_model_is_checked_as_it_is_now() -> None:
    customer = Customer.model_validate(
        {"number": 1, "born": None, "since": MOMENT, "address": {"street": "a", "zipCode": "1"}}
    )
    customer.number = "1"  # type: ignore[assignment]  # pydantic does not validate this
    with pytest.raises(TypeError, match=r"Customer\.number: expected int, not str"):
        values_of(layout_of(Customer), customer)


def test_fields_that_a_pydantic_model_does_not_name_are_refused_and_not_lost() -> None:
    layout = layout_of(Open)
    assert values_of(layout, Open(name="a")) == ["a"]
    with pytest.raises(TypeError, match="Open has no note, size: it would not be stored"):
        values_of(layout, Open.model_validate({"name": "a", "size": 1, "note": "b"}))


def test_a_pydantic_model_may_refer_to_a_later_one() -> None:
    (value,) = values_of(layout_of(Directory), Directory(customers=[LaterDefined(name="a")]))
    assert value == '[{"name":"a"}]'


def test_a_pydantic_type_without_a_column_is_refused() -> None:
    class Page(pydantic.BaseModel):
        url: pydantic.HttpUrl

    with pytest.raises(TypeError, match=r"Page\.url: no column for HttpUrl"):
        layout_of(Page)


@pytest.mark.parametrize(
    ("hint", "plain", "odd"),
    [
        (str, ["a", "", "é"], ["\0", "\ud800"]),
        (int, [1, -(2**63), 2**63 - 1], [2**63, -(2**63) - 1]),
        (float, [1.5, -0.0, math.inf], [math.nan]),
    ],
)
def test_the_values_of_many_rows_are_converted_as_those_of_one(
    hint: Any, plain: list[Any], odd: list[Any]
) -> None:
    layout = layout_of(hint)
    one_by_one = [values_of(layout, value)[0] for value in plain]
    for rows in (plain, plain[:2], plain[:1]):
        assert layout.values(rows) == [one_by_one[: len(rows)]]
    for value in odd:
        with pytest.raises(ValueError, match=r"cannot be stored|NaN"):
            layout.values([*plain, value])


class Word(str):
    """A str that is more."""

    __slots__ = ()


def test_instances_of_subclasses_among_plain_values_become_plain() -> None:
    (texts,) = layout_of(str).values(["a", Word("b")])
    (numbers,) = layout_of(int).values([1, True, Level.HIGH])
    (reals,) = layout_of(float).values([1.5, 2])
    assert list(map(type, [*texts, *numbers, *reals])) == [str] * 2 + [int] * 3 + [float] * 2
    with pytest.raises(TypeError, match="expected Word, not str"):
        layout_of(Word).values(["a", "b"])
