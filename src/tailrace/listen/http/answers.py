"""Answers: outcomes and refusals as status, body and headers.

A body is text (``OK: foo``, ``aborted: bar``), or JSON if the client sends
``Accept: application/json``. It never quotes an exception: a client learns only the reasons that
the program gives (`abort`, `reject`, `Outage`, ``fail("a text")``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from tailrace.errors import Outage
from tailrace.listen.http.decode import NDJSON
from tailrace.listen.http.request import Refusal
from tailrace.listen.http.text import as_json, as_text, safe_str, to_utf8
from tailrace.message import Outcome

__all__ = ["Answer", "NotTakenError", "Show", "of_outcome", "of_refusal", "report"]

TEXT: Final = b"text/plain; charset=utf-8"
JSON: Final = b"application/json"
LINES: Final = NDJSON.encode()
RETRY: Final = ((b"retry-after", b"1"),)

Show: TypeAlias = Literal["data", "id", "empty"]
"""The body of the answer when a message is stored or aborted: see `HttpServer.listen`."""
LONGEST_REASON: Final = 200  # characters, in the report of one line among many
_LINE_REFUSAL: Final = b'{"line":%d,"code":%d,"status":"%b","reason":%b}'

_WORDS: Final = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    408: "too slow",
    413: "too large",
    414: "too large",
    415: "unsupported",
    417: "unsupported",
    422: "rejected",
    431: "too large",
    500: "failed",
    503: "unavailable",
    504: "timed out",
}


class NotTakenError(Exception):
    """No channel took the message. Its client is answered 503, and may try again."""


@dataclass(slots=True, eq=False, repr=False)
class Answer:
    """An answer: `status`, `body`, its content type `kind`, and further `headers`."""

    status: int
    body: bytes
    kind: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"


def of_refusal(refusal: Refusal, json: bool) -> Answer:
    """The answer to a request that makes no message."""
    status, reason = refusal.status, refusal.reason
    headers = RETRY if status == 503 and not refusal.headers else refusal.headers
    word = _WORDS.get(status, "refused")
    if json:
        return Answer(status, as_json({"status": word, "reason": reason}), JSON, headers)
    return Answer(status, to_utf8(f"{word}: {reason}"), TEXT, headers)


def of_outcome(outcome: Outcome, data: object, id: str, json: bool, show: Show) -> Answer:
    """The answer to a request that made one message, which had this data."""
    if outcome.status == "stored" and show == "data" and not json:  # the hot path
        value = data if outcome.result is None else outcome.result
        return Answer(200, b"OK: " + as_text(value))
    if show != "data" and outcome.status in ("stored", "aborted"):
        return _brief(outcome, id, json, show)
    if outcome.status == "aborted" and not json:
        return Answer(200, b"aborted: " + as_text(data))
    status, report = _of_status(outcome)
    headers = RETRY if status == 503 else ()
    if not json:
        return Answer(status, to_utf8(f"{report['status']}: {report['reason']}"), TEXT, headers)
    report["id"] = id
    if status == 200:
        report.setdefault("result", data)
    return Answer(status, as_json(report), JSON, headers)


def _brief(outcome: Outcome, id: str, json: bool, show: Show) -> Answer:
    """The answer of success without data and result."""
    if show == "empty":
        return Answer(200, b"" if outcome.status == "stored" else b"aborted")
    if not json:
        return Answer(200, to_utf8(f"{'OK' if outcome.status == 'stored' else 'aborted'}: {id}"))
    _, report = _of_status(outcome)
    report.pop("result", None)
    return Answer(200, as_json({**report, "id": id}), JSON)


def line_report(number: int, outcome: Outcome, id: str, brief: bool) -> tuple[int, bytes]:
    """Status and report of the message of one line; `brief` leaves the result out."""
    status, report = _of_status(outcome)
    if "reason" in report:
        report["reason"] = _cut(report["reason"])
    elif brief:
        report.pop("result", None)
    return status, as_json({"line": number, "code": status, "id": id, **report})


def line_refusal(number: int, refusal: Refusal) -> tuple[int, bytes]:
    """Status and report of a line whose message was not made, or not settled in time."""
    status = refusal.status
    word, reason = _WORDS.get(status, "refused"), as_json(_cut(refusal.reason))
    return status, _LINE_REFUSAL % (number, status, word.encode(), reason)


def report(statuses: set[int], lines: list[bytes]) -> Answer:
    """The answer to a request of many lines: their common status, or 207, and a line for each."""
    status = min(statuses) if len(statuses) == 1 else 207
    lines.append(b"")
    return Answer(status, b"\n".join(lines), LINES, RETRY if status == 503 else ())


def _reason_of(outage: object) -> str:
    """The reason that the program gives. `str(outage)` may have the text of another error."""
    try:
        return safe_str(cast(Outage, outage).reason)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a property of user code
        return safe_str(Outage.reason)


def _cut(reason: str) -> str:
    """A reason cut to LONGEST_REASON: it may quote the line, and there may be many lines."""
    return reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + "…"


def _of_status(outcome: Outcome) -> tuple[int, dict[str, Any]]:
    """The status of an outcome, and its report as a dictionary."""
    match outcome.status:
        case "stored":
            stored: dict[str, Any] = {"status": "stored"}
            if outcome.result is not None:
                stored["result"] = outcome.result
            return 200, stored
        case "aborted":
            return 200, {"status": "aborted", "reason": safe_str(outcome.reason)}
        case "rejected":
            return 422, {"status": "rejected", "reason": safe_str(outcome.reason)}
        case "dead":
            kept = "it could not be handled, and is kept as a dead letter"
            return 202, {
                "status": "dead",
                "reason": safe_str(outcome.reason) if outcome.error is None else kept,
            }
        case "lost":
            return 500, {"status": "lost", "reason": "the program dropped the message"}
        case "failed":
            pass
    if outcome.error is None:
        reason = safe_str(outcome.reason)
        if reason == "overflow":  # a channel that sheds load
            return 503, {"status": "unavailable", "reason": reason}
        return 500, {"status": "failed", "reason": reason}
    kind = type(outcome.error)
    if issubclass(kind, NotTakenError):
        return 503, {"status": "unavailable", "reason": safe_str(outcome.error)}
    if issubclass(kind, Outage):
        return 503, {"status": "unavailable", "reason": _reason_of(outcome.error)}
    return 500, {"status": "failed", "reason": "an internal error"}
