"""What a client says again: requests that are understood without being parsed.

Clients repeat themselves. On one connection a request mostly has the head of the one before, byte
for byte, but for its target, and often nothing in that is new but the value of one field. llhttp
reads the same in the same bytes, whatever the target was. So what follows the target of a GET that
came alone in a packet is remembered with what it was read as, and a packet that ends so and begins
with a plain target need not be parsed: that would be a call back into Python for each header and
five more, to fill objects that mostly nobody looks into.

`Head` is what is remembered. `Again` is the exchange of those requests that differ in the value of
the intake's field only: one object for one after the other. It makes the message and says the
commonest answer; whatever is out of the ordinary, it leaves to the general way, which alone knows
how to refuse. (Measured by `benchmarks/listen.py`: a quarter of what the general way costs.)
"""

from __future__ import annotations

import re
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tailrace.listen._decode import field_text
from tailrace.listen._exchange import Exchange
from tailrace.listen._request import Request
from tailrace.listen._turn import Turn
from tailrace.message import Outcome
from tailrace.message.message import message_of
from tailrace.message.outcome import STORED

if TYPE_CHECKING:
    from tailrace.listen._http1 import Connection
    from tailrace.listen._intake import Intake

__all__ = ["Again", "Head"]

LONGEST: Final = 2048  # bytes of a packet that is remembered; each connection may have one
_VERSION: Final = b" HTTP/1.1\r\n"
_BLANK: Final = b"\r\n\r\n"

# What llhttp takes as path and query in all of its modes and versions, and passes on as it is.
_is_target = re.compile(rb"/[!$&-;=?-Z_a-z~%]*").fullmatch
# The same, for one field's value.
_is_value = re.compile(rb"[!$%'-;=?-Z_a-z~]*").fullmatch

# Those that make one request unlike the next, or whose answer has more than one part.
_PECULIAR: Final = (b"idempotency-key", b"expect", b"upgrade")


class Head:
    """The head of a GET without a body, which was parsed; its target may be any."""

    __slots__ = ("end", "fields", "longest")

    def __init__(self, end: bytes, request: Request, longest: int) -> None:
        self.end = end  # what follows the target
        self.fields = MappingProxyType(request.fields)
        self.longest = longest  # bytes of a packet

    @classmethod
    def of(cls, packet: bytes, turn: Turn, max_head: int) -> Head | None:
        """The head of the request of `turn`, if it was all that there is in `packet`."""
        longest = min(LONGEST, max_head)
        if len(packet) > longest or packet.find(_BLANK) != len(packet) - len(_BLANK):
            return None
        request = turn.request
        usual = turn.complete and turn.keep_alive and not turn.old and b"host" in request.fields
        at = packet.find(_VERSION)
        if not usual or at < 0 or not _is_target(packet, 4, at) or packet[:4] != b"GET ":
            return None
        if any(name in request.fields for name in _PECULIAR):
            return None
        return cls(packet[at:], request, longest)

    def read(self, packet: bytes) -> Request | None:
        """The request that `packet` is, if it has this head."""
        end = len(packet) - len(self.end)
        if packet[end:] != self.end or packet[:4] != b"GET " or len(packet) > self.longest:
            return None
        return (
            Request("GET", "", packet[4:end], self.fields) if _is_target(packet, 4, end) else None
        )


class Again(Exchange):
    """The exchanges of one connection, one after the other, for requests which differ in nothing
    but the value of a field.

    It is used again only when its message has been settled, and by then nobody else knows it.
    """

    __slots__ = (
        "_answer",
        "_around",
        "_connection",
        "_end",
        "_from_text",
        "_longest",
        "_start",
        "_turn",
    )

    def __init__(
        self, connection: Connection, turn: Turn, intake: Intake, head: Head, start: bytes
    ) -> None:
        super().__init__(intake, turn.request, "", None)
        self.answered = self.complete = True
        self._connection = connection
        self._answer = connection.answer
        self._turn = turn
        self._start = start  # what comes before the value
        self._end = head.end
        self._around = len(start) + len(head.end)
        self._longest = head.longest
        self._from_text = intake.decoder.from_text

    @classmethod
    def of(cls, packet: bytes, head: Head, turn: Turn, connection: Connection) -> Again | None:
        """For requests like that of `turn`, which `packet` was; None if there is more to them."""
        intake = connection.engine.routes.get(turn.request.path)
        if intake is None or not intake.plain or turn.request.wants_json:
            return None
        path, mark, query = packet[: -len(head.end)].partition(b"?")
        prefix = intake.decoder.prefix
        if b"%" in path or b"content-encoding" in head.fields or not query.startswith(prefix):
            return None
        own = Turn(turn.request, keep_alive=True, old=False)
        own.complete = own.answered = True
        return cls(connection, own, intake, head, path + mark + prefix)

    def take(self, packet: bytes) -> bool:
        """Begin with the request that `packet` is. False, and nothing has happened, if it is not
        one of these, or if it cannot be let in just so."""
        raw = packet.removeprefix(self._start).removesuffix(self._end)
        if len(packet) - len(raw) != self._around or not (raw.isalnum() or _is_value(raw)):
            return False
        intake, gate = self._intake, self._gate
        full = gate.in_flight >= gate.limit or len(packet) > self._longest
        if full or self._pending or not intake.accepting:
            return False
        try:
            data: Any = field_text(raw)
            if self._from_text is not None:
                data = self._from_text(data)
        except Exception:
            return False  # the general way meets it again, and knows what to say
        gate.in_flight += 1
        turn = self._turn
        turn.exchange = self
        self.answered = turn.answered = False
        self._pending = 1
        self._respond = self._answer
        self._connection.begin(turn)
        intake.enter(self, message_of(data, None, self.told))
        return True

    def told(self, outcome: Outcome, data: Any) -> None:
        """The message ended so: says what mostly is to be said, and leaves the rest."""
        text = data if outcome is STORED else outcome.result if outcome.ok else None
        intake = self._intake
        heard = self._respond is not None  # not answered (504), and the client is there
        if type(text) is not str or not heard or get_ident() != intake.thread:
            super().told(outcome, data)
            return
        try:
            body = text.encode()
        except UnicodeEncodeError:
            super().told(outcome, data)
            return
        self._pending = 0  # what follows is `answer`, for an exchange without a body
        self.answered = True
        self._respond = None
        gate = self._gate
        gate.in_flight -= 1
        gate.answers[200] += 1
        intake.ended(self)
        self._connection.answer_ok(self._turn, body)
