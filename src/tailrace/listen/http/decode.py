"""Decode a request's data, from query, form, JSON or NDJSON, and validate it.

Bad content raises `Refusal`: 400 if it cannot be read, 415 if its kind is not supported, 422 if it
does not fit the listener's type, 500 if the type's own code fails. Nothing is guessed or repaired:
a field given twice, a broken escape or a byte that is not UTF-8 is refused, since a guess could
store wrong data.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar, cast

import msgspec
import msgspec.inspect

from tailrace.classes import is_pydantic_model
from tailrace.listen.http.multipart import MAX_FIELDS, multipart_values
from tailrace.listen.http.parameters import check_charset, parameters, quoted
from tailrace.listen.http.request import Refusal, Request
from tailrace.listen.http.text import safe_str

__all__ = ["Decoder", "Media", "compression"]

T = TypeVar("T")

Media = str
"""Where the data of a request is: in a body of one of the four types below, or "" for the query."""

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"
NDJSON = "application/x-ndjson"
_MEDIA = {
    **{kind.encode(): kind for kind in (FORM, MULTIPART, JSON, NDJSON)},
    **dict.fromkeys((b"application/ndjson", b"application/jsonl"), NDJSON),
}

# Arrays and objects take up to forty times the memory of their JSON text.
_FEWEST_CONTAINERS = 10_000  # allowed even where `max_body` is small
_BYTES_A_CONTAINER = 20  # a body may have one array or object for so many bytes of `max_body`

_LONGEST_ERROR = 200  # characters about one field of a pydantic model

# Types whose values are written as JSON in a form field, too. All others are plain text there.
_WRITTEN_AS_JSON = (
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.DictType,
    msgspec.inspect.ListType,
    msgspec.inspect.SetType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.VarTupleType,
    msgspec.inspect.TupleType,
)


class Decoder(Generic[T]):
    """Reads the data of requests as `kind`, from the field `param` or from a JSON body.

    With `json` every body is JSON, whatever its Content-Type, and the query is never data: the
    signature of a webhook covers the body alone.
    """

    def __init__(
        self, kind: Any, param: str, max_body: int = 1024 * 1024, json: bool = False
    ) -> None:
        self._most_containers = max(_FEWEST_CONTAINERS, max_body // _BYTES_A_CONTAINER)
        self._kind = kind
        self._json = json
        self.methods = ("POST",) if json else ("GET", "POST")
        self._param = param.encode()
        self._prefix = self._param + b"="  # of a query that has this field alone
        self._from_text: Callable[[str], Any] | None = None  # decodes a field; None: it is the data
        decode, structured = _json_decoder(kind)
        self._structured = structured
        if structured:
            self._from_text = decode
        elif kind is not str:
            self._from_text = partial(msgspec.convert, type=kind, strict=False)
        whole = structured or kind is Any or kind is object
        self._from_json = decode if whole else _unwrapping(kind, param, decode)
        self._expected = "it must be JSON"
        if structured:
            self._expected += ", an object or an array"
        elif not whole:
            self._expected += f', like {{"{param}": …}}'

    def __repr__(self) -> str:
        return f"<Decoder of {self._kind!r} from {self._param.decode()!r}>"

    def media(self, request: Request) -> Media:
        """Where the head says that the data is. Raises Refusal(415) if it is not supported."""
        fields = request.fields
        if b"content-encoding" in fields and compression(request) is None:
            encoding = fields[b"content-encoding"]
            raise Refusal(
                415,
                f"Content-Encoding {quoted(encoding)} is not supported, only gzip",
                ((b"accept-encoding", b"gzip"),),
            )
        if request.method == "GET":
            return ""
        if b"content-type" not in fields:
            return JSON if self._json else ""
        content_type = fields[b"content-type"]
        known = _MEDIA.get(content_type)
        if known is not None:
            return JSON if self._json and known != NDJSON else known
        read = parameters(content_type)
        kind, options = (b"", {}) if read is None else read
        media = _MEDIA.get(kind)
        if kind.endswith(b"+json") or (self._json and media != NDJSON):
            media = JSON
        if media is None:
            raise Refusal(415, f"Content-Type {quoted(content_type)} is not supported")
        check_charset(options)
        return media

    def extract(self, media: Media, request: Request) -> bytes | str:
        """The data as the client wrote it: JSON as bytes, the value of a field as str."""
        query = request.raw_query
        if not media and not request.body and query.startswith(self._prefix):
            # The hot path: a query that has this field alone.
            raw = query[len(self._prefix) :]
            if b"&" not in raw:
                return _text(_plain(raw))
        if media == JSON:
            return request.body
        found: list[str] = []
        if media == FORM:
            found = _form_values(request.body, self._param)
        elif media == MULTIPART:
            found = _multipart_values(request, self._param)
        elif request.body:
            raise Refusal(415, "the body has no Content-Type")
        if not found:
            found = _form_values(request.raw_query, self._param)
        if len(found) != 1:
            name = self._param.decode()
            many = f"the field {name!r} is given {len(found)} times"
            raise Refusal(400, many if found else f"the field {name!r} is missing")
        return found[0]

    def decode(self, raw: bytes | str) -> T:
        """Decode and validate the data, as `extract` returned it."""
        value: Any
        if len(raw) > _FEWEST_CONTAINERS:
            self._limit_containers(raw)
        if isinstance(raw, bytes):
            value = self._checked(self._from_json, raw)
        elif self._from_text is None:
            value = raw
        else:
            value = self._checked(self._from_text, raw)
            if type(value) is float and not math.isfinite(value):
                # Neither JSON nor databases hold `nan` and `inf`.
                raise Refusal(422, f"{raw[:20]!r} is no finite number")
        return cast("T", value)

    def _checked(self, decode: Callable[[Any], Any], raw: bytes | str) -> Any:
        """What `decode` returns. Raises Refusal for what it raises."""
        try:
            return decode(raw)
        except msgspec.ValidationError as error:
            raise Refusal(422, safe_str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not raw.strip():
                where = "body" if isinstance(raw, bytes) else f"field {self._param.decode()!r}"
                raise Refusal(400, f"the {where} is empty; {self._expected}") from error
            raise Refusal(400, f"the JSON cannot be read: {safe_str(error)}") from error
        # Other errors come from the type's own code (`__post_init__`, an enum, `__hash__`).
        except (ValueError, TypeError) as error:
            raise Refusal(422, safe_str(error)) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Refusal(500, "an internal error") from error

    def _limit_containers(self, raw: bytes | str) -> None:
        """Raise Refusal(413) for JSON whose data would take far more memory than its text."""
        if isinstance(raw, bytes):
            found = raw.count(b"[") + raw.count(b"{")
        elif self._structured:
            found = raw.count("[") + raw.count("{")
        else:
            return  # plain text
        if found > self._most_containers:
            most = self._most_containers
            raise Refusal(413, f"there are more than {most} arrays and objects in the JSON")

    def digest(self, raw: bytes | str) -> bytes:
        """A digest of `raw`. A repeat with the same data has the same digest, in any kind of body.

        A digest of the body would differ: each multipart form has another boundary. A digest of
        the decoded data might differ: a type may add the time.
        """
        if isinstance(raw, bytes):
            encoded = raw.strip()
        elif self._structured:
            encoded = raw.strip().encode()
        else:
            encoded = b"text " + raw.encode()  # the text "7" is not the JSON 7
        return blake2b(encoded, digest_size=16).digest()


def compression(request: Request) -> str | None:
    """The compression of the body: "gzip" or "" (none); None if it is not supported."""
    encoding = request.fields.get(b"content-encoding", b"").strip().lower()
    if encoding in (b"", b"identity"):
        return ""
    return "gzip" if encoding in (b"gzip", b"x-gzip") else None


def _json_decoder(kind: Any) -> tuple[Callable[[Any], Any], bool]:
    """The JSON decoder of `kind`, and whether its values are JSON objects or arrays."""
    if is_pydantic_model(kind):
        return partial(_validated, kind), True
    try:
        decode = msgspec.json.Decoder(kind).decode
        info = msgspec.inspect.type_info(kind)
    except (TypeError, NameError, RuntimeError) as error:
        raise TypeError(f"type={kind!r} cannot be decoded from a request: {error}") from error
    if isinstance(info, msgspec.inspect.CustomType) and kind is not object:
        raise TypeError(
            f"type={kind!r} cannot be decoded from a request: use a dataclass, a TypedDict, a "
            f"msgspec.Struct, dict, or a plain type like str or int"
        )
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return decode, any(isinstance(member, _WRITTEN_AS_JSON) for member in members)


def _validated(model: Any, raw: bytes | str) -> Any:
    """An instance of a pydantic model. ValueError names the fields that do not fit, no values."""
    try:
        return model.model_validate_json(raw)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:  # raised by the model's own code
            raise
        found = errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise msgspec.DecodeError(found[0]["msg"])
    shown = [
        f"{each['msg']} - at `{'.'.join(map(str, ('$', *each['loc'])))}`" for each in found[:3]
    ]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    raise ValueError("; ".join(text[:_LONGEST_ERROR] for text in shown) + more)


def _unwrapping(kind: Any, param: str, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decoder for plain types: of ``"foo"``, or of a form written as ``{"data": "foo"}``."""
    form = msgspec.defstruct("Form", [("value", kind)], rename={"value": param})
    decode_form = msgspec.json.Decoder(form).decode

    def unwrap(body: Any) -> Any:
        if body.lstrip()[:1] == b"{":
            wrapped: Any = decode_form(body)
            return wrapped.value
        return decode(body)

    return unwrap


