"""A request that makes many messages: one for each line of its body.

Invariants:
- Work and memory per line are bounded, also for bad lines. A request may have `max_lines` lines.
  Decoding pauses after SLICE_SECONDS, so that the event loop turns.
- At most as many lines as the server's `in_flight` are unsettled at once. An unsettled line counts
  LINE_COST bytes of `body_memory`, a report its length.
- A request that may not make a message of its next line yet is parked: it leaves the route's
  queue, and the next settle puts it back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import get_ident
from typing import Any, Final

from tailrace.listen.http import answers
from tailrace.listen.http.exchange import Exchange
from tailrace.listen.http.request import Headers, Refusal
from tailrace.message import Message, Outcome
from tailrace.message.internals import message_of

__all__ = ["LinesExchange", "max_lines", "split_lines"]

LINE_COST: Final = 1024  # bytes that an unsettled message takes, besides its data
SLICE_SECONDS: Final = 0.002
BYTES_A_LINE: Final = 64  # a body may have one line for so many bytes of `max_body`
FEWEST_LINES: Final = 1000  # allowed even where `max_body` is small
# Once the reports are larger than `max_body` times the first, and than the second, further reports
# leave the results out.
REPORT_FACTOR: Final = 4
SMALL_REPORT: Final = 1024 * 1024  # bytes


def max_lines(max_body: int) -> int:
    """How many lines a body may have."""
    return max(FEWEST_LINES, max_body // BYTES_A_LINE)


def split_lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and text of each line that is not blank, read lazily."""
    start, number = 0, 0
    while start < len(body):
        end = body.find(b"\n", start)
        if end < 0:
            end = len(body)
        line = body[start:end].strip()
        start, number = end + 1, number + 1
        if line:
            yield number, line


class LinesExchange(Exchange):
    """A request that makes a message of each line.

    Messages are made one by one, as the channel takes them: a body of many short lines is never
    many messages in memory.
    """

    def _accept(self) -> None:
        most = max_lines(self.route.max_body)
        try:
            self._key = self.request.key(self.route.id_header)
            self.unpack()
            body = self.request.body
            if body.count(b"\n") + (not body.endswith(b"\n")) > most:
                raise Refusal(413, f"there are more than {most} lines: send several requests")
        except Refusal as refusal:
            self.refuse(refusal)
            return
        # Shared by all messages of the request.
        self._headers = Headers(self.request.fields, self.route.hidden, self._more_headers)
        self._lines = split_lines(body)
        self._ahead: tuple[int, bytes] | None = None  # a line that is not yet a message
        self._reports: list[bytes] = []  # in the order of lines; b"" if not settled
        self._statuses: set[int] = set()
        self._open: dict[int, tuple[int, str]] = {}  # index in `_reports`: number and id
        self._exhausted = False  # all lines are read
        self._parked = False  # out of the route's queue until a message is settled
        self._broken_line = False  # user code has failed for a line, and that was logged
        self.route.put(self)

    @property
    def more(self) -> bool:
        """Whether the route must call `take` again before a message is settled."""
        return not (self._exhausted or self._parked or self.answered)

    def take(self) -> Message[Any] | None:
        """The next message. None: see `more`; if that is True, the event loop must turn first."""
        if self.answered:
            return None
        admission = self._admission
        if self._unsettled and (
            self._unsettled >= admission.limit or admission.bytes > admission.memory
        ):
            self._ahead = self._next_line()
            if self._ahead is not None:  # a line waits
                self._parked = True
                return None
        until = time.monotonic() + SLICE_SECONDS
        while (numbered := self._next_line()) is not None:
            number, line = numbered
            try:
                data = self.route.decoder.decode(line)
            except Refusal as refusal:
                if refusal.status == 500 and not self._broken_line:  # log once: there may be many
                    self._broken_line = True
                    what = f"the data's type raised at line {number}; further lines are not logged"
                    self.log_user_error(what, refusal.__cause__)
                self._add(answers.line_refusal(number, refusal))
                if time.monotonic() > until:
                    return None
                continue
            return self._message(number, line, data)
        self._exhausted = True
        self.no_more_messages()
        self._report_if_done()
        return None

    def _next_line(self) -> tuple[int, bytes] | None:
        ahead, self._ahead = self._ahead, None
        return next(self._lines, None) if ahead is None else ahead

    def _message(self, number: int, line: bytes, data: Any) -> Message[Any]:
        key = digest = None
        if self._key is not None:
            # No client can choose this key: keys have no spaces.
            key = f"{self._key} line {number}"
            digest = self.route.decoder.digest(line)
        index = len(self._reports)
        ledger = self.route.ledger
        message = message_of(data, key, _Line(self, index), self._headers, digest, ledger)
        self._open[index] = number, message.id
        self._reports.append(b"")
        self._unsettled += 1
        self._admission.bytes += LINE_COST
        return message

    def not_taken(self, reason: str) -> None:
        """No channel will take the remaining lines."""
        refusal = Refusal(503, reason)
        while not self.answered and (numbered := self._next_line()) is not None:
            self._add(answers.line_refusal(numbered[0], refusal))
        self._exhausted = True
        self._report_if_done()

    def settle_line(self, index: int, outcome: Outcome) -> None:
        """The message of a line is settled."""
        self._admission.bytes -= LINE_COST
        self._one_settled()
        if outcome.status == "stored":
            self.route.out_of_order = False
        if self.answered:
            return
        number, id = self._open.pop(index)
        large = self._size > max(SMALL_REPORT, REPORT_FACTOR * self.route.max_body)
        brief = large or self.route.show != "data"
        self._put(index, answers.line_report(number, outcome, id, brief))
        if self._parked:
            self._parked = False
            self.route.put(self)
        self._report_if_done()

    def _add(self, report: tuple[int, bytes]) -> None:
        self._reports.append(b"")
        self._put(len(self._reports) - 1, report)

    def _put(self, index: int, report: tuple[int, bytes]) -> None:
        status, self._reports[index] = report
        self._statuses.add(status)
        self._size += len(self._reports[index])
        self._admission.bytes += len(self._reports[index])

    def give_up(self, refusal: Refusal) -> None:
        """Report the lines that are settled, and refuse the others."""
        if self._check is not None:  # `authorize` has not let it in
            self.refuse(refusal)
            return
        for index, (number, _) in self._open.items():
            self._put(index, answers.line_refusal(number, refusal))
        self._open.clear()
        self.not_taken("no message was made of this line")

    def _report_if_done(self) -> None:
        if self.answered or not self._exhausted or self._open:
            return
        if self._reports:
            reports, self._reports = self._reports, []
            self.answer(answers.report(self._statuses, reports))
        else:
            self.refuse(Refusal(400, "there are no lines"))


class _Line:
    """Reports the outcome of one line's message to the request."""

    __slots__ = ("_exchange", "_index")

    def __init__(self, exchange: LinesExchange, index: int) -> None:
        self._exchange = exchange
        self._index = index

    def __call__(self, outcome: Outcome, data: object) -> None:
        exchange = self._exchange
        if get_ident() != exchange.route.thread or outcome.status == "lost":  # as an Exchange does
            exchange.route.post(exchange.settle_line, self._index, outcome)
        else:
            exchange.settle_line(self._index, outcome)

    def outage(self) -> None:
        self._exchange.outage()
