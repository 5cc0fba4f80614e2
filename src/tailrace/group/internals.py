"""What other packages use of groups beside the public names."""

from __future__ import annotations

from tailrace.group.activity import activity_of
from tailrace.group.awaits import is_users, line_of, place_of, waits_for
from tailrace.group.checks import stage_name
from tailrace.group.grace import cancel_after, failure_of
from tailrace.group.runner import Main, intercepted, run_in
from tailrace.group.wiring import wire

__all__ = [
    "Main",
    "activity_of",
    "cancel_after",
    "failure_of",
    "intercepted",
    "is_users",
    "line_of",
    "place_of",
    "run_in",
    "stage_name",
    "waits_for",
    "wire",
]