def _form_values(form: bytes, name: bytes) -> list[str]:
    """All values of the field `name` in an urlencoded form or query."""
    if not form:
        return []
    if form.count(b"&") >= MAX_FIELDS:
        raise Refusal(400, f"there are more than {MAX_FIELDS} fields")
    return [
        _text(_plain(value))
        for key, _, value in [pair.partition(b"=") for pair in form.split(b"&")]
        if key == name or _plain(key) == name
    ]


def _plain(escaped: bytes) -> bytes:
    """Decode the escapes of a form or query."""
    if b"+" in escaped:
        escaped = escaped.replace(b"+", b" ")
    if b"%" not in escaped:
        return escaped
    # Quoted-printable is the same escape with "=" for "%", and Python decodes it in C: 10 ms for a
    # megabyte of escapes, urllib takes 250. Its soft line breaks are not escapes.
    printable = escaped.replace(b"=", b"=3D").replace(b"%", b"=")
    plain = binascii.a2b_qp(printable)
    escapes = printable.count(b"=")
    soft_breaks = b"=\n" in printable or b"=\r" in printable
    if len(printable) - len(plain) != 2 * escapes or soft_breaks:
        raise Refusal(400, f"broken %-escape in {quoted(escaped)}")
    return plain


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the data is not UTF-8: {error}") from None


def _multipart_values(request: Request, name: bytes) -> list[str]:
    """All values of the field `name` in a multipart form."""
    read = parameters(request.fields[b"content-type"])
    boundary = None if read is None else read[1].get(b"boundary")
    if not boundary:
        raise Refusal(400, "the multipart form has no boundary")
    return [_text(value) for value in multipart_values(request.body, boundary, name)]
