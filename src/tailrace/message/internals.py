"""What sources, actors and stores use of messages, beside the public names."""

from __future__ import annotations

from tailrace.message.current import current, make_current
from tailrace.message.failures import FailureLog, stage_running
from tailrace.message.message import (
    PLACE,
    OnSettled,
    Parts,
    delayed_by_outage,
    digest_of,
    message_of,
    settle_failed,
)
from tailrace.message.outcome import STORED, Status, ended, failure

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
    "make_current",
    "message_of",
    "settle_failed",
    "stage_running",
]
