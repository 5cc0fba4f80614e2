"""Layer 4: messages, which are values on their way to being settled, once.

Who sends a `Message` can wait for its end (`Message.settled`, `submit`) or be told of it
(`on_settle`); the actor that has it in hand at that end says which of six it is: stored, aborted,
rejected, dead, failed, or lost, which is what a message becomes when it is dropped unsettled.

One job each: `outcome` (how a message ended), `settlement` (waiting for that), `message` (the
value and its settling), `submission` (send and wait), `current` (the message in hand, for logs).
"""

from __future__ import annotations

from tailrace.message.current import current_message
from tailrace.message.message import Message
from tailrace.message.outcome import Outcome
from tailrace.message.settlement import Settlement
from tailrace.message.submission import submit

__all__ = ["Message", "Outcome", "Settlement", "current_message", "submit"]
