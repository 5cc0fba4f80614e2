"""Layer 4: messages, values that are settled once.

The sender of a `Message` can wait for its outcome (`Message.settled`, `submit`) or be called with
it (`on_settle`). The actor at which its way ends settles it: as stored, aborted, rejected, dead or
failed. A message that is dropped unsettled is lost.

Begin with `message`, the value and its settling. `outcome` has the six outcomes, `settlement`
waiting for one, `submission` sending and waiting, `current` the message in hand, `failures` what is
logged; `internals` is what other packages use besides.
"""

from __future__ import annotations

from tailrace.message.current import current_message
from tailrace.message.message import Message
from tailrace.message.outcome import Outcome
from tailrace.message.settlement import Settlement
from tailrace.message.submission import submit

__all__ = ["Message", "Outcome", "Settlement", "current_message", "submit"]
