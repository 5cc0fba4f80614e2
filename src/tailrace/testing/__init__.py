"""The testing kit (layer 3; `pipeline`, which settles messages, 4): virtual time, exact deadlocks,
and a program with its ends replaced.

`run` and the pytest marker ``virtual_time`` (`tailrace.testing.plugin`) run a test on a clock
that jumps; `wait_all_parked` says when nothing moves any more; `pipeline` runs a user's own
``main`` with stand-ins for the world outside.
"""

from __future__ import annotations

from tailrace.testing.clock import VirtualClockLoop, run, wait_all_parked
from tailrace.testing.pipeline import Pipeline, Sink, Source, pipeline, sink, source

__all__ = [
    "Pipeline",
    "Sink",
    "Source",
    "VirtualClockLoop",
    "pipeline",
    "run",
    "sink",
    "source",
    "wait_all_parked",
]
