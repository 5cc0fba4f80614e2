"""Layer 4: actors that most programs need, made of channels and messages."""

from __future__ import annotations

from tailrace.actors.batch import batch
from tailrace.actors.each import each
from tailrace.actors.expand import expand
from tailrace.actors.hub import Hub
from tailrace.actors.letters import DeadLetter
from tailrace.actors.order import in_order
from tailrace.actors.partition import partition
from tailrace.actors.tee import Tee, tee
from tailrace.actors.throttle import throttle

__all__ = [
    "DeadLetter",
    "Hub",
    "Tee",
    "batch",
    "each",
    "expand",
    "in_order",
    "partition",
    "tee",
    "throttle",
]
