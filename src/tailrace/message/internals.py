"""What sources, actors and stores use of messages, beside the public names."""

from __future__ import annotations

from tailrace.message.current import current, make_current
from tailrace.message.failures import FailureLog, stage_running
from tailrace.message.headers import PLACE
from tailrace.message.message import (
    Parts,
    delayed_by_outage,
    digest_of,
    message_of,
    settle_failed,
)
from tailrace.message.outcome import STORED, OnSettled, Status, ended, failure
from tailrace.message.submission import let_in

__all__ = [
    "PLACE",
    "STORED",
    "FailureLog",
    "OnSettled",
    "Parts",
    "Status",
    "current",
    "delayed_by_outage",
    "digest_of",
    "ended",
    "failure",
    "let_in",
    "make_current",
    "message_of",
    "settle_failed",
    "stage_running",
]
