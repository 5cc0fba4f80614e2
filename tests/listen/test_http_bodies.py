"""What requests carry, in every form that is read, and each way in which that can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import quote, quote_plus, unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import Message, Receiver
from tailrace.listen import HttpServer, listen_http
from tailrace.listen.http.decode import Decoder
from tailrace.listen.http.lines import split_lines
from tailrace.listen.http.request import Refusal, Request

ANY = "127.0.0.1:0"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass
class Point:
    x: int
    y: int = 0


class Event(msgspec.Struct):
    name: str
    n: int = 1


class Row(TypedDict):
    name: str


async def echo(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack(repr(message.data))


def request(
    query: bytes = b"", body: bytes = b"", content_type: str | None = None, **fields: str
) -> Request:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    if content_type is not None:
        raw[b"content-type"] = content_type.encode()
    made = Request("POST" if body else "GET", "/incoming", query, raw)
    made.body = body
    return made


def one(decoder: Decoder[Any], made: Request) -> Any:
    return decoder.decode(decoder.extract(decoder.media(made), made))


def decoded(kind: Any, made: Request, param: str = "data") -> Any:
    decoder: Decoder[Any] = Decoder(kind, param)
    return one(decoder, made)


def refused(kind: Any, made: Request) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        decoded(kind, made)
    return caught.value.status, caught.value.reason


@given(st.text())
def test_any_text_comes_through_query_and_form_as_it_was(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    for quoted in (quote(text, safe=""), quote_plus(text)):
        pair = f"x=1&data={quoted}&y=data".encode()
        assert decoded(str, request(query=pair)) == text
        assert decoded(str, request(body=pair or b"&", content_type=FORM)) == text


@given(st.text())
def test_any_text_comes_through_json_as_it_was(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    plain, wrapped = json.dumps(text).encode(), json.dumps({"data": text}).encode()
    assert decoded(str, request(body=plain, content_type=JSON)) == text
    assert decoded(str, request(body=wrapped, content_type=JSON)) == text


@given(
    st.binary(min_size=1, max_size=200),
    st.sampled_from([FORM, JSON, "multipart/form-data; boundary=b", "multipart/form-data", NDJSON]),
    st.sampled_from([str, int, dict, Event, Any]),
)
def test_bytes_of_any_kind_are_decoded_or_refused(body: bytes, kind: str, into: Any) -> None:
    decoder: Decoder[Any] = Decoder(into, "data")
    statuses: list[int] = []
    for made in (request(body=body, content_type=kind), request(query=body)):
        media = decoder.media(made)
        try:
            if media == NDJSON:
                for _, line in split_lines(made.body):
                    decoder.decode(line)
            else:
                decoder.decode(decoder.extract(media, made))
        except Refusal as no:
            statuses.append(no.status)
    assert set(statuses) <= {400, 415, 422}


@pytest.mark.parametrize(
    ("kind", "query", "expected"),
    [
        (int, b"data=7", 7),
        (float, b"data=0.5", 0.5),
        (bool, b"data=true", True),
        (int | None, b"data=3", 3),
        (dict, b"data=%7B%22a%22%3A1%7D", {"a": 1}),
        (list[int], b"data=[1,2]", [1, 2]),
        (Point, b'data={"x":1}', Point(1)),
        (Event, b'data={"name":"a","n":2}', Event("a", 2)),
        (Row, b'data={"name":"a"}', {"name": "a"}),
        (Any, b"data=1", "1"),
    ],
)
def test_a_field_is_read_as_the_listeners_type(kind: Any, query: bytes, expected: object) -> None:
    assert decoded(kind, request(query=query)) == expected


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (str, b'"foo"', "foo"),
        (str, b' {"data": "foo", "more": 1}', "foo"),
        (int, b"7", 7),
        (int, b'{"data": 7}', 7),
        (dict, b'{"data": 7}', {"data": 7}),
        (dict[str, int], b'{"a": 7}', {"a": 7}),
        (Point, b'{"x": 1, "y": 2}', Point(1, 2)),
        (Event, b'{"name": "a"}', Event("a")),
        (Row, b'{"name": "a"}', {"name": "a"}),
        (Any, b'{"data": [1]}', {"data": [1]}),
        (object, b"null", None),
    ],
)
def test_json_is_read_as_the_listeners_type(kind: Any, body: bytes, expected: object) -> None:
    assert decoded(kind, request(body=body, content_type=JSON)) == expected
    for content_type in (
        f"{JSON}; charset=UTF-8",
        "Application/JSON; charset=us-ascii",
        "application/vnd.api+json",
        "application/cloudevents+json; charset=utf-8",
    ):
        assert decoded(kind, request(body=body, content_type=content_type)) == expected


@pytest.mark.parametrize(
    ("made", "status", "reason"),
    [
        (request(), 400, "the field 'data' is missing"),
        (request(query=b"date=foo"), 400, "the field 'data' is missing"),
        (request(query=b"data=1&data=2"), 400, "the field 'data' is given 2 times"),
        (request(query=b"data=%zz"), 400, "broken %-escape in '%zz'"),
        (request(query=b"data=%f"), 400, "broken %-escape in '%f'"),
        (request(query=b"data=%ff"), 400, "the data is not UTF-8"),
        (request(query=b"data=\xff"), 400, "the data is not UTF-8"),
        (request(query=b"&" * 1000), 400, "there are more than 1000 fields"),
        (request(body=b"foo"), 415, "the body has no Content-Type"),
        (request(body=b"foo", content_type="text/plain"), 415, "Content-Type 'text/plain' is not"),
        (request(body=b"foo", content_type=""), 415, "Content-Type '' is not"),
        (
            request(body=b"data=x", content_type=f"{FORM}; charset=latin-1"),
            415,
            "charset 'latin-1'",
        ),
        (
            request(body=b"x", content_type=JSON, content_encoding="br"),
            415,
            "Content-Encoding 'br'",
        ),
        (request(body=b'{"a"', content_type=JSON), 400, "the JSON cannot be read"),
        (request(body=b'"\xff"', content_type=JSON), 400, "the JSON cannot be read"),
        (request(body=b'"\\ud800"', content_type=JSON), 400, "the JSON cannot be read"),
        (request(body=b"7", content_type=JSON), 422, "Expected `str`, got `int`"),
        (request(body=b"{}", content_type=JSON), 422, "Object missing required field `data`"),
        (request(body=b"x", content_type="multipart/form-data"), 400, "has no boundary"),
        (
            request(body=b"--b\r\n", content_type="multipart/form-data; boundary=b"),
            400,
            "the multipart form is incomplete",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    made: Request, status: int, reason: str
) -> None:
    found, said = refused(str, made)
    assert (found, reason in said) == (status, True), said


@pytest.mark.parametrize(
    ("kind", "query", "status"),
    [(int, b"data=x", 422), (dict, b"data=foo", 400), (Event, b'data={"n":1}', 422)],
)
def test_a_field_of_the_wrong_type_is_refused(kind: Any, query: bytes, status: int) -> None:
    assert refused(kind, request(query=query))[0] == status


def test_a_decoder_of_json_takes_every_body_for_that_but_one_of_lines() -> None:
    decoder: Decoder[Any] = Decoder(dict, "data", json=True)
    for kind in ("text/plain; charset=UTF-8", FORM, "multipart/form-data", JSON, None, "x/y"):
        made = request(body=b'{"a": 1}', content_type=kind)
        assert one(decoder, made) == {"a": 1}
    made = request(query=b"data={}")
    assert one(decoder, made) == {}
    assert decoder.media(request(body=b"{}", content_type=NDJSON)) == NDJSON
    with pytest.raises(Refusal, match="charset"):
        decoder.media(request(body=b"{}", content_type="text/plain; charset=latin-1"))


@pytest.mark.parametrize("kind", [float, float | None, int | float])
@pytest.mark.parametrize("number", [b"nan", b"-NaN", b"inf", b"-Infinity", b"1e999"])
def test_a_number_that_json_and_databases_cannot_hold_is_refused(kind: Any, number: bytes) -> None:
    assert refused(kind, request(query=b"data=" + number))[0] == 422
    assert refused(kind, request(body=number, content_type=JSON))[0] in (400, 422)
    assert decoded(kind, request(query=b"data=1e-400")) == 0


def test_deeply_nested_json_is_refused() -> None:
    body = b"[" * 50_000
    assert refused(Any, request(body=body, content_type=JSON))[0] == 400


def test_json_of_very_many_arrays_and_objects_is_refused() -> None:
    """Each takes up to forty times its text in memory."""
    for made, kind in (
        (request(body=b"[" + b"[]," * 200_000 + b"[]]", content_type=JSON), Any),
        (request(body=b"[" + b"{}," * 200_000 + b"{}]", content_type=JSON), list),
        (request(body=b"data=[" + b"[]," * 200_000 + b"[]]", content_type=FORM), list),
    ):
        assert refused(kind, made) == (
            413,
            "there are more than 52428 arrays and objects in the JSON",
        )
    brackets = "[" * 200_000
    assert decoded(str, request(body=f"data={brackets}".encode(), content_type=FORM)) == brackets
    many = request(body=b"[" + b"[]," * 52_000 + b"[]]", content_type=JSON)
    assert len(decoded(list, many)) == 52_001


@pytest.mark.parametrize("body", [b"9" * 500_000, b"1e" + b"9" * 500_000, b"-" + b"9" * 500_000])
def test_a_number_that_is_huge_is_refused_or_read_at_once(body: bytes) -> None:
    for made in (request(body=body, content_type=JSON), request(query=b"data=" + body)):
        for kind in (int, float):
            assert refused(kind, made)[0] in (400, 422)


@given(st.binary(max_size=40))
def test_escapes_are_read_as_the_standard_library_does(text: bytes) -> None:
    quoted = quote(text, safe="=\n\r%").replace(" ", "+").encode()
    broken = re.search(rb"%(?![0-9A-Fa-f]{2})", quoted)
    made = request(query=b"data=" + quoted)
    if broken:
        assert refused(str, made)[0] == 400
    else:
        try:
            expected = unquote_to_bytes(quoted.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            assert refused(str, made)[0] == 400
        else:
            assert decoded(str, made) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n\r\nx\r\n" * 1001 + b"--b--\r\n",
        b"--b\r\n" + b"a" * 10_000 + b": x\r\n\r\nx\r\n--b--",
        b"--b\r\n" + b"a: x\r\n" * 40 + b"\r\nx\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="data\r\n\r\nx\r\n--b--',
        b"--b\r\nContent-Disposition: form-data" + b"; a=b" * 40 + b"\r\n\r\nx\r\n--b--",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--",
        b"--bb\r\n\r\nx\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nx',
        b'--b\r\nContent-Disposition: form-data; name="data"',
        b"--b",
        b"nothing of the kind",
    ],
)
def test_a_multipart_form_that_goes_on_or_is_broken_is_refused(body: bytes) -> None:
    made = request(body=body, content_type="multipart/form-data; boundary=b")
    assert refused(str, made)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nfoo\r\n--b--',
        b"preamble\r\n--b\r\ncontent-disposition:form-data;name=data\r\n\r\nfoo\r\n--b--\r\nand",
        b"--b \t\r\nX: y\r\nContent-Disposition: form-data;\r\n name=data\r\n\r\nfoo\r\n--b--",
        b"--b\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=data\r\n\r\nfoo\r\n--b--",
        b"--b\r\n\r\n\r\n--b\r\nContent-Disposition: form-data; name=data\r\n\r\nfoo\r\n--b--",
    ],
)
def test_a_multipart_form_is_read_as_it_may_be_written(body: bytes) -> None:
    made = request(body=body, content_type='Multipart/Form-Data; charset=UTF-8; boundary="b"')
    assert decoded(str, made) == "foo"


@pytest.mark.parametrize(
    "boundary",
    [r'"\b"', r'"b"; boundary=c', r'"b;c"', r'"b\";c\\"', "b;;"],
)
def test_a_boundary_is_read_as_it_may_be_quoted(boundary: str) -> None:
    bare = {r'"b;c"': "b;c", r'"b\";c\\"': 'b";c\\'}.get(boundary, "b")
    body = f"--{bare}\r\nContent-Disposition: form-data; name=data\r\n\r\nfoo\r\n--{bare}--"
    made = request(body=body.encode(), content_type=f"multipart/form-data; boundary={boundary}")
    assert decoded(str, made) == "foo"


@pytest.mark.parametrize("noise", ["a=b;" * 4000, ';"' * 8000, 'a="\\' * 4000, ";" * 16_000])
def test_a_content_type_that_cannot_be_read_is_refused(noise: str) -> None:
    made = request(body=b"x", content_type="multipart/form-data; " + noise)
    assert refused(str, made)[0] == 415


def multipart(*parts: str, end: str = "--b--\r\n") -> Request:
    body = "".join(f"--b\r\n{part}\r\n" for part in parts) + end
    return request(body=body.encode(), content_type='multipart/form-data; boundary="b"')


def test_a_multipart_field_is_read_and_files_are_not_taken_for_it() -> None:
    disposition = 'Content-Disposition: form-data; name="{}"'
    made = multipart(
        f"{disposition.format('other')}; filename=a.txt\r\nContent-Type: text/plain\r\n\r\nno",
        f"{disposition.format('data')}\r\n\r\n☆ foo ☆",
    )
    assert decoded(str, made) == "☆ foo ☆"
    twice = multipart(*[f"{disposition.format('data')}\r\n\r\nfoo"] * 2)
    assert refused(str, twice) == (400, "the field 'data' is given 2 times")


@pytest.mark.parametrize(
    "header",
    [
        "Content-Transfer-Encoding: base64",
        "content-transfer-encoding: Quoted-Printable ",
        "Content-Type: text/plain; charset=ISO-8859-1",
        'Content-Type: text/plain; charset="utf-16le"',
    ],
)
def test_a_multipart_field_in_another_encoding_is_refused_and_not_altered(header: str) -> None:
    made = multipart(f'{header}\r\nContent-Disposition: form-data; name="data"\r\n\r\nZm9v')
    assert refused(str, made)[0] == 415


@pytest.mark.parametrize(
    "header",
    [
        "Content-Transfer-Encoding: 8BIT",
        "Content-Transfer-Encoding: binary",
        "Content-Type: text/plain; charset=UTF-8",
        "Content-Type: application/json",
        "Content-Type:",
    ],
)
def test_a_multipart_field_in_utf_8_is_read_whatever_its_headers_add(header: str) -> None:
    made = multipart(f'{header}\r\nContent-Disposition: form-data; name="data"\r\n\r\n☆ foo')
    assert decoded(str, made) == "☆ foo"


def test_the_encoding_of_a_file_beside_the_field_does_not_matter() -> None:
    made = multipart(
        'Content-Disposition: form-data; name="f"; filename=a\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\nZm9v",
        'Content-Disposition: form-data; name="data"\r\n\r\nfoo',
    )
    assert decoded(str, made) == "foo"


def test_the_field_in_the_body_counts_before_the_one_in_the_query() -> None:
    assert decoded(str, request(b"data=query", b"data=body", FORM)) == "body"
    assert decoded(str, request(b"data=query", b"other=body", FORM)) == "query"


def test_another_field_may_carry_the_data() -> None:
    assert decoded(str, request(query=b"q=foo&data=bar"), param="q") == "foo"
    assert decoded(str, request(query=b"%71=foo"), param="q") == "foo"


def digest(kind: Any, made: Request) -> bytes:
    decoder: Decoder[Any] = Decoder(kind, "data")
    return decoder.digest(decoder.extract(decoder.media(made), made))


def test_data_that_a_client_sends_again_has_the_digest_it_had() -> None:
    one = multipart('Content-Disposition: form-data; name="data"\r\n\r\nfoo')
    other = request(
        body=one.body.replace(b"--b", b"--another"),
        content_type="multipart/form-data; boundary=another",
    )
    text = [one, other, request(query=b"data=foo"), request(query=b"a=b&data=%66oo")]
    text.append(request(body=b"data=foo", content_type=FORM))
    json_ = [
        request(body=b'{"x": 1}', content_type=JSON),
        request(body=b'{"x": 1}\n', content_type=JSON),
        request(query=b'data={"x":%201}'),
    ]

    assert len({digest(str, made) for made in text}) == 1
    assert len({digest(Point, made) for made in json_}) == 1


def test_other_data_has_another_digest() -> None:
    made = [
        request(query=b"data=foo"),
        request(query=b"data=bar"),
        request(query=b'data="foo"'),
        request(body=b'"foo"', content_type=JSON),
        request(body=b'"bar"', content_type=JSON),
    ]
    assert len({digest(str, one) for one in made}) == len(made)


def test_lines_are_numbered_as_an_editor_would() -> None:
    lines = list(split_lines(b"1\r\n\n 2 \nx\n3"))
    assert lines == [(1, b"1"), (3, b"2"), (4, b"x"), (5, b"3")]


@pytest.mark.parametrize("kind", [Message, HttpServer, complex, "no such type"], ids=repr)
def test_a_type_that_cannot_be_decoded_is_said_so_at_once(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"type=.* cannot be decoded"):
        listen_http(ANY, "/incoming", type=kind)


async def test_a_struct_arrives_as_one(serve: Callable[..., Any]) -> None:
    async with serve(listen_http(ANY, "/events", type=Event), echo) as service:
        right = await service.post("/events", b'{"name": "a"}', content_type=JSON)
        wrong = await service.post("/events", b'{"name": 7}', content_type=JSON)

    assert right.text == "OK: Event(name='a', n=1)"
    assert (wrong.status, wrong.text) == (422, "rejected: Expected `str`, got `int` - at `$.name`")


def test_an_interrupt_in_the_code_of_a_type_is_raised() -> None:
    @dataclass
    class Interrupted:
        x: int

        def __post_init__(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(Interrupted, request(body=b'{"x": 1}', content_type=JSON))


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_limits_of_a_multipart_form_are_exact(beyond: int) -> None:
    field = "Content-Disposition: form-data; name=data"
    size = 8 * 1024 - len("\r\n") - len(field) - len("\r\nx: ") - len("\r\n\r\n") + beyond
    cases = [
        multipart(f"{field}\r\nx: {'y' * size}\r\n\r\nfoo"),
        multipart(field + "\r\nx: y" * (31 + beyond) + "\r\n\r\nfoo"),
        multipart(f"{field}\r\n\r\nfoo", *["\r\n"] * (999 + beyond)),
        multipart(f"{field}{'; x=y' * (31 + beyond)}\r\n\r\nfoo"),
    ]
    for made in cases:
        if beyond:
            assert refused(str, made)[0] == 400
        else:
            assert decoded(str, made) == "foo"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, """it must be JSON, like {"data": …}"""),
        (int, """it must be JSON, like {"data": …}"""),
        (Point, "it must be JSON, an object or an array"),
        (list[int], "it must be JSON, an object or an array"),
        (Any, "it must be JSON"),
    ],
)
@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_an_empty_body_is_told_what_it_must_be(kind: Any, expected: str, body: bytes) -> None:
    made = request(body=b"x", content_type=JSON)
    made.body = body
    assert refused(kind, made) == (400, f"the body is empty; {expected}")


def test_an_empty_field_is_told_what_it_must_be() -> None:
    reason = "the field 'data' is empty; it must be JSON, an object or an array"
    assert refused(Point, request(query=b"data=")) == (400, reason)
